"""Settings of Prefect for one block of code."""

import threading
from concurrent.futures import ThreadPoolExecutor

from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from pygeoapi_prefect.prefect_settings import SettingsOverride

OVERRIDE = SettingsOverride({PREFECT_CLIENT_MAX_RETRIES: 0})


def test_values_hold_inside_the_block_alone() -> None:
    before = PREFECT_CLIENT_MAX_RETRIES.value()
    for _ in range(2):
        with OVERRIDE():
            assert PREFECT_CLIENT_MAX_RETRIES.value() == 0
        assert PREFECT_CLIENT_MAX_RETRIES.value() == before != 0


def test_other_settings_are_those_of_the_moment() -> None:
    for url in ("http://one.example/api", "http://two.example/api"):
        with temporary_settings({PREFECT_API_URL: url}), OVERRIDE():
            assert (PREFECT_API_URL.value(), PREFECT_CLIENT_MAX_RETRIES.value()) == (url, 0)


def test_threads_are_inside_at_the_same_time() -> None:
    barrier = threading.Barrier(4, timeout=120)

    def look() -> int | None:
        with OVERRIDE():
            barrier.wait()
            value: int | None = PREFECT_CLIENT_MAX_RETRIES.value()
            return value

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: look(), range(4))) == [0, 0, 0, 0]
