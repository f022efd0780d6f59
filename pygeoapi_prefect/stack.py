"""The whole stack on one machine: Prefect API, deployments, workers and web server.

Owns in which order they start and stop, what is checked before, and where their files
are. Does not print, and knows nothing of jobs.

Prefect reads its settings from the environment when it is first imported: this module
sets the environment first, and imports Prefect where it needs it.
"""

import contextlib
import errno
import fcntl
import json
import os
import shlex
import signal
import socket
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

import httpx
from pygeoapi.util import get_api_rules

from pygeoapi_prefect import webserver
from pygeoapi_prefect.children import (
    MARK_VARIABLE,
    Child,
    Guard,
    end_processes,
    marked_processes,
)
from pygeoapi_prefect.configuration_file import Configuration
from pygeoapi_prefect.errors import StackError
from pygeoapi_prefect.prefect_api import (
    REQUEST_TIMEOUT_SECONDS,
    impatient_client,
    require_api,
    shown,
)

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

STATE_DIRECTORY: Final = Path(".pygeoapi-prefect")
PREFECT_HOST: Final = "127.0.0.1"
WORKER_POLL_SECONDS: Final = 1

START_TIMEOUT_SECONDS: Final = 120.0
JOB_GRACE_VARIABLE: Final = "PREFECT_INTEGRATIONS_PYGEOAPI_WORKER_SHUTDOWN_GRACE_SECONDS"
JOB_GRACE_SECONDS: Final = 5
"""How long running jobs go on at the end: who stops a stack by hand waits for it."""
HAND_BACK_SECONDS: Final = 10.0
"""How much longer it takes to hand back those that have not ended, and to stop."""
# A worker that ends more often than this has a reason that a new start does not take away
RESTARTS_AT_MOST: Final = 3
RESTART_WINDOW_SECONDS: Final = 600.0
_READINESS_POLL_SECONDS: Final = 0.1
_WATCH_SECONDS: Final = 0.5
_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SHOWN_LEVELS: Final = frozenset({"WARNING", "ERROR", "CRITICAL"})


