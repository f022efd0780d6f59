"""When the worker asks for runs, by which call, and which of them it claims."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, WorkPool, WorkQueue

from pygeoapi_prefect.worker import PygeoapiWorkerSettings
from pygeoapi_prefect.worker.api import RunsApi, Waiting
from pygeoapi_prefect.worker.claims import Claim
from pygeoapi_prefect.worker.dispatch import Dispatcher, runs_to_claim_ahead
from pygeoapi_prefect.worker.events import PoolEvents, RunEvent
from pygeoapi_prefect.worker.owner import Owner
from pygeoapi_prefect.worker.served import ServedPool

ME = Owner("me", "here", 1, 1)
POLL, POLL_WITH_EVENTS = 1.0, 20.0


def make_pool(**options: Any) -> WorkPool:
    return WorkPool(id=uuid4(), name="pool", type="pygeoapi", default_queue_id=uuid4(), **options)


def make_queue(name: str = "default", **options: Any) -> WorkQueue:
    return WorkQueue(id=uuid4(), name=name, work_pool_id=uuid4(), **options)


def make_run(deployment_id: UUID | None = None) -> FlowRun:
    return FlowRun(id=uuid4(), flow_id=uuid4(), deployment_id=deployment_id)


class Prefect:
    """Due runs, those that may start, and the calls that were made."""

    def __init__(self) -> None:
        self.due: list[FlowRun] = []
        self.may_start: list[FlowRun] = []
        self.next_start_seconds = 60.0
        self.limited: set[UUID] = set()
        self.calls: list[str] = []
        self.on_call: Callable[[], None] = lambda: None

    async def read_waiting_runs(self, limit: int) -> Waiting:
        self.calls.append("waiting")
        self.on_call()
        due = self.due[:limit]
        return Waiting(due, len(self.due) < limit, self.next_start_seconds)

    async def read_due_runs(self, limit: int) -> list[FlowRun]:
        self.calls.append("list")
        self.on_call()
        return self.may_start[:limit]

    def may_be_limited(self, deployment_id: UUID) -> bool:
        return deployment_id in self.limited


class World:
    """A dispatcher with two places, on a pool with one queue."""

    def __init__(self, *, hears_events: bool, limit: int | None = None, **pool: Any) -> None:
        self.prefect = Prefect()
        self.served = ServedPool(())
        self.served.renew(make_pool(**pool), [make_queue()], asked_at=time.monotonic())
        if hears_events:
            events = SimpleNamespace(connected_since=time.monotonic() - 60)
            self.served.events = cast("PoolEvents", events)
        self.claims: dict[UUID, Claim] = {}
        self.begun: list[FlowRun] = []
        self.dispatcher = Dispatcher(
            api=cast("RunsApi", self.prefect),
            served=self.served,
            me=ME,
            places=2,
            limit=limit,
            settings=PygeoapiWorkerSettings(
                poll_seconds=POLL, poll_with_events_seconds=POLL_WITH_EVENTS
            ),
            claims=self.claims,
            begin=self._begin,
            on_answer=lambda: None,
            logger=logging.getLogger(__name__),
        )

    def _begin(self, flow_run: FlowRun, known_since: float) -> None:
        self.begun.append(flow_run)
        self.claims[flow_run.id] = Claim(flow_run, known_since, running_since=time.monotonic())

    def end(self, flow_run: FlowRun) -> None:
        self.dispatcher.on_end(self.claims.pop(flow_run.id))

    async def look(self) -> float:
        """Let it look once; only the calls of this look are kept."""
        self.prefect.calls.clear()
        return await self.dispatcher.claim_due_runs()

    async def settle(self) -> None:
        """Let it ask for Prefect's list, as it does now and then in any case."""
        await self.look()
        assert self.prefect.calls == ["list"]

    def become_due(self, *runs: FlowRun) -> None:
        self.prefect.due += runs
        for run in runs:
            self.dispatcher.on_run_event(RunEvent(run.id, None, "Scheduled", uuid4(), ""))


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scene())


def test_without_events_an_idle_look_costs_one_call() -> None:
    async def scene() -> None:
        world = World(hears_events=False)
        await world.settle()

        for _ in range(3):
            assert await world.look() == POLL
            assert world.prefect.calls == ["waiting"]

    play(scene)


def test_while_events_arrive_an_idle_look_is_certain_for_a_while() -> None:
    async def scene() -> None:
        world = World(hears_events=True)
        await world.settle()
        await world.look()
        assert world.prefect.calls == ["waiting"]

        pause = await world.look()

        assert world.prefect.calls == []
        assert 0 < pause <= POLL_WITH_EVENTS

    play(scene)


def test_where_nothing_keeps_runs_back_one_cheap_call_finds_them() -> None:
    async def scene() -> None:
        world = World(hears_events=True)
        await world.settle()
        run = make_run()
        world.become_due(run)

        await world.look()

        assert world.prefect.calls == ["waiting"]
        assert world.begun == [run]

    play(scene)


def test_the_look_that_finds_a_run_finds_when_the_next_one_starts() -> None:
    async def scene() -> None:
        world = World(hears_events=True)
        await world.settle()
        world.become_due(make_run())
        world.prefect.next_start_seconds = POLL_WITH_EVENTS - 1

        pause = await world.look()

        assert 0 < pause <= POLL_WITH_EVENTS - 1

    play(scene)


