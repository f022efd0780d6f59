"""A process that fails as it is told."""

from typing import Any

from pygeoapi.process.base import BaseProcessor

from pygeoapi_prefect.errors import InvalidRequest

METADATA: dict[str, Any] = {
    "version": "1.0.0",
    "id": "failing",
    "title": {"en": "Failing"},
    "description": {"en": "Fails"},
    "inputs": {"for": {"schema": {"type": "string", "enum": ["input", "bug"]}}},
    "outputs": {"never": {"schema": {"type": "string"}}},
}


class Failing(BaseProcessor):
    """An ordinary processor."""

    def __init__(self, processor_def: dict[str, Any]) -> None:
        super().__init__(processor_def, METADATA)

    def execute(self, data: Any, outputs: Any = None) -> tuple[str, Any]:  # noqa: ARG002
        if data["for"] == "input":
            raise InvalidRequest("the link in `for` leads nowhere")
        raise RuntimeError("read /etc/passwd and postgres://user:secret@db/x")
