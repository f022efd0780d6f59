"""Zones: the polygons of a GeoJSON FeatureCollection, and what area each of them means."""

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import shapely
from pyproj.exceptions import CRSError
from shapely import MultiPolygon, Polygon
from shapely.affinity import translate
from shapely.errors import ShapelyError
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from pygeoapi_prefect.errors import InvalidRequest

Area = Polygon | MultiPolygon
Coordinates = npt.NDArray[np.float64]

CRS84 = pyproj.CRS.from_authority("OGC", "CRS84")
NAME_PROPERTIES = ("name", "Name", "NAME", "title", "label", "id")

# An authority and a code, as in EPSG:3857, urn:ogc:def:crs:EPSG::3857 and
# http://www.opengis.net/def/crs/EPSG/0/3857. Nothing else is handed to PROJ: in a free
# text it would also find file names.
_CRS_NAMES = (
    re.compile(r"^(?P<authority>[A-Za-z]+):(?P<code>\w+)$"),
    re.compile(r"^urn:(?:x-)?ogc:def:crs:(?P<authority>[A-Za-z]+):[\w.]*:(?P<code>\w+)$"),
    re.compile(
        r"^https?://www\.opengis\.net/def/crs/(?P<authority>[A-Za-z]+)/[\w.]+/(?P<code>\w+)$"
    ),
)


@dataclasses.dataclass(frozen=True)
class Zone:
    """One zone.

    Attributes:
        label: How messages call it: its number from 1, and its name if it has one.
        area: Valid, 2-D, x before y. Longitudes are continuous: a zone across the
            antimeridian goes on beyond 180 (or below -180). Empty for a feature without
            geometry and for one that encloses nothing.
    """

    label: str
    area: Area


@dataclasses.dataclass(frozen=True)
class Zones:
    """The zones of one FeatureCollection.

    Attributes:
        collection: The FeatureCollection as it came.
        zones: One per feature, in their order.
        crs: CRS of the areas.
        remarks: What had to be assumed or repaired, for the log.
    """

    collection: dict[str, Any]
    zones: Sequence[Zone]
    crs: pyproj.CRS
    remarks: Sequence[str]


def read_zones(content: bytes) -> Zones:
    """Read zones from a GeoJSON FeatureCollection (RFC 7946).

    Coordinates are longitude and latitude in degrees, unless the collection has the ``crs``
    member of GeoJSON 2008. An edge that spans more than 180 degrees of longitude, between
    longitudes of -180 to 180, crosses the antimeridian: RFC 7946 asks to cut such zones in
    two, and many producers do not. An edge of exactly 360 degrees is the edge of a zone
    around the world, and stays. An outline around a pole includes the pole that is nearer.
    Invalid outlines (that cross or touch themselves, parts that overlap) are repaired.

    Raises:
        InvalidRequest: The content is no FeatureCollection, a feature is no polygon, its
            coordinates are broken or out of range, or the CRS is not known.
    """
    collection = _parse(content)
    crs = _crs_of(collection)
    zones: list[Zone] = []
    remarks: list[str] = []
    for number, feature in enumerate(collection["features"], start=1):
        label = _label(number, feature)
        given = _geometry(label, feature)
        if crs.is_geographic:
            _check_range(label, given)
            area = continuous(given)
            if not area.equals_exact(given):
                remarks.append(f"{label} is taken to cross the antimeridian or to hold a pole")
        else:
            area = given
        if not area.is_valid:
            remarks.append(f"{label} was repaired: {shapely.is_valid_reason(area)}")
            area = valid(area)
        if area.is_empty:
            remarks.append(f"{label} encloses no area")
        zones.append(Zone(label, area))
    return Zones(collection, zones, crs, remarks)


def feature_name(feature: dict[str, Any]) -> str | None:
    """Return what a person would call a feature: a name among its properties, or its id."""
    properties = feature.get("properties") or {}
    candidates = [*(properties.get(name) for name in NAME_PROPERTIES), feature.get("id")]
    for name in candidates:
        if isinstance(name, str | int) and not isinstance(name, bool) and str(name).strip():
            return str(name)
    return None


def valid(area: BaseGeometry) -> Area:
    """Return the polygons that an area consists of, without crossings, overlaps and lines."""
    if not area.is_valid:
        area = shapely.make_valid(area, method="structure", keep_collapsed=False)
    parts = [part for part in shapely.get_parts(area) if isinstance(part, Area)]
    if len(parts) == 1 and isinstance(parts[0], Polygon):
        return parts[0]
    return MultiPolygon([p for part in parts for p in shapely.get_parts(part) if not p.is_empty])