class StopRequested(BaseException):
    """The operator asked for the end, by Ctrl-C or a signal.

    Attributes:
        signal_number: Which signal it was.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


@dataclass(frozen=True)
class StackOptions:
    """What the operator chooses.

    Attributes:
        config: The pygeoapi configuration.
        host: Address on which the web server listens. The stack's own Prefect API, which asks
            nobody who they are, listens on the loopback interface alone.
        port: Port on which the web server listens.
        prefect_port: Port of the Prefect API, where it is the stack's own.
        workers: How many workers to start.
    """

    config: Path
    host: str
    port: int
    prefect_port: int
    workers: int


@dataclass(frozen=True)
class Outcome:
    """What a step has to say: in brief, and what the operator should look into."""

    summary: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """One step of the start."""

    title: str
    run: Callable[[], Outcome]


class Stack:
    """What `pygeoapi-prefect up` runs: a context manager that leaves no process behind.

    Entering it checks what can be checked beforehand; then `run` each of its `steps`, and
    `watch`. Its files are in `.pygeoapi-prefect` of the current directory: Prefect's home
    and database, logs, and the configuration as the children see it.

    Attributes:
        api_url: Where the service answers, as this machine reaches it.
    """

    def __init__(self, options: StackOptions) -> None:
        self._options = options
        self._state = STATE_DIRECTORY.absolute()
        self._config = self._state / "pygeoapi-config.yml"
        self._owns_prefect = not os.environ.get("PREFECT_API_URL")
        self._configuration: Configuration | None = None
        self._work_pool = ""
        self._prefect_server: Child | None = None
        self._workers: list[Child] = []
        self._restarts: dict[str, list[float]] = {}
        self._web_server: Child | None = None
        self._heartbeats_before: Mapping[str, datetime | None] = {}
        self._mark = uuid.uuid4().hex
        self._exits = contextlib.ExitStack()
        self._is_hurried = False
        self.api_url = ""

    def __enter__(self) -> Self:
        """Check all that can be checked before anything starts.

        Raises:
            ConfigurationError: The configuration is missing or invalid.
            StackError: A port is taken, or another stack runs in this directory.
            BackendUnavailable: The Prefect API of `PREFECT_API_URL` does not answer.
            StopRequested: Here and everywhere until the exit, once the operator asks for it.
        """
        with contextlib.ExitStack() as exits:
            for number in _STOP_SIGNALS:
                exits.callback(signal.signal, number, signal.signal(number, _request_stop))
            configuration = self._configuration = webserver.read_configuration(self._options.config)
            self._work_pool = configuration.work_pool
            exits.enter_context(locked(self._state / "up.lock"))
            self._check_ports()
            environment = stack_environment(os.environ, self._state, self._options.prefect_port)
            os.environ.clear()
            os.environ.update(environment)
            if not self._owns_prefect:
                require_api()
            self._write_configuration(configuration.content)
            exits.callback(Guard(self._mark).release)
            self._exits = exits.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop everything. Another signal meanwhile ends the patience."""
        with self._exits:
            for number in _STOP_SIGNALS:
                signal.signal(number, self._hurry)
            end = partial(
                end_processes,
                grace_seconds=_job_grace_seconds() + HAND_BACK_SECONDS,
                is_hurried=lambda: self._is_hurried,
            )
            # Prefect goes last: workers and flow runs report their end to it
            server = self._prefect_server.process if self._prefect_server else None
            end(child.process for child in self._children if child is not self._prefect_server)
            end(
                process
                for process in marked_processes(self._mark)
                if server is None or process.pid != server.pid
            )
            if server is not None:
                end([server])

    @property
    def steps(self) -> Sequence[Step]:
        """The steps of the start, in their order.

        Each raises StackError if its process ends or does not answer in time.
        """
        numbers = range(1, self._options.workers + 1)
        steps = [
            Step("Deployments", self._deploy),
            *(Step(f"Worker {number}", partial(self._await_worker, number)) for number in numbers),
            Step("Web server", self._await_web_server),
        ]
        if self._owns_prefect:
            return [Step("Prefect server", self._start_prefect_server), *steps]
        return steps

    def watch(self) -> Iterator[str]:
        """Wait for the end of a process. A worker that ends is started again.

        Yields:
            Each warning that the web server logs, as soon as it does, and each such start.

        Raises:
            StackError: A process ended, or a worker did so again and again; the message holds
                the end of its log.
        """
        unfinished = ""
        with _started(self._web_server).log_path.open(encoding="utf-8", errors="replace") as log:
            while True:
                *lines, unfinished = (unfinished + log.read()).split("\n")
                yield from (line for line in lines if _SHOWN_LEVELS & set(line.split()))
                for child in self._children:
                    if child.has_ended:
                        yield self._start_again(child)
                time.sleep(_WATCH_SECONDS)

    def _start_again(self, ended: Child) -> str:
        if ended not in self._workers:
            raise _unexpected_end(ended)
        now = time.monotonic()
        before = self._restarts.get(ended.name, [])
        recent = [at for at in before if now - at < RESTART_WINDOW_SECONDS]
        if len(recent) >= RESTARTS_AT_MOST:
            raise _unexpected_end(ended)
        self._restarts[ended.name] = [*recent, now]
        again = self._child(ended.name, ended.arguments)
        self._workers[self._workers.index(ended)] = again
        return (
            f"{ended.name} ended with exit code {ended.process.returncode} and was started again; "
            f"its log is {again.previous_log_path}"
        )

    @property
    def prefect_ui_url(self) -> str:
        """Where the Prefect UI is."""
        from prefect.settings import get_current_settings

        settings = get_current_settings()
        return settings.ui_url or shown(settings.api.url or "").removesuffix("/api")

    def example_command(self) -> str:
        """A command line that runs the first process which has an example, or lists them."""
        with httpx.Client(trust_env=False, timeout=REQUEST_TIMEOUT_SECONDS) as client:
            processes = client.get(f"{self.api_url}/processes", params={"f": "json"}).json()
            for process in processes["processes"]:
                url = f"{self.api_url}/processes/{process['id']}"
                example = client.get(url, params={"f": "json"}).json().get("example")
                if example:
                    body = shlex.quote(json.dumps(example, ensure_ascii=False))
                    header = "-H 'Content-Type: application/json'"
                    return f"curl -X POST {url}/execution {header} -d {body}"
        return f"curl '{self.api_url}/processes?f=json'"

    # -- before the start --------------------------------------------------------------

    def _check_ports(self) -> None:
        options = self._options
        check_port(options.host, options.port, "--port")
        if self._owns_prefect:
            if options.prefect_port == options.port:
                raise StackError(f"--port and --prefect-port are both {options.port}")
            check_port(PREFECT_HOST, options.prefect_port, "--prefect-port")

    def _write_configuration(self, configuration: Mapping[str, Any]) -> None:
        host, port = self._options.host, self._options.port
        text = self._options.config.read_text(encoding="utf-8")
        self._config.write_text(
            webserver.localize(text, configuration, host, port), encoding="utf-8"
        )
        prefix = get_api_rules(dict(configuration)).get_url_prefix("flask")
        self.api_url = webserver.url_of(host, port) + prefix

    # -- the steps ---------------------------------------------------------------------

    def _start_prefect_server(self) -> Outcome:
        address = ["--host", PREFECT_HOST, "--port", str(self._options.prefect_port)]
        server = self._prefect_server = self._child(
            "Prefect server", [sys.executable, "-m", "prefect", "server", "start", *address]
        )
        with impatient_client() as client:
            _await(server, lambda: client.api_healthcheck() is None)
        return Outcome(os.environ["PREFECT_API_URL"])

    def _deploy(self) -> Outcome:
        from pygeoapi_prefect.deployments import deploy

        # the operator's own file: by its URL, the deployments are known to be of this service,
        # whatever port it is served on now
        changes = deploy(_started(self._configuration))
        self._start_workers_and_web_server()
        actions = Counter(change.action for change in changes if not change.problem)
        pools = {change.work_pool for change in changes if change.work_pool}
        return Outcome(
            ", ".join(f"{count} {action}" for action, count in sorted(actions.items())) or "none",
            (
                *(f"{change.process_id}: {change.problem}" for change in changes if change.problem),
                *(
                    f"no worker is started for the work pool {pool}"
                    for pool in sorted(pools - {self._work_pool})
                ),
            ),
        )

    def _start_workers_and_web_server(self) -> None:
        """Start them side by side: each is busy for seconds before it is ready."""
        with impatient_client() as client:
            self._heartbeats_before = _heartbeats(client, self._work_pool)
        for number in range(1, self._options.workers + 1):
            command = worker_command(self._work_pool, self._worker_name(number))
            self._workers.append(self._child(f"Worker {number}", command))
        address = ["--host", self._options.host, "--port", str(self._options.port)]
        self._web_server = self._child(
            "Web server", [sys.executable, "-m", "pygeoapi_prefect.cli", "serve", *address]
        )

    def _await_worker(self, number: int) -> Outcome:
        name = self._worker_name(number)
        before = self._heartbeats_before.get(name)
        with impatient_client() as client:
            _await(
                self._workers[number - 1],
                lambda: _heartbeats(client, self._work_pool).get(name) != before,
            )
        return Outcome(f"work pool {self._work_pool}")

    def _await_web_server(self) -> Outcome:
        with httpx.Client(trust_env=False, timeout=START_TIMEOUT_SECONDS) as client:
            _await(_started(self._web_server), lambda: _answers(client, self.api_url))
        return Outcome(self.api_url)

    def _worker_name(self, number: int) -> str:
        """What Prefect calls a worker: the same each time, and no other stack's on this machine."""
        return f"{socket.gethostname()}-{self._options.port}-{number}"

    @property
    def _children(self) -> list[Child]:
        servers = [child for child in (self._web_server, self._prefect_server) if child]
        return [*self._workers, *servers]

    def _child(self, name: str, arguments: Sequence[str]) -> Child:
        environment = os.environ | {
            MARK_VARIABLE: self._mark,
            "PYGEOAPI_CONFIG": str(self._config),
        }
        log_path = self._state / "logs" / f"{name.lower().replace(' ', '-')}.log"
        return Child(name, arguments, environment, log_path)

    def _hurry(self, _number: int, _frame: FrameType | None) -> None:
        self._is_hurried = True


