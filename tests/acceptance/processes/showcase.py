"""A process with an input of every kind and an output for every preview, and a hostile author."""

import json
import time
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from pygeoapi.process.base import BaseProcessor

from pygeoapi_prefect import report_progress

STEPS = 10
HELD_AT_STEP = 5
HELD_SECONDS_AT_MOST = 240.0
SCRIPT = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"

TABLE = f"""\
name,value,time,mean,north,small,max
"a, b",1,20300131123456789,13.986394555788864,2600123.4567890123,1.2345678901234e-07,11.0
"{SCRIPT}",2,,,,,
"""

METADATA: dict[str, Any] = {
    "version": "1.0.0",
    "id": "showcase",
    "title": {"en": f"Showcase {SCRIPT}"},
    "description": {"en": f"Shows everything. {SCRIPT}"},
    "keywords": {"en": ["test", SCRIPT]},
    "jobControlOptions": ["sync-execute", "async-execute"],
    "inputs": {
        "name": {"title": "Name", "description": SCRIPT, "schema": {"type": "string"}},
        "count": {
            "title": "Count",
            "schema": {"type": "integer", "minimum": 1, "maximum": 10, "default": 3},
            "minOccurs": 0,
        },
        "seconds": {
            "title": "Seconds",
            "schema": {"type": "number", "minimum": 0},
            "minOccurs": 0,
        },
        "flag": {"title": "Flag", "schema": {"type": "boolean"}, "minOccurs": 0},
        "colour": {
            "title": "Colour",
            "schema": {"type": "string", "enum": ["red", "green"]},
            "minOccurs": 0,
        },
        "tags": {
            "title": "Tags",
            "schema": {"type": "string"},
            "minOccurs": 0,
            "maxOccurs": 3,
        },
        "shape": {
            "title": "Shape",
            "schema": {"type": "object", "format": "geojson-geometry"},
            "minOccurs": 0,
        },
        "picture": {
            "title": "Picture",
            "schema": {
                "type": "string",
                "contentEncoding": "base64",
                "contentMediaType": "image/png",
            },
            "minOccurs": 0,
        },
        "area": {
            "title": "Area",
            "schema": {
                "allOf": [
                    {"format": "ogc-bbox"},
                    {"type": "object", "properties": {"bbox": {"type": "array"}}},
                ]
            },
            "minOccurs": 0,
        },
        "mixed": {
            "title": "Mixed",
            "schema": {"oneOf": [{"type": "number"}, {"type": "string", "format": "date"}]},
            "minOccurs": 0,
        },
    },
    "outputs": {
        "inputs": {"title": "Inputs", "schema": {"type": "object"}},
        "shapes": {
            "title": "Shapes",
            "schema": {"type": "object", "contentMediaType": "application/geo+json"},
        },
        "table": {
            "title": "Table",
            "schema": {"type": "string", "contentMediaType": "text/csv"},
        },
        "drawing": {
            "title": "Drawing",
            "schema": {"type": "string", "contentMediaType": "image/svg+xml"},
        },
        "report": {
            "title": f"Report {SCRIPT}",
            "schema": {"type": "string", "contentMediaType": "text/html"},
        },
    },
    "example": {"inputs": {"name": "Ada", "colour": "green", "tags": ["a", "b"]}},
}
UNTIL = {"title": "Until", "schema": {"type": "string"}, "minOccurs": 0}


def wait_for(gate: Path) -> None:
    give_up_at = time.monotonic() + HELD_SECONDS_AT_MOST
    while not gate.exists():
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"{gate} is not there after {HELD_SECONDS_AT_MOST:g} s")
        time.sleep(0.05)


class Showcase(BaseProcessor):
    """An ordinary processor."""

    def __init__(self, processor_def: dict[str, Any], metadata: Any = METADATA) -> None:
        super().__init__(processor_def, metadata)

    def execute(self, data: Any, outputs: Any = None) -> tuple[str, Any]:  # noqa: ARG002
        pause_seconds = float(data.get("seconds", 0)) / STEPS
        for step in range(STEPS):
            report_progress(100 * step / STEPS, f"Step {step + 1} {SCRIPT}")
            get_run_logger().info("Step %d %s", step + 1, SCRIPT)
            time.sleep(pause_seconds)
            if step == HELD_AT_STEP and "until" in data:
                wait_for(Path(data["until"]))
        square = [[0, 40], [10, 40], [10, 50], [0, 50], [0, 40]]
        feature = {
            "type": "Feature",
            "properties": {"name": SCRIPT},
            "geometry": {"type": "Polygon", "coordinates": [square]},
        }
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40">'
            '<script>window.hacked = 1</script><circle cx="20" cy="20" r="18"/></svg>'
        )
        return "application/json", {
            "inputs": data,
            "shapes": {"type": "FeatureCollection", "features": [feature]},
            "table": TABLE,
            "drawing": svg,
            "report": f"<html><body>{SCRIPT}{json.dumps(data)}</body></html>",
        }


class Held(Showcase):
    """The same, which goes on half-way when a file is there that an input names."""

    def __init__(self, processor_def: dict[str, Any]) -> None:
        inputs = METADATA["inputs"] | {"until": UNTIL}
        super().__init__(processor_def, METADATA | {"title": {"en": "Held"}, "inputs": inputs})
