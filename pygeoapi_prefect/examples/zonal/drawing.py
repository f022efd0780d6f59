"""A map of zonal statistics: zones coloured by their mean, over the raster in grey."""

import dataclasses
import io
import math
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
import numpy as np
import shapely
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox
from rasterio.windows import Window  # type: ignore[import-untyped]
from shapely.affinity import translate
from shapely.geometry.base import BaseGeometry

from pygeoapi_prefect.examples.zonal.placing import place_zones
from pygeoapi_prefect.examples.zonal.raster import RasterBand
from pygeoapi_prefect.examples.zonal.zones import Area, feature_name, read_zones, valid

DOTS_PER_INCH = 150
# the map itself, without what stands around it
_MAP_WIDTH_INCHES = 8.0
_MAP_HEIGHT_INCHES = 7.0
_LONGEST_TO_SHORTEST = 1.8
_LEFT_INCHES, _RIGHT_INCHES, _TOP_INCHES, _BOTTOM_INCHES = 0.85, 1.25, 0.75, 1.15
_BACKGROUND_PIXELS = 1200
# zones that are smaller on paper get a dot, or nobody finds them
_DOT_POINTS = 5.5
_MOST_LABELS = 40
_ZONE_COLOURS = matplotlib.colormaps["viridis"]
# greys that leave white to places without data, and dark to outlines and text
_BACKGROUND_COLOURS = LinearSegmentedColormap.from_list("background", ["0.94", "0.52"])
_NO_DATA_COLOUR = "#c2185b"


@dataclasses.dataclass(frozen=True)
class _View:
    """The part of the pixel grid that the map shows.

    Where the raster goes round the globe, `left` and `right` may lie beyond its columns.
    """

    left: float
    top: float
    right: float
    bottom: float


@dataclasses.dataclass(frozen=True)
class _DrawnZone:
    area: Area
    name: str | None
    mean: float | None


