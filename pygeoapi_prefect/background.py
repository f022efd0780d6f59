"""Threads beside requests and jobs that speak to the Prefect API."""

import logging
import os
import threading
from collections.abc import Callable
from functools import partial

from prefect.context import SettingsContext

from pygeoapi_prefect.errors import BackendUnavailable

logger = logging.getLogger(__name__)


def start_thread(target: Callable[[], None], *, name: str, daemon: bool) -> threading.Thread:
    """Run a function in a thread that has the settings of Prefect that are in force here.

    It has nothing else of the caller's context: that of a flow run holds a client, which
    Prefect closes when the run ends.
    """
    context = SettingsContext.get()

    def run() -> None:
        if context is None:
            target()
        else:
            with SettingsContext(profile=context.profile, settings=context.settings):
                target()

    thread = threading.Thread(target=run, name=name, daemon=daemon)
    thread.start()
    return thread


class BackgroundLoop:
    """A function that is called again and again, in a thread of each process that starts it.

    What goes wrong in a call is logged, and is no reason not to make the next one.

    Args:
        step: Returns after how many seconds it is due again.
        name: What the thread is called.
        first_seconds: Before the first call.
        retry_seconds: After a call that went wrong.
    """

    def __init__(
        self,
        step: Callable[[], float],
        *,
        name: str,
        first_seconds: float = 0.0,
        retry_seconds: float,
    ) -> None:
        self._step = step
        self._name = name
        self._first_seconds = first_seconds
        self._retry_seconds = retry_seconds
        self._lock = threading.Lock()
        self._is_due = threading.Event()
        self._is_stopped = threading.Event()
        self._running: tuple[int, threading.Thread] | None = None

    def start(self) -> None:
        """Begin, unless it goes on in this process already."""
        with self._lock:
            # threads do not survive a fork
            if self._running is not None and self._running[0] == os.getpid():
                return
            self._is_due, self._is_stopped = threading.Event(), threading.Event()
            run = partial(self._run, self._is_due, self._is_stopped)
            thread = start_thread(run, name=self._name, daemon=True)
            self._running = os.getpid(), thread

    def wake(self) -> None:
        """Make the next call soon; begin if need be."""
        self.start()
        self._is_due.set()

    def stop(self) -> None:
        """Make no more calls, and wait for the end of one that is being made."""
        with self._lock:
            running, self._running = self._running, None
        if running is None or running[0] != os.getpid():
            return
        self._is_stopped.set()
        self._is_due.set()
        running[1].join()

    def _run(self, is_due: threading.Event, is_stopped: threading.Event) -> None:
        pause_seconds = self._first_seconds
        while True:
            is_due.wait(pause_seconds)
            is_due.clear()
            if is_stopped.is_set():
                return
            try:
                pause_seconds = self._step()
            except BackendUnavailable:
                pause_seconds = self._retry_seconds  # logged where it happened
            except Exception:
                # nobody listens to this thread
                logger.exception("%s: something went wrong, and is tried again", self._name)
                pause_seconds = self._retry_seconds
