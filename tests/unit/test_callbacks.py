"""Callbacks: when they are due, what is sent, and what happens when nobody answers."""

import datetime as dt
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Failed, Pending, Running, Scheduled

from pygeoapi_prefect.callbacks import (
    FIRST_ATTEMPT_SECONDS,
    INLINE_MAX_BYTES,
    RETRY_SECONDS,
    Callback,
    Courier,
    due_callback,
    results_document,
)
from pygeoapi_prefect.errors import StorageError
from pygeoapi_prefect.jobs import CALLBACK_TAG, Job, run_labels
from pygeoapi_prefect.outputs import opened, store_outputs
from pygeoapi_prefect.schemas import JobStatus
from pygeoapi_prefect.storage import FsspecStorage
from pygeoapi_prefect.testing import InMemoryGateway
from pygeoapi_prefect.wishes import check_outputs

from ..receiver import Receiver, receiving

RESULTS = {"greeting": "hello"}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture
def courier(gateway: InMemoryGateway, receiver: Receiver) -> Courier:
    return Courier(gateway, receiver.policy, lambda _: json.dumps(RESULTS).encode())


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def later(seconds: float) -> dt.datetime:
    return now() + dt.timedelta(seconds=seconds)


def submit(gateway: InMemoryGateway, subscriber: dict[str, str] | None, **members: Any) -> Job:
    labels = run_labels(
        process_id="echo",
        result_media_type="application/json",
        result_storage="memory://callbacks",
        subscriber=subscriber,
        **members,
    )
    return gateway.submit(
        job_id="a", process_id="echo", deployment="", parameters={}, labels=labels
    )


def is_awaited(gateway: InMemoryGateway) -> bool:
    return CALLBACK_TAG in gateway.runs["a"].tags


@pytest.mark.parametrize(
    ("enter", "due_at_once", "due_later"),
    [
        (Scheduled, None, None),
        (Pending, None, None),
        (Running, None, Callback.IN_PROGRESS),
        (Completed, None, Callback.END),
        (Failed, None, Callback.END),
        (Cancelled, Callback.END, Callback.END),
    ],
)
def test_the_process_of_a_job_has_the_first_attempt_and_then_all_others(
    gateway: InMemoryGateway,
    receiver: Receiver,
    enter: Callable[[], State[Any]],
    due_at_once: Callback | None,
    due_later: Callback | None,
) -> None:
    submit(gateway, receiver.subscriber)
    job = gateway.set_state("a", enter())
    assert due_callback(job, now()) == due_at_once
    assert due_callback(job, later(FIRST_ATTEMPT_SECONDS + 1)) == due_later


def test_flows_that_know_nothing_of_subscribers_leave_them_to_others_at_once(
    gateway: InMemoryGateway, receiver: Receiver
) -> None:
    submit(gateway, receiver.subscriber, execution_request="{}")
    assert due_callback(gateway.set_state("a", Running()), now()) is Callback.IN_PROGRESS
    assert due_callback(gateway.set_state("a", Completed()), now()) is Callback.END


def test_a_successful_job_sends_its_results_once(
    gateway: InMemoryGateway, receiver: Receiver, courier: Courier
) -> None:
    submit(gateway, receiver.subscriber)
    courier.deliver(gateway.set_state("a", Running()), Callback.IN_PROGRESS, now())
    courier.deliver(gateway.set_state("a", Completed()), Callback.END, now())
    in_progress, success = receiver.received
    assert in_progress[0] == "/inProgress"
    assert (in_progress[1]["jobID"], in_progress[1]["status"]) == ("a", "running")
    assert success == ("/success", RESULTS)
    assert courier.deliver_due(later(1e6)) == 0
    assert len(receiver.received) == 2


@pytest.mark.parametrize(
    ("state", "status"), [(Failed(message="no tiles"), "failed"), (Cancelled(), "dismissed")]
)
def test_other_jobs_send_how_they_ended(
    gateway: InMemoryGateway, receiver: Receiver, courier: Courier, state: Any, status: str
) -> None:
    submit(gateway, receiver.subscriber)
    gateway.set_state("a", state)
    courier.deliver_due(later(FIRST_ATTEMPT_SECONDS + 1))
    ((path, body),) = receiver.received
    assert (path, body["status"], body["processID"]) == ("/failed", status, "echo")
    assert body["message"]
    assert not is_awaited(gateway)


