"""What every layer shares: a clean environment and one real Prefect server."""

import ctypes
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from xdist.remote import Producer

from benchmarks.stand.ports import free_port
from tests import scheduling

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


def die_with_parent() -> None:
    """For `preexec_fn`: end the process when the test session does, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def make_empty_database(cache: Path) -> Path:
    """A Prefect database with all tables. Made once for each version of Prefect, in 20 s."""
    template = cache / f"prefect-{version('prefect')}.db"
    with (cache / "lock").open("wb") as lock, tempfile.TemporaryDirectory(dir=cache) as scratch:
        # several processes of a session want it at the same time
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not template.exists():
            made = Path(scratch) / "prefect.db"
            subprocess.run(
                [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"],
                env=os.environ
                | {"PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{made}"},
                check=True,
                capture_output=True,
                preexec_fn=die_with_parent,
            )
            made.rename(template)
    return template


def copy_empty_database(cache: Path, home: Path) -> None:
    """Put a Prefect database with all tables below `home`."""
    shutil.copy(make_empty_database(cache), home / "prefect.db")


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
        # after how long a run that nobody took is late, and how often that is looked for
        "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "1",
        "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "1",
        # what it knows of types of workers is what came with it, and not the newest on the Internet
        "https_proxy": "http://127.0.0.1:9",
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


def database_cache(config: pytest.Config) -> Path:
    """Where `make_empty_database` keeps what it has made."""
    return config.cache.mkdir("prefect-database")


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
    copy_empty_database(database_cache(pytestconfig), home)
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


# those of Prefect and fsspec that last as long as the process, and what a session shares
_LASTING_THREADS = re.compile(
    r"GlobalEventLoopThread|RunSyncEventLoopThread|AnyIO worker thread|asyncio_\d+|fsspecIO"
    # ends by itself, when there has been nothing to tell for a while
    r"|progress"
    r"|Thread-\d+ \((_server_entry|process_request_thread|_accept|_copy)\)"
)
_THREAD_END_SECONDS = 60.0


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """What a module sets of Prefect, and starts in this process, ends with it."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import PREFECT_API_URL

    before = {*threading.enumerate()}
    yield
    # their next users may be those of another Prefect server
    APILogWorker.drain_all()
    EventsWorker.drain_all()
    assert PREFECT_API_URL.value() is None
    give_up_at = time.monotonic() + _THREAD_END_SECONDS
    for thread in {*threading.enumerate()} - before:
        if not _LASTING_THREADS.match(thread.name):
            thread.join(max(0.0, give_up_at - time.monotonic()))
            assert not thread.is_alive(), f"{thread} goes on after the tests of this module"


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Have the database of Prefect servers made while tests are collected."""
    config = session.config
    # without processes of pytest-xdist, it is not known whether a test will want it
    if config.getoption("numprocesses"):
        threading.Thread(
            target=make_empty_database, args=(database_cache(config),), daemon=True
        ).start()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes long first.

    Where there is a Prefect server, Prefect's clients leave connections to the garbage collector.
    """
    items.sort(key=scheduling.rank)
    for item in items:
        if item.path.relative_to(_TESTS).parts[0] != "unit":
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Have nothing started in both processes that one of them could use alone."""
    scheduling.check_unit(item)


def pytest_xdist_make_scheduler(
    config: pytest.Config, log: Producer
) -> scheduling.UnitScheduling | None:
    """Give files that share what takes long to start to one process."""
    if config.getoption("dist") != "loadfile":
        return None
    return scheduling.UnitScheduling(config, log)


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
