"""Threads beside requests and jobs that speak to the Prefect API."""

import threading
from collections.abc import Callable

from prefect.context import SettingsContext


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
