"""A real dataset, over HTTP: the lakes of the world over a global temperature forecast."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio  # type: ignore[import-untyped]
import shapely

from .conftest import REPOSITORY, Service

DATA = REPOSITORY.parent / "shared" / "data"
SAMPLES_PER_SIDE = 12

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason="the shared data (lakes, GRIB) are not beside the checkout"
)


@pytest.fixture(scope="module")
def lakes() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((DATA / "ne_110m_lakes.geojson").read_bytes())
    return content


@pytest.fixture(scope="module")
def grib() -> Path:
    return next(DATA.glob("CMC_glb_TMP_*.grib2"))


@pytest.fixture(scope="module")
def expected(lakes: dict[str, Any], grib: Path) -> list[tuple[float, float]]:
    """Count and mean of each lake, from points: which lie in it, and what pixel they hit."""
    with rasterio.open(grib) as dataset:
        values, transform = dataset.read(1), dataset.transform
    steps = (np.arange(SAMPLES_PER_SIDE) + 0.5) / SAMPLES_PER_SIDE
    figures = []
    for feature in lakes["features"]:
        lake = shapely.from_geojson(json.dumps(feature["geometry"]))
        west, south, east, north = lake.bounds
        first_column = int((west - transform.c) / transform.a)
        last_column = int((east - transform.c) / transform.a)
        first_row = int((north - transform.f) / transform.e)
        last_row = int((south - transform.f) / transform.e)
        columns = np.add.outer(np.arange(first_column, last_column + 1), steps).ravel()
        rows = np.add.outer(np.arange(first_row, last_row + 1), steps).ravel()
        column, row = (grid.ravel() for grid in np.meshgrid(columns, rows))
        inside = shapely.contains_xy(
            lake, transform.c + column * transform.a, transform.f + row * transform.e
        )
        hit = values[row[inside].astype(int), column[inside].astype(int)]
        figures.append((hit.size / SAMPLES_PER_SIDE**2, float(hit.mean())))
    return figures


@pytest.mark.parametrize("prefer", ["wait=600", "respond-async"])
def test_the_mean_temperature_of_each_lake_is_what_its_pixels_say(
    service: Service,
    lakes: dict[str, Any],
    grib: Path,
    expected: list[tuple[float, float]],
    prefer: str,
) -> None:
    raster = {
        "value": base64.b64encode(grib.read_bytes()).decode(),
        "mediaType": "application/wmo-GRIB2",
        "encoding": "base64",
    }

    response = service.execute(
        "zonal-statistics",
        {"zones": lakes, "raster": raster},
        prefer=prefer,
        outputs={"statistics": {}},
    )
    if prefer == "respond-async":
        assert response.status_code == 201, response.text
        job = service.path_of(response.headers["Location"])
        assert service.ended(job)["status"] == "successful"
        response = service.client.get(f"{job}/results")

    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == "application/geo+json"
    features = response.json()["features"]
    assert [feature["geometry"] for feature in features] == [
        feature["geometry"] for feature in lakes["features"]
    ]
    for feature, (count, mean) in zip(features, expected, strict=True):
        assert feature["properties"]["count"] == pytest.approx(count, rel=0.02, abs=0.1)
        assert feature["properties"]["mean"] == pytest.approx(mean, abs=0.05)