def test_nothing_is_sent_where_there_is_no_address_for_it(
    gateway: InMemoryGateway, receiver: Receiver, courier: Courier
) -> None:
    submit(gateway, {"successUri": receiver.subscriber["successUri"]})
    gateway.set_state("a", Running())
    assert courier.deliver_due(later(1e6)) == 1
    gateway.set_state("a", Failed())
    courier.deliver_due(later(1e6))
    assert receiver.received == []
    assert not is_awaited(gateway)


def test_a_callback_in_vain_is_repeated_with_growing_pauses_and_then_given_up(
    gateway: InMemoryGateway,
    receiver: Receiver,
    courier: Courier,
    caplog: pytest.LogCaptureFixture,
) -> None:
    receiver.status = 500
    submit(gateway, receiver.subscriber)
    gateway.set_state("a", Completed())
    time = later(FIRST_ATTEMPT_SECONDS + 1)
    for attempts, pause_seconds in enumerate(RETRY_SECONDS, start=1):
        courier.deliver_due(time)
        assert len(receiver.received) == attempts
        courier.deliver_due(time + dt.timedelta(seconds=pause_seconds - 1))
        assert len(receiver.received) == attempts
        time += dt.timedelta(seconds=pause_seconds)
    with caplog.at_level(logging.ERROR):
        courier.deliver_due(time)
    assert "given up" in caplog.text
    assert not is_awaited(gateway)
    courier.deliver_due(time + dt.timedelta(days=365))
    assert len(receiver.received) == len(RETRY_SECONDS) + 1
    assert gateway.find("a").status is JobStatus.successful


def test_a_subscriber_that_comes_back_is_told(
    gateway: InMemoryGateway, receiver: Receiver, courier: Courier
) -> None:
    submit(gateway, receiver.subscriber)
    gateway.set_state("a", Completed())
    receiver.status = 503
    courier.deliver_due(later(100))
    receiver.status = 200
    courier.deliver_due(later(100 + RETRY_SECONDS[0]))
    assert receiver.of("/success") == [RESULTS, RESULTS]
    assert not is_awaited(gateway)


def test_results_that_cannot_be_read_are_tried_again(
    gateway: InMemoryGateway, receiver: Receiver
) -> None:
    answers: list[bytes | StorageError] = [StorageError("the storage is away"), b'{"x": 1}']

    def read(_: Job) -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, StorageError):
            raise answer
        return answer

    courier = Courier(gateway, receiver.policy, read)
    submit(gateway, receiver.subscriber)
    gateway.set_state("a", Completed())
    courier.deliver_due(later(100))
    assert receiver.received == []
    courier.deliver_due(later(100 + RETRY_SECONDS[0]))
    assert receiver.received == [("/success", {"x": 1})]


def test_while_one_process_sends_no_other_does(
    gateway: InMemoryGateway, receiver: Receiver
) -> None:
    submit(gateway, receiver.subscriber)
    gateway.set_state("a", Completed())
    other = Courier(gateway, receiver.policy, lambda _: b'"other"')

    def read_while_the_other_looks(_: Job) -> bytes:
        other.deliver_due(later(100))
        return b'"one"'

    Courier(gateway, receiver.policy, read_while_the_other_looks).deliver_due(later(100))
    assert receiver.received == [("/success", "one")]


def test_of_two_that_begin_at_once_the_one_whose_note_stands_sends(
    receiver: Receiver,
) -> None:
    class Overtaken(InMemoryGateway):
        """Somebody else notes an attempt right after each of ours."""

        def label(self, job: Job, labels: Any) -> None:
            super().label(job, labels)
            ((name, text),) = labels.items()
            super().label(job, {name: text.replace('"attempt_id":"', '"attempt_id":"x')})

    gateway = Overtaken()
    submit(gateway, receiver.subscriber)
    gateway.set_state("a", Completed())
    Courier(gateway, receiver.policy, lambda _: b"{}").deliver_due(later(100))
    assert receiver.received == []
    assert is_awaited(gateway)


def test_who_must_not_call_an_address_leaves_it_to_the_server_that_may(
    gateway: InMemoryGateway, receiver: Receiver, courier: Courier
) -> None:
    submit(gateway, receiver.subscriber)
    gateway.set_state("a", Completed())
    policy = receiver.policy.model_copy(update={"allow_hosts": ()})
    Courier(gateway, policy, lambda _: b'"from elsewhere"').deliver_due(later(100))
    assert receiver.received == []
    courier.deliver_due(later(100))
    assert receiver.received == [("/success", RESULTS)]