@pytest.mark.parametrize("hears_events", [True, False])
def test_runs_that_limits_keep_back_are_not_asked_about_again_and_again(
    hears_events: bool,
) -> None:
    async def scene() -> None:
        world = World(hears_events=hears_events, concurrency_limit=1)
        await world.settle()
        world.prefect.due = [make_run()]
        await world.look()
        assert world.prefect.calls == ["waiting", "list"]

        await world.look()

        assert world.prefect.calls == ["waiting"]

    play(scene)


def test_without_events_a_new_run_does_not_wait_for_those_that_are_kept_back() -> None:
    async def scene() -> None:
        world = World(hears_events=False)
        await world.settle()
        world.prefect.due = [make_run()]
        await world.look()
        new = make_run()
        world.prefect.due.append(new)
        world.prefect.may_start = [new]

        await world.look()

        assert world.begun == [new]

    play(scene)


def test_without_events_a_run_that_comes_after_an_empty_list_starts_at_the_next_look() -> None:
    async def scene() -> None:
        world = World(hears_events=False)
        await world.settle()
        new = make_run()
        world.prefect.due = world.prefect.may_start = [new]

        assert await world.look() <= POLL

        assert world.begun == [new]

    play(scene)


def test_while_all_places_are_taken_nothing_is_asked() -> None:
    async def scene() -> None:
        world = World(hears_events=True)
        await world.settle()
        world.become_due(*(make_run() for _ in range(3)))
        await world.look()
        assert len(world.begun) == 2

        await world.look()

        assert world.prefect.calls == []

    play(scene)


@pytest.mark.parametrize(
    ("world", "is_limited", "begun"),
    [
        pytest.param({}, False, 5, id="short jobs"),
        pytest.param({}, True, 4, id="the limit of the deployment"),
        pytest.param({"limit": 2}, False, 4, id="the limit of the worker"),
    ],
)
def test_after_short_jobs_one_run_is_claimed_ahead_unless_a_limit_counts_it(
    world: dict[str, Any], is_limited: bool, begun: int
) -> None:
    async def scene() -> None:
        here = World(hears_events=True, **world)
        await here.settle()
        deployment = uuid4()
        if is_limited:
            here.prefect.limited.add(deployment)
        runs = [make_run(deployment) for _ in range(6)]
        here.become_due(*runs)
        await here.look()
        for run in runs[:2]:
            here.end(run)
        here.prefect.due = runs[2:]

        await here.look()

        assert len(here.begun) == begun

    play(scene)


def test_what_is_found_after_the_stop_is_left_to_others() -> None:
    async def scene() -> None:
        world = World(hears_events=True)
        await world.settle()
        world.become_due(make_run())
        world.prefect.on_call = world.dispatcher.stop

        await world.look()

        assert world.prefect.calls == ["waiting"]
        assert world.begun == []

    play(scene)


def test_a_run_that_waits_again_is_asked_for_when_a_place_is_free() -> None:
    async def scene() -> None:
        world = World(hears_events=True)
        await world.settle()
        run = make_run()
        world.become_due(run)
        await world.look()
        world.dispatcher.on_return()
        world.end(run)

        await world.look()

        assert world.prefect.calls == ["waiting"]
        assert world.begun == [run, run]

    play(scene)


def test_only_the_limits_and_pauses_of_served_queues_count() -> None:
    ours, theirs = make_queue("ours"), make_queue("theirs", concurrency_limit=1, is_paused=True)
    served = ServedPool(["ours"])
    served.renew(make_pool(), [ours, theirs], asked_at=time.monotonic())
    served.events = cast("PoolEvents", SimpleNamespace(connected_since=0.0))

    assert served.limits == [None, None]
    assert not served.is_limited
    assert served.keeps_nothing_back


def test_only_queues_that_are_known_and_not_served_are_of_others() -> None:
    ours, theirs = make_queue("ours"), make_queue("theirs")
    served = ServedPool(["ours", "not made yet"])
    served.renew(make_pool(), [ours, theirs], asked_at=time.monotonic())

    assert served.has_queue_of_others(theirs.id)
    assert not any(map(served.has_queue_of_others, (ours.id, uuid4(), None)))


def test_a_worker_of_the_whole_pool_serves_all_queues() -> None:
    queues = [make_queue("one"), make_queue("other", concurrency_limit=3)]
    served = ServedPool(())
    served.renew(make_pool(), queues, asked_at=time.monotonic())

    assert served.limits == [None, None, 3]
    assert not any(served.has_queue_of_others(queue.id) for queue in queues)


@pytest.mark.parametrize(
    ("limits", "ended", "running", "expected"),
    [
        pytest.param([None, None], [0.2, 0.3], [0.1, 0.1], 1, id="short jobs"),
        pytest.param([None], [0.2], [], 1, id="a short job, and none that runs"),
        pytest.param([None], [0.2, 0.3], [0.1, 600], 1, id="one of two will soon end"),
        pytest.param([5, None], [0.2], [0.1], 0, id="the limit of the pool"),
        pytest.param([None, 0], [0.2], [0.1], 0, id="the limit of a queue"),
        pytest.param([None], [], [0.1], 0, id="nothing is known yet"),
        pytest.param([None], [0.2, 3.0], [0.1, 0.1], 0, id="one was long"),
        pytest.param([None], [0.2, 0.3], [3.0, 600], 0, id="all that run are long"),
    ],
)
def test_runs_are_claimed_ahead_only_where_they_will_have_a_process_soon(
    limits: list[int | None], ended: list[float], running: list[float], expected: int
) -> None:
    ahead = runs_to_claim_ahead(limits=limits, ended_seconds=ended, running_seconds=running)

    assert ahead == expected
