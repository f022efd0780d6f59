"""Progress where there is no Prefect server: in a flow's own unit test, and while it is away."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, Self
from uuid import UUID, uuid4

import httpx
import pytest

from pygeoapi_prefect import progress, report_progress
from pygeoapi_prefect.jobs import PROGRESS_LABEL
from pygeoapi_prefect.progress import _Report, _Sender

DEADLINE_SECONDS = 60.0


class Prefect:
    """What a sender asks of Prefect's client, and the clients that it makes."""

    def __init__(self, answer: Callable[[], None] = lambda: None) -> None:
        self._answer = answer
        self.clients = 0
        self.percents: list[float] = []
        self.bars: list[float] = []
        self.is_closing = threading.Event()
        self.may_close = threading.Event()
        self.may_close.set()

    def __enter__(self) -> Self:
        self.clients += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.is_closing.set()
        assert self.may_close.wait(DEADLINE_SECONDS)

    def read_flow_run(self, _: UUID) -> SimpleNamespace:
        return SimpleNamespace(parent_task_run_id=None)

    def update_flow_run_labels(self, _: UUID, labels: Mapping[str, Any]) -> None:
        self._answer()
        self.percents.append(labels[PROGRESS_LABEL])

    def create_artifact(self, artifact: Any) -> SimpleNamespace:
        self.bars.append(artifact.data)
        return SimpleNamespace(id=uuid4())

    def update_artifact(self, _: UUID, artifact: Any) -> None:
        self.bars.append(artifact.data)


def test_one_thread_sends_though_the_last_one_still_closes_its_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prefect, sender, run_id = Prefect(), _Sender(), uuid4()
    monkeypatch.setattr(progress, "get_client", lambda **_: prefect)
    monkeypatch.setattr(progress, "IDLE_SECONDS", 0.01)
    prefect.may_close.clear()
    sender.report(run_id, _Report(10, None))
    assert prefect.is_closing.wait(DEADLINE_SECONDS)
    monkeypatch.setattr(progress, "IDLE_SECONDS", 1.0)

    sender.report(run_id, _Report(20, None))
    prefect.may_close.set()
    for percent in (30, 40):
        sender.flush(DEADLINE_SECONDS)
        sender.report(run_id, _Report(percent, None))
    sender.flush(DEADLINE_SECONDS)

    assert prefect.percents == [10, 20, 30, 40]
    assert prefect.bars[-1] == 40
    assert prefect.clients == 2


def test_at_the_end_of_a_job_a_short_outage_is_outlasted(monkeypatch: pytest.MonkeyPatch) -> None:
    over_at = time.monotonic() + 0.3

    def answer() -> None:
        if time.monotonic() < over_at:
            raise httpx.ConnectError("away")

    prefect, sender = Prefect(answer), _Sender()
    monkeypatch.setattr(progress, "get_client", lambda **_: prefect)
    monkeypatch.setattr(progress, "IDLE_SECONDS", 0.01)

    sender.report(uuid4(), _Report(100, None))
    sender.flush(DEADLINE_SECONDS)

    assert prefect.percents == [100]


def test_a_report_outside_a_flow_run_does_nothing(caplog: pytest.LogCaptureFixture) -> None:
    report_progress(10, "alone")
    assert not caplog.records


@pytest.mark.parametrize("percent", [float("nan"), "half", None])
def test_a_report_that_is_none_is_logged_and_not_raised(
    percent: float, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        report_progress(percent)
    assert "could not be reported" in caplog.text