def test_an_address_that_nobody_may_call_any_more_is_given_up(
    gateway: InMemoryGateway, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    submit(gateway, receiver.subscriber)
    gateway.set_state("a", Completed())
    policy = receiver.policy.model_copy(update={"allow_hosts": ()})
    courier = Courier(gateway, policy, lambda _: b"{}")
    courier.deliver_due(later(100))
    assert is_awaited(gateway)
    courier.deliver_due(later(sum(RETRY_SECONDS) + 100))
    assert not is_awaited(gateway)
    assert "not a public address" in caplog.text
    assert receiver.received == []


class TestResults:
    @pytest.fixture
    def storage(self) -> FsspecStorage:
        return FsspecStorage("memory://callback-results")

    def document(
        self, gateway: InMemoryGateway, storage: FsspecStorage, values: Any, **members: Any
    ) -> Any:
        submit(gateway, {"successUri": "http://127.0.0.1/"}, **members)
        declared = {name: {"schema": {"type": "string"}} for name in values}
        stored = store_outputs(storage, "a", declared, values)
        job = gateway.set_state("a", Completed())
        outputs = opened(storage, stored, job.output_urls.get, sign_links=True)
        return json.loads(results_document(outputs, {}))

    def test_are_one_document_by_output_id(
        self, gateway: InMemoryGateway, storage: FsspecStorage
    ) -> None:
        values = {"a": "1", "b": "2"}
        assert self.document(gateway, storage, values) == values

    def test_hold_large_outputs_as_links_where_there_is_an_address(
        self, gateway: InMemoryGateway, storage: FsspecStorage
    ) -> None:
        values = {"small": "1", "large": "x" * (INLINE_MAX_BYTES + 1)}
        urls = {"large": "https://example.org/jobs/a/results/large"}
        document = self.document(gateway, storage, values, output_urls=urls)
        assert document["small"] == "1"
        assert document["large"]["href"] == urls["large"]

    def test_hold_large_outputs_as_values_where_there_is_none(
        self, gateway: InMemoryGateway, storage: FsspecStorage
    ) -> None:
        values = {"small": "1", "large": "x" * (INLINE_MAX_BYTES + 1)}
        assert self.document(gateway, storage, values) == values

    def test_leave_out_what_would_be_too_much_for_a_body(
        self, gateway: InMemoryGateway, storage: FsspecStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pygeoapi_prefect.callbacks.BODY_MAX_BYTES", 2 * INLINE_MAX_BYTES)
        values = {
            "first": "x" * (INLINE_MAX_BYTES + 1),
            "second": "y" * INLINE_MAX_BYTES,
            "small": "1",
        }
        document = self.document(gateway, storage, values)
        problem = document.pop("second")
        assert problem["mediaType"] == "application/problem+json"
        assert f"output 'second' has {INLINE_MAX_BYTES} bytes" in problem["value"]["detail"]
        assert document == {"first": values["first"], "small": "1"}

    def test_lack_what_the_process_did_not_make_and_nobody_named(
        self, storage: FsspecStorage
    ) -> None:
        declared = {"a": {"schema": {"type": "string"}}, "b": {"schema": {}}}
        stored = store_outputs(storage, "a", declared, {"a": "1"})
        outputs = opened(storage, stored, lambda _: None, sign_links=True)
        request = {"wishes": check_outputs({"outputs": declared}, None).for_request()}
        assert json.loads(results_document(outputs, request)) == {"a": "1"}


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]:5000/",
        "ftp://example.org/",
        "file:///etc/passwd",
        "/relative",
    ],
)
@pytest.mark.parametrize("name", ["successUri", "inProgressUri", "failedUri"])
def test_a_subscriber_that_must_not_be_called_is_refused_before_there_is_a_job(
    make_manager: Any, client_of: Any, gateway: InMemoryGateway, uri: str, name: str
) -> None:
    client = client_of(make_manager({"hello": "HelloWorld"}))
    body = {
        "inputs": {"name": "x"},
        "subscriber": {"successUri": "http://127.0.0.1/", name: uri},
    }
    answer = client.post("/processes/hello/execution", json=body)
    assert answer.status_code == 400
    assert "Uri" in answer.get_json()["detail"]
    assert gateway.runs == {}
