"""What every gateway to jobs does: the fake of `testing`, and the one that asks Prefect."""

import dataclasses
import datetime as dt
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import (
    AwaitingRetry,
    Cancelled,
    Cancelling,
    Completed,
    Crashed,
    Failed,
    Pending,
    Running,
)

from pygeoapi_prefect.errors import (
    BackendUnavailable,
    DeploymentNotFound,
    InvalidRequest,
    JobNotFound,
)
from pygeoapi_prefect.gateway import ApiGateway, PrefectGateway, TaggedDeployment
from pygeoapi_prefect.job_states import JobStates
from pygeoapi_prefect.jobs import (
    WEB_PULSE_LABEL,
    Job,
    JobFilter,
    new_job_id,
    run_labels,
    run_name,
)
from pygeoapi_prefect.logs import LogPosition
from pygeoapi_prefect.schemas import JobStatus
from pygeoapi_prefect.testing import InMemoryGateway

DEPLOYMENT = "contract-flow/main"
DECLARED = ["job_id", "execution_request"]
WEB_PROCESS = "host:1:1.00"
LONG_SECONDS = 120.0


@flow(name="contract-flow", retries=2, retry_delay_seconds=3)
def contract_flow(job_id: str | None = None, execution_request: str = "{}") -> None: ...


class Bench(Protocol):
    """A gateway, and the worker's side of the same jobs."""

    @property
    def gateway(self) -> PrefectGateway: ...

    def set_state(self, job: Job, state: State[Any]) -> None: ...

    def deploy(self, deployment: TaggedDeployment) -> None: ...


@dataclasses.dataclass
class InMemoryBench:
    gateway: InMemoryGateway

    def set_state(self, job: Job, state: State[Any]) -> None:
        self.gateway.set_state(job.job_id, state)

    def deploy(self, deployment: TaggedDeployment) -> None:
        self.gateway.tagged.append(deployment)


@dataclasses.dataclass
class PrefectBench:
    gateway: ApiGateway
    client: SyncPrefectClient

    def set_state(self, job: Job, state: State[Any]) -> None:
        self.client.set_flow_run_state(job.flow_run_id, state)

    def deploy(self, deployment: TaggedDeployment) -> None:
        flow_name, _, name = deployment.name.partition("/")
        self.client.create_deployment(
            self.client.create_flow_from_name(flow_name),
            name,
            version=deployment.version,
            description=deployment.description,
            tags=sorted(deployment.tags),
            parameters=dict.fromkeys(deployment.preset, 1),
            parameter_openapi_schema=dict(deployment.parameter_schema),
            enforce_parameter_schema=True,
        )


@pytest.fixture(scope="module")
def prefect_bench(prefect_api: str) -> Iterator[PrefectBench]:
    with get_client(sync_client=True) as client:
        client.create_deployment(
            client.create_flow_from_name("contract-flow"),
            "main",
            parameter_openapi_schema=contract_flow.parameters.model_dump_for_openapi(),
            enforce_parameter_schema=True,
        )
        gateway = ApiGateway()
        yield PrefectBench(gateway, client)
        gateway.close()


@pytest.fixture(params=["in-memory", "prefect"])
def bench(request: pytest.FixtureRequest) -> Bench:
    if request.param == "in-memory":
        return InMemoryBench(InMemoryGateway({DEPLOYMENT: DECLARED}))
    found: PrefectBench = request.getfixturevalue("prefect_bench")
    return found


@pytest.fixture
def gateway(bench: Bench) -> PrefectGateway:
    return bench.gateway


@pytest.fixture
def process_id() -> str:
    """A process that only this test has: all tests share the server."""
    return f"process/{uuid.uuid4()}"


def labels(process_id: str, web_process: str | None = None) -> dict[str, str]:
    return run_labels(
        process_id=process_id,
        result_media_type="image/png",
        result_storage="memory://x",
        web_process=web_process,
    )


def submit(
    gateway: PrefectGateway,
    process_id: str,
    *,
    job_id: str | None = None,
    deployment: str = DEPLOYMENT,
    parameters: Mapping[str, Any] | None = None,
) -> Job:
    return gateway.submit(
        job_id=job_id or new_job_id(),
        process_id=process_id,
        deployment=deployment,
        parameters=parameters or {},
        labels=labels(process_id),
    )


def create(gateway: PrefectGateway, process_id: str, web_process: str | None = WEB_PROCESS) -> Job:
    job_id = new_job_id()
    gateway.create_run(
        contract_flow,
        job_id=job_id,
        process_id=process_id,
        parameters={},
        labels=labels(process_id, web_process),
    )
    return gateway.find(job_id)