def stack_environment(
    inherited: Mapping[str, str], state: Path, prefect_port: int
) -> dict[str, str]:
    """The environment that all processes of a stack share.

    Without `PREFECT_API_URL` it leads to the stack's own Prefect server, whose home is below
    `state`, and away from the user's Prefect profile.
    """
    environment = {
        # nothing about the use of this program goes to anyone
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_WORKER_QUERY_SECONDS": str(WORKER_POLL_SECONDS),
        JOB_GRACE_VARIABLE: str(JOB_GRACE_SECONDS),
        "PYTHONUNBUFFERED": "1",
        **inherited,
        # one that forgets the address must fail, not work on a database of its own
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    }
    environment.pop("PYGEOAPI_OPENAPI", None)
    if inherited.get("PREFECT_API_URL"):
        return environment
    for name in ("PREFECT_PROFILE", "PREFECT_PROFILES_PATH"):
        environment.pop(name, None)
    # an HTTP proxy knows no way to this machine's loopback interface
    not_proxied = [inherited.get("NO_PROXY") or inherited.get("no_proxy"), "127.0.0.1", "localhost"]
    no_proxy = ",".join(filter(None, not_proxied))
    api_url = f"http://{PREFECT_HOST}:{prefect_port}/api"
    return environment | {
        "PREFECT_API_URL": api_url,
        "PREFECT_SERVER_UI_API_URL": api_url,
        "PREFECT_HOME": str(state / "prefect"),
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
    }


