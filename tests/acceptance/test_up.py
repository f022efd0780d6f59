"""`pygeoapi-prefect up`, as an operator types it."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from benchmarks.stand.ports import free_port

# fixtures of a module start it up to twice, each time as four processes on a fresh database
pytestmark = pytest.mark.timeout(900)

REPOSITORY = Path(__file__).parents[2]
PROGRAM = Path(sys.executable).parent / "pygeoapi-prefect"
DEADLINE_SECONDS = 270.0
REQUEST_SECONDS = 120.0
LAST_LINE = "Ctrl-C stops everything."


def eventually[Value](look: Callable[[], Value | None], what: str) -> Value:
    give_up_at = time.monotonic() + DEADLINE_SECONDS
    while (value := look()) is None:
        assert time.monotonic() < give_up_at, f"{what}: not within {DEADLINE_SECONDS:g} s"
        time.sleep(0.1)
    return value


@dataclasses.dataclass(frozen=True)
class Up:
    """The command in a directory of its own, where nobody's home is but a new one."""

    folder: Path
    process: subprocess.Popen[bytes]
    output: Path

    @property
    def printed(self) -> str:
        return self.output.read_text()

    @property
    def addresses(self) -> dict[str, str]:
        found = re.findall(r"^  (\w[\w ]*\w) {2,}(http\S+)$", self.printed, re.MULTILINE)
        return dict(found)

    @property
    def curl_line(self) -> str:
        (line,) = re.findall(r"^  (curl .*)$", self.printed, re.MULTILINE)
        return str(line)

    def stop(self, signal_number: signal.Signals) -> int:
        self.process.send_signal(signal_number)
        return self.process.wait(DEADLINE_SECONDS)

    def left_behind(self) -> list[str]:
        """Command lines of all processes that were started from here and still run."""
        found = []
        for process in psutil.process_iter():
            try:
                config = process.environ().get("PYGEOAPI_CONFIG", "")
                command = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if config.startswith(str(self.folder)) and process.pid != self.process.pid:
                found.append(command)
        return found


def environment_in(folder: Path) -> dict[str, str]:
    home = folder / "home"
    home.mkdir(exist_ok=True)
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "PYGEOAPI_"))
    }
    return kept | {"HOME": str(home)}


