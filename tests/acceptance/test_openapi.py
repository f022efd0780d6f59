"""Requests that schemathesis makes up from the OpenAPI document, against both applications."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

from .conftest import DEADLINE_SECONDS, Service

# of what the document allows and forbids, all that is worth it; and what chance has to add.
# Behind both applications is the same service, so that one gets the one, and one the other
PHASES = {"flask": "coverage", "starlette": "fuzzing"}
# a request that keeps the service busy for long, or a job that fails, is no finding here
EXCLUDED = "/processes/(large|failing|mosaic|held)"
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)


def count_operations(document: Path) -> int:
    paths = yaml.safe_load(document.read_text())["paths"]
    return sum(
        len(METHODS & item.keys()) for path, item in paths.items() if not re.search(EXCLUDED, path)
    )


def test_no_request_breaks_the_service_or_is_answered_otherwise_than_described(
    service: Service, tmp_path: Path
) -> None:
    command = [str(Path(sys.executable).parent / "st"), "run", str(service.openapi_document)]
    options = {
        "--url": service.url,
        "--phases": PHASES[service.application],
        "--checks": ",".join(CHECKS),
        "--exclude-path-regex": EXCLUDED,
        "--max-examples": "5",
        "--seed": "1",
        "--request-timeout": f"{DEADLINE_SECONDS:g}",
        # that of a busy machine
        "--suppress-health-check": "too_slow",
        "--report": "json",
        "--report-json-path": str(tmp_path / "report.json"),
    }

    run = subprocess.run(
        [*command, *(part for option in options.items() for part in option), "--no-color"],
        cwd=tmp_path,
        env=os.environ | {"DO_NOT_TRACK": "1"},
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    assert run.returncode == 0, run.stdout
    # where it can make no request, it finds no fault either
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["stop_reason"] == "completed", run.stdout
    assert report["operations"]["tested"] == count_operations(service.openapi_document)