def draw_map(statistics: bytes, band: RasterBand) -> bytes:
    """Draw zones that have statistics.

    Args:
        statistics: GeoJSON as `statistics.as_geojson` makes it.
        band: What they were computed from.

    Returns:
        A PNG image of at most 1515 by 1335 pixels.
    """
    zones = read_zones(statistics)
    places = place_zones(zones, band)
    features = zones.collection["features"]
    drawn = [
        _DrawnZone(area, feature_name(feature), feature["properties"]["mean"])
        for area, feature in zip(places, features, strict=True)
    ]
    view = _choose_view(places, band)
    figure, axes = _start_figure(view, band)
    _draw_background(figure, axes, view, band)
    colours = _scale_of(features)
    # the largest first: a zone within another stays visible
    shown = sorted(_repeated(drawn, view, band), key=lambda zone: -zone.area.area)
    _draw_zones(axes, shown, colours)
    _draw_legend(figure, axes, band, features, colours)
    _draw_ticks(axes, view, band)
    _draw_labels(figure, axes, shown)
    image = io.BytesIO()
    # fixed metadata: the same request gives the same bytes
    figure.savefig(image, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return image.getvalue()


def _choose_view(places: Sequence[Area], band: RasterBand) -> _View:
    """Show all zones that lie on the raster, with a margin; without any, the whole raster."""
    grid = shapely.box(0, 0, band.width, band.height)
    inside = [part for part in shapely.intersection(places, grid) if not part.is_empty]
    if not inside:
        return _View(0, 0, band.width, band.height)
    _, top, _, bottom = shapely.total_bounds(inside)
    left, right = _columns(inside, band)
    margin = max(0.08 * (right - left), 0.08 * (bottom - top), 2)
    top, bottom = max(top - margin, 0), min(bottom + margin, band.height)
    left, right = left - margin, right + margin
    # a strip is hard to read
    stretch = _pixel_stretch(top, bottom, band)
    longest = max((bottom - top) * stretch, right - left)
    if (short := longest / _LONGEST_TO_SHORTEST / stretch - (bottom - top)) > 0:
        top, bottom = max(top - short / 2, 0), min(bottom + short / 2, band.height)
    if (short := longest / _LONGEST_TO_SHORTEST - (right - left)) > 0:
        left, right = left - short / 2, right + short / 2
    around = band.columns_around_the_globe
    if around is None:
        left, right = max(left, 0), min(right, band.width)
    elif right - left > around:
        middle = (left + right) / 2
        left, right = middle - around / 2, middle + around / 2
    return _View(left, top, right, bottom)


def _columns(inside: Sequence[BaseGeometry], band: RasterBand) -> tuple[float, float]:
    """Return the first and last column that zones need.

    Where the raster goes round the globe, the widest stretch without zones is left out.
    """
    bounds = shapely.bounds(shapely.get_parts(inside))
    around = band.columns_around_the_globe
    if around is None:
        return float(bounds[:, 0].min()), float(bounds[:, 2].max())
    spans = bounds[np.argsort(bounds[:, 0])]
    reached = np.maximum.accumulate(spans[:, 2])
    starts = np.append(spans[1:, 0], spans[0, 0] + around)
    widest = int(np.argmax(starts - reached))
    # a gap across the end of the grid: nothing needs to be moved
    if widest == len(spans) - 1:
        return float(spans[0, 0]), float(reached[-1])
    return float(starts[widest]), float(reached[widest] + around)


def _repeated(zones: Sequence[_DrawnZone], view: _View, band: RasterBand) -> Iterator[_DrawnZone]:
    """Return zones wherever the view shows them, those across the grid's end in one piece."""
    around = band.columns_around_the_globe
    frame = shapely.box(view.left, view.top, view.right, view.bottom)
    for zone in zones:
        copies: BaseGeometry = zone.area
        if around is not None:
            turns = [translate(zone.area, xoff=turn * around) for turn in (-1, 0, 1)]
            # a hair wider, so that the two halves grow together
            copies = shapely.union_all([turned.buffer(1e-4) for turned in turns])
        shown = valid(copies.intersection(frame))
        if not shown.is_empty:
            yield dataclasses.replace(zone, area=shown)


def _start_figure(view: _View, band: RasterBand) -> tuple[Figure, Axes]:
    stretch = _pixel_stretch(view.top, view.bottom, band)
    flatness = (view.bottom - view.top) * stretch / (view.right - view.left)
    width = min(_MAP_WIDTH_INCHES, _MAP_HEIGHT_INCHES / flatness)
    # a raster of a few columns or rows may be any strip
    height = min(max(width * flatness, 1.5), _MAP_HEIGHT_INCHES)
    width = max(width, 4.0)
    figure_width = _LEFT_INCHES + width + _RIGHT_INCHES
    figure_height = _BOTTOM_INCHES + height + _TOP_INCHES
    figure = Figure(figsize=(figure_width, figure_height), dpi=DOTS_PER_INCH, facecolor="white")
    axes = figure.add_axes(
        (
            _LEFT_INCHES / figure_width,
            _BOTTOM_INCHES / figure_height,
            width / figure_width,
            height / figure_height,
        )
    )
    _show(axes, view, band)
    return figure, axes


def _show(axes: Axes, view: _View, band: RasterBand) -> None:
    """Let the map show the view, east on the right and north on top."""
    is_mirrored = band.is_upright and band.to_crs.a < 0
    is_south_up = band.is_upright and band.to_crs.e > 0
    axes.set_xlim(*((view.right, view.left) if is_mirrored else (view.left, view.right)))
    axes.set_ylim(*((view.top, view.bottom) if is_south_up else (view.bottom, view.top)))


def _pixel_stretch(top: float, bottom: float, band: RasterBand) -> float:
    """Return how much higher than wide a pixel is drawn, so that shapes look as on the globe."""
    to_crs = band.to_crs
    stretch = math.hypot(to_crs.b, to_crs.e) / math.hypot(to_crs.a, to_crs.d)
    if band.crs.is_geographic and band.is_upright:
        latitudes = [to_crs.f + to_crs.e * row for row in (top, bottom)]
        # a map of the whole globe keeps the simple cylindrical look
        if abs(latitudes[1] - latitudes[0]) < 90:
            middle = math.radians(sum(latitudes) / 2)
            stretch /= max(math.cos(middle), 0.3)
    return stretch


def _draw_background(figure: Figure, axes: Axes, view: _View, band: RasterBand) -> None:
    around = band.columns_around_the_globe
    turns = [0.0] if around is None else [-around, 0.0, around]
    pieces = []
    for turn in turns:
        first = max(math.floor(view.left - turn), 0)
        last = min(math.ceil(view.right - turn), band.width)
        top, bottom = math.floor(view.top), math.ceil(view.bottom)
        if last <= first:
            continue
        shrink = max((last - first) / _BACKGROUND_PIXELS, (bottom - top) / _BACKGROUND_PIXELS, 1)
        shape = (math.ceil((bottom - top) / shrink), math.ceil((last - first) / shrink))
        values = band.read(Window(first, top, last - first, bottom - top), shape)
        pieces.append((values, (first + turn, last + turn, bottom, top)))
    seen = np.concatenate([values.compressed() for values, _ in pieces])
    if not len(seen):
        return
    # single extremes would leave the rest without contrast
    low, high = (float(value) for value in np.percentile(seen, (1, 99)))
    scale = Normalize(low, high if high > low else low + 1)
    for values, extent in pieces:
        image = axes.imshow(
            values,
            cmap=_BACKGROUND_COLOURS,
            norm=scale,
            extent=extent,
            aspect="auto",
            interpolation="nearest",
        )
    _show(axes, view, band)  # images move the limits
    place = axes.get_position()
    inch = 1 / figure.get_figheight()
    bar = figure.colorbar(
        image,
        cax=figure.add_axes((place.x0, 0.5 * inch, 0.4 * place.width, 0.1 * inch)),
        orientation="horizontal",
        extend="both",
    )
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, color="0.4", labelcolor="0.3")
    bar.ax.xaxis.set_major_locator(MaxNLocator(nbins=5))
    bar.ax.set_xlabel(
        f"Background: {_shortened(band.label, 60)}",
        fontsize=8,
        color="0.3",
        loc="left",
        parse_math=False,
    )


