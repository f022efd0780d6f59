"""Progress where there is no Prefect server: in a flow's own unit test."""

import logging

import pytest

from pygeoapi_prefect import report_progress


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
