"""Statistics of a raster in zones, as GeoJSON, as a table and as a map.

How pixels count: by the part of them that lies in the zone. The count is the sum of those
parts, mean and (population) standard deviation are weighted with them; minimum and maximum
are over all pixels that the zone touches. Pixels count by number, not by their area on the
ground. Nodata and NaN do not count; scale and offset of the raster are applied. A zone
without data has count 0, and null for the rest.

The computing itself is in `pygeoapi_prefect.examples.zonal`. It is imported inside the tasks:
the web server imports this module for the description alone, and GDAL, exactextract and
matplotlib take seconds and much memory.
"""

from typing import Any

from prefect import flow, get_run_logger, task
from prefect.blocks.core import Block
from prefect.cache_policies import NO_CACHE
from prefect.utilities.annotations import quote

from pygeoapi_prefect.errors import InvalidRequest
from pygeoapi_prefect.inputs import input_bytes, input_json
from pygeoapi_prefect.process.base import BasePrefectProcessor
from pygeoapi_prefect.schemas import (
    ExecuteRequest,
    JobStatus,
    JobStatusInfoInternal,
    Link,
    OutputExecutionResultInternal,
    ProcessDescription,
    ProcessInput,
    ProcessIOFormat,
    ProcessIOSchema,
    ProcessIOType,
    ProcessOutput,
)

OUTPUT_FILES = {
    "statistics": ("statistics.geojson", "application/geo+json"),
    "table": ("statistics.csv", "text/csv"),
    "map": ("map.png", "image/png"),
}


# Results of tasks are files of several megabytes, which the flow stores as outputs anyhow:
# Prefect shall neither store them once more nor hash them for its cache.
@task(task_run_name="read {input_id}", persist_result=False, cache_policy=NO_CACHE)
def read_input(input_id: str, value: Any) -> bytes:
    """Return the content of an input, fetched if it was given by reference.

    Raises:
        InvalidRequest: It is broken base64, or a link that cannot be followed.
    """
    try:
        content = input_bytes(value)
    except InvalidRequest as error:
        raise InvalidRequest(f"{input_id}: {error.detail}") from error
    get_run_logger().info("%s: %d bytes", input_id, len(content))
    return content


@task(persist_result=False, cache_policy=NO_CACHE)
def compute_statistics(zones: bytes, raster: bytes, band: int) -> bytes:
    """Return the zones with their statistics as GeoJSON.

    Args:
        zones: GeoJSON FeatureCollection of polygons.
        raster: Raster file.
        band: Number of the band, from 1.

    Raises:
        InvalidRequest: An input is not what it should be; the message says which and why.
    """
    from pygeoapi_prefect.examples.zonal import statistics as zonal
    from pygeoapi_prefect.examples.zonal.raster import open_band
    from pygeoapi_prefect.examples.zonal.zones import read_zones

    logger = get_run_logger()
    read = read_zones(zones)
    for remark in read.remarks:
        logger.warning("%s", remark)
    with open_band(raster, band) as opened:
        logger.info(
            "%s: %d by %d pixels in %s", opened.label, opened.width, opened.height, opened.crs.name
        )
        results = zonal.compute_statistics(read, opened)
    filled = sum(result.count > 0 for result in results)
    logger.info("%d zones, %d of them with data", len(results), filled)
    return zonal.as_geojson(read, results)


@task(persist_result=False, cache_policy=NO_CACHE)
def write_table(statistics: bytes) -> bytes:
    """Return the GeoJSON of `compute_statistics` as CSV."""
    from pygeoapi_prefect.examples.zonal.statistics import as_csv

    return as_csv(statistics)


@task(persist_result=False, cache_policy=NO_CACHE)
def draw_map(statistics: bytes, raster: bytes, band: int) -> bytes:
    """Return a map (PNG) of the GeoJSON of `compute_statistics` over the raster."""
    from pygeoapi_prefect.examples.zonal import drawing
    from pygeoapi_prefect.examples.zonal.raster import open_band

    with open_band(raster, band) as opened:
        return drawing.draw_map(statistics, opened)