def _job_grace_seconds() -> float:
    try:
        return float(os.environ[JOB_GRACE_VARIABLE])
    except (LookupError, ValueError):  # nothing has started, or no worker with such a setting
        return JOB_GRACE_SECONDS


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that the kernel frees when this process is gone, however that went.

    Raises:
        StackError: Another process holds it, or its directory cannot be written.
    """
    with contextlib.ExitStack() as exits:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = exits.enter_context(path.open("a+", encoding="utf-8"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise StackError(
                f"`pygeoapi-prefect up` already runs in this directory (process {file.read()}): "
                "stop it first"
            ) from error
        except OSError as error:
            raise StackError(f"cannot write to {path.parent}: {error.strerror}") from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def check_port(host: str, port: int, option: str) -> None:
    """Find out whether a server can listen there.

    Args:
        host: Name or address of an interface of this machine.
        port: The port.
        option: Which option chooses another port, for the message.

    Raises:
        StackError: The port is taken, or cannot be listened on for another reason.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # as servers do: a connection that has just ended does not keep the port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StackError(
                f"port {port} is taken: stop what listens there, or choose another with {option}"
            ) from error
        raise StackError(f"cannot listen on {host}, port {port}: {error.strerror}") from error


def worker_command(work_pool: str, name: str | None, limit: int | None = None) -> list[str]:
    """The command that runs a worker.

    Args:
        work_pool: Where it gets its work from.
        name: What the Prefect UI calls it. Default: a random name.
        limit: How many jobs it runs at once. Default: any number.
    """
    command = [sys.executable, "-m", "prefect", "worker", "start"]
    command += ["--pool", work_pool, "--no-create-pool-if-not-found", "--install-policy", "never"]
    if name is not None:
        command += ["--name", name]
    if limit is not None:
        command += ["--limit", str(limit)]
    return command


def become_worker(work_pool: str, name: str | None, limit: int | None) -> NoReturn:
    """Turn this process into a worker, so that signals meet it and nothing before it.

    Raises:
        BackendUnavailable: No Prefect API answers.
        StackError: It has no such work pool.
    """
    from prefect.exceptions import ObjectNotFound

    os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", str(WORKER_POLL_SECONDS))
    require_api()
    try:
        with impatient_client() as client:
            client.read_work_pool(work_pool)
    except ObjectNotFound as error:
        raise StackError(
            f"no work pool {work_pool!r}: create it with `pygeoapi-prefect deploy`"
        ) from error
    command = worker_command(work_pool, name, limit)
    os.execv(command[0], command)  # noqa: S606 - without a shell is what is meant


def _request_stop(number: int, _frame: FrameType | None) -> NoReturn:
    raise StopRequested(number)


def _await(child: Child, is_ready: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + START_TIMEOUT_SECONDS
    while not is_ready():
        if child.has_ended:
            raise _unexpected_end(child)
        if time.monotonic() > give_up_at:
            raise StackError(
                f"{child.name} did not answer within {START_TIMEOUT_SECONDS:.0f} s; "
                f"its log {child.log_path} ends with:\n{child.log_tail}"
            )
        time.sleep(_READINESS_POLL_SECONDS)


def _unexpected_end(child: Child) -> StackError:
    return StackError(
        f"{child.name} ended with exit code {child.process.returncode}; "
        f"its log {child.log_path} ends with:\n{child.log_tail}"
    )


def _answers(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url, params={"f": "json"}).is_success
    except httpx.TransportError:
        return False


def _heartbeats(client: "SyncPrefectClient", work_pool: str) -> dict[str, datetime | None]:
    """When each worker of a work pool, by its name, was last heard of."""
    workers = client.read_workers_for_work_pool(work_pool, offset=0, limit=200)
    return {worker.name: worker.last_heartbeat_time for worker in workers}


def _started[Part](part: Part | None) -> Part:
    if part is None:
        raise StackError("the steps before this one have not been run")
    return part
