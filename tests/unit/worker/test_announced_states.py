"""Prefect announces states before they can be read, and some never can be."""

import asyncio
import logging
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound
from prefect.states import Running, Scheduled, Suspended

from pygeoapi_prefect.worker import api as worker_api
from pygeoapi_prefect.worker.api import RunsApi


class Prefect:
    """A run whose states come to be there, each after it was asked for `after` times."""

    def __init__(self, *states: tuple[int, State[Any]]) -> None:
        self.run_id = uuid4()
        self.states = states
        self.reads = 0
        self.is_deleted = False

    def there(self) -> list[State[Any]]:
        return [state for after, state in self.states if self.reads >= after]

    async def read_flow_run(self, flow_run_id: UUID) -> FlowRun:
        if self.is_deleted:
            raise ObjectNotFound(Exception())
        self.reads += 1
        state = self.there()[-1]
        return FlowRun(id=flow_run_id, flow_id=uuid4(), state=state, state_id=state.id)

    async def read_flow_run_states(self, _: UUID) -> list[State[Any]]:
        self.reads += 1
        return self.there()

    def read_after(self, announced: State[Any]) -> FlowRun | None:
        api = RunsApi(
            cast("PrefectClient", self),
            work_pool="pool",
            work_queues=(),
            outage_seconds=1,
            logger=logging.getLogger("test"),
        )
        return asyncio.run(api.read_run_after(self.run_id, announced.id))


@pytest.fixture(autouse=True)
def _in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = (0.0,) * len(worker_api.COMMIT_PAUSES_SECONDS)
    monkeypatch.setattr(worker_api, "COMMIT_PAUSES_SECONDS", pauses)


def test_a_state_that_is_there_costs_one_call() -> None:
    suspended: State[Any] = Suspended()
    prefect = Prefect((0, Running()), (0, suspended))

    run = prefect.read_after(suspended)

    assert run is not None
    assert run.state == suspended
    assert prefect.reads == 1


def test_a_state_is_waited_for_until_it_is_there() -> None:
    suspended: State[Any] = Suspended()
    prefect = Prefect((0, Running()), (4, suspended))

    run = prefect.read_after(suspended)

    assert run is not None
    assert run.state == suspended


def test_a_state_that_was_there_and_is_over_is_not_waited_for() -> None:
    suspended: State[Any] = Suspended()
    resuming: State[Any] = Scheduled(name="Resuming")
    prefect = Prefect((0, Running()), (0, suspended), (0, resuming))

    run = prefect.read_after(suspended)

    assert run is not None
    assert run.state == resuming
    assert prefect.reads == 3


def test_a_state_that_never_comes_is_given_up() -> None:
    running: State[Any] = Running()
    prefect = Prefect((0, running))

    run = prefect.read_after(Suspended())

    assert run is not None
    assert run.state == running


def test_a_run_that_is_deleted_has_no_state() -> None:
    prefect = Prefect((0, Running()))
    prefect.is_deleted = True

    assert prefect.read_after(Suspended()) is None
