"""The first attempt at each callback, made by the process that runs the job.

It is made beside the job: no subscriber, however slow, keeps the job or the next one from
running. Should the process die before or meanwhile, a web process takes over.
"""

import datetime as dt
import logging
import threading
import uuid
from collections.abc import Callable
from typing import Any, Final

from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.flows import Flow
from prefect.states import Running

from pygeoapi_prefect.background import start_thread
from pygeoapi_prefect.callbacks import Callback, Courier
from pygeoapi_prefect.errors import PygeoapiPrefectError
from pygeoapi_prefect.gateway import ApiGateway
from pygeoapi_prefect.jobs import Job, job_of_run
from pygeoapi_prefect.references import ReferencePolicy
from pygeoapi_prefect.schemas import JobStatus

logger = logging.getLogger(__name__)

EARLIER_SECONDS: Final = 60.0
"""How long the end of a job waits until its start was told."""

_threads: dict[uuid.UUID, threading.Thread] = {}


def tell_subscriber(policy: ReferencePolicy, results_of: Callable[[Job], bytes]) -> None:
    """Tell the subscriber of the current job that it runs, and later how it ended.

    Args:
        policy: Which addresses are called.
        results_of: Returns the results of a successful job as ``results.yaml``.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow is None:
        return
    job = _job_in(context.flow_run, Running())
    if job.subscriber is None:
        return
    if not job.deliveries:  # else it has run before
        _deliver(job, Callback.IN_PROGRESS, policy, results_of)
    hook = _EndHook(policy, results_of)
    # Prefect logs each hook that it runs: only jobs with a subscriber have this one
    for hooks in (context.flow.on_completion_hooks, context.flow.on_failure_hooks):
        if not any(isinstance(other, _EndHook) for other in hooks):
            hooks.append(hook)


class _EndHook:
    """A hook of Prefect that tells the subscriber how its job ended, if it has one."""

    __name__ = "tell subscriber"

    def __init__(self, policy: ReferencePolicy, results_of: Callable[[Job], bytes]) -> None:
        self._policy = policy
        self._results_of = results_of

    def __call__(self, flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
        del flow
        job = _job_in(flow_run, state)
        if job.subscriber is None:
            return
        results_of = self._results_of
        if job.status is JobStatus.successful:
            # now, while the environment of the job is still there
            results = results_of(job)
            results_of = lambda _: results  # noqa: E731
        _deliver(job, Callback.END, self._policy, results_of)


def _job_in(flow_run: FlowRun, state: State[Any]) -> Job:
    changes = {"state": state, "state_type": state.type, "state_name": state.name}
    return job_of_run(flow_run.model_copy(update=changes))


def _deliver(
    job: Job, callback: Callback, policy: ReferencePolicy, results_of: Callable[[Job], bytes]
) -> None:
    earlier = _threads.pop(job.flow_run_id, None)

    def deliver() -> None:
        if earlier is not None:
            earlier.join(EARLIER_SECONDS)
        gateway = ApiGateway()
        try:
            courier = Courier(gateway, policy, results_of)
            courier.deliver(job, callback, dt.datetime.now(dt.UTC))
        except PygeoapiPrefectError as error:
            logger.warning("job %s: subscriber was not told: %s", job.job_id, error.detail)
        finally:
            gateway.close()

    # no daemon: a process that only runs this job ends when its subscriber was told
    thread = start_thread(deliver, name=f"callback {callback}", daemon=False)
    if callback is not Callback.END:
        _threads[job.flow_run_id] = thread
