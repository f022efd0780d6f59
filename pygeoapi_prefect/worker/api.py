"""The calls of the worker to the Prefect API.

One place decides what an API that is away means: polling fails at once and is tried
again by its loop; what has to arrive, the end of a run, is kept and repeated.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterNextScheduledStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    Operator,
    WorkPoolFilter,
    WorkPoolFilterName,
    WorkQueueFilter,
    WorkQueueFilterName,
)
from prefect.client.schemas.objects import Flow, FlowRun, State, StateType, Worker
from prefect.client.schemas.responses import DeploymentResponse, WorkerFlowRunResponse
from prefect.client.schemas.sorting import DeploymentSort, FlowRunSort
from prefect.exceptions import Abort, ObjectNotFound, Pause
from prefect.states import AwaitingRetry, Cancelled, Crashed, Pending, Scheduled
from prefect.types import DateTime
from prefect.utilities.engine import propose_state

from pygeoapi_prefect.worker.owner import Owner, find_owner

PAGE_SIZE = 200
DEPLOYMENTS_AT_MOST = 50
RETRY_SECONDS = 1.0
# A run that starts later than this is looked for again in time
HORIZON_SECONDS = 60.0
# Between looks for a state that was announced; SQLite waits for a minute at most
COMMIT_PAUSES_SECONDS = (0.01, 0.03, 0.1, 0.3, *(1.0,) * 60)
_TRY_LATER = {httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_EARLY, httpx.codes.TOO_MANY_REQUESTS}


def is_outage(error: Exception) -> bool:
    """Whether an error means that the API cannot answer now, not that it refuses something."""
    if isinstance(error, httpx.HTTPStatusError):
        response = error.response
        return (
            response.is_server_error
            or response.status_code in _TRY_LATER
            # the token has expired, or the server has forgotten it; the client gets another one
            or (response.status_code == httpx.codes.FORBIDDEN and "CSRF token" in response.text)
        )
    return isinstance(error, httpx.TransportError)


def is_missing(error: Exception) -> bool:
    """Whether an error means that what was asked about does not exist."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code == httpx.codes.NOT_FOUND
    return isinstance(error, ObjectNotFound)


@dataclass(frozen=True)
class Waiting:
    """The runs of a pool that wait for their start.

    Attributes:
        due: those whose time has come, in the order of their times.
        is_all: whether no other one is due.
        next_start_seconds: until the next one is due, or for as long as it was looked ahead.
    """

    due: list[FlowRun]
    is_all: bool
    next_start_seconds: float