@flow(persist_result=True, log_prints=True)
def zonal_statistics(
    job_id: str,
    result_storage_block: str,
    process_description: ProcessDescription,
    execution_request: ExecuteRequest,
) -> JobStatusInfoInternal:
    """Compute statistics of a raster in zones, and store those outputs that are wanted."""
    inputs = execution_request.inputs
    band = int(input_json(inputs["band"])) if "band" in inputs else 1
    zones = _read("zones", inputs["zones"])
    raster = _read("raster", inputs["raster"])
    statistics = compute_statistics(zones, raster, band)

    contents = {"statistics": statistics}
    wanted = execution_request.outputs or OUTPUT_FILES
    if "table" in wanted:
        contents["table"] = write_table(statistics)
    if "map" in wanted:
        contents["map"] = draw_map(statistics, raster, band)

    # Any, as blocks of every type that stores files fit
    storage: Any = Block.load(result_storage_block)
    outputs = {}
    for output_id, content in contents.items():
        if output_id in wanted:
            name, media_type = OUTPUT_FILES[output_id]
            location = f"{job_id}/{name}"
            storage.write_path(location, content)
            outputs[output_id] = OutputExecutionResultInternal(
                location=location, media_type=media_type
            )
    return JobStatusInfoInternal(
        job_id=job_id,
        process_id=process_description.id,
        status=JobStatus.successful,
        generated_outputs=outputs,
    )


def _read(input_id: str, value: Any) -> bytes:
    # what is fetched over a network may be there a moment later
    reads_again = isinstance(value, Link)
    reader = (
        read_input.with_options(retries=2, retry_delay_seconds=2) if reads_again else read_input
    )
    # quote: Prefect would look for futures among the coordinates, one by one
    return reader(input_id, quote(value))


_STATISTICS_TEXT = (
    "the count of pixels, where pixels that lie partly in the zone count by that part, and min, "
    "max, mean and std (population standard deviation) of their values"
)

_FEATURE_COLLECTION = ProcessIOSchema(
    type_=ProcessIOType.OBJECT,
    format_=ProcessIOFormat.GEOJSON_FEATURE_COLLECTION_SHORT_CODE,
    required=["type", "features"],
    properties={
        "type": ProcessIOSchema(type_=ProcessIOType.STRING, enum=["FeatureCollection"]),
        "features": ProcessIOSchema(
            type_=ProcessIOType.ARRAY, items=ProcessIOSchema(type_=ProcessIOType.OBJECT)
        ),
    },
    content_media_type="application/geo+json",
)


def _base64_schema(media_type: str) -> ProcessIOSchema:
    return ProcessIOSchema(
        type_=ProcessIOType.STRING, content_encoding="base64", content_media_type=media_type
    )


# 8 by 5 pixels of half a degree, the one in the north-west without data
_EXAMPLE_RASTER = (
    "SUkqAAgAAAARAAABAwABAAAACAAAAAEBAwABAAAABQAAAAIBAwABAAAACAAAAAMBAwABAAAAAQAAAAYBAwABAAAA"
    "AQAAABEBBAABAAAAfwEAABUBAwABAAAAAQAAABYBAwABAAAABQAAABcBBAABAAAAKAAAABwBAwABAAAAAQAAAFMB"
    "AwABAAAAAgAAAA6DDAADAAAA2gAAAIKEDAAGAAAA8gAAAK+HAwAgAAAAIgEAALCHDAACAAAAYgEAALGHAgAIAAAA"
    "cgEAAIGkAgAFAAAAegEAAAAAAAAAAAAAAADgPwAAAAAAAOA/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    "AAAAAAAAAAAYQAAAAAAAAEhAAAAAAAAAAAABAAEAAAAHAAAEAAABAAIAAQQAAAEAAQAACAAAAQDmEAEIsYcHAAAA"
    "BggAAAEAjiMJCLCHAQABAAsIsIcBAAAAiG10lh2kckAAAABAplRYQVdHUyA4NHwALTEyOACADw8QERISEw0PEA8R"
    "ExETDA8PDhEREBMLDA0NDg8QEAoMDg0OEA8Q"
)
_EXAMPLE_ZONES = {
    "type": "FeatureCollection",
    "features": [
        {
            "type": "Feature",
            "properties": {"name": "West, with a hole"},
            "geometry": {
                "type": "Polygon",
                "coordinates": [
                    [[6.2, 46.0], [8.0, 46.0], [8.0, 47.9], [6.2, 47.9], [6.2, 46.0]],
                    [[6.8, 46.6], [6.8, 47.2], [7.4, 47.2], [7.4, 46.6], [6.8, 46.6]],
                ],
            },
        },
        {
            "type": "Feature",
            "properties": {"name": "East"},
            "geometry": {
                "type": "Polygon",
                "coordinates": [[[8.5, 45.8], [9.8, 46.4], [9.1, 47.6], [8.5, 45.8]]],
            },
        },
    ],
}


