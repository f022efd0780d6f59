"""Callbacks: subscribers are told how their jobs go (/req/callback/job-callback).

What has to be told stands with the flow run on the Prefect server: a tag while something
is left to tell, a label with the subscriber, and one with the deliveries. So any process
can go on where another was killed. The process of a job makes the first attempt itself
(see `job_callbacks`); a loop in each web process makes all others (see `Courier.loop`).

An attempt is noted before it is made, together with the time of the next one, so that two
processes do not make the same. A subscriber can still be told twice, where a process dies
between a request and the note that it was answered; that it is not told at all happens
only after `RETRY_SECONDS` of vain attempts. The outcome of a job is never touched.
"""

import dataclasses
import datetime as dt
import json
import logging
import uuid
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final

import pydantic

from pygeoapi_prefect.background import BackgroundLoop
from pygeoapi_prefect.errors import InvalidRequest, JobNotFound, PygeoapiPrefectError
from pygeoapi_prefect.gateway import PrefectGateway
from pygeoapi_prefect.jobs import Job, status_document
from pygeoapi_prefect.media_types import JSON_MEDIA_TYPE, PROBLEM_MEDIA_TYPE
from pygeoapi_prefect.outputs import media_types
from pygeoapi_prefect.references import ReferencePolicy, check_address, post
from pygeoapi_prefect.results import HeldContent, Output, shape
from pygeoapi_prefect.schemas import (
    ExecutionOutput,
    ExecutionSubscriber,
    JobStatus,
    ProcessOutputTransmissionMode,
    ProcessResponseType,
)
from pygeoapi_prefect.wishes import Wishes

logger = logging.getLogger(__name__)

RETRY_SECONDS: Final = (15, 60, 300, 1_800, 7_200, 21_600, 86_400)
"""From one attempt to the next; after the last one, the subscriber is given up."""
FIRST_ATTEMPT_SECONDS: Final = 15
"""How long the process of a job has for the first attempt, before others make it."""
REQUEST_TIMEOUT_SECONDS: Final = 10.0
POLL_SECONDS: Final = 5.0
"""Between looks at what is due, while something is to be delivered."""
IDLE_SECONDS: Final = 60.0
"""Otherwise: other processes may leave something."""
INLINE_MAX_BYTES: Final = 1024**2
"""Larger outputs are sent as references, where there is an address for them."""
BODY_MAX_BYTES: Final = 16 * 1024**2
"""How much of outputs a callback holds as values; it is in memory as a whole."""


class Callback(StrEnum):
    """What a subscriber is told: that its job runs, or how it ended."""

    IN_PROGRESS = "inProgress"
    END = "end"


class Delivery(pydantic.BaseModel):
    """How far the delivery of a callback is.

    Attributes:
        due: When the next attempt may be made.
        is_settled: Whether there will be none: it succeeded, or was given up.
        attempt_id: Tells the attempts of different processes apart.
    """

    attempts: int = 0
    due: dt.datetime | None = None
    is_settled: bool = False
    attempt_id: str = ""


def check_subscriber(subscriber: Mapping[str, str | None], policy: ReferencePolicy) -> None:
    """Refuse a subscriber to which nothing would be sent.

    Raises:
        InvalidRequest: An address is malformed, cannot be resolved, or is not public.
    """
    for name, uri in subscriber.items():
        if uri is None:
            continue
        try:
            check_address(uri, policy)
        except InvalidRequest as error:
            raise InvalidRequest(f"subscriber: {name}: {error.detail}") from error


def due_callback(job: Job, now: dt.datetime) -> Callback | None:
    """Return what the subscriber of a job has to be told now, by whoever is asked."""
    if job.has_ended:
        callback, since = Callback.END, job.finished or job.updated
    elif job.status is JobStatus.running and _uri_of(job, Callback.IN_PROGRESS) is not None:
        callback, since = Callback.IN_PROGRESS, job.started or job.updated
    else:
        return None
    delivery = delivery_of(job, callback)
    if delivery.is_settled:
        # what ended it may have been unable to say so on the Prefect server
        return callback if callback is Callback.END else None
    due = delivery.due
    if due is None:
        has_process = job.runs_our_flow and job.status is not JobStatus.dismissed
        due = since + dt.timedelta(seconds=FIRST_ATTEMPT_SECONDS if has_process else 0)
    return callback if now >= due else None


def delivery_of(job: Job, callback: Callback) -> Delivery:
    """Return how far the delivery of a callback is, as the flow run of the job says."""
    text = job.deliveries.get(callback)
    return Delivery() if text is None else Delivery.model_validate_json(text)


def results_document(outputs: Mapping[str, Output], request: Mapping[str, object]) -> bytes:
    """Return the results of a job as ``results.yaml``, of limited length.

    Large ones are references. Where they have no address, they are values as long as there is
    room, and then problems (RFC 7807) that say so: the subscriber asks for them at the job.

    Args:
        outputs: What the job has stored.
        request: Its execute request.

    Raises:
        OutputsNotProduced: There is not what the request asked for.
    """
    requested = Wishes.of_request(request).of(media_types(outputs))
    room_bytes = BODY_MAX_BYTES
    sent = []
    for output_id, wish in requested.items():
        if (output := outputs.get(output_id)) is None:
            continue
        size = output.content.size
        if size > INLINE_MAX_BYTES and output.address() is not None:
            mode = ProcessOutputTransmissionMode.REFERENCE
            requested[output_id] = wish.model_copy(update={"transmission_mode": mode})
        elif wish.transmission_mode is ProcessOutputTransmissionMode.VALUE:
            if size > room_bytes:
                output = _left_out(output)
                requested[output_id] = ExecutionOutput()
            room_bytes -= output.content.size
        sent.append(output)
    return shape(sent, requested, ProcessResponseType.document).body


