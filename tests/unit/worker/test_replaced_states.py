"""Which state of a flow run a claim took the place of."""

from datetime import UTC, datetime, timedelta
from typing import Any

from prefect.client.schemas.objects import State, StateDetails
from prefect.states import AwaitingRetry, Completed, Failed, Pending, Running, Scheduled

from pygeoapi_prefect.worker.api import find_replaced


def at(seconds: float, state: State[Any]) -> State[Any]:
    """The state as if it had been asked for then."""
    state.timestamp = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    return state


def pending(scheduled_for: datetime | None) -> State[Any]:
    return Pending(state_details=StateDetails.model_validate({"scheduled_time": scheduled_for}))


DUE = datetime(2026, 1, 1, tzinfo=UTC)
RETRY = DUE + timedelta(seconds=9)


def test_a_claim_that_waited_until_the_run_had_ended_took_the_place_of_its_end() -> None:
    ours = at(1.1, pending(None))
    end = at(3, Completed())
    others = [at(0, Scheduled()), at(1, pending(DUE)), at(2, Running()), end]

    assert find_replaced(ours, others) == end


def test_after_several_attempts_it_is_the_newest_end() -> None:
    ours = at(6, pending(None))
    others = [at(1, Failed()), at(2, Scheduled()), at(5, Failed(message="again"))]

    replaced = find_replaced(ours, others)

    assert replaced is not None
    assert replaced.message == "again"


def test_a_claim_took_the_place_of_what_was_scheduled_for_its_time() -> None:
    first = at(0, Scheduled(scheduled_time=DUE))
    retry = at(4, AwaitingRetry(scheduled_time=RETRY))
    others = [first, at(1, pending(DUE)), at(2, Running()), retry]

    assert find_replaced(at(1.1, pending(RETRY)), others) == retry
    assert find_replaced(at(1.1, pending(DUE)), others) == first


def test_any_other_state_took_the_place_of_the_newest() -> None:
    end = at(3, Failed())
    others = [at(0, Scheduled()), at(2, Running()), end]

    assert find_replaced(at(4, AwaitingRetry()), others) == end


def test_a_first_state_took_no_place() -> None:
    assert find_replaced(pending(None), []) is None