def _scale_of(features: Sequence[dict[str, Any]]) -> Normalize | None:
    """Return the scale of the zones' colours, None where no zone has a mean."""
    found = [f["properties"] for f in features if f["properties"]["mean"] is not None]
    if not found:
        return None
    low, high = min(p["mean"] for p in found), max(p["mean"] for p in found)
    if low == high:
        low, high = min(p["min"] for p in found), max(p["max"] for p in found)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return Normalize(low, high)


def _draw_zones(axes: Axes, zones: Sequence[_DrawnZone], colours: Normalize | None) -> None:
    thin = 0.7 if len(zones) <= 100 else 0.4
    dots = []
    for zone in zones:
        fill = None
        if zone.mean is not None and colours is not None:
            fill = _ZONE_COLOURS(colours(zone.mean))
        edge = "0.1" if fill else _NO_DATA_COLOUR
        patch = PathPatch(
            _path(zone.area), facecolor=fill or "none", edgecolor=edge, linewidth=thin, zorder=3
        )
        if fill:
            patch.set_path_effects([withStroke(linewidth=thin + 1.2, foreground="white")])
        else:
            patch.set(hatch="////", linestyle="--")
        axes.add_patch(patch)
        if _size_in_points(axes, zone.area) < _DOT_POINTS:
            spot = zone.area.representative_point()
            dots.append((spot.x, spot.y, fill or "white", edge))
    if dots:
        x, y, faces, edges = zip(*dots, strict=True)
        axes.scatter(x, y, s=_DOT_POINTS**2, c=faces, edgecolors=edges, linewidths=0.8, zorder=4)