class ZonalStatisticsProcessor(BasePrefectProcessor):
    """The process ``zonal-statistics``."""

    process_flow = zonal_statistics
    process_description = ProcessDescription(
        id="zonal-statistics",
        version="1.0.0",
        title="Zonal statistics",
        description=(
            f"Computes for each zone {_STATISTICS_TEXT}. Min and max are over all pixels that "
            "the zone touches. Zones and raster may have different coordinate reference "
            "systems, and zones may cross the antimeridian."
        ),
        keywords=["zonal statistics", "raster", "polygons", "GeoTIFF", "GRIB", "GeoJSON", "map"],
        inputs={
            "zones": ProcessInput(
                title="Zones",
                description=(
                    "A GeoJSON FeatureCollection of polygons and multi-polygons, in longitude "
                    "and latitude, or in the CRS that a member crs names (GeoJSON 2008). "
                    "Features without geometry are kept, without data. An edge that spans more "
                    "than 180 degrees, but not 360, is taken to cross the antimeridian: a zone "
                    "wider than half of the globe needs a position at least every 180 degrees."
                ),
                keywords=["GeoJSON", "polygons"],
                schema_=ProcessIOSchema(
                    one_of=[
                        _FEATURE_COLLECTION,
                        ProcessIOSchema(
                            type_=ProcessIOType.STRING, content_media_type="application/geo+json"
                        ),
                    ]
                ),
            ),
            "raster": ProcessInput(
                title="Raster",
                description=(
                    "A raster file with a coordinate reference system: GeoTIFF, GRIB, JPEG 2000, "
                    "netCDF (classic format), NITF or DTED. Inline as base64, or by reference."
                ),
                keywords=["raster", "coverage"],
                schema_=ProcessIOSchema(
                    one_of=[
                        _base64_schema("image/tiff; application=geotiff"),
                        _base64_schema("application/wmo-GRIB2"),
                        _base64_schema("image/jp2"),
                        _base64_schema("application/netcdf"),
                        _base64_schema("application/x-netcdf"),
                        _base64_schema("application/octet-stream"),
                    ]
                ),
            ),
            "band": ProcessInput(
                title="Band",
                description="Number of the band of the raster, from 1.",
                schema_=ProcessIOSchema(type_=ProcessIOType.INTEGER, minimum=1, default=1),
                min_occurs=0,
            ),
        },
        outputs={
            "statistics": ProcessOutput(
                title="Statistics",
                description=(
                    f"The zones as they were given, with additional properties: {_STATISTICS_TEXT}."
                    " Zones without data have count 0 and null for the rest."
                ),
                schema_=_FEATURE_COLLECTION,
            ),
            "table": ProcessOutput(
                title="Table",
                description="Properties and statistics of the zones, one row for each.",
                schema_=ProcessIOSchema(type_=ProcessIOType.STRING, content_media_type="text/csv"),
            ),
            "map": ProcessOutput(
                title="Map",
                description="The zones, coloured by their mean, over the raster.",
                schema_=_base64_schema("image/png"),
            ),
        },
        example={
            "inputs": {
                "zones": _EXAMPLE_ZONES,
                "raster": {
                    "value": _EXAMPLE_RASTER,
                    "mediaType": "image/tiff; application=geotiff",
                    "encoding": "base64",
                },
            }
        },
    )