def eventually[Value](probe: Callable[[], Value], expected: Value) -> None:
    give_up_at = time.monotonic() + LONG_SECONDS
    while (value := probe()) != expected:
        assert time.monotonic() < give_up_at, f"still {value}"
        time.sleep(0.02)


def of_process(process_id: str, *statuses: JobStatus) -> JobFilter:
    return JobFilter(
        process_ids=frozenset([process_id]), statuses=frozenset(statuses) if statuses else None
    )


# -- making jobs


def test_a_submitted_job_is_found_with_all_its_facts(
    gateway: PrefectGateway, process_id: str
) -> None:
    job_id = new_job_id()
    before = dt.datetime.now(dt.UTC)

    submitted = submit(
        gateway,
        process_id,
        job_id=job_id,
        parameters={"job_id": job_id, "execution_request": '{"inputs": {}}'},
    )

    for job in (submitted, gateway.find(job_id)):
        assert (job.job_id, job.process_id, job.status) == (job_id, process_id, JobStatus.accepted)
        assert job.execution_request == '{"inputs": {}}'
        assert job.deployment_id is not None
        assert (job.result_media_type, job.result_storage) == ("image/png", "memory://x")
        assert job.web_process is None
        assert (job.started, job.finished) == (None, None)
        assert before - dt.timedelta(seconds=1) <= job.created <= dt.datetime.now(dt.UTC)


@pytest.mark.parametrize(
    "text",
    [
        '{"__prefect_kind": "json", "value": "1"}',
        '{"__prefect_kind": "workspace_variable", "variable_name": "x"}',
        "{{ prefect.variables.x }}",
        '{"$ref": "x"}',
        "☃" * 20_000,
    ],
)
def test_text_in_a_parameter_arrives_verbatim(
    gateway: PrefectGateway, process_id: str, text: str
) -> None:
    job = submit(gateway, process_id, parameters={"execution_request": text})

    assert gateway.find(job.job_id).execution_request == text


def test_a_run_gets_only_the_parameters_that_its_deployment_declares(
    gateway: PrefectGateway, process_id: str
) -> None:
    job = submit(
        gateway, process_id, parameters={"execution_request": "{}", "inputs": {}, "outputs": None}
    )

    assert gateway.find(job.job_id).parameters.keys() <= {"job_id", "execution_request"}
    assert gateway.find(job.job_id).execution_request == "{}"


def test_a_job_that_is_submitted_twice_is_one_job(gateway: PrefectGateway, process_id: str) -> None:
    first = submit(gateway, process_id)
    second = submit(gateway, process_id, job_id=first.job_id)

    assert second.flow_run_id == first.flow_run_id
    assert gateway.page(of_process(process_id), limit=10).number_matched == 1


def test_without_its_deployment_there_is_no_job(gateway: PrefectGateway, process_id: str) -> None:
    job_id = new_job_id()

    with pytest.raises(DeploymentNotFound, match="'contract-flow/absent'"):
        submit(gateway, process_id, job_id=job_id, deployment="contract-flow/absent")

    with pytest.raises(JobNotFound):
        gateway.find(job_id)


def parameters_of(**types: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in types.items()},
    }


def test_deployments_are_found_by_all_of_their_tags(bench: Bench, process_id: str) -> None:
    tags = frozenset({process_id, "published"})
    first = TaggedDeployment(
        name=f"a {process_id[8:]}/main",
        version="2",
        description="Counts.",
        tags=tags,
        parameter_schema=parameters_of(count="integer"),
        preset=frozenset({"count"}),
    )
    second = TaggedDeployment(
        name=f"b {process_id[8:]}/main", tags=tags | {"x"}, parameter_schema=parameters_of()
    )
    other = TaggedDeployment(name=f"c {process_id[8:]}/main", tags=frozenset({process_id}))
    for deployment in (second, other, first):
        bench.deploy(deployment)

    assert bench.gateway.tagged_deployments(tags) == [first, second]
    assert bench.gateway.tagged_deployments([process_id, "unknown"]) == []


