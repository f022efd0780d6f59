"""Which of the due runs the worker claims."""

from uuid import UUID, uuid4, uuid5

import pytest
from prefect.client.schemas.objects import FlowRun

from pygeoapi_prefect.worker.candidates import Candidates, Rivals
from pygeoapi_prefect.worker.owner import Owner

HIGH, LOW = UUID(int=1), UUID(int=2)


def owner(name: str) -> Owner:
    return Owner(worker=name, machine="here", pid=len(name), started=1)


def make_runs(count: int, queue: UUID = HIGH) -> list[FlowRun]:
    ids = [uuid5(queue, str(number)) for number in range(count)]
    return [FlowRun(id=run_id, flow_id=uuid4(), work_queue_id=queue) for run_id in ids]


def take_all(candidates: Candidates) -> list[FlowRun]:
    taken = []
    while candidates:
        taken.append(candidates.choose())
        candidates.drop(taken[-1].id)
    return taken


@pytest.fixture
def rivals() -> Rivals:
    return Rivals(owner("us"))


@pytest.fixture
def candidates(rivals: Rivals) -> Candidates:
    return Candidates(rivals)


class TestOneWorker:
    def test_runs_are_claimed_in_the_order_of_the_list(self, candidates: Candidates) -> None:
        runs = make_runs(3)

        candidates.renew(runs)

        assert take_all(candidates) == runs
        assert not candidates

    def test_a_run_that_somebody_has_taken_is_not_claimed(self, candidates: Candidates) -> None:
        first, second = make_runs(2)
        candidates.renew([first, second])

        candidates.drop(first.id)

        assert take_all(candidates) == [second]

    def test_a_run_that_was_taken_while_it_was_listed_is_not_claimed(
        self, candidates: Candidates
    ) -> None:
        first, second = make_runs(2)

        with candidates.being_listed():
            candidates.drop(first.id)
            candidates.renew([first, second])

        assert take_all(candidates) == [second]

    def test_a_run_that_waits_again_is_claimed_from_the_next_list(
        self, candidates: Candidates
    ) -> None:
        run, *_ = make_runs(1)
        with candidates.being_listed():
            candidates.drop(run.id)
            candidates.renew([run])

        with candidates.being_listed():
            candidates.renew([run])

        assert candidates.choose() == run

    def test_a_run_that_was_refused_does_not_keep_others_back(self, candidates: Candidates) -> None:
        first, second = make_runs(2)
        candidates.refuse(first.id)

        candidates.renew([first, second])

        assert candidates.refused == 1
        assert take_all(candidates) == [second]

    def test_a_run_that_was_refused_is_claimed_when_it_is_due_again(
        self, candidates: Candidates
    ) -> None:
        run, *_ = make_runs(1)
        candidates.refuse(run.id)
        candidates.expect(run.id, HIGH)

        candidates.renew([run])

        assert take_all(candidates) == [run]

    def test_a_new_run_of_the_same_queue_waits_its_turn(self, candidates: Candidates) -> None:
        candidates.renew(make_runs(2))

        candidates.expect(uuid4(), HIGH)

        assert len(candidates) == 2

    @pytest.mark.parametrize("queue", [HIGH, None])
    def test_a_new_run_of_another_queue_may_come_first(
        self, candidates: Candidates, queue: UUID | None
    ) -> None:
        candidates.renew(make_runs(2, LOW))

        candidates.expect(uuid4(), queue)

        assert not candidates


class TestSeveralWorkers:
    def test_each_run_is_left_to_one_of_them(self) -> None:
        names = ["first", "second", "third"]
        workers = [Rivals(owner(name)) for name in names]
        for worker in workers:
            for name in names:
                worker.note(owner(name))

        left_to = [[worker.leave_to_me(run.id) for worker in workers] for run in make_runs(100)]

        assert all(sum(chosen) == 1 for chosen in left_to)
        assert all(any(chosen) for chosen in zip(*left_to, strict=True))

    def test_a_worker_claims_the_runs_left_to_it_first_and_forgets_no_other(
        self, rivals: Rivals, candidates: Candidates
    ) -> None:
        rivals.note(owner("them"))
        runs = make_runs(50)
        candidates.renew(runs)

        claimed = take_all(candidates)

        assert rivals.leave_to_me(claimed[0].id)
        assert {run.id for run in claimed} == {run.id for run in runs}

    def test_runs_of_a_queue_with_a_higher_priority_still_come_first(
        self, rivals: Rivals, candidates: Candidates
    ) -> None:
        rivals.note(owner("them"))
        high, low = make_runs(3, HIGH), make_runs(30, LOW)
        candidates.renew(high + low)

        claimed = take_all(candidates)

        assert {run.work_queue_id for run in claimed[:3]} == {HIGH}
