"""What the worker makes of events, of reconnections, and of a pool that is gone."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling, Running, Suspended
from prefect.workers.base import BaseWorker

from pygeoapi_prefect.worker import PygeoapiWorker
from pygeoapi_prefect.worker.api import RunsApi
from pygeoapi_prefect.worker.claims import Claim, RunExecutor
from pygeoapi_prefect.worker.events import (
    RECONNECT_SECONDS,
    RECONNECT_SECONDS_AT_MOST,
    PoolEvents,
    RunEvent,
)
from pygeoapi_prefect.worker.messages import Suspended as SuspendedMessage
from pygeoapi_prefect.worker.process import JobProcess


class Process(JobProcess):
    """A process that takes note of what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def tell(self, message: object) -> None:
        self.told.append(message)


class Site:
    """A worker with one running job, and what Prefect says of that."""

    def __init__(self, state: State[Any]) -> None:
        self.worker = PygeoapiWorker("pool", name="me")
        self.run = FlowRun(id=uuid4(), flow_id=uuid4(), state=state)
        self.process = Process()
        self.claim = Claim(self.run, 0.0, process=self.process)
        self.interrupted: list[UUID] = []
        self.reads = 0
        self.announced = uuid4()
        self.worker._claims[self.run.id] = self.claim
        self.worker._api = cast("RunsApi", self)
        self.worker._executor = cast("RunExecutor", self)

    async def read_run(self, _: UUID) -> FlowRun:
        return self.run

    async def read_run_after(self, _: UUID, state_id: UUID) -> FlowRun:
        assert state_id == self.announced
        return self.run

    async def announce(self) -> None:
        await self.worker._obey(RunEvent(self.run.id, None, "Suspended", self.announced, ""))

    async def read_ended_from_outside(self, _: list[UUID]) -> list[FlowRun]:
        self.reads += 1
        return [self.run]

    async def interrupt(self, claim: Claim, intent: str) -> None:
        assert intent == "cancel"
        self.interrupted.append(claim.flow_run.id)

    def connect(self, since: float | None) -> None:
        self.worker._served.events = cast("PoolEvents", SimpleNamespace(connected_since=since))

    async def watch(self) -> None:
        await self.worker._watch_claims()
        await asyncio.gather(*self.worker._background)


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scene())


def test_a_run_that_is_suspended_hears_of_it() -> None:
    async def scene() -> None:
        suspended: State[Any] = Suspended(timeout_seconds=60)
        site = Site(suspended)

        await site.announce()

        assert site.process.told == [SuspendedMessage(site.run.id, suspended)]

    play(scene)


def test_a_run_that_was_resumed_does_not_hear_that_it_was_suspended_before() -> None:
    async def scene() -> None:
        site = Site(Running())

        await site.announce()

        assert site.process.told == []

    play(scene)


def test_what_was_cancelled_while_no_events_came_is_seen_after_each_connection_once() -> None:
    async def scene() -> None:
        site = Site(Cancelling())
        site.connect(since=1.0)
        await site.watch()
        assert site.interrupted == [site.run.id]

        await site.watch()
        assert site.reads == 1
        site.connect(since=2.0)
        await site.watch()

        assert site.reads == 2

    play(scene)


def test_while_no_events_come_it_is_asked_again_and_again() -> None:
    async def scene() -> None:
        site = Site(Cancelling())
        site.connect(since=None)

        await site.watch()
        await site.watch()

        assert site.reads == 2

    play(scene)


def refusal(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "http://prefect.invalid/api")
    response = httpx.Response(status, request=request)
    return httpx.HTTPStatusError("no", request=request, response=response)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ObjectNotFound(refusal(404)), "no work pool 'pool' any more"),
        (refusal(404), "no work pool 'pool' any more"),
        (refusal(429), "is away"),
        (httpx.ConnectError("no"), "is away"),
    ],
)
def test_a_worker_that_cannot_report_itself_says_so_once_and_goes_on(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_: object) -> None:
        raise error

    async def scene() -> None:
        worker = PygeoapiWorker("pool", name="me")
        worker._logger = cast("Any", logging.getLogger("test"))
        for _ in range(3):
            await worker.sync_with_backend()

    monkeypatch.setattr(BaseWorker, "sync_with_backend", fail)
    play(scene)

    told = [record.getMessage() for record in caplog.records if record.name == "test"]
    assert [said in message for message in told] == [True]


def test_a_worker_that_is_refused_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_: object) -> None:
        raise refusal(401)

    async def scene() -> None:
        with pytest.raises(httpx.HTTPStatusError):
            await PygeoapiWorker("pool", name="me").sync_with_backend()

    monkeypatch.setattr(BaseWorker, "sync_with_backend", fail)
    play(scene)


def test_a_server_without_events_is_asked_for_them_ever_more_rarely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    attempts = iter([False] * 7 + [True, False])

    @asynccontextmanager
    async def subscribe(**_: object) -> AsyncIterator[AsyncIterator[object]]:
        if not next(attempts):
            raise ConnectionError
        yield _nothing()

    async def _nothing() -> AsyncIterator[object]:
        no_events: tuple[object, ...] = ()
        for event in no_events:
            yield event

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 9:
            raise asyncio.CancelledError

    monkeypatch.setattr("pygeoapi_prefect.worker.events.get_events_subscriber", subscribe)
    # not in the module of all: threads of others sleep too
    monkeypatch.setattr("pygeoapi_prefect.worker.events.asyncio", SimpleNamespace(sleep=sleep))

    async def scene() -> None:
        def ignore(*_: object) -> None:
            """Nothing is said here."""

        events = PoolEvents(
            work_pool_id=uuid4(),
            on_run=ignore,
            on_deployment=ignore,
            on_pool=ignore,
            on_connection=ignore,
            logger=logging.getLogger("test"),
        )
        with pytest.raises(asyncio.CancelledError):
            await events.listen()

    play(scene)

    assert pauses[0] == RECONNECT_SECONDS
    assert pauses[6] == RECONNECT_SECONDS_AT_MOST
    # and anew, after it was up
    assert pauses[7:] == [RECONNECT_SECONDS, 2 * RECONNECT_SECONDS]