def test_deployments_may_take_several_calls_of_the_prefect_api(
    bench: Bench, process_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pygeoapi_prefect.gateway.PAGE_MAX_RUNS", 2)
    names = [f"{number} {process_id[8:]}/main" for number in range(4)]
    for name in names:
        bench.deploy(TaggedDeployment(name=name, tags=frozenset({process_id})))

    found = bench.gateway.tagged_deployments([process_id])
    assert [deployment.name for deployment in found] == names


def test_a_deployment_that_changes_gets_the_parameters_that_it_declares_now(
    prefect_bench: PrefectBench, process_id: str
) -> None:
    def deployed(**types: str) -> TaggedDeployment:
        return TaggedDeployment(
            name=f"{process_id[8:]}/main", parameter_schema=parameters_of(**types)
        )

    given = {"a": 1, "b": 2, "pygeoapi_job_id": "x"}
    for types in ({"a": "integer"}, {"a": "integer", "b": "integer"}, {"b": "integer"}):
        prefect_bench.deploy(deployed(**types))
        job = submit(
            prefect_bench.gateway,
            process_id,
            deployment=f"{process_id[8:]}/main",
            parameters=given,
        )
        assert job.parameters == {name: given[name] for name in types}


def test_parameters_that_do_not_fit_are_the_clients_affair(
    prefect_bench: PrefectBench, process_id: str
) -> None:
    name = f"{process_id[8:]}/main"
    prefect_bench.deploy(TaggedDeployment(name=name, parameter_schema=parameters_of(a="integer")))

    # what is not required may be null: the server says that it is neither
    reason = "'a': 'many' is not valid under any of the given schemas"
    with pytest.raises(InvalidRequest, match=f"^inputs: {reason}$"):
        submit(prefect_bench.gateway, process_id, deployment=name, parameters={"a": "many"})


def test_a_run_goes_to_the_work_queue_that_is_named(
    prefect_bench: PrefectBench, process_id: str
) -> None:
    client, name = prefect_bench.client, process_id[8:]
    client.create_work_pool(WorkPoolCreate(name=name, type="process"))
    client.create_deployment(client.create_flow_from_name(name), "main", work_pool_name=name)

    def queue_of(work_queue: str | None) -> str | None:
        job = prefect_bench.gateway.submit(
            job_id=new_job_id(),
            process_id=process_id,
            deployment=f"{name}/main",
            parameters={},
            labels={},
            work_queue=work_queue,
        )
        return client.read_flow_run(job.flow_run_id).work_queue_name

    assert [queue_of("urgent"), queue_of(None)] == ["urgent", "default"]


def test_a_run_of_the_web_process_waits_for_it(gateway: PrefectGateway, process_id: str) -> None:
    job_id = new_job_id()

    run = gateway.create_run(
        contract_flow,
        job_id=job_id,
        process_id=process_id,
        parameters={"job_id": job_id, "execution_request": "{}"},
        labels=labels(process_id, WEB_PROCESS),
    )

    assert (run.name, run.idempotency_key) == (run_name(job_id), run_name(job_id))
    assert run.state_type is StateType.PENDING
    job = gateway.find(job_id)
    assert job.flow_run_id == run.id
    assert (job.deployment_id, job.web_process) == (None, WEB_PROCESS)
    assert job.status is JobStatus.accepted
    assert job.parameters == {"job_id": job_id, "execution_request": "{}"}


# -- finding jobs


@pytest.mark.parametrize(
    "job_id", ["nobody", "", "%", "_" * 36, "../x", "00000000-0000-0000-0000-000000000000"]
)
def test_a_job_that_is_not_there_is_not_found(
    gateway: PrefectGateway, process_id: str, job_id: str
) -> None:
    submit(gateway, process_id)

    with pytest.raises(JobNotFound):
        gateway.find(job_id)


STATES: list[tuple[State[Any], JobStatus, bool]] = [
    (Pending(), JobStatus.accepted, False),
    (Running(), JobStatus.running, False),
    (Completed(), JobStatus.successful, True),
    (Failed(message="no shore"), JobStatus.failed, True),
]


@pytest.mark.parametrize(("state", "status", "has_ended"), STATES, ids=lambda value: str(value))
def test_a_job_follows_the_states_of_its_run(
    bench: Bench, process_id: str, state: State[Any], status: JobStatus, has_ended: bool
) -> None:
    job = submit(bench.gateway, process_id)
    before: list[State[Any]] = [Pending(), Running()]
    for earlier in before:
        if earlier.type == state.type:
            break
        bench.set_state(job, earlier)

    bench.set_state(job, state)

    job = bench.gateway.find(job.job_id)
    assert (job.status, job.has_ended) == (status, has_ended)
    assert (job.started is None) is (status is JobStatus.accepted)
    assert (job.finished is not None) is has_ended
    if status is JobStatus.failed:
        assert job.message == "no shore"


# -- pages


def test_pages_have_the_newest_jobs_first_and_say_where_the_next_begins(
    gateway: PrefectGateway, process_id: str
) -> None:
    newest_first = [submit(gateway, process_id).job_id for _ in range(5)][::-1]
    pages: list[list[str]] = []
    offset: int | None = 0

    while offset is not None:
        page = gateway.page(of_process(process_id), limit=2, offset=offset)
        assert page.number_matched == 5
        pages.append([job.job_id for job in page.jobs])
        offset = page.next_offset

    assert pages == [newest_first[:2], newest_first[2:4], newest_first[4:]]


@pytest.mark.parametrize(("limit", "offset", "length"), [(0, 0, 0), (10_000, 0, 2), (5, 7, 0)])
def test_a_page_may_be_of_any_size(
    gateway: PrefectGateway, process_id: str, limit: int, offset: int, length: int
) -> None:
    for _ in range(2):
        submit(gateway, process_id)

    page = gateway.page(of_process(process_id), limit=limit, offset=offset)

    assert (len(page.jobs), page.number_matched) == (length, 2)


@pytest.mark.parametrize(("limit", "offset"), [(7, 0), (3, 1), (4, 0), (9, 5)])
def test_a_page_may_take_several_calls_of_the_prefect_api(
    gateway: PrefectGateway,
    process_id: str,
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
    offset: int,
) -> None:
    monkeypatch.setattr("pygeoapi_prefect.gateway.PAGE_MAX_RUNS", 2)
    newest_first = [submit(gateway, process_id).job_id for _ in range(7)][::-1]

    page = gateway.page(of_process(process_id), limit=limit, offset=offset)

    assert [job.job_id for job in page.jobs] == newest_first[offset : offset + limit]
    assert page.number_matched == 7


def test_a_list_has_the_jobs_that_fit(bench: Bench, process_id: str) -> None:
    gateway = bench.gateway
    jobs = {status: submit(gateway, process_id) for status in JobStatus}
    histories: dict[JobStatus, list[State[Any]]] = {
        JobStatus.running: [Running()],
        JobStatus.successful: [Running(), Completed()],
        JobStatus.failed: [Running(), Failed()],
    }
    for status, states in histories.items():
        for state in states:
            bench.set_state(jobs[status], state)
    gateway.cancel(jobs[JobStatus.dismissed])
    submit(gateway, f"{process_id}-2")

    for status in JobStatus:
        page = gateway.page(of_process(process_id, status), limit=10)
        assert [job.job_id for job in page.jobs] == [jobs[status].job_id], status
        assert page.number_matched == 1
    some = gateway.page(of_process(process_id, JobStatus.failed, JobStatus.accepted), limit=10)
    assert {job.status for job in some.jobs} == {JobStatus.failed, JobStatus.accepted}


def test_a_job_that_waits_for_its_next_try_is_listed_as_running(
    bench: Bench, process_id: str
) -> None:
    job = submit(bench.gateway, process_id)
    bench.set_state(job, Running())

    bench.set_state(job, AwaitingRetry(scheduled_time=dt.datetime.now(dt.UTC)))

    for status, length in ((JobStatus.running, 1), (JobStatus.accepted, 0)):
        page = bench.gateway.page(of_process(process_id, status), limit=10)
        assert len(page.jobs) == page.number_matched == length


def test_a_list_can_be_limited_to_a_time(gateway: PrefectGateway, process_id: str) -> None:
    first = submit(gateway, process_id)
    between = first.created + dt.timedelta(microseconds=1)
    second = submit(gateway, process_id)
    every = of_process(process_id)

    for job_filter, expected in [
        (dataclasses.replace(every, created_from=between), [second]),
        (dataclasses.replace(every, created_until=between), [first]),
        (dataclasses.replace(every, created_from=first.created), [second, first]),
        (dataclasses.replace(every, created_until=first.created), [first]),
        (
            dataclasses.replace(every, created_from=between, created_until=first.created),
            [],
        ),
    ]:
        page = gateway.page(job_filter, limit=10)
        assert [job.job_id for job in page.jobs] == [job.job_id for job in expected]
        assert page.number_matched == len(expected)


def test_a_list_can_be_limited_to_a_duration(bench: Bench, process_id: str) -> None:
    gateway = bench.gateway
    waiting = submit(gateway, process_id)
    done = submit(gateway, process_id)
    bench.set_state(done, Running())
    bench.set_state(done, Completed())
    every = of_process(process_id)

    assert waiting.status is JobStatus.accepted
    for job_filter, expected in [
        (dataclasses.replace(every, min_duration_seconds=0), [done.job_id]),
        (dataclasses.replace(every, max_duration_seconds=LONG_SECONDS), [done.job_id]),
        (dataclasses.replace(every, min_duration_seconds=LONG_SECONDS), []),
    ]:
        page = gateway.page(job_filter, limit=10)
        assert [job.job_id for job in page.jobs] == expected
        assert page.next_offset is None


# -- waiting


def test_a_wait_is_over_when_the_job_has_ended(bench: Bench, process_id: str) -> None:
    job = submit(bench.gateway, process_id)

    def work() -> None:
        bench.set_state(job, Running())
        bench.set_state(job, Completed())

    worker = threading.Thread(target=work)
    worker.start()
    ended = bench.gateway.wait(job, LONG_SECONDS)
    worker.join()

    assert ended.status is JobStatus.successful


def test_a_wait_that_runs_out_returns_the_job_as_it_is(
    gateway: PrefectGateway, process_id: str
) -> None:
    job = submit(gateway, process_id)

    assert gateway.wait(job, 0.1).status is JobStatus.accepted


def test_nobody_waits_for_a_job_that_is_not_there(gateway: PrefectGateway, process_id: str) -> None:
    job = submit(gateway, process_id)
    gateway.delete(job)

    with pytest.raises(JobNotFound):
        gateway.wait(job, LONG_SECONDS)


def is_announced(bench: PrefectBench, states: JobStates, process_id: str) -> bool:
    """Whether the end of a job is; that of one just after the server was asked need not be."""
    job = submit(bench.gateway, process_id)
    with states.end_of(job.flow_run_id) as ended:
        bench.set_state(job, Cancelled())
        return ended.wait(1)


@pytest.mark.parametrize("end", [partial(Completed, name="Enough"), Failed, Cancelled])
def test_the_server_announces_the_end_of_a_job(
    prefect_bench: PrefectBench, process_id: str, end: Callable[[], State[Any]]
) -> None:
    job = submit(prefect_bench.gateway, process_id)
    other = submit(prefect_bench.gateway, process_id)
    states = JobStates()
    eventually(lambda: is_announced(prefect_bench, states, process_id), True)

    with states.end_of(job.flow_run_id) as ended, states.end_of(other.flow_run_id) as other_ended:
        prefect_bench.set_state(job, Running())
        prefect_bench.set_state(job, end())
        assert ended.wait(LONG_SECONDS)
        assert states.are_announced
        assert not other_ended.is_set()
    states.close()
    assert not states.are_announced


def test_who_looks_at_a_job_sees_its_newest_state(bench: Bench, process_id: str) -> None:
    gateway = bench.gateway
    job = submit(gateway, process_id)
    assert gateway.look(job.job_id).status is JobStatus.accepted
    for state, status in [
        (Pending, JobStatus.accepted),
        (Running, JobStatus.running),
        (Completed, JobStatus.successful),
    ]:
        bench.set_state(job, state())
        eventually(lambda: gateway.look(job.job_id).status, status)
    gateway.delete(job)
    with pytest.raises(JobNotFound):
        gateway.look(job.job_id)


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (Completed, JobStatus.successful),
        (Failed, JobStatus.failed),
        (Cancelling, JobStatus.dismissed),
    ],
)
def test_the_server_is_not_asked_for_a_job_that_has_not_ended(
    prefect_bench: PrefectBench,
    process_id: str,
    monkeypatch: pytest.MonkeyPatch,
    end: Callable[[], State[Any]],
    status: JobStatus,
) -> None:
    """How long what is known holds is stretched, so that nothing depends on the machine."""
    monkeypatch.setattr("pygeoapi_prefect.job_states.LOOK_SECONDS", 3600.0)
    monkeypatch.setattr("pygeoapi_prefect.job_states.SETTLE_SECONDS", 0.0)
    gateway = prefect_bench.gateway
    eventually(lambda: is_announced(prefect_bench, gateway._states, process_id), True)
    asked: list[str] = []
    find_run = gateway._find_run

    def noted(job_id: str) -> FlowRun:
        asked.append(job_id)
        return find_run(job_id)

    monkeypatch.setattr(gateway, "_find_run", noted)

    def looks_that_ask() -> int:
        asked.clear()
        gateway.look(job.job_id)
        return len(asked)

    job = submit(gateway, process_id)
    eventually(looks_that_ask, 0)
    job = submit(gateway, process_id)
    assert looks_that_ask() == 0
    prefect_bench.set_state(job, Pending())
    prefect_bench.set_state(job, Running())
    assert looks_that_ask() == 0
    prefect_bench.set_state(job, end())
    eventually(lambda: gateway.look(job.job_id).status, status)


