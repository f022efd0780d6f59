"""What every layer shares: a clean environment and one real Prefect server."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:  # what is below it takes seconds to import
    from tests.object_storage import FaultyWay, ObjectStorage

SERVER_START_TIMEOUT_SECONDS = 180.0
_TESTS = Path(__file__).parent
_PR_SET_PDEATHSIG = 1

# Prefect reads its home and its API address when it is first imported, which
# happens while tests are collected: the developer's own must be out of the way by then.
for _name in [name for name in os.environ if name.startswith(("PREFECT_", "PYGEOAPI_"))]:
    del os.environ[_name]
_SCRATCH = tempfile.TemporaryDirectory(prefix="pygeoapi-prefect-tests-")
os.environ["PREFECT_HOME"] = str(Path(_SCRATCH.name) / "home")
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
# a test that forgets the server must fail at once, not start one of its own
os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"


def free_port() -> int:
    """A TCP port of the loopback interface that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def die_with_parent() -> None:
    """For `preexec_fn`: end the process when the test session does, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def copy_empty_database(cache: Path, home: Path) -> None:
    """Put a Prefect database with all tables below `home`.

    Making one takes a quarter of a minute; `cache` keeps one for each version of Prefect.
    """
    template = cache / f"prefect-{version('prefect')}.db"
    if not template.exists():
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            made = Path(scratch) / "prefect.db"
            subprocess.run(
                [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"],
                env=os.environ
                | {"PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{made}"},
                check=True,
                capture_output=True,
            )
            made.rename(template)
    shutil.copy(template, home / "prefect.db")


def start_prefect_server(home: Path, port: int, log_path: Path) -> subprocess.Popen[bytes]:
    """Start a Prefect server on SQLite below `home` and wait until it answers.

    Raises:
        RuntimeError: it ended or did not answer in time; the message holds its log.
    """
    environment = os.environ | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        # after how long a run tries again that the limit of its deployment kept back
        "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "1",
    }
    command = [sys.executable, "-m", "prefect", "server", "start"]
    with log_path.open("ab") as log:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    give_up_at = time.monotonic() + SERVER_START_TIMEOUT_SECONDS
    while time.monotonic() < give_up_at and server.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/api/health", timeout=2).is_success:
                return server
        except httpx.TransportError:
            time.sleep(0.1)
    stop(server)
    raise RuntimeError(f"Prefect server did not start:\n{log_path.read_text()}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process, by force where it does not end by itself within 15 s."""
    process.terminate()
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def prefect_server(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[str]:
    """Address of the API (`http://127.0.0.1:<port>/api`) of a real Prefect server.

    One server per test session, with its own SQLite database and its own home. Use it
    with `prefect.settings.temporary_settings({PREFECT_API_URL: prefect_server})`, or
    hand it to a subprocess as the environment variable `PREFECT_API_URL`.
    """
    home = tmp_path_factory.mktemp("prefect-home")
    copy_empty_database(pytestconfig.cache.mkdir("prefect-database"), home)
    port = free_port()
    server = start_prefect_server(home, port, home / "server.log")
    yield f"http://127.0.0.1:{port}/api"
    stop(server)


@pytest.fixture(scope="session")
def s3() -> Iterator["ObjectStorage"]:
    """An S3 server, which all tests of the session share: each has buckets of its own."""
    from tests.object_storage import object_storage

    with object_storage() as storage:
        yield storage


@pytest.fixture
def faulty_way(s3: "ObjectStorage") -> Iterator["FaultyWay"]:
    """A way to the S3 server on which requests go wrong when they are told to."""
    from tests.object_storage import FaultyWay

    way = FaultyWay(s3)
    yield way
    way.close()


@pytest.fixture(scope="module", autouse=True)
def _own_settings() -> Iterator[None]:
    """What a module sets of Prefect ends with it: the next one may need it unset."""
    from prefect.settings import PREFECT_API_URL

    yield
    assert PREFECT_API_URL.value() is None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let tests meet what is other programs' affair.

    Tests of real processes, signals and clocks share a machine with what they start, and
    have two more tries, which the summary shows; unit and contract tests have no such excuse,
    nor has a test that says so itself. Where there is a Prefect server, Prefect's clients leave
    connections to the garbage collector.
    """
    for item in items:
        layer = item.path.relative_to(_TESTS).parts[0]
        if (
            layer in {"integration", "acceptance", "containers"}
            and item.get_closest_marker("flaky") is None
        ):
            item.add_marker(pytest.mark.flaky(reruns=2))
        if layer != "unit":
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))


_EXIT_STATUS = pytest.StashKey[int]()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Remember how the session ended."""
    session.config.stash[_EXIT_STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave without the interpreter's own shutdown, once all has been reported.

    Threads of Prefect's client outlive the tests as daemons, and now and then CPython 3.12
    crashes on such threads while it shuts down, which would hide how the tests ended.
    """
    # a process of pytest-xdist has reported nothing yet
    if _EXIT_STATUS in config.stash and not hasattr(config, "workerinput"):
        _SCRATCH.cleanup()
        config.get_terminal_writer().flush()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash[_EXIT_STATUS])
