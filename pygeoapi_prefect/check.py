"""What of a configuration does not work here and now: found out, and told with what to do.

Every part is tried as web servers and workers use it, all of them at once and none for
long. What goes wrong with one is a `Finding` like any other, never an exception.
"""

import asyncio
import dataclasses
import logging
import queue
import re
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import prefect
from prefect.client.base import ServerType
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import DeploymentStatus, WorkerStatus
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import get_current_settings

from pygeoapi_prefect.background import start_thread
from pygeoapi_prefect.code_storage import load_code_block
from pygeoapi_prefect.config import ManagerConfiguration, ProcessConfiguration, parse_process
from pygeoapi_prefect.configuration_file import Configuration
from pygeoapi_prefect.deployments import Action, DeploymentChange, Plan
from pygeoapi_prefect.deployments.work_pools import WORKER_TYPE
from pygeoapi_prefect.errors import (
    BackendUnavailable,
    ConfigurationError,
    PygeoapiPrefectError,
    ResultMissing,
)
from pygeoapi_prefect.gateway import ApiGateway
from pygeoapi_prefect.prefect_api import impatient_client, require_api, shown
from pygeoapi_prefect.processes import load_process
from pygeoapi_prefect.redaction import redacted
from pygeoapi_prefect.storage import (
    ResultStorage,
    load_block,
    open_storage,
    storage_of_block,
)
from pygeoapi_prefect.storage_address import is_block

DEADLINE_SECONDS: Final = 25.0
"""How long all checks together may take. A storage that cannot be reached needs the most."""
LOADING_SECONDS: Final = 60.0
"""As above, for authors' code, the import of which may take a while."""
EVENTS_SECONDS: Final = 5.0
_PROBE: Final = b"pygeoapi-prefect check"


