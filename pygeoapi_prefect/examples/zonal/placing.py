"""From zones on the globe to zones on the pixel grid of a raster."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyproj
import shapely
from shapely import LinearRing, MultiPolygon, Polygon
from shapely.affinity import translate

from pygeoapi_prefect.errors import InvalidRequest
from pygeoapi_prefect.examples.zonal.raster import RasterBand
from pygeoapi_prefect.examples.zonal.zones import Area, Zone, Zones, continuous, valid

METRES_PER_DEGREE = 111_195.0

# An edge that bends when it is projected is cut into pieces that stay this close to the
# curve, in pixels. Pieces are halved this often at most: the curve may have a corner.
_BEND_TOLERANCE_PIXELS = 0.001
_MOST_HALVINGS = 16
# Edges are cut to this length first: half-way, an S-shaped curve would look straight.
_LONGEST_EDGE_METRES = 250_000.0
# Zones often follow pixel edges. Without rounding, noise in the last digits lets a zone touch
# the neighbour pixel, whose value then counts for its minimum and maximum.
_ROUNDING_PIXELS = 1e-8
# Samples along each side of the raster when its extent on the globe is looked for.
_FOOTPRINT_SAMPLES = 60
# PROJ may put a point on the edge of a projection at either side of the map.
_EDGE_DEGREES = 1e-9

_Numbers = npt.NDArray[np.float64]
_Transformation = Callable[[_Numbers], _Numbers]


@dataclasses.dataclass(frozen=True)
class _Footprint:
    """Longitudes and latitudes that a raster may cover; longitudes are continuous."""

    west: float
    south: float
    east: float
    north: float


def place_zones(zones: Zones, band: RasterBand) -> list[Area]:
    """Return the area of each zone in pixel coordinates (column, row) of a raster.

    On a raster in geographic coordinates a zone appears wherever the globe repeats, but each
    of its places once: rasters from -180, from 0, or a half pixel off either are all the same.
    Straight edges of a zone are straight in the zones' CRS and bend in that of the raster.

    Raises:
        InvalidRequest: A zone lies partly where the CRS of the raster is not defined.
    """
    if zones.crs == band.crs and zones.crs.is_projected:
        return [_to_pixels(zone.area, band) for zone in zones.zones]
    zones = _on_globe(zones, band)
    if band.crs.is_geographic and not band.crs.is_derived:
        return _place_geographic(zones, band)
    return _place_projected(zones, band)


def _to_pixels(area: Area, band: RasterBand) -> Area:
    digits = -round(math.log10(_ROUNDING_PIXELS))

    def round_to_pixels(positions: _Numbers) -> _Numbers:
        return np.round(np.column_stack(band.pixel(*positions.T)), digits)

    return valid(shapely.transform(area, round_to_pixels))


def _on_globe(zones: Zones, band: RasterBand) -> Zones:
    """Return zones in the longitudes and latitudes that their CRS is based on."""
    if zones.crs.is_geographic or zones.crs.geodetic_crs is None:
        return zones
    transformation = _transformation(zones.crs, zones.crs.geodetic_crs)
    longest = _LONGEST_EDGE_METRES / zones.crs.axis_info[0].unit_conversion_factor
    tolerance = _BEND_TOLERANCE_PIXELS * _pixel_size(band)
    if band.crs.is_projected:
        metres = tolerance * band.crs.axis_info[0].unit_conversion_factor
        tolerance = metres / METRES_PER_DEGREE

    def on_globe(zone: Zone) -> Zone:
        bent = _bend(shapely.segmentize(zone.area, longest), transformation, tolerance, 360)
        if not np.isfinite(shapely.get_coordinates(bent)).all():
            raise InvalidRequest(f"zones: {zone.label} lies outside of where its CRS is defined")
        return dataclasses.replace(zone, area=valid(continuous(bent)))

    return dataclasses.replace(
        zones, zones=[on_globe(zone) for zone in zones.zones], crs=zones.crs.geodetic_crs
    )


def _place_geographic(zones: Zones, band: RasterBand) -> list[Area]:
    shift_datum = _transformation(zones.crs, band.crs)

    def shift(positions: _Numbers) -> _Numbers:
        shifted = shift_datum(positions)
        shifted[:, 0] += 360 * np.round((positions[:, 0] - shifted[:, 0]) / 360)
        return shifted

    corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * (band.width, band.height)
    x, _ = band.position(*corners.T)
    west, east = float(x.min()), float(x.max())
    # a full turn that begins with the raster, or has it in its middle
    start = west if east - west >= 360 else (west + east) / 2 - 180
    turn = _Footprint(start, -math.inf, start + 360, math.inf)
    placed = []
    for zone in zones.zones:
        area = shapely.transform(zone.area, shift)
        placed.append(_to_pixels(valid(shapely.union_all(_pieces(area, turn))), band))
    return placed


def _place_projected(zones: Zones, band: RasterBand) -> list[Area]:
    transformation = _transformation(zones.crs, band.crs)
    footprint = _footprint(band, zones.crs)
    longest = _LONGEST_EDGE_METRES / METRES_PER_DEGREE
    tolerance = _BEND_TOLERANCE_PIXELS * _pixel_size(band)
    placed = []
    for zone in zones.zones:
        pieces = []
        for piece in _pieces(zone.area, footprint):
            bent = _bend(shapely.segmentize(piece, longest), transformation, tolerance)
            is_defined = np.isfinite(shapely.get_coordinates(bent))
            if is_defined.all():
                pieces.append(valid(bent))
            elif is_defined.any():
                raise InvalidRequest(
                    f"zones: {zone.label} lies partly where the CRS of the raster is not defined"
                )
        placed.append(_to_pixels(valid(shapely.union_all(pieces)), band))
    return placed


def _pieces(area: Area, footprint: _Footprint) -> list[Area]:
    """Cut an area where a footprint ends, and bring each turn of the globe into it."""
    if area.is_empty:
        return []
    west, south, east, north = area.bounds
    clip = shapely.box(
        footprint.west,
        max(footprint.south, south - 1),
        footprint.east,
        min(footprint.north, north + 1),
    )
    first = math.ceil((footprint.west - east) / 360)
    last = math.floor((footprint.east - west) / 360)
    turns = [translate(area, xoff=360 * turn) for turn in range(first, last + 1)]
    pieces = [valid(turned.intersection(clip)) for turned in turns]
    return [piece for piece in pieces if not piece.is_empty]


def _transformation(source: pyproj.CRS, target: pyproj.CRS) -> _Transformation:
    transformer = pyproj.Transformer.from_crs(source, target, always_xy=True)

    def transform(positions: _Numbers) -> _Numbers:
        return np.column_stack(transformer.transform(*positions.T))

    return transform


def _pixel_size(band: RasterBand) -> float:
    """Return the shorter side of a pixel, in units of the CRS."""
    to_crs = band.to_crs
    return min(math.hypot(to_crs.a, to_crs.d), math.hypot(to_crs.b, to_crs.e))


def _bend(
    area: Area, transformation: _Transformation, tolerance: float, turn: float | None = None
) -> Area:
    """Transform an area and let its straight edges become the curves that they then are.

    Args:
        area: What to transform.
        transformation: From positions to positions.
        tolerance: How far the result may be off the curve, in its units.
        turn: What can be added to x without moving a position, if there is such a thing.
    """

    def bend(ring: LinearRing) -> _Numbers:
        return _bend_ring(shapely.get_coordinates(ring), transformation, tolerance, turn)

    # where the CRS is not defined, positions become infinite: the caller looks for them
    with np.errstate(invalid="ignore"):
        parts = [
            Polygon(bend(part.exterior), [bend(hole) for hole in part.interiors])
            for part in shapely.get_parts(area)
            if not part.is_empty
        ]
        return parts[0] if len(parts) == 1 else MultiPolygon(parts)


def _bend_ring(
    ring: _Numbers, transformation: _Transformation, tolerance: float, turn: float | None
) -> _Numbers:
    def apart(one: _Numbers, other: _Numbers) -> _Numbers:
        difference = one - other
        if turn is not None:
            difference[:, 0] -= turn * np.round(difference[:, 0] / turn)
        return difference

    bent = transformation(ring)
    for _ in range(_MOST_HALVINGS):
        middle = (ring[:-1] + ring[1:]) / 2
        bent_middle = transformation(middle)
        straight_middle = bent[:-1] + apart(bent[1:], bent[:-1]) / 2
        error = np.hypot(*apart(bent_middle, straight_middle).T)
        (off,) = np.nonzero(error > tolerance)
        if not len(off):
            break
        ring = np.insert(ring, off + 1, middle[off], axis=0)
        bent = np.insert(bent, off + 1, bent_middle[off], axis=0)
    return bent


@np.errstate(invalid="ignore")  # positions that are not defined are infinite
def _footprint(band: RasterBand, crs: pyproj.CRS) -> _Footprint:
    """Return what part of the globe a projected raster may cover, with a margin.

    Zones are cut to it before they are projected, as projections fold or tear far away from
    where they are made for.
    """
    to_globe = _transformation(band.crs, crs)
    to_raster = _transformation(crs, band.crs)
    side = np.linspace(0, 1, _FOOTPRINT_SAMPLES)
    column, row = (axis.ravel() for axis in np.meshgrid(side * band.width, side * band.height))
    samples = np.column_stack(band.position(column, row))
    on_globe = to_globe(samples)
    again = to_raster(on_globe)
    tolerance = float(np.ptp(samples, axis=0).max()) * 1e-6
    # corners of a raster may lie outside of the map, as around a Mollweide ellipse
    is_on_map = np.isfinite(on_globe).all(axis=1) & np.isfinite(again).all(axis=1)
    is_on_map &= np.hypot(*(again - samples).T) < tolerance
    middle = _central_meridian(band.crs)
    if not is_on_map.any():
        raise InvalidRequest("raster: lies outside of where its CRS is defined")
    longitude, latitude = on_globe[is_on_map].T
    longitude = np.sort((longitude - middle + 180) % 360 + middle - 180)

    margin = max(0.1 * float(np.ptp(latitude)), 1e-3)
    south, north = float(latitude.min()) - margin, float(latitude.max()) + margin
    for pole in (-90.0, 90.0):
        at_column, at_row = band.pixel(*to_raster(np.array([[middle, pole]])).T)
        if 0 <= at_column[0] <= band.width and 0 <= at_row[0] <= band.height:
            south, north = min(south, pole), max(north, pole)

    west, east = middle - 180 + _EDGE_DEGREES, middle + 180 - _EDGE_DEGREES
    gaps = np.diff(longitude, append=longitude[0] + 360)
    widest = int(gaps.argmax())
    if gaps[widest] > 60:
        covered = 360 - float(gaps[widest])
        margin = max(0.1 * covered, 1e-3)
        start = float(longitude[(widest + 1) % len(longitude)])
        if start + covered <= middle + 180:
            west, east = max(west, start - margin), min(east, start + covered + margin)
    return _Footprint(west, max(south, -90.0), east, min(north, 90.0))


def _central_meridian(crs: pyproj.CRS) -> float:
    """Return the longitude, in degrees, opposite of which a projection tears the globe."""
    base = 0.0 if crs.prime_meridian is None else crs.prime_meridian.longitude
    if crs.coordinate_operation is not None:
        for parameter in crs.coordinate_operation.params:
            if parameter.name.startswith("Longitude of"):
                return base + math.degrees(
                    float(parameter.value) * parameter.unit_conversion_factor
                )
    return base