def continuous(area: Area) -> Area:
    """Return an area whose rings do not jump from one side of the antimeridian to the other.

    Args:
        area: Polygons in longitude and latitude, in degrees. Need not be valid.

    Returns:
        The same area object where nothing jumps; else a valid area that may reach beyond
        longitudes of -180 to 180.
    """
    rings = [ring for part in shapely.get_parts(area) for ring in (part.exterior, *part.interiors)]
    if not any(_jumps(shapely.get_coordinates(ring)).any() for ring in rings):
        return area
    return valid(shapely.union_all([_continuous_part(part) for part in shapely.get_parts(area)]))


def _continuous_part(part: Polygon) -> BaseGeometry:
    shell = valid(Polygon(_without_jumps(shapely.get_coordinates(part.exterior))))
    # the shell may lie one turn of the globe away from where a hole was written
    holes = [
        translate(valid(Polygon(_without_jumps(shapely.get_coordinates(ring)))), xoff=degrees)
        for ring in part.interiors
        for degrees in (-360, 0, 360)
    ]
    return shell.difference(shapely.union_all(holes))


def _jumps(ring: Coordinates) -> npt.NDArray[np.bool_]:
    if len(ring) == 0 or np.abs(ring[:, 0]).max() > 180:
        return np.zeros(0, dtype=bool)  # beyond 180: already continuous
    step = np.abs(np.diff(ring[:, 0]))
    return (step > 180) & (step < 360)


def _without_jumps(ring: Coordinates) -> Coordinates:
    jumps = _jumps(ring)
    if not jumps.any():
        return ring
    turns = np.where(jumps, -np.sign(np.diff(ring[:, 0])), 0)
    ring = ring.copy()
    ring[1:, 0] += 360 * np.cumsum(turns)
    if abs(ring[-1, 0] - ring[0, 0]) > 180:
        # once around the globe: the ring closes over a pole
        pole = 90.0 if ring[:, 1].mean() > 0 else -90.0
        ring = np.vstack([ring, [ring[-1, 0], pole], [ring[0, 0], pole], ring[0]])
    return ring


def _parse(content: bytes) -> dict[str, Any]:
    try:
        collection = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"zones: not a JSON document ({error})") from None
    if not isinstance(collection, dict) or collection.get("type") != "FeatureCollection":
        kind = collection.get("type") if isinstance(collection, dict) else None
        found = f"a {kind}" if isinstance(kind, str) else "something else"
        raise InvalidRequest(f"zones: must be a GeoJSON FeatureCollection, but it is {found}")
    if not isinstance(collection.get("features"), list):
        raise InvalidRequest("zones: the FeatureCollection has no list of features")
    return collection


def _crs_of(collection: dict[str, Any]) -> pyproj.CRS:
    match collection.get("crs"):
        case None:
            return CRS84
        case {"type": "name", "properties": {"name": str() as name}}:
            return _named_crs(name)
    raise InvalidRequest("zones: the member crs must name its CRS (type name, properties.name)")


def _named_crs(name: str) -> pyproj.CRS:
    for pattern in _CRS_NAMES:
        if match := pattern.match(name):
            try:
                crs = pyproj.CRS.from_authority(match["authority"].upper(), match["code"])
            except CRSError:
                break
            if crs.is_geographic or crs.is_projected:
                return crs
    raise InvalidRequest(
        "zones: the CRS that the member crs names is not known as a geographic or projected "
        "one; name it like urn:ogc:def:crs:EPSG::3857"
    )


def _label(number: int, feature: Any) -> str:
    if not isinstance(feature, dict) or feature.get("type") != "Feature":
        raise InvalidRequest(f"zones: feature {number} is no GeoJSON Feature")
    if not isinstance(feature.get("properties"), dict | None):
        raise InvalidRequest(f"zones: the properties of feature {number} are no object")
    name = feature_name(feature)
    return f"feature {number}" if name is None else f"feature {number} ({name[:60]})"


def _geometry(label: str, feature: dict[str, Any]) -> Area:
    geometry = feature.get("geometry")
    if geometry is None:
        return Polygon()
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind not in ("Polygon", "MultiPolygon"):
        raise InvalidRequest(
            f"zones: {label} is a {kind}: only a Polygon or MultiPolygon has pixels to count"
        )
    try:
        with np.errstate(invalid="ignore"):  # looked at below
            area = shapely.force_2d(shape(geometry))
    except (ValueError, TypeError, LookupError, AttributeError, ShapelyError):
        raise InvalidRequest(f"zones: {label} has broken coordinates") from None
    if not isinstance(area, Area) or not np.isfinite(shapely.get_coordinates(area)).all():
        raise InvalidRequest(f"zones: {label} has coordinates that are no numbers")
    return area


def _check_range(label: str, area: Area) -> None:
    coordinates = shapely.get_coordinates(area)
    if len(coordinates) == 0:
        return
    longitude, latitude = np.abs(coordinates).max(axis=0)
    if longitude > 540 or latitude > 90:
        raise InvalidRequest(
            f"zones: {label} reaches {longitude:g} in longitude and {latitude:g} in latitude: "
            "coordinates must be degrees, longitude first, or the collection must name its crs"
        )
