"""Processors that know nothing of Prefect."""

import copy
from typing import Any, ClassVar

from pygeoapi.process.base import BaseProcessor, ProcessorExecuteError

METADATA: dict[str, Any] = {
    "version": "1.0.0",
    "id": "ordinary",
    "title": {"en": "Ordinary", "fr": "Ordinaire"},
    "description": "An ordinary processor.",
    "jobControlOptions": ["sync-execute", "async-execute"],
    "inputs": {name: {"schema": {}, "minOccurs": 0, "maxOccurs": 99} for name in ("kind", "value")},
    "outputs": {"result": {"schema": {"type": "object", "contentMediaType": "application/json"}}},
}
METADATA_AS_WRITTEN = copy.deepcopy(METADATA)

RETURNED: dict[str, tuple[str, Any]] = {
    "bytes": ("image/png", b"\x89PNG\r\n\x1a\n\x00\xff<>&"),
    "text": ("text/plain", "Grüße <b>& more</b>\n"),
    "json text": ("application/json", '{"b": 1,  "a": "<>"}'),
    "string": ("application/json", "a < b"),
    "object": ("application/json", {"b": [1, 2.5, None, True], "a": "<ü>"}),
    "list": ("application/json", ["x/y", "z"]),
    "number": ("application/json", 42.5),
}


class Returning(BaseProcessor):
    """Returns a value of the kind that is asked for."""

    def __init__(self, processor_def: dict[str, Any]) -> None:
        super().__init__(processor_def, METADATA)

    def execute(self, data: dict[str, Any], outputs: Any = None) -> tuple[str, Any]:
        if data.get("kind") == "metadata":
            return "application/json", METADATA == METADATA_AS_WRITTEN
        return RETURNED[data["kind"]]


class EchoingInputs(BaseProcessor):
    """Returns all inputs; its `execute` takes no outputs, as that of many does."""

    def __init__(self, processor_def: dict[str, Any]) -> None:
        super().__init__(processor_def, METADATA)

    # pygeoapi hands over outputs only where `supports_outputs` is true
    def execute(self, data: dict[str, Any]) -> tuple[str, Any]:  # type: ignore[override]
        return "application/json", data


class Measuring(BaseProcessor):
    """Returns the length of its input, for inputs too long to be returned."""

    def __init__(self, processor_def: dict[str, Any]) -> None:
        super().__init__(processor_def, METADATA)

    def execute(self, data: dict[str, Any], outputs: Any = None) -> tuple[str, Any]:
        return "application/json", {"length": len(data["value"])}


class Selective(BaseProcessor):
    """Has several outputs, and returns those that it is told are wanted; but one it forgets."""

    texts: ClassVar = {"table": "a,b\n1,2\n", "note": "fine"}

    def __init__(self, processor_def: dict[str, Any]) -> None:
        outputs = {
            "table": {"schema": {"type": "string", "contentMediaType": "text/csv"}},
            "note": {"schema": {"type": "string"}},
            "told": {"schema": {"contentMediaType": "application/json"}},
            "forgotten": {"schema": {}},
        }
        super().__init__(processor_def, {**METADATA, "outputs": outputs})
        self.supports_outputs = True
        self.job_id = ""

    def set_job_id(self, job_id: str) -> None:
        self.job_id = job_id

    def execute(self, data: dict[str, Any], outputs: Any = None) -> tuple[str, Any]:
        values = {**self.texts, "told": {"job_id": self.job_id, "outputs": outputs}}
        return "application/json", {
            name: value for name, value in values.items() if not outputs or name in outputs
        }


class Failing(BaseProcessor):
    """Raises what pygeoapi's authors raise, or something else."""

    def __init__(self, processor_def: dict[str, Any]) -> None:
        super().__init__(processor_def, METADATA)

    def execute(self, data: dict[str, Any], outputs: Any = None) -> tuple[str, Any]:
        match data.get("kind"):
            case "plain":
                raise ProcessorExecuteError("the lake has no shore")
            case "user":
                raise ProcessorExecuteError("internal", user_msg="the lake has no outflow")
            case "other":
                return "application/json", {"value": 1 / 0}
        return "application/json", "nothing failed"
