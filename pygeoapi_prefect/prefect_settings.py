"""Settings of Prefect that hold for one block of code."""

import threading
from collections.abc import Mapping
from typing import Any

from prefect.context import SettingsContext, get_settings_context
from prefect.settings import temporary_settings
from prefect.settings.legacy import Setting


class SettingsOverride:
    """Makes contexts in which some of Prefect's settings have other values.

    `temporary_settings` validates all settings anew, which takes longer than the calls
    that it would be around here: about 20 ms. This does so once, and again only where it is
    called under other settings than before.

    Args:
        values: The other values, by setting.
    """

    def __init__(self, values: Mapping[Setting, Any]) -> None:
        self._values = dict(values)
        self._lock = threading.Lock()
        self._made: tuple[SettingsContext, SettingsContext] | None = None

    def __call__(self) -> SettingsContext:
        """Return a context for one ``with`` statement."""
        current = get_settings_context()
        with self._lock:
            if self._made is None or self._made[0] is not current:
                with temporary_settings(self._values):
                    self._made = current, get_settings_context()
            # a context is entered once only, and threads enter theirs at the same time
            return self._made[1].model_copy()