# -- dismissing and removing


@pytest.mark.parametrize(
    ("states", "has_ended"), [([], True), ([Pending()], False), ([Pending(), Running()], False)]
)
def test_a_deployed_job_is_dismissed_at_once_and_has_ended_when_its_work_has(
    bench: Bench, process_id: str, states: list[State[Any]], has_ended: bool
) -> None:
    job = submit(bench.gateway, process_id)
    for state in states:
        bench.set_state(job, state)

    bench.gateway.cancel(bench.gateway.find(job.job_id))

    job = bench.gateway.find(job.job_id)
    assert job.status is JobStatus.dismissed
    assert job.has_ended is has_ended
    assert job.stopping is not has_ended


@pytest.mark.parametrize("states", [[], [Running()]])
def test_a_job_of_the_web_process_is_dismissed_at_once_and_has_ended_when_its_work_has(
    bench: Bench, process_id: str, states: list[State[Any]]
) -> None:
    job = create(bench.gateway, process_id)
    for state in states:
        bench.set_state(job, state)

    dismissed = bench.gateway.cancel(bench.gateway.find(job.job_id))

    assert dismissed == bench.gateway.find(job.job_id)
    assert (dismissed.status, dismissed.stopping) == (JobStatus.dismissed, True)
    bench.gateway.crash(job, "the process is gone")
    job = bench.gateway.find(job.job_id)
    assert (job.status, job.has_ended) == (JobStatus.dismissed, True)


