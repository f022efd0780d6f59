"""Rasters and zones, made by the tests themselves."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from affine import Affine
from rasterio.io import MemoryFile  # type: ignore[import-untyped]

ONE_DEGREE = Affine(1, 0, 0, 0, -1, 10)


def _make_raster(
    values: npt.NDArray[Any],
    *,
    crs: str | None = "EPSG:4326",
    transform: Affine = ONE_DEGREE,
    scale_and_offset: tuple[float, float] = (1.0, 0.0),
    label: tuple[str, str] = ("", ""),
    **options: Any,
) -> bytes:
    bands = values.reshape((-1, *values.shape[-2:]))
    with MemoryFile() as file:
        with file.open(
            driver=options.pop("driver", "GTiff"),
            width=bands.shape[2],
            height=bands.shape[1],
            count=len(bands),
            dtype=bands.dtype,
            crs=crs,
            transform=transform,
            **options,
        ) as dataset:
            dataset.write(bands)
            if scale_and_offset != (1.0, 0.0):
                dataset.scales = [scale_and_offset[0]] * len(bands)
                dataset.offsets = [scale_and_offset[1]] * len(bands)
            if label != ("", ""):
                dataset.descriptions, dataset.units = ([text] * len(bands) for text in label)
        return bytes(file.read())


@pytest.fixture
def make_raster() -> Callable[..., bytes]:
    """Returns a function that returns a raster file, by default of 1 degree from 0, 10."""
    return _make_raster


def _make_zones(*geometries: dict[str, Any] | None, **members: Any) -> bytes:
    features = [
        {"type": "Feature", "properties": {"name": f"zone {number}"}, "geometry": geometry}
        for number, geometry in enumerate(geometries, start=1)
    ]
    return json.dumps({"type": "FeatureCollection", "features": features, **members}).encode()


@pytest.fixture
def make_zones() -> Callable[..., bytes]:
    """Returns a function that returns a FeatureCollection of geometries."""
    return _make_zones


@pytest.fixture
def rough() -> Callable[[int, int], npt.NDArray[np.float64]]:
    """Returns a function that returns rows by columns of values without any pattern."""

    def make(rows: int, columns: int) -> npt.NDArray[np.float64]:
        return np.random.default_rng(20200810).normal(50, 20, (rows, columns))

    return make