def _left_out(output: Output) -> Output:
    problem = {
        "type": "about:blank",
        "title": "Output too large to be sent",
        "detail": f"output {output.output_id!r} has {output.content.size} bytes, which are too "
        "many for a callback: ask for the results of the job",
    }
    content = HeldContent(json.dumps(problem, ensure_ascii=False).encode())
    return dataclasses.replace(output, media_type=PROBLEM_MEDIA_TYPE, content=content)


class Courier:
    """Makes attempts to deliver callbacks.

    Args:
        gateway: Where jobs are.
        policy: Which addresses are called.
        results_of: Returns the results of a successful job as ``results.yaml``.
    """

    def __init__(
        self,
        gateway: PrefectGateway,
        policy: ReferencePolicy,
        results_of: Callable[[Job], bytes],
    ) -> None:
        self._gateway = gateway
        timeout_seconds = min(policy.timeout_seconds, REQUEST_TIMEOUT_SECONDS)
        self._policy = policy.model_copy(update={"timeout_seconds": timeout_seconds})
        self._results_of = results_of

    def loop(self) -> BackgroundLoop:
        """Return a loop that delivers what is due, whoever left it."""

        def step() -> float:
            return POLL_SECONDS if self.deliver_due(dt.datetime.now(dt.UTC)) else IDLE_SECONDS

        return BackgroundLoop(step, name="callbacks", retry_seconds=POLL_SECONDS)

    def deliver_due(self, now: dt.datetime) -> int:
        """Make all attempts that are due, and return how many jobs are not told to the end.

        Raises:
            BackendUnavailable: The Prefect API does not answer.
        """
        jobs = self._gateway.awaiting_callbacks()
        for job in jobs:
            if due_callback(job, now) is None:
                continue
            try:
                # another process may have told it while this one told others
                fresh = self._gateway.find(job.job_id)
                if (callback := due_callback(fresh, now)) is not None:
                    self.deliver(fresh, callback, now)
            except JobNotFound:
                continue  # removed meanwhile
        return len(jobs)

    def deliver(self, job: Job, callback: Callback, now: dt.datetime) -> None:
        """Make one attempt to tell the subscriber of a job, unless it was told already.

        Raises:
            JobNotFound: There is no such job any more.
            BackendUnavailable: The Prefect API does not answer.
        """
        delivery = delivery_of(job, callback)
        uri = _uri_of(job, callback)
        if not delivery.is_settled:
            delivery = self._attempt(job, callback, delivery, uri, now)
        if callback is Callback.END and delivery.is_settled:
            self._gateway.settle_callbacks(job)

    def _attempt(
        self, job: Job, callback: Callback, delivery: Delivery, uri: str | None, now: dt.datetime
    ) -> Delivery:
        if uri is None:
            return delivery.model_copy(update={"is_settled": True})
        try:
            check_address(uri, self._policy)
        except InvalidRequest as error:
            return self._refused(job, callback, delivery, error, now)
        index = min(delivery.attempts, len(RETRY_SECONDS) - 1)
        attempt = Delivery(
            attempts=delivery.attempts + 1,
            due=now + dt.timedelta(seconds=RETRY_SECONDS[index]),
            attempt_id=uuid.uuid4().hex,
        )
        self._note(job, callback, attempt)
        noted = delivery_of(self._gateway.find(job.job_id), callback)
        if noted.attempt_id != attempt.attempt_id:
            return noted  # another process was faster
        try:
            post(uri, self._body(job, callback), JSON_MEDIA_TYPE, self._policy)
        except PygeoapiPrefectError as error:
            is_given_up = attempt.attempts > len(RETRY_SECONDS)
            logger.log(
                logging.ERROR if is_given_up else logging.WARNING,
                "job %s: subscriber was not told of its %s (attempt %s, %s): %s",
                job.job_id,
                callback,
                attempt.attempts,
                "given up" if is_given_up else f"next at {attempt.due}",
                error.detail,
            )
            attempt = attempt.model_copy(update={"is_settled": is_given_up})
        else:
            attempt = attempt.model_copy(update={"is_settled": True})
        if attempt.is_settled:
            self._note(job, callback, attempt)
        return attempt

    def _refused(
        self,
        job: Job,
        callback: Callback,
        delivery: Delivery,
        error: InvalidRequest,
        now: dt.datetime,
    ) -> Delivery:
        """Leave a job to the server that took it, which may call where this one must not."""
        if now < (job.finished or job.updated) + dt.timedelta(seconds=sum(RETRY_SECONDS)):
            logger.info("job %s: its %s is not sent from here: %s", job.job_id, callback, error)
            return delivery
        logger.error("job %s: its %s is given up: %s", job.job_id, callback, error)
        return delivery.model_copy(update={"is_settled": True})

    def _body(self, job: Job, callback: Callback) -> bytes:
        if callback is Callback.END and job.status is JobStatus.successful:
            return self._results_of(job)
        return json.dumps(status_document(job), ensure_ascii=False).encode()

    def _note(self, job: Job, callback: Callback, delivery: Delivery) -> None:
        label = job.delivery_label(callback)
        self._gateway.label(job, {label: delivery.model_dump_json()})


def _uri_of(job: Job, callback: Callback) -> str | None:
    subscriber = ExecutionSubscriber.model_validate_json(job.subscriber or "{}")
    if callback is Callback.IN_PROGRESS:
        return subscriber.in_progress_uri
    if job.status is JobStatus.successful:
        return subscriber.success_uri
    return subscriber.failed_uri
