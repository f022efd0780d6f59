"""What a client's polygons mean."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from shapely import box
from shapely.geometry import shape

from pygeoapi_prefect.errors import InvalidRequest
from pygeoapi_prefect.examples.zonal.zones import Zones, read_zones


def polygon(*rings: Sequence[tuple[float, float]]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [[*ring, ring[0]] for ring in rings]}


def rectangle(west: float, south: float, east: float, north: float) -> dict[str, Any]:
    return polygon([(west, south), (east, south), (east, north), (west, north)])


SQUARE = rectangle(0, 0, 1, 1)


def test_zones_keep_their_order_and_are_called_by_number_and_name(
    make_zones: Callable[..., bytes],
) -> None:
    zones = read_zones(make_zones(SQUARE, rectangle(2, 2, 4, 3)))
    assert [zone.label for zone in zones.zones] == ["feature 1 (zone 1)", "feature 2 (zone 2)"]
    assert [zone.area.area for zone in zones.zones] == [1, 2]
    assert zones.remarks == []


def test_a_zone_across_the_antimeridian_is_one_area_however_it_is_written(
    make_zones: Callable[..., bytes],
) -> None:
    counter_clockwise = rectangle(170, -5, -170, 5)
    clockwise = polygon([(170, -5), (170, 5), (-170, 5), (-170, -5)])
    from_the_east = polygon([(-170, 5), (170, 5), (170, -5), (-170, -5)])
    beyond = rectangle(170, -5, 190, 5)
    zones = read_zones(make_zones(counter_clockwise, clockwise, from_the_east, beyond))
    areas = [zone.area for zone in zones.zones]
    expected = box(170, -5, 190, 5)
    assert areas[0].equals(expected)
    assert areas[1].equals(expected)
    assert areas[2].equals(box(-190, -5, -170, 5))
    assert areas[3].equals(expected)
    # only those that had to be interpreted
    assert len(zones.remarks) == 3


def test_a_hole_stays_in_a_zone_across_the_antimeridian(make_zones: Callable[..., bytes]) -> None:
    shell = [(170, -5), (-170, -5), (-170, 5), (170, 5)]
    hole_in_the_east = [(-178, -1), (-178, 1), (-176, 1), (-176, -1)]
    hole_across = [(179, 2), (179, 3), (-179, 3), (-179, 2)]
    (zone,) = read_zones(make_zones(polygon(shell, hole_in_the_east, hole_across))).zones
    expected = box(170, -5, 190, 5) - box(182, -1, 184, 1) - box(179, 2, 181, 3)
    assert zone.area.equals(expected)


def test_edges_all_around_the_world_stay(make_zones: Callable[..., bytes]) -> None:
    zones = read_zones(make_zones(rectangle(-180, -90, 180, 90), rectangle(0, 60, 360, 90)))
    assert [zone.area.area for zone in zones.zones] == [360 * 180, 360 * 30]


@pytest.mark.parametrize(("latitude", "pole"), [(70, 90), (-70, -90)])
def test_an_outline_around_a_pole_holds_the_pole(
    make_zones: Callable[..., bytes], latitude: float, pole: float
) -> None:
    around = polygon([(-120, latitude), (0, latitude), (120, latitude)])
    (zone,) = read_zones(make_zones(around)).zones
    assert zone.area.area == pytest.approx(360 * 20)
    assert pole in (zone.area.bounds[1], zone.area.bounds[3])


def test_invalid_outlines_are_repaired_and_remarked(make_zones: Callable[..., bytes]) -> None:
    bow_tie = polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
    overlapping = {
        "type": "MultiPolygon",
        "coordinates": [
            rectangle(0, 0, 2, 1)["coordinates"],
            rectangle(1, 0, 3, 1)["coordinates"],
        ],
    }
    hole_that_touches_at_a_point = polygon(
        [(0, 0), (4, 0), (4, 4), (0, 4)], [(0, 2), (1, 1), (1, 3)]
    )
    zones = read_zones(make_zones(bow_tie, overlapping, hole_that_touches_at_a_point))
    assert [zone.area.area for zone in zones.zones] == pytest.approx([2, 3, 15])
    assert all(zone.area.is_valid for zone in zones.zones)
    assert [remark.split(" was ")[0] for remark in zones.remarks] == [
        "feature 1 (zone 1)",
        "feature 2 (zone 2)",
    ]


def test_features_without_area_are_kept_empty(make_zones: Callable[..., bytes]) -> None:
    line_back_and_forth = polygon([(0, 0), (1, 1), (2, 2)])
    zones = read_zones(
        make_zones(None, line_back_and_forth, {"type": "Polygon", "coordinates": []})
    )
    assert [zone.area.is_empty for zone in zones.zones] == [True, True, True]


def test_heights_are_left_out(make_zones: Callable[..., bytes]) -> None:
    ring = [[0, 0, 5], [1, 0, 5], [1, 1, 5], [0, 0, 5]]
    (zone,) = read_zones(make_zones({"type": "Polygon", "coordinates": [ring]})).zones
    assert not zone.area.has_z


def test_an_empty_collection_has_no_zones(make_zones: Callable[..., bytes]) -> None:
    assert read_zones(make_zones()).zones == []


@pytest.mark.parametrize(
    "name",
    [
        "EPSG:32633",
        "urn:ogc:def:crs:EPSG::32633",
        "http://www.opengis.net/def/crs/EPSG/0/32633",
    ],
)
def test_the_crs_member_of_geojson_2008_counts(make_zones: Callable[..., bytes], name: str) -> None:
    square = rectangle(500_000, 5_000_000, 501_000, 5_001_000)
    crs = {"type": "name", "properties": {"name": name}}
    zones = read_zones(make_zones(square, crs=crs))
    assert zones.crs.to_epsg() == 32633
    assert zones.zones[0].area.equals(shape(square))


@pytest.mark.parametrize(
    "crs",
    [
        {"type": "name", "properties": {"name": "EPSG:999999"}},
        {"type": "name", "properties": {"name": "EPSG:4978"}},
        {"type": "name", "properties": {"name": "+init=/etc/passwd:1"}},
        {"type": "link", "properties": {"href": "https://example.org/crs"}},
        "EPSG:4326",
    ],
)
def test_a_crs_that_is_not_known_is_refused(make_zones: Callable[..., bytes], crs: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"zones: the .*crs"):
        read_zones(make_zones(SQUARE, crs=crs))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89PNG", "zones: not a JSON document"),
        (b"[" * 100_000, "zones: not a JSON document"),
        (b"[]", "must be a GeoJSON FeatureCollection, but it is something else"),
        (b'{"type": "Polygon", "coordinates": []}', "FeatureCollection, but it is a Polygon"),
        (b'{"type": "FeatureCollection"}', "has no list of features"),
        (b'{"type": "FeatureCollection", "features": [1]}', "feature 1 is no GeoJSON Feature"),
    ],
)
def test_what_is_no_feature_collection_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        read_zones(content)


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        ({"type": "Point", "coordinates": [0, 0]}, r"feature 2 \(zone 2\) is a Point"),
        ({"type": "LineString", "coordinates": [[0, 0], [1, 1]]}, "feature 2 .* is a LineString"),
        ({"type": "GeometryCollection", "geometries": []}, "is a GeometryCollection"),
        ("a polygon", "feature 2"),
        ({"type": "Polygon"}, "broken coordinates"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1]]]}, "broken coordinates"),
        ({"type": "Polygon", "coordinates": [[["a", 0], [1, 1], [2, 0]]]}, "broken coordinates"),
        (rectangle(0, 0, float("nan"), 1), "coordinates that are no numbers"),
        (rectangle(4_000_000, 3_000_000, 4_100_000, 3_100_000), "must be degrees, longitude"),
        (rectangle(0, 89, 1, 91), "91 in latitude"),
    ],
)
def test_a_feature_that_is_no_zone_is_refused_by_name(
    make_zones: Callable[..., bytes], geometry: Any, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        read_zones(make_zones(SQUARE, geometry))


def test_the_collection_is_kept_as_it_came(make_zones: Callable[..., bytes]) -> None:
    content = make_zones(SQUARE, bbox=[0, 0, 1, 1], source={"of": "somewhere"})
    zones: Zones = read_zones(content)
    assert zones.collection == json.loads(content)
