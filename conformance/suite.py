"""The conformance suite ets-ogcapi-processes10: where it comes from, and what a run of it says.

It is a Java archive with all that it needs. Apart from the service that it tests, it asks
schemas.opengis.net for schemas.
"""

import dataclasses
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

VERSION: Final = "1.3"
_ARTIFACT: Final = "org.opengis.cite:ets-ogcapi-processes10"
# named, since the manifests of some versions of the archive name a class of another suite
_MAIN_CLASS: Final = "org.opengis.cite.ogcapiprocesses10.TestNGController"
_REPOSITORY: Final = "https://github.com/opengeospatial/ets-ogcapi-processes10"
_PLUGIN: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1"
_JAVA_VERSION: Final = 17

FETCH_SECONDS: Final = 600.0
RUN_SECONDS: Final = 1800.0


class SuiteError(Exception):
    """The suite could not be had, or did not run to its end."""


@dataclasses.dataclass(frozen=True)
class Failure:
    """A test that failed, and what the suite says to it."""

    test: str
    message: str


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run of the suite came to.

    Attributes:
        passed: How many tests did.
        failures: Of tests.
        unprepared: Failures of what the suite does before and after its tests.
        skipped: Names of the tests that did not apply.
    """

    passed: int
    failures: Sequence[Failure]
    unprepared: Sequence[Failure]
    skipped: Sequence[str]


def fetch(version: str, folder: Path) -> Path:
    """Return the archive of the suite, which Maven fetches unless it has done so before.

    Args:
        version: Which release of the suite.
        folder: Where to put it.

    Raises:
        SuiteError: Maven is not installed, or cannot fetch it.
    """
    maven = shutil.which("mvn")
    if maven is None:
        raise SuiteError(
            "Maven (`mvn`) is not installed: install it, or give the suite's archive with --jar"
        )
    options = ["-DoutputDirectory=" + str(folder), f"-Dartifact={_ARTIFACT}:{version}:jar:aio"]
    try:
        fetched = subprocess.run(
            [
                maven,
                "--batch-mode",
                "--no-transfer-progress",
                "--update-snapshots",
                f"{_PLUGIN}:copy",
                *options,
            ],
            capture_output=True,
            text=True,
            timeout=FETCH_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SuiteError(f"Maven did not fetch the suite in {FETCH_SECONDS:g} s") from error
    archive = next(folder.glob("*-aio.jar"), None)
    if fetched.returncode or archive is None:
        reasons = [line for line in fetched.stdout.splitlines() if line.startswith("[ERROR]")]
        reason = reasons[0].removeprefix("[ERROR] ") if reasons else "it says nothing of why"
        raise SuiteError(
            f"Maven has no version {version} of the suite, which the OGC may not have published. "
            f"Clone {_REPOSITORY}, run `mvn install` there, and give the archive in its folder "
            f"target with --jar. What Maven says: {reason}"
        )
    return archive


def run(archive: Path, url: str, process_id: str, folder: Path) -> Outcome:
    """Run the suite against a service.

    Args:
        archive: The suite.
        url: Address of the service, without a slash at its end.
        process_id: A process that hands back what it is given.
        folder: An empty one, for what the suite writes.

    Raises:
        SuiteError: Java is not installed, or the suite broke off.
    """
    java = shutil.which("java")
    if java is None:
        raise SuiteError(
            f"Java is not installed: the suite needs a runtime of version {_JAVA_VERSION} or newer"
        )
    arguments = folder / "test-run-props.xml"
    arguments.write_text(_arguments(iut=url, echoprocessid=process_id), encoding="utf-8")
    log = folder / "suite.log"
    with log.open("w", encoding="utf-8") as output:
        try:
            ended = subprocess.run(
                [java, "-cp", archive, _MAIN_CLASS, "-o", folder, arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=RUN_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise SuiteError(
                f"the suite did not end in {RUN_SECONDS:g} s: {_end_of(log)}"
            ) from error
    results = next(folder.glob("testng/*/testng-results.xml"), None)
    if results is None:
        raise SuiteError(
            f"the suite ended with code {ended.returncode} and no results: {_end_of(log)}"
        )
    return outcome_of(results)


def _end_of(log: Path) -> str:
    """Return what a program said when it broke off."""
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    exceptions = [line for line in lines if line.startswith("Exception in thread")]
    return (exceptions[:1] or lines[-1:] or ["it says nothing"])[0].strip()


def outcome_of(results: Path) -> Outcome:
    """Read what TestNG wrote of a run."""
    passed, failures, unprepared, skipped = 0, [], [], []
    for test in _tests(results):
        name = f"{test.get('class')}.{test.get('name')}"
        match test.get("status"), test.get("is-config"):
            case "PASS", _:
                passed += 1
            case "SKIP", _:
                skipped.append(name)
            case _, "true":
                unprepared.append(Failure(name, _message(test)))
            case _:
                failures.append(Failure(name, _message(test)))
    return Outcome(passed, failures, unprepared, skipped)


def _tests(results: Path) -> Iterator[ET.Element]:
    """Return what was run, each with the name of its class; preparations only if they failed."""
    for suite_class in ET.parse(results).iter("class"):
        for method in suite_class.iter("test-method"):
            if method.get("is-config") != "true" or method.get("status") == "FAIL":
                method.set("class", (suite_class.get("name") or "").rpartition(".")[2])
                yield method


def _message(test: ET.Element) -> str:
    exception = test.find("exception")
    if exception is None:
        return "the suite does not say why"
    text = exception.findtext("message") or exception.findtext("full-stacktrace")
    text = text or exception.get("class") or ""
    return " ".join(text.split())[:500]


def _arguments(**entries: str) -> str:
    """Return arguments of a run as a properties file of Java's, in XML."""
    lines = [f'  <entry key="{key}">{escape(value)}</entry>' for key, value in entries.items()]
    return "\n".join(
        [
            '<?xml version="1.0" encoding="UTF-8"?>',
            '<properties version="1.0">',
            *lines,
            "</properties>",
            "",
        ]
    )
