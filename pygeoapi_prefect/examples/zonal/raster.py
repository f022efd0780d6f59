"""The raster: one band of a file that a client sent."""

import contextlib
import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyproj
import rasterio  # type: ignore[import-untyped]
from affine import Affine
from pyproj.exceptions import CRSError
from rasterio.errors import RasterioError  # type: ignore[import-untyped]
from rasterio.io import DatasetReader, MemoryFile  # type: ignore[import-untyped]
from rasterio.windows import Window  # type: ignore[import-untyped]

from pygeoapi_prefect.errors import InvalidRequest

# Formats of one self-contained file. GDAL also has formats that refer to other files and
# addresses (VRT, WMS, HDF5 with external storage, ...): opening a client's bytes as any of
# those would read the operator's files and call into the operator's network.
DRIVERS = ("GTiff", "GRIB", "JP2OpenJPEG", "netCDF", "NITF", "DTED")
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"

# the whole globe, with room for a pixel size that was rounded
_FULL_TURN_DEGREES = 360 - 1e-6

_Numbers = npt.NDArray[np.float64]
Values = np.ma.MaskedArray[tuple[int, ...], np.dtype[np.float64]]


@dataclasses.dataclass(frozen=True)
class RasterBand:
    """One band of an open raster. Pixel coordinates are (column, row) from its first corner.

    Attributes:
        crs: Horizontal CRS.
        to_crs: From pixel coordinates to coordinates in the CRS, x before y.
        label: What the values are, as far as the file says.
    """

    dataset: DatasetReader
    index: int
    crs: pyproj.CRS
    to_crs: Affine
    label: str

    @property
    def width(self) -> int:
        """Number of columns."""
        return int(self.dataset.width)

    @property
    def height(self) -> int:
        """Number of rows."""
        return int(self.dataset.height)

    @property
    def is_upright(self) -> bool:
        """Whether columns run along x and rows along y: neither rotated nor sheared."""
        return bool(self.to_crs.b == 0 and self.to_crs.d == 0)

    def position(self, column: _Numbers, row: _Numbers) -> tuple[_Numbers, _Numbers]:
        """Return x and y in the CRS of pixel coordinates."""
        a, b, c, d, e, f = self.to_crs[:6]
        return a * column + b * row + c, d * column + e * row + f

    def pixel(self, x: _Numbers, y: _Numbers) -> tuple[_Numbers, _Numbers]:
        """Return the pixel coordinates (column, row) of x and y in the CRS."""
        a, b, c, d, e, f = (~self.to_crs)[:6]
        return a * x + b * y + c, d * x + e * y + f

    @property
    def columns_around_the_globe(self) -> float | None:
        """Number of columns after which the globe repeats; None unless the raster goes round."""
        if not (self.crs.is_geographic and not self.crs.is_derived and self.is_upright):
            return None
        if self.width * abs(self.to_crs.a) < _FULL_TURN_DEGREES:
            return None
        return float(360 / abs(self.to_crs.a))

    def read(self, window: Window, shape: tuple[int, int] | None = None) -> Values:
        """Read pixels as what they mean: scale and offset applied, nodata and NaN masked.

        Args:
            window: Which pixels.
            shape: Rows and columns of the result, if not those of the window; the nearest
                pixels are taken.

        Raises:
            InvalidRequest: The file is damaged.
        """
        try:
            stored = self.dataset.read(self.index, window=window, out_shape=shape, masked=True)
        except RasterioError as error:
            raise InvalidRequest("raster: its pixels cannot be decoded") from error
        values = np.ma.masked_invalid(stored.astype(np.float64), copy=False)
        scale = self.dataset.scales[self.index - 1]
        offset = self.dataset.offsets[self.index - 1]
        return values if (scale, offset) == (1.0, 0.0) else values * scale + offset


@contextlib.contextmanager
def open_band(content: bytes, index: int) -> Iterator[RasterBand]:
    """Open one band of a raster file.

    Args:
        content: A file in one of the formats of `DRIVERS`.
        index: Number of the band, from 1.

    Raises:
        InvalidRequest: No raster, no such band, or nothing says where on Earth it is.
    """
    with (
        rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
        MemoryFile(content) as file,
        _open(content, file) as dataset,
    ):
        if dataset.count == 0 and dataset.subdatasets:
            raise InvalidRequest("raster: holds several datasets; send one of them alone")
        if not 1 <= index <= dataset.count:
            raise InvalidRequest(f"band: there is no band {index} among {dataset.count}")
        if np.dtype(dataset.dtypes[index - 1]).kind not in "iuf":
            raise InvalidRequest(f"raster: the values of band {index} are no real numbers")
        yield RasterBand(
            dataset, index, _crs_of(dataset), _to_crs_of(dataset), _label_of(dataset, index)
        )


def _open(content: bytes, file: MemoryFile) -> DatasetReader:
    if content.startswith(_HDF5_SIGNATURE):
        raise InvalidRequest(
            "raster: HDF5 and netCDF-4 files can refer to other files and are not read; "
            "send GeoTIFF, or netCDF in its classic format"
        )
    for driver in DRIVERS if content else ():
        with contextlib.suppress(RasterioError):
            return file.open(driver=driver)
    raise InvalidRequest(
        f"raster: {len(content)} bytes that are no raster in any of the formats "
        f"{', '.join(DRIVERS)}, or a damaged one"
    )


def _crs_of(dataset: DatasetReader) -> pyproj.CRS:
    if not dataset.crs:
        raise InvalidRequest("raster: has no coordinate reference system")
    try:
        crs = pyproj.CRS.from_wkt(dataset.crs.to_wkt())
    except CRSError:
        raise InvalidRequest("raster: its coordinate reference system is not valid") from None
    if crs.is_compound:
        crs = crs.sub_crs_list[0]
    if crs.is_bound and crs.source_crs is not None:
        crs = crs.source_crs
    if not (crs.is_geographic or crs.is_projected):
        raise InvalidRequest(
            "raster: its coordinate reference system is neither geographic nor projected"
        )
    return crs


def _to_crs_of(dataset: DatasetReader) -> Affine:
    if dataset.gcps[0] and dataset.transform.is_identity:
        raise InvalidRequest(
            "raster: is placed by ground control points only; warp it to a grid first"
        )
    if dataset.transform.is_degenerate:
        raise InvalidRequest("raster: its pixels have no size")
    return Affine(*dataset.transform[:6])


def _label_of(dataset: DatasetReader, index: int) -> str:
    tags = dataset.tags(index)
    name = tags.get("GRIB_COMMENT") or tags.get("long_name") or dataset.descriptions[index - 1]
    if not name:
        return f"band {index}"
    unit = dataset.units[index - 1]
    return name if not unit or unit in name else f"{name} [{unit}]"
