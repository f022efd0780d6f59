"""The example processes as clients and pygeoapi see them, and their small parts."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft4Validator
from prefect.flows import Flow
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT4

from pygeoapi_prefect.errors import InvalidRequest
from pygeoapi_prefect.examples import echo
from pygeoapi_prefect.examples.echo import EchoProcessor
from pygeoapi_prefect.examples.hi_prefect_world import HiPrefectWorldProcessor, compose_greeting
from pygeoapi_prefect.examples.simple_flow import SimpleFlowProcessor
from pygeoapi_prefect.examples.zonal.raster import open_band
from pygeoapi_prefect.examples.zonal.statistics import compute_statistics
from pygeoapi_prefect.examples.zonal.zones import read_zones
from pygeoapi_prefect.examples.zonal_statistics import ZonalStatisticsProcessor
from pygeoapi_prefect.input_checks import check_inputs
from pygeoapi_prefect.inputs import input_bytes
from pygeoapi_prefect.process.base import BasePrefectProcessor
from pygeoapi_prefect.schemas import ExecuteRequest
from pygeoapi_prefect.wishes import check_outputs

OGC_SCHEMAS = Path(__file__).parents[4] / "shared" / "ogc" / "schemas"
HEAVY = ("rasterio", "exactextract", "matplotlib", "geopandas", "pandas")
PROCESSORS: dict[str, type[BasePrefectProcessor]] = {
    "hi-prefect-world": HiPrefectWorldProcessor,
    "simple-flow": SimpleFlowProcessor,
    "echo": EchoProcessor,
    "zonal-statistics": ZonalStatisticsProcessor,
}


@pytest.fixture(params=PROCESSORS)
def processor(request: pytest.FixtureRequest) -> BasePrefectProcessor:
    return PROCESSORS[request.param]({"name": request.param})


def test_each_process_has_its_id_and_a_flow(processor: BasePrefectProcessor) -> None:
    assert PROCESSORS[processor.process_description.id] is type(processor)
    assert isinstance(processor.process_flow, Flow)
    assert processor.process_flow.persist_result


def test_each_process_can_be_run_both_ways_and_dismissed(processor: BasePrefectProcessor) -> None:
    assert processor.metadata["jobControlOptions"] == ["sync-execute", "async-execute", "dismiss"]
    assert processor.metadata["outputTransmission"] == ["value", "reference"]


def test_everything_is_titled_and_described(processor: BasePrefectProcessor) -> None:
    metadata = processor.metadata
    described = [metadata, *metadata["inputs"].values(), *metadata["outputs"].values()]
    assert all(part["title"] and part["description"] for part in described)
    assert metadata["keywords"]


def test_the_example_is_accepted_and_small(processor: BasePrefectProcessor) -> None:
    example = processor.metadata["example"]
    check_inputs(processor.metadata, example["inputs"])
    check_outputs(processor.metadata, example.get("outputs"))
    assert len(json.dumps(example)) < 2500


@pytest.mark.skipif(
    not OGC_SCHEMAS.is_dir(), reason="the schemas of the standard are not beside the checkout"
)
def test_each_description_is_valid_by_the_schema_of_the_standard(
    processor: BasePrefectProcessor,
) -> None:
    schemas = {path.name: yaml.safe_load(path.read_text()) for path in OGC_SCHEMAS.glob("*.yaml")}
    registry = Registry().with_resources(
        (name, Resource.from_contents(schema, default_specification=DRAFT4))
        for name, schema in schemas.items()
    )
    validator = Draft4Validator(schemas["process.yaml"], registry=registry)
    assert [error.message for error in validator.iter_errors(processor.metadata)] == []
    # the schema is one that refuses something
    assert list(validator.iter_errors({"id": "x", "version": 1}))


@pytest.mark.parametrize("process_id", ["hi-prefect-world", "simple-flow"])
def test_a_greeting_needs_a_name(process_id: str) -> None:
    inputs = PROCESSORS[process_id]({"name": process_id}).metadata["inputs"]
    assert list(inputs) == ["name", "message"]
    assert inputs["name"]["minOccurs"] == 1
    assert inputs["message"]["minOccurs"] == 0


def test_a_greeting_has_the_message_if_there_is_one() -> None:
    assert compose_greeting.fn("Ada", None) == "Hi Ada, this is Prefect!"
    assert compose_greeting.fn("Ada", "Welcome.") == "Hi Ada, this is Prefect! Welcome."


def test_the_echo_process_is_what_the_conformance_suite_looks_for() -> None:
    metadata = EchoProcessor({"name": "echo"}).metadata
    inputs, outputs = metadata["inputs"], metadata["outputs"]
    first, *others = inputs
    assert inputs[first]["schema"] == {"type": "string"}
    assert inputs[first]["minOccurs"] == 1
    assert all(inputs[other]["minOccurs"] == 0 for other in others)
    assert list(outputs) == list(inputs)
    assert all(outputs[name]["schema"] == inputs[name]["schema"] for name in inputs)
    schemas = [part["schema"] for part in inputs.values()]
    assert {"type": "array", "items": {"type": "integer"}} in schemas
    assert any(schema.get("allOf", [{}])[0] == {"format": "ogc-bbox"} for schema in schemas)
    assert any("contentMediaType" in schema for schema in schemas)
    assert any("oneOf" in schema for schema in schemas)
    assert inputs["pause"]["schema"]["type"] == "number"
    assert not any(schema.get("type") == "object" for schema in schemas)


@pytest.mark.parametrize("pause_seconds", [0, 5, 0.5])
def test_the_pause_may_be_an_integer_or_not(pause_seconds: float) -> None:
    metadata = EchoProcessor({"name": "echo"}).metadata
    check_inputs(metadata, {"message": "x", "pause": pause_seconds})


@pytest.mark.parametrize(
    ("input_id", "value", "expected"),
    [
        ("message", "Grüße, {{ x }}", (b"Gr\xc3\xbc\xc3\x9fe, {{ x }}", "text/plain")),
        ("message", {"value": "abcd"}, (b"abcd", "text/plain")),
        ("numbers", [1, 2, 3], (b"[1, 2, 3]", "application/json")),
        ("numbers", [], (b"[]", "application/json")),
        ("pause", 5, (b"5", "application/json")),
        ("pause", 0.25, (b"0.25", "application/json")),
        ("document", "# A", (b"# A", "text/markdown")),
        ("document", {"value": "# A", "mediaType": "text/markdown"}, (b"# A", "text/markdown")),
        (
            "document",
            {"value": "IyBB", "mediaType": "text/markdown", "encoding": "base64"},
            (b"# A", "text/markdown"),
        ),
        ("mixed", "text", (b'"text"', "application/json")),
        ("mixed", True, (b"true", "application/json")),
        ("mixed", 1.5, (b"1.5", "application/json")),
    ],
)
def test_an_input_comes_back_as_it_was_given(
    input_id: str, value: Any, expected: tuple[bytes, str]
) -> None:
    request = ExecuteRequest.model_validate({"inputs": {input_id: value}})
    assert echo.echoed(input_id, request.inputs[input_id]) == expected


def test_a_bounding_box_comes_back_with_its_crs() -> None:
    box = {"bbox": [5.9, 45.8, 10.5, 47.8]}
    request = ExecuteRequest.model_validate({"inputs": {"area": box}})
    content, media_type = echo.echoed("area", request.inputs["area"])
    assert json.loads(content) == box | {"crs": "http://www.opengis.net/def/crs/OGC/1.3/CRS84"}
    assert media_type == "application/json"


def test_a_pause_is_taken_in_naps(monkeypatch: pytest.MonkeyPatch) -> None:
    now, naps = [100.0], []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        now[0] += seconds

    monkeypatch.setattr("pygeoapi_prefect.examples.echo.time.monotonic", lambda: now[0])
    monkeypatch.setattr("pygeoapi_prefect.examples.echo.time.sleep", sleep)
    echo.pause(1.25)
    assert naps == [0.5, 0.5, 0.25]
    echo.pause(0)
    assert len(naps) == 3


def test_the_example_of_zonal_statistics_gives_statistics() -> None:
    example = ZonalStatisticsProcessor({"name": "zonal-statistics"}).metadata["example"]
    inputs = ExecuteRequest.model_validate(example).inputs
    zones = read_zones(input_bytes(inputs["zones"]))
    with open_band(input_bytes(inputs["raster"]), 1) as band:
        west, east = compute_statistics(zones, band)
    assert zones.remarks == []
    # half degree pixels: 1.8 by 1.9 degrees without a hole of 0.6 by 0.6, and without the part
    # of the pixel in the north-west that has no data
    assert west.count == pytest.approx((1.8 * 1.9 - 0.6 * 0.6 - 0.3 * 0.4) / 0.25)
    assert (west.min, west.max) == (11, 16)
    assert east.mean is not None


@pytest.mark.parametrize(
    ("zones", "is_accepted"),
    [
        ({"type": "FeatureCollection", "features": []}, True),
        ({"value": {"type": "FeatureCollection", "features": []}}, True),
        (
            {
                "value": {"type": "FeatureCollection", "features": []},
                "mediaType": "application/geo+json",
            },
            True,
        ),
        ({"href": "https://example.org/zones.geojson", "type": "application/geo+json"}, True),
        ({"type": "Feature", "properties": {}, "geometry": None}, False),
        ([1], False),
    ],
)
def test_zones_may_come_in_any_form(zones: Any, is_accepted: bool) -> None:
    metadata = ZonalStatisticsProcessor({"name": "zonal-statistics"}).metadata
    inputs = {"zones": zones, "raster": {"href": "https://example.org/raster.tif"}}
    if is_accepted:
        check_inputs(metadata, inputs)
    else:
        with pytest.raises(InvalidRequest, match="input 'zones'"):
            check_inputs(metadata, inputs)


@pytest.fixture
def without_heavy_libraries() -> Iterator[None]:
    """As in an interpreter that has imported nothing of ours, where those are not installed."""
    before = dict(sys.modules)
    for name in before:
        if name.partition(".")[0] == "pygeoapi_prefect":
            del sys.modules[name]
    # whoever imports one of these gets an ImportError
    sys.modules.update(dict.fromkeys(HEAVY))  # type: ignore[arg-type]
    yield
    # never empty, for a thread of another library may import something just now
    for name in sys.modules.keys() - before.keys():
        del sys.modules[name]
    sys.modules.update(before)


@pytest.mark.usefixtures("without_heavy_libraries")
def test_describing_processes_needs_no_heavy_library() -> None:
    for process_id, cls in PROCESSORS.items():
        processor = getattr(importlib.import_module(cls.__module__), cls.__name__)
        assert processor is not cls
        assert processor({"name": process_id}).metadata["id"] == process_id
    with pytest.raises(ImportError):
        importlib.import_module("pygeoapi_prefect.examples.zonal.statistics")
