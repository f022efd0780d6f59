"""What a client's raster means, and what of it is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from rasterio.control import GroundControlPoint  # type: ignore[import-untyped]
from rasterio.io import MemoryFile  # type: ignore[import-untyped]
from rasterio.shutil import copy  # type: ignore[import-untyped]
from rasterio.windows import Window  # type: ignore[import-untyped]

from pygeoapi_prefect.errors import InvalidRequest
from pygeoapi_prefect.examples.zonal.raster import open_band

MakeRaster = Callable[..., bytes]


def read(content: bytes, band: int = 1) -> list[list[Any]]:
    with open_band(content, band) as opened:
        values: list[list[Any]] = opened.read(Window(0, 0, opened.width, opened.height)).tolist()
        return values


def test_scale_and_offset_are_applied_and_nodata_is_compared_before(
    make_raster: MakeRaster,
) -> None:
    stored = np.array([[0, 10], [255, 20]], dtype=np.uint8)
    content = make_raster(stored, nodata=255, scale_and_offset=(0.5, -3.0))
    assert read(content) == [[-3.0, 2.0], [None, 7.0]]


def test_nan_and_infinity_are_no_data(make_raster: MakeRaster) -> None:
    assert read(make_raster(np.array([[np.nan, 1.0], [np.inf, -np.inf]]))) == [
        [None, 1.0],
        [None, None],
    ]


def test_each_band_can_be_read(make_raster: MakeRaster) -> None:
    content = make_raster(np.array([[[1]], [[2]]], dtype=np.int16))
    assert [read(content, 1), read(content, 2)] == [[[1.0]], [[2.0]]]


@pytest.mark.parametrize("band", [0, 2])
def test_a_band_that_is_not_there_is_refused(make_raster: MakeRaster, band: int) -> None:
    with pytest.raises(InvalidRequest, match=f"band: there is no band {band} among 1"):
        read(make_raster(np.ones((2, 2))), band)


@pytest.mark.parametrize(
    ("driver", "suffix"),
    [("GTiff", "tif"), ("netCDF", "nc"), ("JP2OpenJPEG", "jp2"), ("NITF", "ntf")],
)
def test_several_formats_are_read(
    make_raster: MakeRaster, driver: str, suffix: str, tmp_path: Path
) -> None:
    values = np.arange(100, dtype=np.uint8).reshape(10, 10)
    path = tmp_path / f"raster.{suffix}"
    options = {"QUALITY": "100", "REVERSIBLE": "YES"} if driver == "JP2OpenJPEG" else {}
    with MemoryFile(make_raster(values)) as file, file.open() as dataset:
        copy(dataset, path, driver=driver, **options)
    assert read(path.read_bytes()) == values.tolist()


def test_a_format_that_refers_to_other_files_is_not_read(
    make_raster: MakeRaster, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.tif"
    secret.write_bytes(make_raster(np.full((2, 2), 42.0)))
    vrt = f"""<VRTDataset rasterXSize="2" rasterYSize="2"><SRS>EPSG:4326</SRS>
      <GeoTransform>0, 1, 0, 10, 0, -1</GeoTransform><VRTRasterBand dataType="Float64" band="1">
      <SimpleSource><SourceFilename>{secret}</SourceFilename></SimpleSource></VRTRasterBand>
      </VRTDataset>"""
    # it would be read if GDAL were free to choose
    with MemoryFile(vrt.encode()) as file, file.open() as dataset:
        assert dataset.read(1).max() == 42
    with pytest.raises(InvalidRequest, match="no raster in any of the formats") as refusal:
        read(vrt.encode())
    assert str(tmp_path) not in refusal.value.detail


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes that are no raster"),
        (b"not a raster at all", "19 bytes that are no raster"),
        (b"II*\x00" + bytes(100), "no raster"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5 and netCDF-4 files"),
    ],
)
def test_bytes_that_are_no_raster_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as refusal:
        read(content)
    assert "vsimem" not in refusal.value.detail


def test_a_file_that_was_cut_off_is_refused(make_raster: MakeRaster) -> None:
    content = make_raster(np.random.default_rng(1).random((64, 64)), compress="deflate")
    with pytest.raises(InvalidRequest, match=r"cannot be decoded|no raster"):
        read(content[: len(content) // 2])


def test_a_raster_without_a_place_is_refused(make_raster: MakeRaster) -> None:
    with pytest.raises(InvalidRequest, match="no coordinate reference system"):
        read(make_raster(np.ones((2, 2)), crs=None))


def test_a_raster_in_a_local_crs_is_refused(make_raster: MakeRaster) -> None:
    local = 'LOCAL_CS["site grid",UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]'
    with pytest.raises(InvalidRequest, match="neither geographic nor projected"):
        read(make_raster(np.ones((2, 2)), crs=local))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_raster_placed_by_control_points_is_refused() -> None:
    points = [GroundControlPoint(0, 0, 5, 50), GroundControlPoint(2, 2, 6, 49)]
    with MemoryFile() as file:
        with file.open(driver="GTiff", width=2, height=2, count=1, dtype="uint8") as dataset:
            dataset.write(np.ones((1, 2, 2), dtype=np.uint8))
            dataset.gcps = (points, "EPSG:4326")
        content = bytes(file.read())
    with pytest.raises(InvalidRequest, match="raster: "):
        read(content)


def test_complex_values_are_refused(make_raster: MakeRaster) -> None:
    with pytest.raises(InvalidRequest, match="no real numbers"):
        read(make_raster(np.ones((2, 2), dtype=np.complex64)))


def test_only_upright_geographic_rasters_go_round_the_globe(make_raster: MakeRaster) -> None:
    def columns(width: int, degrees: float, **options: Any) -> float | None:
        transform = Affine(degrees, 0, -180, 0, -degrees, 90)
        content = make_raster(np.ones((2, width)), transform=transform, **options)
        with open_band(content, 1) as band:
            return band.columns_around_the_globe

    assert columns(36, 10) == 36
    assert columns(37, 10) == 36
    assert columns(35, 10) is None
    assert columns(36, 10, crs="EPSG:3857") is None


def test_values_are_called_what_the_file_calls_them(make_raster: MakeRaster) -> None:
    named = make_raster(np.ones((2, 2)), label=("Elevation", "m"))
    with open_band(named, 1) as band:
        assert band.label == "Elevation [m]"
    with open_band(make_raster(np.ones((2, 2))), 1) as band:
        assert band.label == "band 1"
