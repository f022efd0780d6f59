"""How a claimed run gets a process, and what Prefect hears of its end."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Crashed, Pending

from pygeoapi_prefect.worker import PygeoapiWorkerSettings
from pygeoapi_prefect.worker.api import RunsApi
from pygeoapi_prefect.worker.claims import Claim, Prepared, RunExecutor, WaitedInVain
from pygeoapi_prefect.worker.messages import Died, Done, FlowSource, Interrupt, Job, Loaded
from pygeoapi_prefect.worker.owner import Owner
from pygeoapi_prefect.worker.pool import PoolClosed, WarmPool
from pygeoapi_prefect.worker.start import Profile, Start, StartPlan

OWNER = Owner("me", "here", 1, 1)
PLAN = StartPlan(Start.WARM, Profile(frozenset(), None))
SOURCE = FlowSource("package.flows.hello")
DONE = Done(0, "", 1.0)


class Process:
    """A process that ends its job when it is told to."""

    pid, started, jobs_done = 7, 7, 0
    loaded: Loaded | None = Loaded(cancellation_hooks=False, crashed_hooks=False)

    def __init__(self, events: list[str], end: Done | Died) -> None:
        self._events = events
        self._end = end
        self.may_end = asyncio.Event()
        self.has_begun = asyncio.Event()

    async def run(self, _: Job) -> Done | Died:
        self.has_begun.set()
        await self.may_end.wait()
        return self._end

    def interrupt(self, _: Interrupt) -> None:
        self.may_end.set()

    async def kill(self) -> None:
        self._events.append("kill")

    async def kill_offspring(self) -> None:
        self._events.append("kill offspring")


class World:
    """A pool with one process, and a Prefect API."""

    def __init__(self, end: Done | Died = DONE) -> None:
        self.events: list[str] = []
        self.messages: list[str] = []
        self.process = Process(self.events, end)
        self.pool = OneProcess(self.process, self.events)
        self.claim = Claim(FlowRun(id=uuid4(), flow_id=uuid4(), state=Pending()), 0.0)
        self.executor = RunExecutor(
            api=cast("RunsApi", self),
            pool=cast("WarmPool", self.pool),
            settings=PygeoapiWorkerSettings(cancel_grace_seconds=5),
            owner=OWNER,
            run_logger=cast("Callable[[FlowRun], Any]", lambda _: logging.getLogger(__name__)),
        )

    async def execute(self) -> int:
        job = Job(self.claim.flow_run, SOURCE, None, str(OWNER), show_output=True)
        return await self.executor.execute(self.claim, Prepared(PLAN, job, None))

    async def crash(self, _: UUID, message: str) -> State[Any]:
        self.events.append("crash")
        self.messages.append(message)
        return Crashed()

    async def cancel(self, *_: object) -> None:
        self.events.append("cancel")

    async def run_again(self, *_: object) -> None:
        self.events.append("run again")


class OneProcess:
    """The places for jobs: one."""

    def __init__(self, process: Process, events: list[str]) -> None:
        self._process = process
        self._events = events
        self.place = asyncio.Semaphore(1)
        self.is_closed = False

    async def wait_for_place(self) -> None:
        await self.place.acquire()
        if self.is_closed:
            raise PoolClosed

    def free_place(self) -> None:
        self.place.release()

    async def take(self, *_: object) -> Process:
        return self._process

    def give_back(self, _: Process, *, replace_because: str | None) -> None:
        self._events.append(f"give back: {replace_because}")
        self.place.release()

    def remember(self, *_: object) -> None:
        self._events.append("remember")


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scene())


def test_a_job_that_ends_well_leaves_nothing_to_say() -> None:
    async def scene() -> None:
        world = World()
        world.process.may_end.set()

        assert await world.execute() == 0
        assert world.events == ["give back: None", "remember"]

    play(scene)


@pytest.mark.parametrize("exit_code", [0, -9])
def test_a_process_that_is_gone_never_ended_its_job_well(exit_code: int) -> None:
    async def scene() -> None:
        world = World(end=Died(exit_code))
        world.process.may_end.set()

        await world.execute()

        assert world.events[-1] == "crash"
        assert f"status code: {exit_code}" in world.messages[0]
        assert "remember" not in world.events

    play(scene)


def test_what_a_dismissed_job_started_ends_before_its_process_may() -> None:
    async def scene() -> None:
        world = World()
        world.claim.task = asyncio.create_task(cast("Any", world.execute()))
        await world.process.has_begun.wait()

        await world.executor.interrupt(world.claim, "cancel")
        await world.claim.task

        interrupted = "give back: its job was interrupted"
        assert world.events[:2] == ["kill offspring", interrupted]
        assert world.events[-1] == "cancel"

    play(scene)


def test_a_run_that_gets_no_process_in_time_is_not_kept() -> None:
    async def scene() -> None:
        world = World()
        await world.pool.place.acquire()
        world.claim.patience_seconds = 0.01

        with pytest.raises(WaitedInVain):
            await world.execute()
        # the place is there for others, once
        world.pool.place.release()
        assert not world.pool.place.locked()
        assert world.events == []

    play(scene)


def test_a_run_that_is_cancelled_while_it_waits_gets_no_process() -> None:
    async def scene() -> None:
        world = World()
        await world.pool.place.acquire()
        world.claim.task = asyncio.create_task(cast("Any", world.execute()))

        await world.executor.interrupt(world.claim, "cancel")
        await world.claim.task

        assert world.events == ["cancel"]

    play(scene)


def test_a_run_that_comes_after_the_end_of_the_pool_is_handed_back() -> None:
    async def scene() -> None:
        world = World()
        world.pool.is_closed = True

        await world.execute()

        assert world.events == ["run again"]

    play(scene)


def test_a_closed_pool_gives_out_no_place() -> None:
    async def scene() -> None:
        pool = WarmPool(size=1, environment={}, logger=logging.getLogger(__name__))
        await pool.close()

        for _ in range(2):
            with pytest.raises(PoolClosed):
                await pool.wait_for_place()

    play(scene)


def test_hooks_do_not_hold_up_the_end_of_a_job_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        world = World(end=Died(-9))
        world.process.may_end.set()
        world.process.loaded = Loaded(cancellation_hooks=False, crashed_hooks=True)
        hanging = Process(world.events, DONE)
        stopped = asyncio.Event()

        async def fork(_: object) -> Process:
            return hanging

        async def stop() -> None:
            stopped.set()

        cast("Any", hanging).stop = stop
        monkeypatch.setattr("pygeoapi_prefect.worker.claims.HOOKS_SECONDS", 0.01)
        monkeypatch.setattr("pygeoapi_prefect.worker.claims.JobProcess", SimpleNamespace(fork=fork))

        await world.execute()

        assert hanging.has_begun.is_set()
        assert world.events[-1] == "kill"
        assert stopped.is_set()

    play(scene)
