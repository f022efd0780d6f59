"""Statistics of the pixels in zones."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Sequence
from typing import Any

from exactextract import exact_extract  # type: ignore[import-untyped]
from exactextract.raster import RasterSource  # type: ignore[import-untyped]
from rasterio.windows import Window  # type: ignore[import-untyped]
from shapely.affinity import affine_transform
from shapely.geometry import mapping

from pygeoapi_prefect.examples.zonal.placing import place_zones
from pygeoapi_prefect.examples.zonal.raster import RasterBand, Values
from pygeoapi_prefect.examples.zonal.zones import Area, Zones

STATISTICS = ("count", "min", "max", "mean", "std")
# Pixels of one zone that are in memory at once: 160 MB with mask and coverage.
_PIXELS_IN_MEMORY = 10_000_000


@dataclasses.dataclass(frozen=True)
class ZoneStatistics:
    """Statistics of the pixels of one zone that have data.

    Attributes:
        count: Number of pixels; a pixel that lies partly in the zone counts by that part.
        min: Smallest value of any pixel that the zone touches; None where there is none.
        max: Largest value of any such pixel.
        mean: Mean, pixels weighted by the part of them that lies in the zone.
        std: Standard deviation of the population, weighted likewise.
    """

    count: float
    min: float | None
    max: float | None
    mean: float | None
    std: float | None


class _PixelGrid(RasterSource):  # type: ignore[misc]
    """A band on a grid of pixels of size 1 with the first row on top.

    In pixel coordinates rotated, sheared and south-up rasters are like any other.
    """

    def __init__(self, band: RasterBand) -> None:
        super().__init__()
        self._band = band

    def res(self) -> tuple[float, float]:
        return 1.0, 1.0

    def extent(self) -> tuple[float, float, float, float]:
        return 0.0, 0.0, float(self._band.width), float(self._band.height)

    def nodata_value(self) -> None:
        return None

    def srs_wkt(self) -> None:
        return None

    def read_window(self, x0: int, y0: int, nx: int, ny: int) -> Values:
        return self._band.read(Window(x0, y0, nx, ny))


def compute_statistics(zones: Zones, band: RasterBand) -> list[ZoneStatistics]:
    """Compute the statistics of each zone.

    Raises:
        InvalidRequest: The raster is damaged, or a zone cannot be placed on it.
    """
    return summarize(place_zones(zones, band), band)


def summarize(areas: Sequence[Area], band: RasterBand) -> list[ZoneStatistics]:
    """Compute the statistics of areas given in pixel coordinates (column, row)."""
    features = [
        {
            "type": "Feature",
            "id": number,
            "properties": {},
            # exactextract wants y upwards
            "geometry": mapping(affine_transform(area, [1, 0, 0, -1, 0, band.height])),
        }
        for number, area in enumerate(areas)
        if not area.is_empty
    ]
    found = (
        exact_extract(
            _PixelGrid(band),
            features,
            ["count", "min", "max", "mean", "stdev"],
            include_cols=["id"],
            max_cells_in_memory=_PIXELS_IN_MEMORY,
        )
        if features
        else []
    )
    by_number = {feature["id"]: feature["properties"] for feature in found}
    return [_statistics(by_number.get(number, {})) for number in range(len(areas))]


def _statistics(found: dict[str, Any]) -> ZoneStatistics:
    count = float(found.get("count", 0))
    if count == 0:
        return ZoneStatistics(0.0, None, None, None, None)
    # rounding errors let the variance of equal values fall below zero
    std = 0.0 if math.isnan(found["stdev"]) else float(found["stdev"])
    return ZoneStatistics(
        count, float(found["min"]), float(found["max"]), float(found["mean"]), std
    )


def as_geojson(zones: Zones, statistics: Sequence[ZoneStatistics]) -> bytes:
    """Return the zones as they came, with their statistics among their properties.

    A property that is called like one of `STATISTICS` is replaced.
    """
    features = [
        feature | {"properties": (feature.get("properties") or {}) | dataclasses.asdict(result)}
        for feature, result in zip(zones.collection["features"], statistics, strict=True)
    ]
    return json.dumps(zones.collection | {"features": features}, ensure_ascii=False).encode()


def as_csv(statistics: bytes) -> bytes:
    """Return the GeoJSON of `as_geojson` as a table (RFC 4180, UTF-8), one row per zone.

    Columns are ``feature`` (id of the feature, else its number from 1), the properties in the
    order in which they first appear, and the statistics. What is not known stays empty;
    objects and arrays are written as JSON.
    """
    features = json.loads(statistics)["features"]
    names = dict.fromkeys(
        name for feature in features for name in feature["properties"] if name not in STATISTICS
    )
    names.pop("feature", None)
    columns = ["feature", *names, *STATISTICS]
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, lineterminator="\r\n", extrasaction="ignore")
    writer.writeheader()
    for number, feature in enumerate(features, start=1):
        cells = feature["properties"] | {"feature": feature.get("id", number)}
        writer.writerow({name: _cell(value) for name, value in cells.items()})
    return table.getvalue().encode()


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list | bool) else value
