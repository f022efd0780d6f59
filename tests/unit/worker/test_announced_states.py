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

RUNNING: State[Any] = Running()
SUSPENDED: State[Any] = Suspended()
RESUMING: State[Any] = Scheduled(name="Resuming")


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

    def state_after(self, announced: State[Any]) -> State[Any] | None:
        api = RunsApi(
            cast("PrefectClient", self),
            work_pool="pool",
            work_queues=(),
            outage_seconds=1,
            logger=logging.getLogger("test"),
        )
        run = asyncio.run(api.read_run_after(self.run_id, announced.id))
        return None if run is None else run.state


@pytest.fixture(autouse=True)
def _in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = (0.0,) * len(worker_api.COMMIT_PAUSES_SECONDS)
    monkeypatch.setattr(worker_api, "COMMIT_PAUSES_SECONDS", pauses)


def test_a_state_that_is_there_costs_one_call() -> None:
    prefect = Prefect((0, RUNNING), (0, SUSPENDED))

    assert prefect.state_after(SUSPENDED) == SUSPENDED
    assert prefect.reads == 1


def test_a_state_is_waited_for_until_it_is_there() -> None:
    assert Prefect((0, RUNNING), (4, SUSPENDED)).state_after(SUSPENDED) == SUSPENDED


def test_a_state_that_was_there_and_is_over_is_not_waited_for() -> None:
    prefect = Prefect((0, RUNNING), (0, SUSPENDED), (0, RESUMING))

    assert prefect.state_after(SUSPENDED) == RESUMING
    assert prefect.reads == 3


def test_a_state_that_never_comes_is_given_up() -> None:
    assert Prefect((0, RUNNING)).state_after(SUSPENDED) == RUNNING


def test_a_run_that_is_deleted_has_no_state() -> None:
    prefect = Prefect((0, RUNNING))
    prefect.is_deleted = True

    assert prefect.state_after(SUSPENDED) is None