def _path(area: BaseGeometry) -> Path:
    rings = [
        ring
        for part in shapely.get_parts(area)
        if isinstance(part, shapely.Polygon)
        for ring in (part.exterior, *part.interiors)
    ]
    if not rings:
        return Path(np.empty((0, 2)))
    return Path.make_compound_path(
        *(Path(shapely.get_coordinates(ring), closed=True) for ring in rings)
    )


def _size_in_points(axes: Axes, area: Area) -> float:
    """Return the side of the square as large as the area."""
    unit = axes.transData.transform([(0, 0), (1, 1)])
    dots = math.sqrt(area.area * abs(float(np.prod(unit[1] - unit[0]))))
    return dots * 72 / DOTS_PER_INCH


def _draw_labels(figure: Figure, axes: Axes, zones: Sequence[_DrawnZone]) -> None:
    """Write names at zones, the largest first, where they hide no other zone or name."""
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    frame = axes.get_window_extent()
    extents = [_extent_on_paper(axes, zone.area) for zone in zones]
    taken: list[Bbox] = []
    for number, zone in enumerate(zones):
        if zone.name is None or not _can_write(zone.name) or len(taken) == _MOST_LABELS:
            continue
        extent = extents[number]
        label = axes.text(
            0,
            0,
            _shortened(zone.name, 24),
            transform=None,
            ha="center",
            va="center",
            fontsize=7.5,
            color="0.05",
            parse_math=False,
            path_effects=[withStroke(linewidth=2.2, foreground="white")],
            zorder=5,
        )
        size = label.get_window_extent(renderer)
        others = [e for n, e in enumerate(extents) if n != number and not _holds(e, extent)]
        for spot in _spots(axes, zone.area, extent, size):
            x, y = spot
            box = Bbox.from_bounds(x - size.width / 2, y - size.height / 2, size.width, size.height)
            if _holds(frame, box) and not any(box.overlaps(other) for other in [*taken, *others]):
                label.set_position(spot)
                taken.append(box)
                break
        else:
            label.remove()


def _spots(axes: Axes, area: Area, extent: Bbox, size: Bbox) -> Iterator[tuple[float, float]]:
    """Yield where the middle of a label may be: inside a large zone, else around it."""
    inside = area.representative_point()
    x, y = axes.transData.transform((inside.x, inside.y))
    if extent.width > 1.5 * size.width and extent.height > 2 * size.height:
        yield x, y
    gap = _DOT_POINTS / 2 * DOTS_PER_INCH / 72
    above = max(extent.y1, y + gap) + 0.7 * size.height
    below = min(extent.y0, y - gap) - 0.7 * size.height
    right = max(extent.x1, x + gap) + 0.4 * size.height + size.width / 2
    left = min(extent.x0, x - gap) - 0.4 * size.height - size.width / 2
    yield from [(x, above), (x, below), (right, y), (left, y)]
    yield from [(right, above), (left, above), (right, below), (left, below)]


def _extent_on_paper(axes: Axes, area: Area) -> Bbox:
    left, top, right, bottom = area.bounds
    corners = axes.transData.transform([(left, top), (right, bottom)])
    return Bbox([corners.min(axis=0), corners.max(axis=0)])


def _holds(outer: Bbox, inner: Bbox) -> bool:
    return bool(
        outer.x0 <= inner.x0
        and inner.x1 <= outer.x1
        and outer.y0 <= inner.y0
        and inner.y1 <= outer.y1
    )


