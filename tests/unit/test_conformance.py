"""The command that runs the OGC's conformance suite: Java and Maven here are scripts."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from conformance import suite
from conformance.__main__ import main
from conformance.suite import Failure, SuiteError

RESULTS = """<?xml version="1.0"?>
<testng-results skipped="1" failed="1" total="3" passed="1">
  <suite name="ogcapi-processes-1.0"><test name="Core">
    <class name="org.opengis.cite.ogcapiprocesses10.jobs.Jobs">
      <test-method is-config="true" status="PASS" name="prepare"/>
      <test-method status="PASS" name="testJobOp"/>
      <test-method status="FAIL" name="testJobResults">
        <exception class="java.lang.AssertionError">
          <message><![CDATA[expected [201]
              but found [200]]]></message>
          <full-stacktrace><![CDATA[java.lang.AssertionError: ...]]></full-stacktrace>
        </exception>
      </test-method>
      <test-method status="SKIP" name="testJobResultsNotReady"/>
    </class>
    <class name="org.opengis.cite.ogcapiprocesses10.joblist.JobList">
      <test-method is-config="true" status="FAIL" name="retrieveApiModel">
        <exception class="java.lang.NullPointer"/>
      </test-method>
    </class>
  </test></suite>
</testng-results>
"""

JAVA = """#!/bin/sh
# java -cp ARCHIVE CLASS -o FOLDER ARGUMENTS
[ "$1 $4" = "-cp -o" ] || exit 9
cp "$6" "$2.arguments"
echo starting
echo 'Exception in thread "main" java.lang.Error: broken'
echo '  at main'
[ -s "$2" ] || exit 3
mkdir -p "$5/testng/1"
cp "$2" "$5/testng/1/testng-results.xml"
"""

MAVEN = """#!/bin/sh
for argument; do
  case "$argument" in
    -DoutputDirectory=*) folder="${argument#*=}" ;;
    -Dartifact=*) artifact="${argument#*=}" ;;
  esac
done
case "$artifact" in
  *:ets-ogcapi-processes10:1.3:jar:aio) touch "$folder/ets-ogcapi-processes10-1.3-aio.jar" ;;
  *) echo '[INFO] Resolving'; echo '[ERROR] Could not find artifact'; exit 1 ;;
esac
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for programs, which are found there and nowhere else."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in ("sh", "cp", "mkdir", "touch"):
        (folder / name).symlink_to(shutil.which(name) or name)
    monkeypatch.setenv("PATH", str(folder))
    return folder


def install(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def test_the_archive_is_fetched_with_maven(programs: Path, tmp_path: Path) -> None:
    install(programs, "mvn", MAVEN)
    assert suite.fetch("1.3", tmp_path).name == "ets-ogcapi-processes10-1.3-aio.jar"


def test_what_maven_cannot_fetch_is_told_in_its_words(programs: Path, tmp_path: Path) -> None:
    install(programs, "mvn", MAVEN)
    with pytest.raises(SuiteError, match=r"mvn install.* --jar.*: Could not find artifact$"):
        suite.fetch("9.9", tmp_path)


@pytest.mark.usefixtures("programs")
def test_without_maven_the_command_says_what_to_do() -> None:
    answer = CliRunner().invoke(main)
    assert (answer.exit_code, answer.output) == (
        1,
        "Error: Maven (`mvn`) is not installed: install it, or give the suite's archive with "
        "--jar\n",
    )


@pytest.mark.usefixtures("programs")
def test_without_java_the_command_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="Java is not installed"):
        suite.run(tmp_path / "suite.jar", "http://127.0.0.1:5000", "echo", tmp_path)


def test_a_run_is_told_what_to_test_and_its_results_are_read(
    programs: Path, tmp_path: Path
) -> None:
    install(programs, "java", JAVA)
    archive = tmp_path / "suite.jar"
    archive.write_text(RESULTS)
    folder = tmp_path / "out"
    folder.mkdir()

    outcome = suite.run(archive, "http://127.0.0.1:5000/a&b", "echo", folder)

    arguments = Path(f"{archive}.arguments").read_text()
    # the suite would fetch what a document type names
    assert "DOCTYPE" not in arguments
    assert '<entry key="iut">http://127.0.0.1:5000/a&amp;b</entry>' in arguments
    assert '<entry key="echoprocessid">echo</entry>' in arguments
    assert outcome.passed == 1
    assert outcome.failures == [Failure("Jobs.testJobResults", "expected [201] but found [200]")]
    assert outcome.unprepared == [Failure("JobList.retrieveApiModel", "java.lang.NullPointer")]
    assert outcome.skipped == ["Jobs.testJobResultsNotReady"]


def test_a_suite_that_breaks_off_is_an_error_in_its_words(programs: Path, tmp_path: Path) -> None:
    install(programs, "java", JAVA)
    archive = tmp_path / "suite.jar"
    archive.touch()

    with pytest.raises(SuiteError, match=r"code 3 and no results: Exception in .*: broken$"):
        suite.run(archive, "http://127.0.0.1:5000", "echo", tmp_path)
