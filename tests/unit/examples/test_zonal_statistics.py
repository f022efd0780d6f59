"""Figures of zonal statistics, held against a computation that shares no code with them.

`counted_by_samples` cuts each pixel into a grid of points, takes each point to longitude and
latitude, and asks for it whether it is in the zone, by crossings of a ray with the outline.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import pytest
from affine import Affine

from pygeoapi_prefect.errors import InvalidRequest
from pygeoapi_prefect.examples.zonal.raster import open_band
from pygeoapi_prefect.examples.zonal.statistics import (
    ZoneStatistics,
    as_csv,
    as_geojson,
    compute_statistics,
)
from pygeoapi_prefect.examples.zonal.zones import read_zones

Make = Callable[..., Any]
Numbers = npt.NDArray[np.float64]
Ring = Sequence[tuple[float, float]]

SAMPLES = 24  # along each side of a pixel
SHARED_DATA = Path(__file__).parents[4] / "shared" / "data"


def polygon(*rings: Ring) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [[*ring, ring[0]] for ring in rings]}


def rectangle(west: float, south: float, east: float, north: float) -> dict[str, Any]:
    return polygon([(west, south), (east, south), (east, north), (west, north)])


def statistics_of(zones: bytes, raster: bytes) -> list[ZoneStatistics]:
    with open_band(raster, 1) as band:
        return compute_statistics(read_zones(zones), band)


def is_within(rings: Sequence[Ring], x: Numbers, y: Numbers) -> npt.NDArray[np.bool_]:
    """Even-odd rule over all rings: what lies in a hole is crossed twice."""
    inside = np.zeros(x.shape, dtype=bool)
    for ring in rings:
        for (x1, y1), (x2, y2) in zip(ring, [*ring[1:], ring[0]], strict=True):
            if y1 != y2:
                crosses = (y1 > y) != (y2 > y)
                inside ^= crosses & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
    return inside


def counted_by_samples(
    rings: Sequence[Ring], values: Numbers, transform: Affine, crs: str = "EPSG:4326"
) -> dict[str, float]:
    """Statistics of a zone whose rings are continuous in longitude; NaN has no data."""
    rows, columns = values.shape
    steps = (np.arange(SAMPLES) + 0.5) / SAMPLES
    row, column = np.meshgrid(
        (np.arange(rows)[:, None] + steps).ravel(),
        (np.arange(columns)[:, None] + steps).ravel(),
        indexing="ij",
    )
    a, b, c, d, e, f = transform[:6]
    to_globe = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    at = a * column + b * row + c, d * column + e * row + f
    x, y = to_globe.transform(*at)
    # beside the map of a pseudocylindrical projection its inverse gives any place, or none
    again = to_globe.transform(x, y, direction="INVERSE")
    with np.errstate(invalid="ignore"):
        is_on_map = np.isclose(again, at, rtol=1e-6, atol=1e-6).all(axis=0)
    x, y = np.where(is_on_map, x, 0), np.where(is_on_map, y, -99)
    inside = np.zeros(x.shape, dtype=bool)
    for turn in (-360, 0, 360):
        inside |= is_within(rings, x + turn, y)
    weight = inside.reshape(rows, SAMPLES, columns, SAMPLES).mean(axis=(1, 3))
    weight[np.isnan(values)] = 0
    filled = np.nan_to_num(values)
    count = weight.sum()
    mean = (weight * filled).sum() / count
    std = np.sqrt((weight * (filled - mean) ** 2).sum() / count)
    touched = values[weight > 0]
    return {
        "count": float(count),
        "min": float(touched.min()),
        "max": float(touched.max()),
        "mean": float(mean),
        "std": float(std),
    }


def assert_close(found: ZoneStatistics, expected: dict[str, float]) -> None:
    assert found.count == pytest.approx(expected["count"], rel=5e-3)
    assert found.mean == pytest.approx(expected["mean"], abs=0.2)
    assert found.std == pytest.approx(expected["std"], abs=0.2)
    # a pixel of which the zone has less than a sample is touched and not sampled
    assert found.min is not None
    assert found.max is not None
    assert found.min <= expected["min"]
    assert found.max >= expected["max"]


TRIANGLE: Ring = [(2.3, 1.2), (17.7, 4.9), (8.1, 18.4)]
HOLE: Ring = [(8.0, 5.0), (8.0, 9.3), (11.7, 9.3), (11.7, 5.0)]


def test_pixels_count_by_the_part_that_lies_in_the_zone(
    make_raster: Make, make_zones: Make
) -> None:
    raster = make_raster(np.array([[1.0, 2.0], [3.0, 4.0]]), transform=Affine(1, 0, 0, 0, -1, 2))
    (found,) = statistics_of(make_zones(rectangle(0.5, 0.75, 2, 2)), raster)
    # weights 0.5 and 1 above, 0.125 and 0.25 below
    assert found.count == pytest.approx(1.875)
    assert (found.min, found.max) == (1, 4)
    assert found.mean == pytest.approx((0.5 * 1 + 2 + 0.125 * 3 + 0.25 * 4) / 1.875)
    squares = 0.5 * 1 + 4 + 0.125 * 9 + 0.25 * 16
    assert found.mean is not None
    assert found.std == pytest.approx((squares / 1.875 - found.mean**2) ** 0.5)


def test_a_zone_along_pixel_edges_touches_no_neighbours(
    make_raster: Make, make_zones: Make
) -> None:
    # 0.15 and multiples of it are no exact numbers
    values = np.arange(10_000, dtype=np.float64).reshape(100, 100)
    raster = make_raster(values, transform=Affine(0.15, 0, -7.575, 0, -0.15, 7.575))
    for column in range(1, 99, 7):
        west, north = -7.575 + column * 0.15, 7.575 - column * 0.15
        zone = rectangle(west, north - 0.15, west + 0.15, north)
        (found,) = statistics_of(make_zones(zone), raster)
        assert found.min == found.max == values[column, column]
        assert found.count == pytest.approx(1, abs=1e-6)


def test_holes_nodata_and_slanted_edges(make_raster: Make, make_zones: Make, rough: Make) -> None:
    values = rough(20, 20)
    values[6:9, 3:12] = np.nan
    transform = Affine(1, 0, 0, 0, -1, 20)
    raster = make_raster(np.nan_to_num(values, nan=-9999), transform=transform, nodata=-9999)
    found = statistics_of(make_zones(polygon(TRIANGLE), polygon(TRIANGLE, HOLE)), raster)
    assert_close(found[0], counted_by_samples([TRIANGLE], values, transform))
    assert_close(found[1], counted_by_samples([TRIANGLE, HOLE], values, transform))
    assert found[1].count < found[0].count - 10


@pytest.mark.parametrize(
    ("west", "columns"),
    [(-180.0, 72), (-182.5, 72), (0.0, 72), (-2.5, 72), (-180.0, 73), (20.0, 72)],
)
def test_global_rasters_may_begin_anywhere(
    make_raster: Make, make_zones: Make, rough: Make, west: float, columns: int
) -> None:
    values = rough(36, 72)
    values = np.hstack([values, values])[:, :columns]  # the 73rd is the 1st once more
    transform = Affine(5, 0, west, 0, -5, 90)
    raster = make_raster(values, transform=transform)
    shell: Ring = [(161, -43), (201, -31), (174, 22)]
    hole: Ring = [(176, -20), (183, -20), (183, -10), (176, -10)]
    prime: Ring = [(-12, 40), (8, 38), (3, 55)]

    def back(ring: Ring) -> Ring:
        return [(x - 360 if x > 180 else x, y) for x, y in ring]

    cut_in_two = {
        "type": "MultiPolygon",
        "coordinates": [
            rectangle(170, -10, 180, 10)["coordinates"],
            rectangle(-180, -10, -165, 10)["coordinates"],
        ],
    }
    zones = make_zones(
        polygon(shell, hole),
        polygon(back(shell), back(hole)),
        cut_in_two,
        polygon(prime),
        rectangle(-180, -90, 180, 90),
        rectangle(0, -90, 360, 90),
    )
    beyond, jumping, cut, european, world, world_from_greenwich = statistics_of(zones, raster)
    once = values[:, :72]
    expected = counted_by_samples([shell, hole], once, transform)
    assert_close(beyond, expected)
    assert_close(jumping, expected)
    in_one: Ring = [(170, -10), (195, -10), (195, 10), (170, 10)]
    assert_close(cut, counted_by_samples([in_one], once, transform))
    assert cut.count == pytest.approx(25 * 20 / 25)
    assert_close(european, counted_by_samples([prime], once, transform))
    for found in (world, world_from_greenwich):
        assert found.count == pytest.approx(36 * 72)
        assert found.mean == pytest.approx(once.mean())


LOCAL = Affine(4000, 0, 400_000, 0, -4000, 5_600_000)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:32633", LOCAL),
        ("EPSG:32633", Affine(4000, 0, 400_000, 0, 4000, 5_500_000)),  # south-up
        ("EPSG:32633", Affine(3464, 2000, 400_000, 2000, -3464, 5_560_000)),  # rotated
        ("EPSG:3035", Affine(4000, 0, 4_600_000, 0, -4000, 3_050_000)),
        ("EPSG:3857", Affine(6000, 0, 1_540_000, 0, -6000, 6_550_000)),
        ("EPSG:4258", Affine(0.06, 0, 13.7, 0, -0.04, 50.5)),
    ],
)
def test_zones_in_degrees_on_rasters_in_another_crs(
    make_raster: Make, make_zones: Make, rough: Make, crs: str, transform: Affine
) -> None:
    values = rough(25, 30)
    raster = make_raster(values, transform=transform, crs=crs)
    inside: Ring = [(14.1, 49.9), (14.9, 49.95), (14.5, 50.35)]
    partly: Ring = [(13.0, 49.2), (14.6, 49.9), (13.9, 52.0)]
    found = statistics_of(
        make_zones(polygon(inside), polygon(partly), rectangle(100, -30, 101, -29)), raster
    )
    assert_close(found[0], counted_by_samples([inside], values, transform, crs))
    assert_close(found[1], counted_by_samples([partly], values, transform, crs))
    assert found[2] == ZoneStatistics(0, None, None, None, None)


def test_long_edges_bend_on_a_polar_raster(
    make_raster: Make, make_zones: Make, rough: Make
) -> None:
    values = rough(40, 40)
    transform = Affine(150_000, 0, -3_000_000, 0, -150_000, 3_000_000)
    raster = make_raster(values, transform=transform, crs="EPSG:3413")
    cap: Ring = [(-180, 80), (180, 80), (180, 90), (-180, 90)]
    across: Ring = [(150, 65), (200, 65), (200, 75), (150, 75)]
    corner: Ring = [(-60, 62), (30, 62), (30, 84), (-60, 84)]
    found = statistics_of(make_zones(polygon(cap), polygon(across), polygon(corner)), raster)
    for statistics, ring in zip(found, (cap, across, corner), strict=True):
        assert_close(statistics, counted_by_samples([ring], values, transform, "EPSG:3413"))


@pytest.mark.parametrize(
    ("crs", "half_width", "half_height"),
    [
        ("EPSG:3857", 20_037_508.3428, 20_037_508.3428),
        ("EPSG:8857", 17_300_000, 8_400_000),
        ("+proj=moll +lon_0=150", 18_100_000, 9_050_000),
    ],
)
def test_maps_of_the_world_are_torn_where_their_projection_tears(
    make_raster: Make,
    make_zones: Make,
    rough: Make,
    crs: str,
    half_width: float,
    half_height: float,
) -> None:
    values = rough(40, 60)
    transform = Affine(half_width / 30, 0, -half_width, 0, -half_height / 20, half_height)
    raster = make_raster(values, transform=transform, crs=crs)
    across: Ring = [(165, -20), (205, -20), (205, 25), (165, 25)]
    atlantic: Ring = [(-50, -20), (-10, -20), (-10, 25), (-50, 25)]
    found = statistics_of(make_zones(polygon(across), polygon(atlantic)), raster)
    assert_close(found[0], counted_by_samples([across], values, transform, crs))
    assert_close(found[1], counted_by_samples([atlantic], values, transform, crs))


def test_zones_and_raster_in_the_same_projection_meet_exactly(
    make_raster: Make, make_zones: Make, rough: Make
) -> None:
    values = rough(20, 20)
    raster = make_raster(
        values, transform=Affine(10, 0, 500_000, 0, -10, 5_000_200), crs="EPSG:32633"
    )
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    zone = rectangle(500_020, 5_000_100, 500_050, 5_000_160)
    (found,) = statistics_of(make_zones(zone, crs=crs), raster)
    block = values[4:10, 2:5]
    assert found.count == 18
    assert (found.min, found.max) == (block.min(), block.max())
    assert found.mean == pytest.approx(block.mean())
    assert found.std == pytest.approx(block.std())


def test_projected_zones_over_pole_and_antimeridian_on_a_global_raster(
    make_raster: Make, make_zones: Make
) -> None:
    latitudes = np.repeat(np.arange(89.5, -90, -1)[:, None], 360, axis=1)
    raster = make_raster(latitudes, transform=Affine(1, 0, -180, 0, -1, 90))
    crs = {"type": "name", "properties": {"name": "EPSG:3413"}}
    around_the_pole = rectangle(-2_000_000, -2_000_000, 2_000_000, 2_000_000)
    # 135 degrees right of its central meridian of -45 is east, 225 is the antimeridian's side
    beside_the_pole = rectangle(-1_500_000, 1_000_000, -500_000, 2_000_000)
    pole, beside = statistics_of(make_zones(around_the_pole, beside_the_pole, crs=crs), raster)
    assert pole.max == 89.5
    to_globe = pyproj.Transformer.from_crs("EPSG:3413", "EPSG:4326", always_xy=True)
    _, corner = to_globe.transform(2_000_000, 2_000_000)
    assert pole.min == pytest.approx(np.floor(corner) + 0.5)
    # in degrees a parallel of latitude is covered for its whole length: 360 pixels a row
    _, edge = to_globe.transform(0, 2_000_000)
    assert 360 * (90 - edge) < pole.count < 360 * (90 - corner)
    x, y = np.meshgrid(*(np.linspace(low, low + 1_000_000, 401) for low in (-1.5e6, 1e6)))
    longitude, latitude = to_globe.transform(x, y)
    assert longitude.min() < -179
    assert longitude.max() > 179
    longitude %= 360
    assert beside.min == pytest.approx(np.floor(latitude.min()) + 0.5)
    assert beside.max == pytest.approx(np.floor(latitude.max()) + 0.5)
    # the area of the zone in square degrees, by the change of variables at each sample
    area = (longitude[1:, 1:] - longitude[:-1, :-1]) * (latitude[1:, :-1] - latitude[:-1, 1:])
    area -= (longitude[1:, :-1] - longitude[:-1, 1:]) * (latitude[1:, 1:] - latitude[:-1, :-1])
    assert beside.count == pytest.approx(np.abs(area).sum() / 2, rel=1e-3)


def test_zones_without_data_have_count_zero_and_nothing_else(
    make_raster: Make, make_zones: Make
) -> None:
    values = np.array([[1.0, np.nan]])
    raster = make_raster(values, transform=Affine(1, 0, 0, 0, -1, 1))
    outside, beside, on_nodata = (
        rectangle(50, 50, 51, 51),
        rectangle(2, 0, 3, 1),
        rectangle(1, 0, 2, 1),
    )
    found = statistics_of(make_zones(outside, beside, on_nodata, None), raster)
    assert found == [ZoneStatistics(0, None, None, None, None)] * 4


def test_no_zones_give_no_statistics(make_raster: Make, make_zones: Make) -> None:
    assert statistics_of(make_zones(), make_raster(np.ones((2, 2)))) == []


def test_overlapping_zones_and_parts_count_once_in_each(
    make_raster: Make, make_zones: Make
) -> None:
    overlapping = {
        "type": "MultiPolygon",
        "coordinates": [
            rectangle(0, 8, 2, 10)["coordinates"],
            rectangle(1, 8, 3, 10)["coordinates"],
        ],
    }
    found = statistics_of(
        make_zones(overlapping, rectangle(0, 8, 2, 10)), make_raster(np.ones((4, 4)))
    )
    assert [zone.count for zone in found] == pytest.approx([6, 4])


def test_a_damaged_raster_is_refused_without_paths(make_raster: Make, make_zones: Make) -> None:
    pixel = Affine(0.01, 0, 0, 0, -0.01, 5)
    noise = np.random.default_rng(1).random((1000, 500))
    raster = make_raster(noise, transform=pixel, compress="deflate")
    cut = raster[:-20_000] + bytes(20_000)
    with pytest.raises(InvalidRequest, match="raster: its pixels cannot be decoded"):
        statistics_of(make_zones(rectangle(0, -5, 5, 5)), cut)


def test_geojson_keeps_all_that_came_with_the_zones(make_raster: Make) -> None:
    collection: dict[str, Any] = {
        "type": "FeatureCollection",
        "name": "ponds",
        "features": [
            {
                "type": "Feature",
                "id": "a1",
                "bbox": [0, 9, 1, 10],
                "properties": {"name": "Große Ü", "depth": {"max": 3}, "mean": "old"},
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [[[0, 9], [1, 9], [1, 10], [0, 10], [0, 9]]],
                },
            },
            {"type": "Feature", "properties": None, "geometry": None},
        ],
    }
    zones = read_zones(json.dumps(collection).encode())
    with open_band(make_raster(np.full((10, 10), 7.0)), 1) as band:
        content = as_geojson(zones, compute_statistics(zones, band))
    result = json.loads(content)
    first, second = result.pop("features")
    assert result == {"type": "FeatureCollection", "name": "ponds"}
    assert first.pop("properties") == {
        "name": "Große Ü",
        "depth": {"max": 3},
        "count": 1.0,
        "min": 7.0,
        "max": 7.0,
        "mean": 7.0,
        "std": 0.0,
    }
    del collection["features"][0]["properties"]
    assert first == collection["features"][0]
    assert second["properties"] == {"count": 0, "min": None, "max": None, "mean": None, "std": None}
    assert as_csv(content).decode().split("\r\n") == [
        "feature,name,depth,count,min,max,mean,std",
        'a1,Große Ü,"{""max"": 3}",1.0,7.0,7.0,7.0,0.0',
        "2,,,0.0,,,,",
        "",
    ]


@pytest.mark.skipif(
    not SHARED_DATA.is_dir(), reason="the shared data (lakes, GRIB) are not beside the checkout"
)
def test_lakes_over_the_global_temperature_agree_with_samples() -> None:
    zones = (SHARED_DATA / "ne_110m_lakes.geojson").read_bytes()
    raster = next(SHARED_DATA.glob("CMC_glb_TMP_*.grib2")).read_bytes()
    found = statistics_of(zones, raster)
    assert len(found) == 25
    with open_band(raster, 1) as band:
        pixel = band.to_crs.a
        left, top = band.to_crs.c, band.to_crs.f
        values = band.dataset.read(1)
    for feature, statistics in zip(json.loads(zones)["features"], found, strict=True):
        rings = [ring[:-1] for ring in feature["geometry"]["coordinates"]]
        corners = (np.array(rings[0]) - (left, top)) / (pixel, -pixel)
        column, row = np.floor(corners.min(axis=0)).astype(int)
        right, bottom = np.ceil(corners.max(axis=0)).astype(int)
        window = values[row:bottom, column:right]
        transform = Affine(pixel, 0, left + column * pixel, 0, -pixel, top - row * pixel)
        expected = counted_by_samples(rings, window, transform)
        assert_close(statistics, expected)
        assert statistics.mean == pytest.approx(expected["mean"], abs=0.02)


def test_a_satellite_sees_one_side_of_the_globe(
    make_raster: Make, make_zones: Make, rough: Make
) -> None:
    values = rough(40, 40)
    crs = "+proj=geos +h=35785831 +lon_0=-75 +sweep=x"
    transform = Affine(275_000, 0, -5_500_000, 0, -275_000, 5_500_000)
    raster = make_raster(values, transform=transform, crs=crs)
    amazon: Ring = [(-70, -15), (-45, -10), (-55, 5)]
    found = statistics_of(make_zones(polygon(amazon), rectangle(80, 20, 90, 30)), raster)
    assert_close(found[0], counted_by_samples([amazon], values, transform, crs))
    assert found[1].count == 0
    limb = rectangle(-10, 0, 20, 10)
    with pytest.raises(InvalidRequest, match=r"feature 1 \(zone 1\) lies partly where the CRS"):
        statistics_of(make_zones(limb), raster)
