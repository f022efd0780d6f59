"""Tests of the process: its parts, and whole jobs as clients get them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from my_processes import TrackLengthProcessor, measure
from prefect.testing.utilities import prefect_test_harness

from pygeoapi_prefect.errors import InvalidRequest
from pygeoapi_prefect.testing import run_process

ONE_DEGREE = {"type": "LineString", "coordinates": [[0, 0], [1, 0]]}


@pytest.fixture(scope="session", autouse=True)
def prefect_api() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


def test_a_degree_of_the_equator_is_111_km_long() -> None:
    assert measure.fn(ONE_DEGREE) == pytest.approx(111_319, abs=1)


def test_a_job_has_the_length_as_number_and_in_words(tmp_path: Path) -> None:
    outputs = run_process(TrackLengthProcessor, {"track": ONE_DEGREE}, folder=tmp_path)

    assert outputs == {
        "length": ("application/json", b"111319"),
        "summary": ("text/plain", b"The track is 111.3 km long."),
    }


def test_a_track_that_is_no_geometry_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="track"):
        run_process(TrackLengthProcessor, {"track": {"type": "Line"}}, folder=tmp_path)
