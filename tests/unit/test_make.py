"""Setting up with make: what it calls, and when it does not."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
NEEDED = ("sh", "touch", "mkdir", "cp", "chmod")

# what `uv sync` leaves: an environment with the programs that make calls
FAKE_UV = """#!/bin/sh
echo "uv $*" >> calls
mkdir -p .venv/bin
cp "$(dirname "$0")/program" .venv/bin/pytest
cp "$(dirname "$0")/program" .venv/bin/pygeoapi-prefect
"""
FAKE_PROGRAM = """#!/bin/sh
echo "${0##*/} $*" >> calls
exit "${EXIT_CODE:-0}"
"""


class Clone:
    """A clone of the project on a machine that has few programs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.programs = folder / "programs"
        self.programs.mkdir()
        for name in ("Makefile", "pyproject.toml", "uv.lock"):
            shutil.copy(REPOSITORY / name, folder)
        for name in NEEDED:
            found = shutil.which(name)
            assert found is not None
            (self.programs / name).symlink_to(found)

    def install(self, name: str, text: str) -> None:
        program = self.programs / name
        program.write_text(text)
        program.chmod(0o755)

    def make(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        make = shutil.which("make")
        assert make is not None
        return subprocess.run(
            [make, *arguments],
            cwd=self._folder,
            env={"PATH": str(self.programs), "HOME": str(self._folder), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def calls(self) -> list[str]:
        """What has been called since the last look."""
        path = self._folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.write_text("")
        return [line.rstrip() for line in lines]

    def touch(self, name: str) -> None:
        later = (self._folder / ".venv" / ".ready").stat().st_mtime + 10
        os.utime(self._folder / name, (later, later))


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    return Clone(tmp_path)


@pytest.fixture
def clone_with_uv(clone: Clone) -> Clone:
    (clone.programs / "dirname").symlink_to(shutil.which("dirname") or "/usr/bin/dirname")
    clone.install("program", FAKE_PROGRAM)
    clone.install("uv", FAKE_UV)
    return clone


SYNC = "uv sync --frozen --all-extras"


def names(calls: list[str]) -> list[str]:
    """What was called, without how tests are run: that is no affair of these."""
    return ["pytest" if call.startswith("pytest ") else call for call in calls]


def test_the_first_call_sets_up_what_is_locked(clone_with_uv: Clone) -> None:
    assert clone_with_uv.make("test").returncode == 0
    assert names(clone_with_uv.calls) == [SYNC, "pytest"]


def test_later_calls_do_not(clone_with_uv: Clone) -> None:
    clone_with_uv.make("test")
    assert clone_with_uv.calls
    clone_with_uv.make("up", "ARGS=--port 5001")
    assert clone_with_uv.calls == ["pygeoapi-prefect up --port 5001"]


@pytest.mark.parametrize("changed", ["uv.lock", "pyproject.toml"])
def test_a_changed_lock_sets_up_again(clone_with_uv: Clone, changed: str) -> None:
    clone_with_uv.make("test")
    clone_with_uv.touch(changed)
    assert clone_with_uv.calls
    clone_with_uv.make("test")
    assert names(clone_with_uv.calls) == [SYNC, "pytest"]


def test_a_set_up_that_failed_is_done_again(clone_with_uv: Clone) -> None:
    clone_with_uv.install("uv", "#!/bin/sh\nexit 3\n")
    assert clone_with_uv.make("test").returncode != 0
    clone_with_uv.install("uv", FAKE_UV)
    assert clone_with_uv.make("test").returncode == 0
    assert names(clone_with_uv.calls) == [SYNC, "pytest"]


def test_what_else_pytest_is_told_comes_last(clone_with_uv: Clone) -> None:
    clone_with_uv.make("test", "ARGS=tests/unit -x")
    assert clone_with_uv.calls[-1].split()[-2:] == ["tests/unit", "-x"]


def test_a_failure_of_the_tests_is_one_of_make(clone_with_uv: Clone) -> None:
    assert clone_with_uv.make("test", EXIT_CODE="1").returncode != 0


def test_up_is_what_make_does_by_itself(clone_with_uv: Clone) -> None:
    assert clone_with_uv.make().returncode == 0
    assert clone_with_uv.calls == [SYNC, "pygeoapi-prefect up"]


def test_no_fitting_python_is_one_line(clone: Clone) -> None:
    clone.install("python3", "#!/bin/sh\nexit 1\n")
    result = clone.make("test")
    assert result.returncode != 0
    error, ending = result.stderr.splitlines()
    assert error.startswith("error: found no Python >= 3.12")
    assert ending.startswith("make: ***")


def test_a_python_that_is_too_old_is_passed_over(clone: Clone) -> None:
    clone.install("python3", "#!/bin/sh\nexit 1\n")
    clone.install("python3.13", '#!/bin/sh\necho "python3.13 $*" >> calls\n[ "$1" = -c ]\n')
    result = clone.make("test")
    assert "Creating .venv with python3.13" in result.stdout
    assert clone.calls[-1] == "python3.13 -m venv --clear .venv"


def test_continuous_integration_runs_the_test_command_of_the_readme() -> None:
    assert (REPOSITORY / ".ci" / "run").read_text().splitlines()[-1] == "exec make test"
    assert "make test" in (REPOSITORY / "README.md").read_text()