@pytest.mark.parametrize("end", [Completed, Failed])
@pytest.mark.parametrize("make", [submit, create])
def test_a_job_that_is_dismissed_has_no_other_end(
    bench: Bench,
    process_id: str,
    make: Callable[[PrefectGateway, str], Job],
    end: Callable[[], State[Any]],
) -> None:
    job = make(bench.gateway, process_id)
    bench.set_state(job, Pending())
    bench.set_state(job, Running())
    bench.gateway.cancel(job)

    bench.set_state(job, end())

    assert bench.gateway.find(job.job_id).status is JobStatus.dismissed


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (Completed, JobStatus.successful),
        (Crashed, JobStatus.failed),
        (Cancelled, JobStatus.dismissed),
    ],
)
@pytest.mark.parametrize("make", [submit, create])
def test_a_job_that_has_ended_meanwhile_is_not_dismissed(
    bench: Bench,
    process_id: str,
    make: Callable[[PrefectGateway, str], Job],
    end: Callable[[], State[Any]],
    status: JobStatus,
) -> None:
    job = make(bench.gateway, process_id)
    bench.set_state(job, Pending())
    bench.set_state(job, Running())
    bench.set_state(job, end())

    ended = bench.gateway.cancel(job)

    assert (ended.status, ended.has_ended) == (status, True)
    assert bench.gateway.find(job.job_id).status is status


