"""The map: what is on it, and that it can be drawn of whatever was computed."""

import io
from collections.abc import Callable
from typing import Any

import matplotlib.image
import numpy as np
import numpy.typing as npt
import pytest
from affine import Affine

from pygeoapi_prefect.examples.zonal.drawing import draw_map
from pygeoapi_prefect.examples.zonal.raster import open_band
from pygeoapi_prefect.examples.zonal.statistics import as_geojson, compute_statistics
from pygeoapi_prefect.examples.zonal.zones import read_zones

Make = Callable[..., Any]


def rectangle(west: float, south: float, east: float, north: float) -> dict[str, Any]:
    ring = [(west, south), (east, south), (east, north), (west, north), (west, south)]
    return {"type": "Polygon", "coordinates": [ring]}


def draw(zones: bytes, raster: bytes) -> bytes:
    with open_band(raster, 1) as band:
        read = read_zones(zones)
        return draw_map(as_geojson(read, compute_statistics(read, band)), band)


def colourful(png: bytes) -> npt.NDArray[np.bool_]:
    """Which pixels of the map itself are neither grey nor the colour bar beside it."""
    image = matplotlib.image.imread(io.BytesIO(png))[:, :, :3]
    is_colourful = np.ptp(image, axis=2) > 0.1
    # the colour bar is in the last inches on the right
    return np.asarray(is_colourful[:, : image.shape[1] - 190])


GLOBE = Affine(5, 0, -180, 0, -5, 90)


@pytest.mark.parametrize("west", [-180, 0])
def test_a_zone_across_the_antimeridian_is_drawn_in_one_piece_and_large(
    make_raster: Make, make_zones: Make, west: float
) -> None:
    values = np.arange(36 * 72, dtype=np.float32).reshape(36, 72)
    raster = make_raster(values, transform=Affine(5, 0, west, 0, -5, 90))
    png = draw(make_zones(rectangle(170, -15, -170, 15)), raster)
    columns = colourful(png).any(axis=0).nonzero()[0]
    gaps = np.diff(columns)
    # the label is the only thing on it that is not colourful
    assert gaps.max() == 1
    assert len(columns) > 150


def test_a_tiny_zone_on_a_large_map_gets_a_dot(make_raster: Make, make_zones: Make) -> None:
    raster = make_raster(np.random.default_rng(1).random((36, 72)), transform=GLOBE)
    far_apart = make_zones(rectangle(-100, 40, -99.9, 40.1), rectangle(100, -40, 100.1, -39.9))
    assert colourful(draw(far_apart, raster)).sum() > 2 * 60


def test_a_zone_within_another_stays_visible(make_raster: Make, make_zones: Make) -> None:
    raster = make_raster(np.tile(np.arange(10.0), (10, 1)))
    small, large = rectangle(1, 4, 3, 6), rectangle(0, 0, 10, 10)
    darkest = np.array([68, 1, 84]) / 255  # of the colour map: the lower of two means
    for zones in (make_zones(small, large), make_zones(large, small)):
        image = matplotlib.image.imread(io.BytesIO(draw(zones, raster)))[:, :-190, :3]
        assert (np.abs(image - darkest) < 0.01).all(axis=2).sum() > 1000


@pytest.mark.parametrize(
    "name", ["$x_1$ & {y}", "<b>", "日本", "x" * 500, "", "two\nlines"], ids=repr
)
def test_any_name_can_be_on_the_map(make_raster: Make, make_zones: Make, name: str) -> None:
    zones = make_zones(rectangle(1, 1, 9, 9)).replace(b"zone 1", name.encode())
    zones = zones.replace(b"\n", b"\\n")
    assert draw(zones, make_raster(np.arange(100.0).reshape(10, 10))).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("values", "geometries"),
    [
        (np.ones((10, 10)), []),
        (np.ones((10, 10)), [None]),
        (np.ones((10, 10)), [rectangle(100, 50, 110, 60)]),
        (np.full((10, 10), np.nan), [rectangle(1, 1, 3, 3)]),
        (np.ones((1, 1)), [rectangle(0, 9, 0.5, 10)]),
        (np.ones((1, 400)), [rectangle(0, 9, 400, 10)]),
        (np.ones((400, 1)), [rectangle(0, -80, 1, 10)]),
        (np.full((10, 10), 1e-300), [rectangle(1, 1, 3, 3)]),
        (np.full((10, 10), 1e300), [rectangle(1, 1, 3, 3)]),
    ],
    ids=["no zones", "no geometry", "outside", "no data", "one pixel", "row", "column", "small",
         "large"],
)  # fmt: skip
def test_there_is_a_map_of_everything(
    make_raster: Make, make_zones: Make, values: npt.NDArray[Any], geometries: list[Any]
) -> None:
    assert draw(make_zones(*geometries), make_raster(values)).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "transform",
    [
        Affine(1000, 0, 500_000, 0, -1000, 5_010_000),
        Affine(1000, 0, 500_000, 0, 1000, 5_000_000),
        Affine(800, 600, 500_000, 600, -800, 5_004_000),
    ],
    ids=["north-up", "south-up", "rotated"],
)
def test_projected_rasters_are_drawn_in_their_projection(
    make_raster: Make, make_zones: Make, transform: Affine
) -> None:
    raster = make_raster(np.arange(100.0).reshape(10, 10), transform=transform, crs="EPSG:32633")
    assert colourful(draw(make_zones(rectangle(15.03, 45.17, 15.09, 45.22)), raster)).any()


def test_the_same_request_gives_the_same_map(make_raster: Make, make_zones: Make) -> None:
    raster, zones = make_raster(np.arange(100.0).reshape(10, 10)), make_zones(rectangle(1, 1, 4, 4))
    assert draw(zones, raster) == draw(zones, raster)