class Topic(StrEnum):
    """What a finding is about, in the order in which findings are told."""

    API = "Prefect API"
    EVENTS = "Prefect events"
    WORK_POOL = "work pool"
    RESULTS = "result storage"
    CODE = "code storage"
    PROCESS = "process"
    DEPLOYMENT = "deployment"
    DISCOVERY = "discovery"
    HOST = "allowed host"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found out about one part of a configuration.

    Attributes:
        name: Which one of its kind.
        is_ok: Whether it works.
        fact: What was found, in some words.
        remedy: What to do, if there is something.
    """

    topic: Topic
    name: str
    is_ok: bool
    fact: str
    remedy: str = ""


@dataclasses.dataclass(frozen=True)
class _Subject:
    """What findings are about; makes them."""

    topic: Topic
    name: str

    def ok(self, fact: str, remedy: str = "") -> Finding:
        return Finding(topic=self.topic, name=self.name, is_ok=True, fact=fact, remedy=remedy)

    def problem(self, fact: str, remedy: str) -> Finding:
        return Finding(topic=self.topic, name=self.name, is_ok=False, fact=fact, remedy=remedy)


@dataclasses.dataclass(frozen=True)
class _Check:
    """One thing to find out.

    Attributes:
        run: Finds it out; may raise whatever it likes.
    """

    subject: _Subject
    run: Callable[[_Subject], Iterable[Finding]]
    seconds: float = DEADLINE_SECONDS

    def findings(self) -> list[Finding]:
        subject = self.subject
        try:
            return [*self.run(subject)]
        except PygeoapiPrefectError as error:
            return [subject.problem(error.detail, _REMEDIES[subject.topic])]
        except PrefectHTTPStatusError as error:
            status = error.response.status_code
            return [subject.problem(f"the Prefect API answered {status}", _REMEDIES[Topic.API])]
        except httpx.HTTPError as error:
            fact = f"the Prefect API does not answer ({type(error).__name__})"
            return [subject.problem(fact, _REMEDIES[Topic.API])]
        except Exception as error:  # whatever stands behind a block, a pool or a process
            fact = " ".join(f"{type(error).__name__}: {error}".split())
            return [subject.problem(redacted(fact), _REMEDIES[subject.topic])]


_Try = Callable[[_Subject], Iterable[Finding]]

_DEPLOY: Final = "run `pygeoapi-prefect deploy`"
_REMEDIES: Final[Mapping[Topic, str]] = {
    Topic.API: "check PREFECT_API_URL, and PREFECT_API_AUTH_STRING or PREFECT_API_KEY",
    Topic.EVENTS: "let WebSockets through to the Prefect API: without them, jobs start later",
    Topic.WORK_POOL: "check the work pool in the Prefect UI",
    Topic.RESULTS: "check result_storage, and the block or environment with its credentials",
    Topic.CODE: "check deployment.storage_block, and the credentials in the block",
    Topic.PROCESS: "check the resource in the configuration, and its code",
    Topic.DEPLOYMENT: "correct it, then run `pygeoapi-prefect deploy`",
    Topic.DISCOVERY: "check server.manager.discover",
    Topic.HOST: "check server.manager.references.allow_hosts, and DNS",
}


def check_configuration(configuration: Configuration) -> list[Finding]:
    """Try all parts of a configuration."""
    with _quiet():
        address = shown(get_current_settings().api.url or "not configured")
        findings = _Check(_Subject(Topic.API, address), _try_api).findings()
        has_api = all(finding.is_ok for finding in findings)
        findings += _findings([*_checks(configuration, has_api=has_api)])
    order = [*Topic]
    return sorted(findings, key=lambda finding: order.index(finding.topic))


def _checks(configuration: Configuration, *, has_api: bool) -> Iterator[_Check]:
    manager = configuration.manager
    for address, run in _result_storages(configuration).items():
        if has_api or not is_block(address):
            yield _Check(_Subject(Topic.RESULTS, address), run)
    for host in manager.references.allow_hosts:
        yield _Check(_Subject(Topic.HOST, host), _try_host)
    if not has_api:
        # what is on the Prefect server cannot be known, but whether processes load
        for process_id, resource in configuration.process_resources.items():
            load = partial(_try_process, resource=resource, manager=manager)
            yield _Check(_Subject(Topic.PROCESS, process_id), load, LOADING_SECONDS)
        return
    yield _Check(_Subject(Topic.EVENTS, "websocket"), _try_events)
    deployments = [process.deployment for process in _processes(configuration)]
    pools = [configuration.work_pool, *(one.work_pool for one in deployments if one.work_pool)]
    for pool in dict.fromkeys(pools):
        remedy = f"`prefect work-pool create {pool} --type TYPE` makes it"
        if pool == configuration.work_pool:
            remedy = "`pygeoapi-prefect deploy` makes it"
        yield _Check(_Subject(Topic.WORK_POOL, pool), partial(_try_work_pool, remedy=remedy))
    for block in dict.fromkeys(one.storage_block for one in deployments if one.storage_block):
        yield _Check(_Subject(Topic.CODE, block), _try_code)
    plan = partial(_try_deployments, configuration=configuration)
    yield _Check(_Subject(Topic.DEPLOYMENT, "all"), plan, LOADING_SECONDS)
    if manager.discover is not None:
        tags = manager.discover.tags
        name = ", ".join(sorted(tags))
        yield _Check(_Subject(Topic.DISCOVERY, name), partial(_try_discovery, tags=tags))


def _processes(configuration: Configuration) -> Iterator[ProcessConfiguration]:
    for process_id, resource in configuration.process_resources.items():
        with suppress(ConfigurationError):  # which is told where the process is tried
            yield parse_process(process_id, resource)


def _result_storages(configuration: Configuration) -> Mapping[str, _Try]:
    """Return the storages of results, and how each is tried."""
    manager = configuration.manager
    own = (process.result_storage_address for process in _processes(configuration))
    discovered = None if manager.discover is None else manager.discover.result_storage
    used = (manager.result_storage_address, discovered, *own)
    return {
        **dict.fromkeys(manager.former_result_storages, _try_former_results),
        **dict.fromkeys((address for address in used if address is not None), _try_results),
    }


def _findings(checks: Sequence[_Check]) -> Iterator[Finding]:
    """Run checks side by side, each in a thread that nobody waits for longer than is due."""
    answers: queue.SimpleQueue[tuple[_Check, list[Finding]]] = queue.SimpleQueue()
    started_at = time.monotonic()
    for check in checks:
        answer = partial(_answer, check, answers)
        start_thread(answer, name=f"check {check.subject.topic}", daemon=True)
    waiting = [*checks]
    while waiting:
        left = max(check.seconds for check in waiting) - (time.monotonic() - started_at)
        try:
            check, findings = answers.get(timeout=max(0.0, left))
        except queue.Empty:
            break
        waiting.remove(check)
        yield from findings
    for check in waiting:
        subject = check.subject
        yield subject.problem(f"no answer within {check.seconds:.0f} s", _REMEDIES[subject.topic])


def _answer(check: _Check, answers: "queue.SimpleQueue[tuple[_Check, list[Finding]]]") -> None:
    answers.put((check, check.findings()))


# -- Prefect ---------------------------------------------------------------------------


def _try_api(subject: _Subject) -> Iterator[Finding]:
    try:
        require_api()
    except BackendUnavailable as error:
        fact = error.detail.partition("; check ")[0]
        yield subject.problem(fact, _REMEDIES[Topic.API])
        return
    with impatient_client() as client:
        if client.server_type is ServerType.CLOUD:
            yield subject.ok("Prefect Cloud")
            return
        version = client.api_version()
    if _numbers(version) < _numbers(prefect.__version__):
        yield subject.problem(
            f"Prefect {version}, which is older than the {prefect.__version__} here",
            f"upgrade the Prefect server to {prefect.__version__} or later",
        )
    else:
        yield subject.ok(f"Prefect {version}")


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall("[0-9]+", version)[:3]]


def _try_events(subject: _Subject) -> Iterator[Finding]:
    async def connect() -> None:
        nothing = EventFilter(event=EventNameFilter(name=["pygeoapi-prefect.check"]))
        async with (
            asyncio.timeout(EVENTS_SECONDS),
            get_events_subscriber(filter=nothing, reconnection_attempts=0),
        ):
            pass

    try:
        asyncio.run(connect())
    except Exception as error:  # Prefect raises a bare one where it cannot log in
        yield subject.problem(f"no connection ({type(error).__name__})", _REMEDIES[Topic.EVENTS])
    else:
        yield subject.ok("connected")


def _try_work_pool(subject: _Subject, *, remedy: str) -> Iterator[Finding]:
    with impatient_client() as client:
        try:
            pool = client.read_work_pool(subject.name)
        except ObjectNotFound:
            yield subject.problem("does not exist", remedy)
            return
        workers = client.read_workers_for_work_pool(subject.name, offset=0, limit=200)
    online = sum(worker.status is WorkerStatus.ONLINE for worker in workers)
    if pool.is_paused:
        yield subject.problem("is paused", f"`prefect work-pool resume {pool.name}`")
    elif pool.is_push_pool or pool.is_managed_pool:
        yield subject.ok(f"type {pool.type}, which needs no workers")
    elif online:
        yield subject.ok(f"type {pool.type}, workers online: {online}")
    else:
        command = "pygeoapi-prefect worker" if pool.type == WORKER_TYPE else "prefect worker start"
        yield subject.problem(
            f"type {pool.type}, no worker is online", f"start one: `{command} --pool {pool.name}`"
        )


def _try_discovery(subject: _Subject, *, tags: Collection[str]) -> Iterator[Finding]:
    gateway = ApiGateway()
    try:
        found = len(gateway.tagged_deployments(tags))
    finally:
        gateway.close()
    yield subject.ok(f"deployments with these tags: {found}")


# -- processes -------------------------------------------------------------------------


def _try_process(
    subject: _Subject, *, resource: Mapping[str, Any], manager: ManagerConfiguration
) -> Iterator[Finding]:
    load_process(subject.name, resource, manager)
    yield subject.ok("loads")


def _try_deployments(_: _Subject, *, configuration: Configuration) -> Iterator[Finding]:
    with impatient_client() as client, tempfile.TemporaryDirectory() as staging:
        plan = Plan(client, configuration, Path(staging))
        for change in plan.changes:
            yield from _of_process(client, change)
        for change in plan.abandoned:
            yield _Subject(Topic.DEPLOYMENT, change.deployment).ok(
                "is not in the configuration any more",
                "`pygeoapi-prefect deploy --prune` removes it",
            )


def _of_process(client: SyncPrefectClient, change: DeploymentChange) -> Iterator[Finding]:
    process = _Subject(Topic.PROCESS, change.process_id)
    if not change.deployment:
        yield process.problem(change.problem or "does not load", _REMEDIES[Topic.PROCESS])
        return
    yield process.ok("loads")
    deployment = _Subject(Topic.DEPLOYMENT, change.deployment)
    match change.action:
        case Action.CREATED:
            yield deployment.problem("does not exist", _DEPLOY)
        case Action.CHANGED:
            yield deployment.problem(f"is not up to date: {', '.join(change.settings)}", _DEPLOY)
        case Action.REFUSED:
            yield deployment.problem(change.problem or "", _REMEDIES[Topic.DEPLOYMENT])
        case _:
            yield _of_deployment(client, deployment)


def _of_deployment(client: SyncPrefectClient, subject: _Subject) -> Finding:
    found = client.read_deployment_by_name(subject.name)
    if found.work_queue_id is not None and client.read_work_queue(found.work_queue_id).is_paused:
        return subject.problem(
            f"its work queue {found.work_queue_name} is paused",
            f"`prefect work-queue resume {found.work_queue_name} --pool {found.work_pool_name}`",
        )
    if found.status is DeploymentStatus.READY:
        return subject.ok("up to date, ready")
    return subject.problem(
        "up to date, but no worker has asked for its jobs lately",
        f"start a worker of the work pool {found.work_pool_name}",
    )


# -- storages --------------------------------------------------------------------------


def _try_results(subject: _Subject) -> Iterator[Finding]:
    yield _tried(subject, open_storage(subject.name))


def _try_former_results(subject: _Subject) -> Iterator[Finding]:
    """Try what is only read, and may be read-only."""
    storage = open_storage(subject.name)
    storage.check()
    with suppress(ResultMissing):
        storage.size(f"pygeoapi-prefect-check-{uuid.uuid4()}/probe")
    yield subject.ok("can be read")


def _try_code(subject: _Subject) -> Iterator[Finding]:
    load_code_block(subject.name)
    try:
        storage = storage_of_block(load_block(subject.name), subject.name)
    except ConfigurationError:
        yield subject.ok("exists; in a block of its type, no file was tried")
    else:
        yield _tried(subject, storage)


def _tried(subject: _Subject, storage: ResultStorage) -> Finding:
    folder = f"pygeoapi-prefect-check-{uuid.uuid4()}"
    started_at = time.monotonic()
    storage.check()
    storage.write(f"{folder}/probe", _PROBE)
    try:
        is_same = storage.read(f"{folder}/probe") == _PROBE
    finally:
        storage.delete(folder)
    if not is_same:
        return subject.problem("what was read is not what was stored", _REMEDIES[subject.topic])
    milliseconds = 1000 * (time.monotonic() - started_at)
    return subject.ok(f"stored, read and removed a file in {milliseconds:.0f} ms")


# -- addresses that inputs and callbacks may have ---------------------------------------


def _try_host(subject: _Subject) -> Iterator[Finding]:
    name, _, port = subject.name.rpartition(":")
    host = (name if name and port.isdigit() else subject.name).strip("[]")
    if host.startswith("*."):
        yield subject.ok("any host below it")
        return
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        yield subject.problem("its name does not resolve here", _REMEDIES[Topic.HOST])
    else:
        yield subject.ok(", ".join(sorted({str(one[4][0]) for one in found})))


# --------------------------------------------------------------------------------------


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the log what findings tell."""
    names = ("pygeoapi_prefect", "prefect", "pygeoapi", "asyncio", "botocore", "aiobotocore")
    loggers = [logging.getLogger(name) for name in names]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
