"""The formats that OGC API - Processes knows by name: GeoJSON, bounding boxes, base64.

Owns their structure and nothing else; `inputs` decides where they apply. GeoJSON is
described as pydantic types and not as a JSON schema, because a schema library takes
seconds over the coordinates of a large collection, and pydantic's core some
milliseconds.

Sources: RFC 7946; ``bbox.yaml`` and table "additional formats" of OGC 18-062r2.
"""

import binascii
import functools
import math
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, TypedDict
from urllib.parse import urlsplit

import pydantic
from pydantic import AfterValidator, Discriminator, FailFast, Field
from pyproj import CRS
from pyproj.exceptions import CRSError

CRS84 = "http://www.opengis.net/def/crs/OGC/1.3/CRS84"


class Problem(NamedTuple):
    """One thing that is wrong with a value.

    Attributes:
        path: Member names and array indexes that lead to the place; empty for the value.
        reason: What is wrong there, without the path.
    """

    path: tuple[str | int, ...]
    reason: str


def _closed(ring: list[list[float]]) -> list[list[float]]:
    if ring[0] != ring[-1]:
        raise ValueError("is a ring that is not closed: its first and last position differ")
    return ring


# One problem per array of coordinates is enough: a million of them help nobody
_Number = Annotated[float, Field(allow_inf_nan=False)]
_Position = Annotated[list[_Number], Field(min_length=2), FailFast()]
_Positions = Annotated[list[_Position], FailFast()]
_Line = Annotated[list[_Position], Field(min_length=2), FailFast()]
_Ring = Annotated[list[_Position], Field(min_length=4), FailFast(), AfterValidator(_closed)]
_Rings = Annotated[list[_Ring], FailFast()]


class _Point(TypedDict):
    type: Literal["Point"]
    coordinates: _Position


class _MultiPoint(TypedDict):
    type: Literal["MultiPoint"]
    coordinates: _Positions


class _LineString(TypedDict):
    type: Literal["LineString"]
    coordinates: _Line


class _MultiLineString(TypedDict):
    type: Literal["MultiLineString"]
    coordinates: Annotated[list[_Line], FailFast()]


class _Polygon(TypedDict):
    type: Literal["Polygon"]
    coordinates: _Rings


class _MultiPolygon(TypedDict):
    type: Literal["MultiPolygon"]
    coordinates: Annotated[list[_Rings], FailFast()]


class _GeometryCollection(TypedDict):
    type: Literal["GeometryCollection"]
    geometries: "list[_Geometry]"


_Geometry = Annotated[
    _Point
    | _MultiPoint
    | _LineString
    | _MultiLineString
    | _Polygon
    | _MultiPolygon
    | _GeometryCollection,
    Discriminator("type"),
]


class _Feature(TypedDict):
    type: Literal["Feature"]
    geometry: _Geometry | None
    properties: dict[str, Any] | None


class _FeatureCollection(TypedDict):
    type: Literal["FeatureCollection"]
    features: list[_Feature]


_GeoJSON = Annotated[
    _Point
    | _MultiPoint
    | _LineString
    | _MultiLineString
    | _Polygon
    | _MultiPolygon
    | _GeometryCollection
    | _Feature
    | _FeatureCollection,
    Discriminator("type"),
]

_GEOJSON: Mapping[str, Any] = MappingProxyType(
    {
        "point": _Point,
        "multipoint": _MultiPoint,
        "linestring": _LineString,
        "multilinestring": _MultiLineString,
        "polygon": _Polygon,
        "multipolygon": _MultiPolygon,
        "geometrycollection": _GeometryCollection,
        "geometry": _Geometry,
        "feature": _Feature,
        "featurecollection": _FeatureCollection,
        "geojson": _GeoJSON,
    }
)

# pydantic puts the name of the union's branch into the path
_BRANCHES = {
    "Point",
    "MultiPoint",
    "LineString",
    "MultiLineString",
    "Polygon",
    "MultiPolygon",
    "GeometryCollection",
    "Feature",
    "FeatureCollection",
}

_REASONS = MappingProxyType(
    {
        "missing": "is missing",
        "dict_type": "is not an object",
        "model_attributes_type": "is not an object",
        "list_type": "is not an array",
        "float_type": "is not a number",
        "finite_number": "is not a finite number",
        "too_short": "has {actual_length} items, fewer than {min_length}",
        "literal_error": "is not {expected}",
        "union_tag_not_found": "has no member 'type'",
        "union_tag_invalid": "has a type other than {expected_tags}",
        "value_error": "{error}",
    }
)

_FORMAT_URI = re.compile(r"https?://www\.opengis\.net/def/format/[^?#]*/(?P<name>[\w-]+)/?")
_FORMATS = MappingProxyType(
    {
        "geojson-feature-collection": "featurecollection",
        "geojson-feature": "feature",
        "geojson-geometry": "geometry",
        "ogc-bbox": "bbox",
    }
)


def format_named(name: str) -> str | None:
    """Return the format that the ``format`` keyword of a schema names.

    Args:
        name: Short code such as ``geojson-feature``, or its URI below
            ``http://www.opengis.net/def/format/``.

    Returns:
        A name for `problems`; None for any other text.
    """
    uri = _FORMAT_URI.fullmatch(name)
    return _FORMATS.get(uri["name"] if uri else name)