def test_a_removed_job_is_gone(gateway: PrefectGateway, process_id: str) -> None:
    job, other = submit(gateway, process_id), submit(gateway, process_id)

    gateway.delete(job)

    with pytest.raises(JobNotFound):
        gateway.find(job.job_id)
    assert [left.job_id for left in gateway.page(of_process(process_id), limit=9).jobs] == [
        other.job_id
    ]
    with pytest.raises(JobNotFound):
        gateway.delete(job)


def test_a_job_that_was_removed_cannot_be_dismissed(
    gateway: PrefectGateway, process_id: str
) -> None:
    job = submit(gateway, process_id)
    gateway.delete(job)

    with pytest.raises(JobNotFound):
        gateway.cancel(job)


def test_dismissed_jobs_are_told_from_those_that_go_on(bench: Bench, process_id: str) -> None:
    gateway = bench.gateway
    going_on, dismissed, stopping, removed = (submit(gateway, process_id) for _ in range(4))
    gateway.cancel(dismissed)
    bench.set_state(stopping, Pending())
    gateway.cancel(gateway.find(stopping.job_id))
    gateway.delete(removed)

    found = gateway.dismissed(job.flow_run_id for job in (going_on, dismissed, stopping, removed))

    assert found == {job.flow_run_id for job in (dismissed, stopping, removed)}