def run_up(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """For commands that are expected to end by themselves."""
    return subprocess.run(
        [PROGRAM, "up", *arguments],
        cwd=folder,
        env=environment_in(folder),
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


def start_up(folder: Path, ports: tuple[int, int]) -> Up:
    """Start it, and wait until it says that everything runs."""
    config = folder / "pygeoapi-config.yml"
    config.write_text((REPOSITORY / "pygeoapi-config.yml").read_text())
    output = folder / "printed.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [PROGRAM, "up", "--port", str(ports[0]), "--prefect-port", str(ports[1])],
            cwd=folder,
            env=environment_in(folder),
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    up = Up(folder, process, output)

    def look() -> bool | None:
        assert process.poll() is None, up.printed
        return True if LAST_LINE in up.printed else None

    try:
        eventually(look, "start")
    except BaseException:
        up.stop(signal.SIGTERM)
        raise
    return up


def start_long_job(up: Up) -> str:
    """Have a job run that nobody will wait for, and return its address."""
    url = f"{up.addresses['Processes']}/echo/execution"
    body = {"inputs": {"message": "still there?", "pause": 600}}
    accepted = httpx.post(
        url, json=body, headers={"Prefer": "respond-async"}, timeout=REQUEST_SECONDS
    )
    assert accepted.status_code == 201, accepted.text
    location = accepted.headers["Location"]
    await_running(location)
    return location


def await_running(job_url: str) -> None:
    eventually(
        lambda: httpx.get(job_url, timeout=REQUEST_SECONDS).json()["status"] == "running" or None,
        "job running",
    )


@pytest.fixture(scope="module")
def ports() -> tuple[int, int]:
    return free_port(), free_port()


@dataclasses.dataclass(frozen=True)
class Ended:
    """What is left of one that was stopped.

    Attributes:
        curl: What its own `curl` line printed.
        interrupted: Id of a job that was running at the end.
        exit_code: Its own.
        processes: What it left running.
    """

    folder: Path
    curl: str
    interrupted: str
    exit_code: int
    processes: list[str]
    printed: str


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, ports: tuple[int, int]) -> Ended:
    """The first `up` in a directory: a job, and another one that SIGTERM meets."""
    up = start_up(tmp_path_factory.mktemp("up"), ports)
    try:
        curl = subprocess.run(
            ["sh", "-c", up.curl_line], capture_output=True, text=True, check=True
        ).stdout
        location = start_long_job(up)
    finally:
        exit_code = up.stop(signal.SIGTERM)
    interrupted = location.rpartition("/")[2]
    return Ended(up.folder, curl, interrupted, exit_code, up.left_behind(), up.printed)


@pytest.fixture(scope="module")
def second(first: Ended, ports: tuple[int, int]) -> Iterator[Up]:
    """The next `up` in the same directory, running, until the last test here kills it."""
    up = start_up(first.folder, ports)
    yield up
    if up.process.poll() is None:
        up.stop(signal.SIGINT)


def test_the_printed_command_works_when_pasted(first: Ended) -> None:
    assert json.loads(first.curl) == {"id": "echo", "value": "Hello World! An optional message."}


def test_a_signal_stops_everything(first: Ended) -> None:
    assert first.exit_code == 0
    assert first.processes == []
    assert first.printed.endswith("Stopped (SIGTERM).\n")


def test_each_step_is_shown_with_its_seconds(first: Ended) -> None:
    steps = re.findall(r"^✓ (.+?) +\d+\.\d s ", first.printed, re.MULTILINE)
    assert steps == ["Prefect server", "Deployments", "Worker 1", "Web server"]


def test_all_processes_of_the_configuration_are_deployed(second: Up) -> None:
    (summary,) = re.findall(r"^✓ Deployments .* s  (.*)$", second.printed, re.MULTILINE)
    assert summary == "6 unchanged"


def test_all_printed_addresses_answer(second: Up, ports: tuple[int, int]) -> None:
    assert list(second.addresses) == ["API", "Processes", "Jobs", "Prefect UI"]
    for url in second.addresses.values():
        response = httpx.get(
            url, headers={"Accept": "text/html"}, follow_redirects=True, timeout=REQUEST_SECONDS
        )
        assert response.status_code == 200, url
        assert "<html" in response.text, url


def test_a_job_that_was_running_at_the_end_runs_again(first: Ended, second: Up) -> None:
    job_url = f"{second.addresses['Jobs']}/{first.interrupted}"

    await_running(job_url)

    # dismissed, and when that is over removed
    eventually(
        lambda: httpx.delete(job_url, timeout=REQUEST_SECONDS).status_code == 404 or None,
        "job gone",
    )


def test_the_next_up_finds_the_jobs_of_the_first(second: Up) -> None:
    (job,) = httpx.get(
        second.addresses["Jobs"], params={"f": "json"}, timeout=REQUEST_SECONDS
    ).json()["jobs"]
    assert (job["processID"], job["status"]) == ("hello-world", "successful")
    results = httpx.get(
        f"{second.addresses['Jobs']}/{job['jobID']}/results",
        params={"f": "json"},
        timeout=REQUEST_SECONDS,
    )
    assert results.json() == {"id": "echo", "value": "Hello World! An optional message."}


def test_the_prefect_ui_shows_the_job(second: Up) -> None:
    (job,) = httpx.get(
        second.addresses["Jobs"], params={"f": "json"}, timeout=REQUEST_SECONDS
    ).json()["jobs"]
    query = {"flow_runs": {"name": {"any_": [f"pygeoapi_job_{job['jobID']}"]}}}
    api = f"{second.addresses['Prefect UI']}/api"
    (run,) = httpx.post(f"{api}/flow_runs/filter", json=query, timeout=REQUEST_SECONDS).json()
    assert run["state_type"] == "COMPLETED"


def test_a_second_one_beside_it_is_refused(second: Up) -> None:
    ports = ["--port", str(free_port()), "--prefect-port", str(free_port())]
    refused = run_up(second.folder, *ports)
    assert refused.returncode == 1
    assert refused.stderr == (
        "Error: `pygeoapi-prefect up` already runs in this directory "
        f"(process {second.process.pid}): stop it first\n"
    )


def test_ports_that_it_has_taken_are_refused(
    second: Up, ports: tuple[int, int], tmp_path: Path
) -> None:
    config = ["--config", str(second.folder / "pygeoapi-config.yml")]
    refused = run_up(tmp_path, *config, "--port", str(ports[0]))
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"Error: port {ports[0]} is taken: ")
    assert refused.stderr.count("\n") == 1


def test_files_are_in_one_directory_and_none_in_the_users_home(second: Up) -> None:
    names = {path.name for path in second.folder.iterdir()}
    assert names == {".pygeoapi-prefect", "home", "printed.txt", "pygeoapi-config.yml"}
    assert (second.folder / ".pygeoapi-prefect" / "prefect" / "prefect.db").exists()
    assert not (second.folder / "home" / ".prefect").exists()


# the last one: what it kills, the others use
def test_no_process_outlives_one_that_is_killed(second: Up) -> None:
    start_long_job(second)
    assert len(second.left_behind()) >= 3

    assert second.stop(signal.SIGKILL) == -signal.SIGKILL

    eventually(lambda: True if not second.left_behind() else None, "the end of all processes")