def format_referred_to(uri: str) -> str | None:
    """Return the format whose published schema a ``$ref`` points at.

    Args:
        uri: The reference, such as ``https://geojson.org/schema/Polygon.json`` or a
            ``...GeoJSON.yaml`` or ``bbox.yaml`` of ``schemas.opengis.net``.

    Returns:
        A name for `problems`; None for any other schema.
    """
    try:
        parts = urlsplit(uri)
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or parts.fragment:
        return None
    stem = parts.path.rpartition("/")[2].partition(".")[0].lower()
    match parts.hostname:
        case "geojson.org" | "www.geojson.org":
            return stem if stem in _GEOJSON else None
        case "schemas.opengis.net" if stem == "bbox":
            return "bbox"
        case "schemas.opengis.net" if stem.endswith("geojson"):
            return kind if (kind := stem.removesuffix("geojson")) in _GEOJSON else None
    return None


def problems(format_name: str, value: Any) -> Iterator[Problem]:
    """Yield what keeps a JSON value from being of a format.

    Args:
        format_name: As returned by `format_named` or `format_referred_to`.
        value: Parsed JSON.
    """
    return _bbox_problems(value) if format_name == "bbox" else _geojson_problems(format_name, value)


def from_base64(text: str) -> bytes:
    """Decode base64, line breaks and blanks within it left aside.

    Raises:
        ValueError: It is no base64 of the standard alphabet, or not padded.
    """
    if not text.isascii():
        raise ValueError("only ASCII is allowed")
    packed = text.encode().translate(None, b" \t\r\n")
    try:
        # strict, since the lenient decoder drops what it does not know and guesses the rest
        decoded = binascii.a2b_base64(packed, strict_mode=True)
    except binascii.Error as error:
        reason = str(error)
        raise ValueError(reason[:1].lower() + reason[1:]) from error
    if len(packed) % 4:
        # which the strict decoder lets through where the padding is not needed at all
        raise ValueError("excess padding")
    return decoded


@functools.cache
def _adapter(kind: str) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(_GEOJSON[kind])


def _geojson_problems(kind: str, value: Any) -> Iterator[Problem]:
    try:
        _adapter(kind).validate_python(value, strict=True)
    except pydantic.ValidationError as error:
        for line in error.errors(include_url=False, include_input=False):
            path = tuple(step for step in line["loc"] if step not in _BRANCHES)
            reason = _REASONS.get(line["type"])
            yield Problem(
                path, reason.format_map(line.get("ctx", {})) if reason else line["msg"].lower()
            )


# What a CRS may look like: never a PROJ string or WKT, which can name files of the server
_CRS = re.compile(
    r"https?://www\.opengis\.net/def/crs/[\w.-]+/[\w.-]+/[\w.-]+"
    r"|urn:(?:x-)?ogc:def:crs:[\w.-]+:[\w.-]*:[\w.-]+"
    r"|[A-Za-z]\w*:[\w.-]+",
    re.ASCII | re.IGNORECASE,
)


@functools.lru_cache(maxsize=256)
def resolve_crs(name: str) -> CRS:
    """Look a coordinate reference system up in PROJ's database.

    Args:
        name: URI (``http://www.opengis.net/def/crs/EPSG/0/4326``), URN
            (``urn:ogc:def:crs:EPSG::4326``) or authority and code (``EPSG:4326``).

    Raises:
        ValueError: The name has another form, or no such system is known.
    """
    if not _CRS.fullmatch(name):
        raise ValueError(f"not a CRS by URI, URN or authority:code: {name[:80]!r}")
    try:
        return CRS.from_user_input(name)
    except CRSError as error:
        raise ValueError(f"unknown CRS: {name[:80]!r}") from error


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _bbox_problems(value: Any) -> Iterator[Problem]:
    if not isinstance(value, dict):
        yield Problem((), "is not an object with a member 'bbox'")
        return
    if "bbox" not in value:
        yield Problem(("bbox",), "is missing")
        return
    crs: CRS | None = None
    name = value.get("crs", CRS84)
    try:
        crs = resolve_crs(name if isinstance(name, str) else "")
    except ValueError:
        shown = f"{name[:80]!r} " if isinstance(name, str) else ""
        yield Problem(
            ("crs",),
            f"{shown}is not a CRS that is known here: give its URI, such as {CRS84}, its URN, "
            "or authority and code, such as EPSG:4326",
        )
    corners = value["bbox"]
    if not isinstance(corners, list) or len(corners) not in (4, 6):
        yield Problem(("bbox",), "is not an array of 4 or 6 numbers")
        return
    if not all(map(_is_finite_number, corners)):
        yield Problem(("bbox",), "holds something other than finite numbers")
        return
    axes = len(corners) // 2
    # a box may cross the antimeridian: its western edge is then the greater number
    wrapping = {
        index
        for index, axis in enumerate(crs.axis_info if crs else [])
        if axis.direction in ("east", "west")
    }
    for axis in range(axes):
        low, high = corners[axis], corners[axis + axes]
        if crs and low > high and axis not in wrapping:
            yield Problem(
                ("bbox",),
                f"has a minimum of {low} above its maximum of {high} on axis {axis + 1} of {axes}",
            )
