"""A process of one's own: how long a track is."""

from typing import Any

from prefect import flow, get_run_logger, task
from pyproj import Geod

from pygeoapi_prefect import BasePrefectProcessor, ExecuteRequest, ProcessDescription
from pygeoapi_prefect.inputs import input_json


@task
def measure(track: dict[str, Any]) -> float:
    """Return the length of a GeoJSON LineString in metres, on the WGS 84 ellipsoid."""
    longitudes, latitudes = zip(*(position[:2] for position in track["coordinates"]), strict=True)
    return float(Geod(ellps="WGS84").line_length(longitudes, latitudes))


@flow(persist_result=True)
def track_length(execution_request: ExecuteRequest) -> dict[str, Any]:
    """Measure a track, and say in words what came out."""
    track = input_json(execution_request.inputs["track"])
    metres = measure(track)
    get_run_logger().info("%d positions, %.0f m", len(track["coordinates"]), metres)
    return {"length": round(metres), "summary": f"The track is {metres / 1000:.1f} km long."}


class TrackLengthProcessor(BasePrefectProcessor):
    """The process `track-length`."""

    process_flow = track_length
    process_description = ProcessDescription.model_validate(
        {
            "id": "track-length",
            "version": "1.0.0",
            "title": "Length of a track",
            "description": "Measures a line along the surface of the earth.",
            "inputs": {
                "track": {
                    "schema": {
                        "type": "object",
                        "format": "geojson-geometry",
                        "properties": {"type": {"enum": ["LineString"]}},
                    }
                }
            },
            "outputs": {
                "length": {"title": "Length in metres", "schema": {"type": "integer"}},
                "summary": {"title": "Length in words", "schema": {"type": "string"}},
            },
        }
    )