def _can_write(text: str) -> bool:
    """Tell whether the font has all characters of a text: others would be drawn as boxes."""
    font = get_font(findfont("DejaVu Sans"))
    return all(font.get_char_index(ord(character)) for character in text)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _draw_legend(
    figure: Figure,
    axes: Axes,
    band: RasterBand,
    features: Sequence[dict[str, Any]],
    colours: Normalize | None,
) -> None:
    empty = sum(feature["properties"]["mean"] is None for feature in features)
    counted = f"{len(features)} zone" + ("" if len(features) == 1 else "s")
    if empty:
        counted += f", {empty} without data"
    place = axes.get_position()
    inch = 1 / figure.get_figheight()
    figure.text(
        place.x0,
        place.y1 + 0.34 * inch,
        f"Mean of {_shortened(band.label, 50)} by zone",
        fontsize=13,
        parse_math=False,
    )
    figure.text(place.x0, place.y1 + 0.12 * inch, counted, fontsize=9, color="0.35")
    if colours is None:
        return
    width = 0.16 / figure.get_figwidth()
    bar = figure.colorbar(
        matplotlib.cm.ScalarMappable(norm=colours, cmap=_ZONE_COLOURS),
        cax=figure.add_axes((place.x1 + width, place.y0, width, place.height)),
    )
    bar.outline.set_linewidth(0.6)
    bar.ax.tick_params(labelsize=8.5)
    bar.ax.set_ylabel(_shortened(f"Mean of {band.label}", 50), fontsize=9, parse_math=False)


def _draw_ticks(axes: Axes, view: _View, band: RasterBand) -> None:
    axes.tick_params(labelsize=8, color="0.4", labelcolor="0.3")
    for spine in axes.spines.values():
        spine.set_color("0.4")
        spine.set_linewidth(0.6)
    if not band.is_upright:
        # rows and columns run along no axis of the CRS
        axes.set_xlabel("column", fontsize=8, color="0.3")
        axes.set_ylabel("row", fontsize=8, color="0.3")
        return
    to_crs = band.to_crs
    _draw_axis(axes.xaxis, to_crs.c, to_crs.a, (view.left, view.right), band)
    _draw_axis(axes.yaxis, to_crs.f, to_crs.e, (view.top, view.bottom), band)
    axes.grid(color="0.3", linewidth=0.3, alpha=0.5, zorder=1)


def _draw_axis(
    axis: XAxis | YAxis, first: float, step: float, shown: tuple[float, float], band: RasterBand
) -> None:
    """Label an axis of pixels with coordinates of the CRS: pixel 0 is at `first`."""
    low, high = sorted(first + step * pixel for pixel in shown)
    is_globe = band.crs.is_geographic
    most = 7 if is_globe else 5  # eastings and northings are long numbers
    # parts of a circle for large maps, decimal fractions of a degree for small ones
    steps = [1, 1.5, 3, 4.5, 6, 9, 10] if is_globe and high - low > 20 else [1, 2, 2.5, 5, 10]
    ticks = MaxNLocator(nbins=most, steps=steps).tick_values(low, high)
    values = [float(value) for value in ticks if low <= value <= high]
    axis.set_ticks([(value - first) / step for value in values])
    if is_globe:
        letters = "EW" if axis.axis_name == "x" else "NS"
        axis.set_ticklabels([_degrees(value, letters) for value in values])
        return
    axis.set_ticklabels([f"{value:,.12g}" for value in values])
    if axis.axis_name == "y":
        for text in axis.get_ticklabels():
            text.set(rotation=90, va="center")
    name = "Easting" if axis.axis_name == "x" else "Northing"
    unit = band.crs.axis_info[0].unit_name
    axis.set_label_text(
        f"{name} [{unit}], {_shortened(band.crs.name, 40)}", fontsize=8, color="0.3"
    )


def _degrees(value: float, letters: str) -> str:
    if letters == "EW":
        value = (value + 180) % 360 - 180
    value = round(value, 9)
    if value == 0 or (letters == "EW" and abs(value) == 180):
        return f"{abs(value):g}°"
    return f"{abs(value):.9g}°{letters[0] if value > 0 else letters[1]}"
