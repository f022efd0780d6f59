"""The API of pygeoapi with our functions and no web framework, over jobs in memory."""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from pygeoapi.api import API
from pygeoapi.process.base import BaseProcessor
from starlette.requests import Request as StarletteRequest
from werkzeug.test import EnvironBuilder

from pygeoapi_prefect.api import routes
from pygeoapi_prefect.api.request import Request
from pygeoapi_prefect.api.service import prepare
from pygeoapi_prefect.errors import InvalidRequest
from pygeoapi_prefect.jobs import Job
from pygeoapi_prefect.manager import PrefectManager
from pygeoapi_prefect.testing import InMemoryGateway, run_job

REPOSITORY = Path(__file__).parents[3]
URL = "http://service.example"
FRAMEWORKS = ("flask", "starlette")


def make_request(
    framework: str,
    locales: Any,
    path: str = "/jobs",
    *,
    method: str = "GET",
    headers: Any = (),
    body: bytes = b"",
) -> Request:
    """A request as one of the applications hands it over."""
    if framework == "flask":
        # servers join the lines of a header field
        joined: dict[str, str] = {}
        for name, value in headers:
            joined[name] = f"{joined[name]}, {value}" if name in joined else value
        builder = EnvironBuilder(path=path, method=method, headers=[*joined.items()], data=body)
        return Request(builder.get_request(), locales, body)
    plain, _, query = path.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": plain,
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers],
        "server": ("service.example", 80),
        "scheme": "http",
    }
    return Request(StarletteRequest(scope), locales, body)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a client gets."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Table(BaseProcessor):
    """Returns a table, a note and a number, or fails as it is told."""

    CSV = "a;b\r\n1;2\r\n"
    METADATA: ClassVar[dict[str, Any]] = {
        "version": "1.0.0",
        "title": "Table",
        "inputs": {"fail": {"schema": {"type": "string"}, "minOccurs": 0}},
        "outputs": {
            "csv": {"schema": {"type": "string", "contentMediaType": "text/csv"}},
            "note": {"schema": {"type": "string"}},
            "rows": {"schema": {"type": "integer"}},
        },
    }

    def __init__(self, processor_def: dict[str, Any]) -> None:
        super().__init__(processor_def, self.METADATA)

    def execute(self, data: Any, outputs: Any = None) -> tuple[str, Any]:  # noqa: ARG002
        match data.get("fail"):
            case "input":
                raise InvalidRequest("the link leads nowhere")
            case "bug":
                raise RuntimeError("cannot open /srv/data/secret.tif")
        return "application/json", {"csv": self.CSV, "note": "5 < 6", "rows": 1}


class Service:
    """Answers requests as the applications do, by the table of routes.

    Attributes:
        gateway: Where the jobs are.
    """

    def __init__(self, api: API, framework: str) -> None:
        self.api = api
        assert isinstance(api.manager, PrefectManager)
        assert isinstance(api.manager.gateway, InMemoryGateway)
        self.manager = api.manager
        self.gateway = api.manager.gateway
        self._framework = framework

    def send(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        content = (
            body if isinstance(body, str | bytes) else "" if body is None else json.dumps(body)
        )
        request = make_request(
            self._framework,
            self.api.locales,
            path,
            method=method,
            headers=[*(headers or {}).items()],
            body=content.encode() if isinstance(content, str) else content,
        )
        for route in routes.ROUTES:
            pattern = re.sub(r"{(\w+):path}", r"(?P<\1>.+)", route.path)
            pattern = re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", pattern)
            found = re.fullmatch(pattern, path.partition("?")[0])
            if found and (route.method == method or (route.method, method) == ("GET", "HEAD")):
                answer = routes.answer(self.api, request, route, found.groupdict())
                sent, status, made = answer
                assert not isinstance(made, str)
                return Answer(status, sent, b"".join([made] if isinstance(made, bytes) else made))
        raise AssertionError(f"no route for {method} {path}")

    def run(self, job: str) -> Job:
        """Do what a worker does for a job."""
        return run_job(self.manager, self.gateway.find(job))

    def submit(self, process_id: str, inputs: Any, **members: Any) -> str:
        """Execute asynchronously; the id of the job."""
        body = {"inputs": inputs, **members}
        path = f"/processes/{process_id}/execution"
        answer = self.send("POST", path, body, {"Prefer": "respond-async"})
        assert answer.status == 201, answer.body
        return str(answer.json["jobID"])


@pytest.fixture
def service(make_manager: Callable[..., PrefectManager], request: pytest.FixtureRequest) -> Service:
    """The service as Flask hands it requests, unless a test says otherwise."""
    config: dict[str, Any] = yaml.safe_load((REPOSITORY / "pygeoapi-config.yml").read_text())
    config["server"] |= {"url": URL, "pretty_print": False}
    processes = {"table": f"{__name__}.Table", "hello-world": "HelloWorld"}
    config["resources"] = {
        process_id: {"type": "process", "processor": {"name": name}}
        for process_id, name in processes.items()
    }
    api = API(config, {})
    manager = make_manager(processes, sync_through_deployments=True)
    api.manager = manager
    prepare(api)
    made = Service(api, getattr(request, "param", "flask"))
    made.gateway.worker = lambda job: made.run(job.job_id)
    return made
