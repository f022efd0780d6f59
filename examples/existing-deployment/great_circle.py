"""A flow with parameters of its own, whose deployment is a process because of its tag."""

from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from pydantic import Field
from pyproj import Geod

Position = tuple[float, float]


@flow(persist_result=True, result_serializer="json")
def great_circle(
    start: Position, end: Position, positions: Annotated[int, Field(ge=2, le=1000)] = 5
) -> dict[str, Any]:
    """Draws the shortest line between two positions.

    Args:
        start: Longitude and latitude.
        end: Longitude and latitude.
        positions: How many positions the line has.
    """
    line = Geod(ellps="WGS84").npts(*start, *end, positions, initial_idx=0, terminus_idx=0)
    return {"type": "LineString", "coordinates": [[round(x, 3), round(y, 3)] for x, y in line]}


if __name__ == "__main__":
    folder = str(Path(__file__).parent)
    stored = great_circle.from_source(folder, "great_circle.py:great_circle")
    stored.to_deployment(
        "main",
        version="1.2.0",
        description="Draws the shortest line between two positions.",
        tags=["published"],
        work_pool_name="pygeoapi",
    ).apply()