def test_many_jobs_that_go_on_are_not_taken_for_dismissed(
    gateway: PrefectGateway, process_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pygeoapi_prefect.gateway.PAGE_MAX_RUNS", 2)
    jobs = [create(gateway, process_id) for _ in range(5)]
    gateway.cancel(jobs[0])

    assert gateway.dismissed(job.flow_run_id for job in jobs) == {jobs[0].flow_run_id}


# -- jobs of web processes


def test_jobs_of_web_processes_are_found_while_they_go_on(bench: Bench, process_id: str) -> None:
    gateway = bench.gateway
    pending, running, retrying, stopping, ended, unlabelled = (
        create(gateway, process_id),
        create(gateway, process_id),
        create(gateway, process_id),
        create(gateway, process_id),
        create(gateway, process_id),
        create(gateway, process_id, web_process=None),
    )
    deployed = submit(gateway, process_id)
    bench.set_state(running, Running())
    gateway.label(running, {WEB_PULSE_LABEL: "1"})
    bench.set_state(retrying, Running())
    bench.set_state(retrying, AwaitingRetry())
    gateway.cancel(stopping)
    bench.set_state(ended, Running())
    bench.set_state(ended, Completed())

    pulses = {
        job.job_id: job.web_pulse for job in gateway.web_jobs() if job.process_id == process_id
    }

    going_on = (pending, retrying, stopping)
    assert pulses == {running.job_id: "1", **{job.job_id: None for job in going_on}}
    found = pulses.keys()
    assert not found & {unlabelled.job_id, deployed.job_id}


def test_many_jobs_of_web_processes_are_all_found(
    gateway: PrefectGateway, process_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pygeoapi_prefect.gateway.PAGE_MAX_RUNS", 2)
    jobs = [create(gateway, process_id).job_id for _ in range(5)]

    found = [job.job_id for job in gateway.web_jobs() if job.process_id == process_id]

    assert sorted(found) == sorted(jobs)


def test_a_flow_that_was_deleted_is_made_anew(prefect_bench: PrefectBench, process_id: str) -> None:
    @flow(name=process_id[8:])
    def forgotten() -> None: ...

    def create_one() -> FlowRun:
        return prefect_bench.gateway.create_run(
            forgotten, job_id=new_job_id(), process_id=process_id, parameters={}, labels={}
        )

    earlier = create_one().flow_id
    prefect_bench.client.delete_flow(earlier)

    assert create_one().flow_id != earlier


@pytest.mark.parametrize("states", [[], [Running], [Running, AwaitingRetry]])
def test_a_job_whose_process_is_gone_becomes_failed(
    bench: Bench, process_id: str, states: list[Callable[[], State[Any]]]
) -> None:
    gateway = bench.gateway
    job = create(gateway, process_id)
    for state in states:
        bench.set_state(job, state())

    gateway.crash(job, "the process is gone")

    job = gateway.find(job.job_id)
    assert (job.status, job.message) == (JobStatus.failed, "the process is gone")


def test_a_job_that_has_ended_is_not_marked_failed(bench: Bench, process_id: str) -> None:
    job = create(bench.gateway, process_id)
    bench.set_state(job, Running())
    bench.set_state(job, Completed())

    bench.gateway.crash(job, "the process is gone")

    assert bench.gateway.find(job.job_id).status is JobStatus.successful


# -- a server that is down


@pytest.fixture(params=["in-memory", "prefect"])
def unreachable(request: pytest.FixtureRequest) -> Iterator[PrefectGateway]:
    if request.param == "in-memory":
        fake = InMemoryGateway()
        fake.unavailable = True
        yield fake
        return
    request.getfixturevalue("refusing_prefect_api")
    gateway = ApiGateway()
    yield gateway
    gateway.close()


@pytest.mark.parametrize(
    "use",
    [
        lambda gateway, _: submit(gateway, "p"),
        lambda gateway, _: create(gateway, "p"),
        lambda gateway, _: gateway.find("a"),
        lambda gateway, _: gateway.page(limit=10),
        lambda gateway, _: gateway.web_jobs(),
        lambda gateway, _: gateway.tagged_deployments(["a"]),
        lambda gateway, _: gateway.dismissed([uuid.uuid4()]),
        lambda gateway, job: gateway.cancel(job),
        lambda gateway, job: gateway.crash(job, "x"),
        lambda gateway, job: gateway.delete(job),
    ],
    ids=[
        "submit",
        "create_run",
        "find",
        "page",
        "web_jobs",
        "tagged_deployments",
        "dismissed",
        "cancel",
        "crash",
        "delete",
    ],
)
def test_a_server_that_is_down_is_an_error_and_no_answer(
    unreachable: PrefectGateway, use: Any
) -> None:
    job = submit(InMemoryGateway(), "p")

    with pytest.raises(BackendUnavailable, match="try again later"):
        use(unreachable, job)


def test_who_waits_while_the_server_is_down_knows_at_least_the_job(
    unreachable: PrefectGateway,
) -> None:
    job = submit(InMemoryGateway(), "p")

    assert unreachable.wait(job, 0.2) == job


def test_labels_are_added_to_those_that_a_job_has(gateway: PrefectGateway, process_id: str) -> None:
    job = submit(gateway, process_id)
    gateway.label(job, {"pygeoapi.callback.end": "{}"})
    gateway.label(job, {"pygeoapi.progress": "x"})
    labelled = gateway.find(job.job_id)
    assert labelled.deliveries == {"end": "{}"}
    assert labelled.result_media_type == "image/png"


SUBSCRIBER = {"successUri": "https://example.org/"}


def subscribed(gateway: PrefectGateway, process_id: str) -> Job:
    return gateway.submit(
        job_id=new_job_id(),
        process_id=process_id,
        deployment=DEPLOYMENT,
        parameters={},
        labels=run_labels(
            process_id=process_id,
            result_media_type="image/png",
            result_storage="memory://x",
            subscriber=SUBSCRIBER,
            output_urls={"map": "https://example.org/map"},
        ),
    )


def awaiting(gateway: PrefectGateway, process_id: str) -> set[str]:
    found = [job.job_id for job in gateway.awaiting_callbacks() if job.process_id == process_id]
    assert len(found) == len(set(found))
    return set(found)


def test_jobs_with_a_subscriber_await_callbacks_until_those_are_settled(
    bench: Bench, process_id: str
) -> None:
    gateway = bench.gateway
    submit(gateway, process_id)
    job = subscribed(gateway, process_id)

    assert awaiting(gateway, process_id) == {job.job_id}
    assert json.loads(job.subscriber or "") == SUBSCRIBER
    assert gateway.find(job.job_id).output_urls == {"map": "https://example.org/map"}
    states: list[State[Any]] = [Running(), Completed()]
    for state in states:
        bench.set_state(job, state)
        assert awaiting(gateway, process_id) == {job.job_id}
    gateway.settle_callbacks(job)
    assert awaiting(gateway, process_id) == set()
    assert gateway.find(job.job_id).process_id == process_id


def test_callbacks_of_jobs_that_run_or_have_ended_are_not_kept_back_by_jobs_that_wait(
    bench: Bench, process_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pygeoapi_prefect.gateway.PAGE_MAX_RUNS", 2)
    gateway = bench.gateway
    running, ended, *waiting = (subscribed(gateway, process_id) for _ in range(6))
    others = [subscribed(gateway, process_id) for _ in range(3)]
    for job in (running, ended, *others):
        bench.set_state(job, Running())
    bench.set_state(ended, Failed())

    found = awaiting(gateway, process_id)

    assert found >= {job.job_id for job in (running, ended, *others)}
    # that there are any of these is all that matters
    assert len(found & {job.job_id for job in waiting}) == 1


def test_a_job_that_is_gone_takes_no_notes(gateway: PrefectGateway, process_id: str) -> None:
    job = submit(gateway, process_id)
    gateway.delete(job)
    with pytest.raises(JobNotFound):
        gateway.label(job, {"x": "y"})
    with pytest.raises(JobNotFound):
        gateway.settle_callbacks(job)


def test_a_job_without_tasks_and_lines_has_none(gateway: PrefectGateway, process_id: str) -> None:
    job = submit(gateway, process_id)
    assert gateway.count_tasks(job) == (0, 0)
    assert gateway.log(job, LogPosition(), 100) == []


def test_ended_jobs_are_found_by_the_time_of_their_end_newest_first(
    bench: Bench, process_id: str
) -> None:
    gateway = bench.gateway
    jobs = [submit(gateway, process_id) for _ in range(4)]
    states: list[State[Any]] = [Running(), Completed(), Running(), Failed()]
    for job, state in zip(jobs, states, strict=True):
        bench.set_state(job, Running())
        bench.set_state(job, state)
    running, first, _, last = jobs

    def ended(before: dt.datetime | None) -> list[str]:
        found: list[Job] = []
        # all tests share the server
        while page := gateway.ended(before=before, offset=len(found), limit=50):
            found += page
        return [job.job_id for job in found if job.process_id == process_id]

    in_an_hour = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    an_hour_ago = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    assert ended(None) == [last.job_id, first.job_id]
    assert ended(in_an_hour) == [last.job_id, first.job_id]
    assert ended(an_hour_ago) == []
    assert not gateway.find(running.job_id).has_ended