class RunsApi:
    """The flow runs of one work pool.

    Args:
        client: open for as long as this is used.
        work_pool: name of the pool.
        work_queues: names of the queues to serve; empty for all of the pool.
        outage_seconds: how long the end of a run is kept for an API that is away.
        logger: of the worker.
    """

    def __init__(
        self,
        client: PrefectClient,
        *,
        work_pool: str,
        work_queues: Collection[str],
        outage_seconds: float,
        logger: logging.Logger | logging.LoggerAdapter[logging.Logger],
    ) -> None:
        self._client = client
        self._work_pool = work_pool
        self._work_queues = sorted(work_queues)
        self._outage_seconds = outage_seconds
        self._logger = logger
        self._flows: dict[UUID, Flow] = {}
        self._deployments: dict[UUID, tuple[float, DeploymentResponse]] = {}
        self._deployment_locks: dict[UUID, asyncio.Lock] = {}

    async def read_due_runs(self, limit: int) -> list[FlowRun]:
        """Runs to start now, in order of priority, as far as the limits of the pool allow.

        Prefect also notes that the queues are served, which writes to its database.

        Args:
            limit: how many at most; no more than `PAGE_SIZE`.
        """
        wanted = {
            "work_queue_names": self._work_queues,
            "scheduled_before": datetime.now(UTC).isoformat(),
            "limit": limit,
        }
        try:
            # the client's own method has no limit
            response = await self._client.request(
                "POST",
                "/work_pools/{name}/get_scheduled_flow_runs",
                path_params={"name": self._work_pool},
                json=wanted,
            )
        except httpx.HTTPStatusError as error:
            if is_missing(error):
                # the pool was deleted; the worker notices, and waits for one of that name
                return []
            raise
        return [
            entry.flow_run for entry in WorkerFlowRunResponse.model_validate_list(response.json())
        ]

    async def read_waiting_runs(self, limit: int) -> Waiting:
        """Runs to start now, in the order of their times, and when the next one is to start.

        Costs a third of `read_due_runs` and writes nothing, but knows nothing of limits, pauses
        and priorities.

        Args:
            limit: how many at most; no more than `PAGE_SIZE`.
        """
        now = datetime.now(UTC)
        runs = await self._client.read_flow_runs(
            flow_run_filter=self._scheduled_before(now + timedelta(seconds=HORIZON_SECONDS)),
            work_pool_filter=self._pool_filter(),
            work_queue_filter=self._queue_filter(),
            sort=FlowRunSort.NEXT_SCHEDULED_START_TIME_ASC,
            limit=limit,
        )
        starts = [run.next_scheduled_start_time or now for run in runs]
        # others are retried by the processes that they run in
        free = [run.empirical_policy.retry_type != "in_process" for run in runs]
        later = [
            start for start, is_free in zip(starts, free, strict=True) if start > now and is_free
        ]
        return Waiting(
            due=[
                run
                for run, start, is_free in zip(runs, starts, free, strict=True)
                if start <= now and is_free
            ],
            is_all=len(runs) < limit or starts[-1] > now,
            next_start_seconds=min(
                ((start - now).total_seconds() for start in later), default=HORIZON_SECONDS
            ),
        )

    async def read_run(self, flow_run_id: UUID) -> FlowRun | None:
        """The run as it is now; None where it was deleted."""
        return await self._make_sure(partial(self._client.read_flow_run, flow_run_id))

    async def read_run_after(self, flow_run_id: UUID, state_id: UUID) -> FlowRun | None:
        """The run as it is when a state that was announced is there; None where it was deleted.

        Prefect announces a state before it commits it. On a busy machine, and with SQLite,
        that takes a while; it may also fail.
        """
        run = await self.read_run(flow_run_id)
        if run is None or run.state_id == state_id:
            return run
        for pause_seconds in COMMIT_PAUSES_SECONDS:
            states = await self._make_sure(partial(self._client.read_flow_run_states, flow_run_id))
            if states is None or any(state.id == state_id for state in states):
                break
            await asyncio.sleep(pause_seconds)
        return await self.read_run(flow_run_id)

    async def read_deployments(self) -> list[DeploymentResponse]:
        """Some deployments of the pool, to import their flows ahead of jobs."""
        return await self._client.read_deployments(
            work_pool_filter=self._pool_filter(),
            sort=DeploymentSort.UPDATED_DESC,
            limit=DEPLOYMENTS_AT_MOST,
        )

    async def read_deployment(
        self, deployment_id: UUID, *, not_before: float
    ) -> DeploymentResponse | None:
        """The deployment as it was at or after `not_before`; None where it was deleted.

        Args:
            deployment_id: of the deployment.
            not_before: as from `time.monotonic`, when the worker learned of the run: a
                run sees what was deployed before it, and many runs share one call.
        """
        lock = self._deployment_locks.setdefault(deployment_id, asyncio.Lock())
        async with lock:
            read_at, deployment = self._deployments.get(deployment_id, (-1.0, None))
            if deployment is not None and read_at >= not_before:
                return deployment
            read_at = time.monotonic()
            try:
                deployment = await self._client.read_deployment(deployment_id)
            except ObjectNotFound:
                self._deployments.pop(deployment_id, None)
                return None
            self._deployments[deployment_id] = read_at, deployment
            return deployment

    def may_be_limited(self, deployment_id: UUID) -> bool:
        """Whether a limit may count runs of the deployment, by what was read of it last."""
        _, deployment = self._deployments.get(deployment_id, (-1.0, None))
        return deployment is None or deployment.global_concurrency_limit is not None

    async def read_flow(self, flow_id: UUID) -> Flow:
        """The flow of that id; it never changes."""
        if flow_id not in self._flows:
            self._flows[flow_id] = await self._client.read_flow(flow_id)
        return self._flows[flow_id]

    async def claim(self, flow_run: FlowRun, owner: Owner) -> State[Any] | None:
        """Take a run for `owner`; None where it is not there to be taken.

        The message of the state says whose it is, so that there is no moment in which a
        run belongs to nobody.

        Args:
            flow_run: as it was listed. Where it is not in that state any more, nothing
                is claimed.
            owner: this worker.
        """
        pending: State[Any] = Pending(message=f"Claimed by worker {owner.worker!r} ({owner})")
        try:
            state = await propose_state(self._client, pending, flow_run_id=flow_run.id)
        except (Abort, Pause, ObjectNotFound) as refusal:
            self._logger.debug("Flow run %s is not ours: %s", flow_run.id, refusal)
            return None
        if await self._came_too_late(flow_run, state):
            self._logger.info("Flow run %s was not waiting any more: left as it was", flow_run.id)
            return None
        if not state.is_pending():
            self._logger.info(
                "Flow run %s does not start now; Prefect answers %s", flow_run.id, state.name
            )
            return None
        return state

    async def _came_too_late(self, listed: FlowRun, state: State[Any]) -> bool:
        """Undo a claim that met another state than the listed one; whether it did.

        Prefect lets runs that have ended become pending, and scheduled or cancelled where
        a limit of their deployment is reached. The time for which a run is scheduled tells
        its states apart: Prefect copies it into the pending state.
        """
        scheduled_for = listed.next_scheduled_start_time
        if state.is_pending() and state.state_details.scheduled_time == scheduled_for:
            return False

        def was_another(replaced: State[Any]) -> bool:
            return replaced.is_final() or (
                replaced.is_scheduled() and replaced.state_details.scheduled_time != scheduled_for
            )

        return await self._undo(listed.id, state, where=was_another)

    async def _undo(
        self, flow_run_id: UUID, state: State[Any], *, where: Callable[[State[Any]], bool]
    ) -> bool:
        """Set again what `state` took the place of, if `where` says so; whether it did."""

        async def undo() -> bool:
            states = await self._client.read_flow_run_states(flow_run_id)
            replaced = find_replaced(state, [other for other in states if other.id != state.id])
            if replaced is None or not where(replaced):
                return False
            run = await self._client.read_flow_run(flow_run_id)
            if run.state_id == state.id:
                fields = {"type", "name", "message", "data", "state_details"}
                # the client's own method leaves out where the result is
                await self._client.request(
                    "POST",
                    "/flow_runs/{id}/set_state",
                    path_params={"id": flow_run_id},
                    json={"state": replaced.model_dump(mode="json", include=fields), "force": True},
                )
            return True

        return bool(await self._make_sure(undo))

    async def name_infrastructure(self, flow_run_id: UUID, owner: Owner) -> None:
        """Say which process runs the flow."""
        await self._client.update_flow_run(flow_run_id, infrastructure_pid=str(owner))

    async def crash(
        self, flow_run_id: UUID, message: str, *, only_in_state: UUID | None = None
    ) -> State[Any] | None:
        """End a run as crashed; None where it has ended otherwise or was deleted."""

        async def propose() -> State[Any] | None:
            if only_in_state is not None:
                run = await self._client.read_flow_run(flow_run_id)
                if run.state_id != only_in_state:
                    return None
            state = await propose_state(
                self._client, Crashed(message=message), flow_run_id=flow_run_id
            )
            return state if state.is_crashed() else None

        return await self._make_sure(propose)

    async def cancel(self, flow_run_id: UUID, message: str) -> None:
        """End a run as cancelled, unless it has ended."""

        async def force() -> None:
            run = await self._client.read_flow_run(flow_run_id)
            if run.state is not None and not run.state.is_final():
                cancelled: State[Any] = Cancelled(message=message)
                await self._client.set_flow_run_state(flow_run_id, cancelled, force=True)

        await self._make_sure(force)

    async def run_again(
        self, flow_run_id: UUID, message: str, *, only_in_state: UUID | None = None
    ) -> None:
        """Give a run back to its queue, unless it has ended."""
        await self._reschedule(flow_run_id, AwaitingRetry(message=message), only_in_state)

    async def wait_again(self, flow_run: FlowRun, message: str) -> None:
        """Give a run that was claimed back to where it was in its queue.

        Args:
            flow_run: as it was listed, but with the state of the claim.
            message: why.
        """
        if flow_run.state is None:
            raise ValueError("a run without a state is not claimed")
        waiting: State[Any] = Scheduled(
            scheduled_time=flow_run.next_scheduled_start_time, message=message
        )
        await self._reschedule(flow_run.id, waiting, flow_run.state.id)

    async def _reschedule(
        self, flow_run_id: UUID, waiting: State[Any], only_in_state: UUID | None
    ) -> None:
        async def reschedule() -> None:
            run = await self._client.read_flow_run(flow_run_id)
            if run.state is None or run.state.is_final() or run.state.is_cancelling():
                return
            if only_in_state not in (None, run.state.id):
                return
            if run.state.is_pending() and await self._undo(
                flow_run_id, run.state, where=State.is_final
            ):
                # whoever claimed it after its end did not get to undo that
                return
            policy = run.empirical_policy
            if policy.retry_type == "in_process":
                # Prefect hides such runs from workers: their process was to retry them
                policy = policy.model_copy(update={"retry_type": "reschedule"})
                await self._client.update_flow_run(flow_run_id, empirical_policy=policy)
            state = await propose_state(self._client, waiting, flow_run_id=flow_run_id)
            # it may have ended since it was read
            await self._undo(flow_run_id, state, where=State.is_final)

        await self._make_sure(reschedule)

    async def read_ended_from_outside(self, flow_run_ids: Collection[UUID]) -> list[FlowRun]:
        """Those of the runs that somebody cancels or has cancelled."""
        return await self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                id=FlowRunFilterId(any_=list(flow_run_ids)),
                state=FlowRunFilterState(
                    type=FlowRunFilterStateType(any_=[StateType.CANCELLING, StateType.CANCELLED]),
                ),
            ),
            sort=FlowRunSort.ID_DESC,
        )

    async def read_unfinished_runs(self) -> list[FlowRun]:
        """Runs of the pool that some worker has claimed and that have not ended."""
        claimed = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)
        states = FlowRunFilterState.model_validate(
            {
                "operator": Operator.or_,
                "type": {"any_": claimed},
                # its process waits to run it again, and Prefect gives it to no other
                "name": {"any_": ["AwaitingRetry"]},
            }
        )
        return [
            run
            for run in await self._read_all(FlowRunFilter(state=states))
            if run.state_type in claimed or run.empirical_policy.retry_type == "in_process"
        ]

    async def read_last_claim(self, flow_run_id: UUID) -> Owner | None:
        """Who claimed the run last, from the history of its states."""
        states = await self._client.read_flow_run_states(flow_run_id)
        pending = [state for state in states if state.type == StateType.PENDING]
        newest = max(pending, key=lambda state: state.timestamp, default=None)
        return find_owner(newest.message) if newest else None

    async def read_workers(self) -> dict[str, Worker]:
        """The pool's workers, by their names, as Prefect has heard of them."""
        try:
            workers = await self._client.read_workers_for_work_pool(
                self._work_pool, offset=0, limit=PAGE_SIZE
            )
        except httpx.HTTPStatusError as error:
            if is_missing(error):
                # the pool was deleted, and what Prefect knew of its workers with it
                return {}
            raise
        return {worker.name: worker for worker in workers}

    def _scheduled_before(self, moment: datetime) -> FlowRunFilter:
        return FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
            next_scheduled_start_time=FlowRunFilterNextScheduledStartTime(
                before_=DateTime.fromtimestamp(moment.timestamp(), UTC)
            ),
        )

    def _queue_filter(self) -> WorkQueueFilter | None:
        if not self._work_queues:
            return None
        return WorkQueueFilter(name=WorkQueueFilterName(any_=self._work_queues))

    def _pool_filter(self) -> WorkPoolFilter:
        return WorkPoolFilter(name=WorkPoolFilterName(any_=[self._work_pool]))

    async def _read_all(self, flow_run_filter: FlowRunFilter) -> list[FlowRun]:
        found: list[FlowRun] = []
        while True:
            page = await self._client.read_flow_runs(
                flow_run_filter=flow_run_filter,
                work_pool_filter=self._pool_filter(),
                sort=FlowRunSort.ID_DESC,
                limit=PAGE_SIZE,
                offset=len(found),
            )
            found += page
            if len(page) < PAGE_SIZE:
                return found

    async def _make_sure[T](self, call: Callable[[], Awaitable[T]]) -> T | None:
        give_up_at = time.monotonic() + self._outage_seconds
        while True:
            try:
                return await call()
            except Abort as refusal:
                self._logger.debug("Prefect refuses a state: %s", refusal)
                return None
            except ObjectNotFound:
                return None
            except httpx.HTTPError as error:
                if not is_outage(error) or time.monotonic() > give_up_at:
                    raise
            await asyncio.sleep(RETRY_SECONDS)


def find_replaced(state: State[Any], others: Sequence[State[Any]]) -> State[Any] | None:
    """The state of a flow run that `state` took the place of.

    The newest one need not be it: a state has the time at which it was asked for, and may
    have waited for the database while the run went on. A pending one tells by its time,
    which is that of the scheduled state, and missing after an end.

    Args:
        state: of a flow run.
        others: its other states.
    """
    if state.is_pending():
        scheduled_for = state.state_details.scheduled_time
        others = [
            other
            for other in others
            if (
                other.is_final()
                if scheduled_for is None
                else other.is_scheduled() and other.state_details.scheduled_time == scheduled_for
            )
        ]
    return max(others, key=lambda other: other.timestamp, default=None)
