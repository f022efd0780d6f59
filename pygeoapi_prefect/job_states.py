"""Learns from Prefect's events which jobs have ended, for those who wait or look often.

The Prefect server announces each change of state, about when it answers the call that
makes it. Asking it costs it as much as a step of the job itself.
"""

import asyncio
import contextlib
import dataclasses
import logging
import os
import threading
import time
import uuid
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from typing import Final

from prefect.client.schemas.objects import TERMINAL_STATES, StateType
from prefect.events import Event
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter, EventRelatedFilter

from pygeoapi_prefect.background import start_thread
from pygeoapi_prefect.jobs import JOB_TAG, Job

logger = logging.getLogger(__name__)

RECONNECT_SECONDS: Final = 5.0
SETTLE_SECONDS: Final = 1.0
"""After the beginning of a subscription, what changed just then may not have been announced."""
IDLE_SECONDS: Final = 60.0
"""How long events are listened to after somebody last wanted to know."""
KNOWN_JOBS: Final = 10_000
"""Of so many jobs, the last ones to end, the end is remembered."""
LOOK_SECONDS: Final = 0.5
"""How long what is known of a job is known, if nothing else is announced."""
_ENDS: Final = frozenset({*TERMINAL_STATES, StateType.CANCELLING})


class JobStates:
    """The ends of all jobs, as they are announced to this process.

    It listens from when somebody first wants to know, with one subscription.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: defaultdict[uuid.UUID, list[threading.Event]] = defaultdict(list)
        self._ended: OrderedDict[uuid.UUID, None] = OrderedDict()
        self._listening_process: int | None = None
        self._listening_since: float | None = None
        self._wanted_at = 0.0
        self._end_subscription: Callable[[], object] | None = None

    @property
    def are_announced(self) -> bool:
        """Whether events arrive now. While they do not, whoever wants to know has to ask."""
        return self._listening_since is not None and self._listening_process == os.getpid()

    def goes_on(self, flow_run_id: uuid.UUID, since: float) -> bool:
        """Tell whether a run that had not ended surely has not ended or been dismissed since.

        Args:
            flow_run_id: The run.
            since: When it was asked for, as from `time.monotonic`.
        """
        self._want()
        with self._lock:
            began = self._listening_since
            is_told = began is not None and since >= began + SETTLE_SECONDS
            return is_told and flow_run_id not in self._ended

    @contextlib.contextmanager
    def end_of(self, flow_run_id: uuid.UUID) -> Iterator[threading.Event]:
        """Give an event that is set when a run ends, while the block runs.

        It is not for a run that has ended before.
        """
        ended = threading.Event()
        with self._lock:
            self._waiting[flow_run_id].append(ended)
        try:
            self._want()
            yield ended
        finally:
            with self._lock:
                self._waiting[flow_run_id].remove(ended)
                if not self._waiting[flow_run_id]:
                    del self._waiting[flow_run_id]

    def close(self) -> None:
        """End the subscription; who wants to know next begins another one."""
        with self._lock:
            if self._listening_process == os.getpid() and self._end_subscription is not None:
                with contextlib.suppress(RuntimeError):  # it has ended by itself
                    self._end_subscription()
            self._forget_subscription()

    def _want(self) -> None:
        with self._lock:
            self._wanted_at = time.monotonic()
            # servers fork after they have loaded the application: threads stay behind
            if self._listening_process != os.getpid():
                self._forget_subscription()
                self._listening_process = os.getpid()
                start_thread(self._listen, name="job-states", daemon=True)

    def _forget_subscription(self) -> None:
        self._listening_process = self._listening_since = self._end_subscription = None

    def _listen(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(self._subscribe())

    async def _subscribe(self) -> None:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None  # noqa: S101  what runs a coroutine is a task
        with self._lock:
            if self._listening_process is None:
                return  # closed before it began
            self._end_subscription = lambda: loop.call_soon_threadsafe(task.cancel)
        while True:
            try:
                await self._pass_on_events()
            except Exception as error:  # Prefect raises a bare one where it cannot log in
                logger.info("no events from the Prefect API: %r", error)
            with self._lock:
                if self._is_idle:
                    self._forget_subscription()
                    return
                self._listening_since = None
            await asyncio.sleep(RECONNECT_SECONDS)

    @property
    def _is_idle(self) -> bool:
        return time.monotonic() - self._wanted_at > IDLE_SECONDS and not self._waiting

    async def _pass_on_events(self) -> None:
        wanted = EventFilter(
            event=EventNameFilter(prefix=["prefect.flow-run."]),
            related=EventRelatedFilter(id=[f"prefect.tag.{JOB_TAG}"]),
        )
        # it would retry by itself, but say nothing meanwhile
        async with get_events_subscriber(filter=wanted, reconnection_attempts=0) as events:
            self._listening_since = time.monotonic()
            async for event in events:
                self._note(event)
                if self._is_idle:
                    return

    def _note(self, event: Event) -> None:
        state_type = event.resource.get("prefect.state-type")
        if state_type is None:
            return  # a heartbeat
        run_id = uuid.UUID(event.resource.id.rpartition(".")[2])
        with self._lock:
            # authors name states as they like, but cannot make up types
            if state_type not in _ENDS:
                # an operator may have it run again
                self._ended.pop(run_id, None)
                return
            self._ended[run_id] = None
            if len(self._ended) > KNOWN_JOBS:
                self._ended.popitem(last=False)
            if state_type in TERMINAL_STATES:
                for ended in self._waiting.get(run_id, ()):
                    ended.set()


@dataclasses.dataclass(frozen=True)
class _Look:
    job: Job
    began: float

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() - self.began < LOOK_SECONDS


class RecentJobs:
    """Jobs as they were a moment ago, as long as nothing else has been announced of them.

    Args:
        states: What is announced.
    """

    def __init__(self, states: JobStates) -> None:
        self._states = states
        self._lock = threading.Lock()
        self._looks: OrderedDict[str, _Look] = OrderedDict()

    def get(self, job_id: str) -> Job | None:
        """Return a job, unless the Prefect server has to be asked for it."""
        with self._lock:
            look = self._looks.get(job_id)
        if look is None or not look.is_fresh:
            return None
        return look.job if self._states.goes_on(look.job.flow_run_id, look.began) else None

    def remember(self, job: Job, began: float) -> None:
        """Keep a job that has not ended.

        Args:
            job: The job.
            began: When it was asked for, as from `time.monotonic`.
        """
        with self._lock:
            self._looks[job.job_id] = _Look(job, began)
            self._looks.move_to_end(job.job_id)
            while self._looks and not next(iter(self._looks.values())).is_fresh:
                self._looks.popitem(last=False)

    def forget(self, job: Job) -> None:
        """Forget a job that is changed now."""
        with self._lock:
            self._looks.pop(job.job_id, None)
