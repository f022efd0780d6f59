"""A flow that knows nothing of this package: it was written for Prefect alone."""

from pathlib import Path
from typing import Any

from prefect import flow


@flow(persist_result=True, result_serializer="json")
def bounding_box(inputs: dict[str, Any]) -> list[float]:
    """Return west, south, east and north of a list of positions."""
    longitudes, latitudes = zip(*inputs["positions"], strict=True)
    return [min(longitudes), min(latitudes), max(longitudes), max(latitudes)]


if __name__ == "__main__":
    folder = str(Path(__file__).parent)
    stored = bounding_box.from_source(folder, "bounding_box.py:bounding_box")
    stored.to_deployment("nightly", work_pool_name="pygeoapi").apply()
