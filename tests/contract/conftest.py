"""The real things that fakes are held against."""

import socket
from collections.abc import Iterator

import prefect.context
import pytest
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker


@pytest.fixture(scope="module")
def prefect_api(prefect_server: str) -> Iterator[str]:
    """The Prefect server, as every thread of this process finds it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", prefect_server)
        # `temporary_settings` would not reach threads
        prefect.context.refresh_global_settings_context()
        yield prefect_server
        # what is still to be sent would be tried for a minute after the server is gone
        APILogWorker.drain_all()
        EventsWorker.drain_all()
    prefect.context.refresh_global_settings_context()


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """A port that refuses connections, and that nobody else gets meanwhile."""
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        yield unheard.getsockname()[1]


@pytest.fixture
def refusing_prefect_api(refusing_port: int) -> Iterator[None]:
    """A Prefect API that refuses connections, as every thread of this process finds it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{refusing_port}/api")
        patch.setenv("PREFECT_CLIENT_MAX_RETRIES", "0")
        prefect.context.refresh_global_settings_context()
        yield
    prefect.context.refresh_global_settings_context()
