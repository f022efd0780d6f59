"""Listens to what Prefect says about a work pool: its runs, deployments and queues."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from uuid import UUID

from prefect.events import Event
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventAnyResourceFilter, EventFilter, EventNameFilter

RECONNECT_SECONDS = 1.0
# Each attempt costs the server a call, and a server without events never answers one well
RECONNECT_SECONDS_AT_MOST = 30.0
_RUN_EVENT = "prefect.flow-run."
# the names of states; those of type SCHEDULED mean that there is work
WORK_EVENTS = frozenset(
    {"Scheduled", "Late", "AwaitingRetry", "AwaitingConcurrencySlot", "Resuming"}
)
# a worker has claimed the run
TAKEN_EVENTS = frozenset({"Pending"})
END_EVENTS = frozenset({"Cancelling", "Cancelled"})
SUSPEND_EVENTS = frozenset({"Suspended"})
_DEPLOYMENT_EVENTS = frozenset({"prefect.deployment.updated", "prefect.deployment.deleted"})


class PoolChange(Enum):
    """What can happen to a work pool or one of its queues."""

    configured = auto()
    """Limits or other settings have changed, or it was paused."""

    served = auto()
    """It is or is not served any more; also the end of a pause."""


_POOL_EVENTS = {
    f"prefect.{kind}.{name}": change
    for kind in ("work-pool", "work-queue")
    for name, change in {
        "updated": PoolChange.configured,
        "paused": PoolChange.configured,
        "created": PoolChange.configured,
        "deleted": PoolChange.configured,
        "ready": PoolChange.served,
        "not-ready": PoolChange.served,
    }.items()
}


@dataclass(frozen=True)
class RunEvent:
    """A flow run has got a new state.

    Attributes:
        flow_run_id: of the run.
        work_queue_id: of its queue; None where Prefect does not say it.
        state: name of the state.
        state_id: of the state, which may not be there to be read yet.
        message: of the state.
    """

    flow_run_id: UUID
    work_queue_id: UUID | None
    state: str
    state_id: UUID
    message: str


class PoolEvents:
    """One subscription to the events of a work pool, renewed for ever.

    Prefect repeats the last minute of events after each reconnection.

    Args:
        work_pool_id: of the pool.
        on_run: gets each event about a flow run.
        on_deployment: gets the ids of deployments that are changed or deleted.
        on_pool: is told what happens to the pool or its queues.
        on_connection: is called when the subscription is up again.
        logger: of the worker.

    Attributes:
        connected_since: as from `time.monotonic`; None while no events arrive.
    """

    def __init__(
        self,
        *,
        work_pool_id: UUID,
        on_run: Callable[[RunEvent], None],
        on_deployment: Callable[[UUID], None],
        on_pool: Callable[[PoolChange], None],
        on_connection: Callable[[], None],
        logger: logging.Logger | logging.LoggerAdapter[logging.Logger],
    ) -> None:
        self._work_pool_id = work_pool_id
        self._on_run = on_run
        self._on_deployment = on_deployment
        self._on_pool = on_pool
        self._on_connection = on_connection
        self._logger = logger
        self.connected_since: float | None = None

    async def listen(self) -> None:
        """Pass events on until cancelled."""
        warned = False
        pause = RECONNECT_SECONDS
        while True:
            try:
                await self._listen_once()
            except Exception as error:  # Prefect raises a bare one where it cannot log in
                if self.connected_since is not None:
                    warned, pause = False, RECONNECT_SECONDS
                if not warned:
                    self._logger.warning(
                        "No events from the Prefect API (%s): polling until they come back",
                        type(error).__name__,
                    )
                warned = True
            else:
                warned, pause = False, RECONNECT_SECONDS
            finally:
                self.connected_since = None
            await asyncio.sleep(pause)
            pause = min(2 * pause, RECONNECT_SECONDS_AT_MOST)

    async def _listen_once(self) -> None:
        states = sorted(WORK_EVENTS | TAKEN_EVENTS | END_EVENTS | SUSPEND_EVENTS)
        names = [_RUN_EVENT + state for state in states]
        names += sorted(_DEPLOYMENT_EVENTS | _POOL_EVENTS.keys())
        pool = EventAnyResourceFilter(id=[f"prefect.work-pool.{self._work_pool_id}"])
        wanted = EventFilter(event=EventNameFilter(name=names), any_resource=pool)
        # it retries by itself, but says nothing meanwhile: polling must take over at once
        async with get_events_subscriber(filter=wanted, reconnection_attempts=0) as events:
            self.connected_since = time.monotonic()
            self._on_connection()
            async for event in events:
                self._pass_on(event)

    def _pass_on(self, event: Event) -> None:
        if (change := _POOL_EVENTS.get(event.event)) is not None:
            self._on_pool(change)
            return
        about = _find_id(event.resource.id)
        if about is None:
            self._logger.warning("Prefect sent an event about nothing: %s", event.resource.id)
        elif event.event in _DEPLOYMENT_EVENTS:
            self._on_deployment(about)
        else:
            queues = (related.id for related in event.related if related.role == "work-queue")
            self._on_run(
                RunEvent(
                    flow_run_id=about,
                    work_queue_id=_find_id(next(queues, "")),
                    state=event.event.removeprefix(_RUN_EVENT),
                    # Prefect gives both the same id
                    state_id=event.id,
                    message=event.resource.get("prefect.state-message") or "",
                )
            )


def _find_id(resource_id: str) -> UUID | None:
    try:
        return UUID(resource_id.rpartition(".")[2])
    except ValueError:
        return None
