"""What the applications do themselves, whichever server they run under: limits on requests."""

import asyncio
import importlib
import json
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from types import ModuleType
from typing import Any

import httpx
import pytest
import yaml

from pygeoapi_prefect.testing import InMemoryGateway
from pygeoapi_prefect.webserver import point_pygeoapi_at, read_configuration

from .conftest import FRAMEWORKS, REPOSITORY

MAX_REQUEST_BYTES = 10_000
EXECUTION = "/processes/hello-world/execution"


@pytest.fixture(scope="module", params=FRAMEWORKS)
def application(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ModuleType]:
    """Each of the applications, as a server imports it; its jobs are in memory."""
    folder = tmp_path_factory.mktemp(request.param)
    configuration = yaml.safe_load((REPOSITORY / "pygeoapi-config.yml").read_text())
    configuration["server"]["manager"] |= {
        "result_storage": f"memory://{uuid.uuid4()}",
        "max_request_bytes": MAX_REQUEST_BYTES,
    }
    configuration["resources"] = {
        "hello-world": {"type": "process", "processor": {"name": "HelloWorld"}}
    }
    path = folder / "pygeoapi-config.yml"
    path.write_text(yaml.safe_dump(configuration))
    names = (f"pygeoapi.{request.param}_app", f"pygeoapi_prefect.api.{request.param}_app")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PYGEOAPI_CONFIG", "PYGEOAPI_OPENAPI"):
            patch.setenv(name, "")  # remembers that there was none, whoever sets it then
            patch.delenv(name)
        point_pygeoapi_at(read_configuration(path), folder / "openapi.yml")
        # they read their configuration on import, which another test may have caused
        for name in names:
            patch.delitem(sys.modules, name, raising=False)
            package, _, module = name.rpartition(".")
            patch.delattr(importlib.import_module(package), module, raising=False)
        ours = importlib.import_module(names[1])
        manager = sys.modules[names[0]].api_.manager
        manager.gateway = InMemoryGateway()
        yield ours
        manager.close()
        for name in names:
            sys.modules.pop(name, None)


Send = Callable[..., httpx.Response]


@pytest.fixture
def send(application: ModuleType) -> Send:
    """Returns a function that sends a request to the application, without a server."""
    app: Any = application.APP

    def to_starlette(
        method: str, path: str, content: Any = None, headers: Any = None
    ) -> httpx.Response:
        async def sent() -> httpx.Response:
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as one:
                return await one.request(method, path, content=content, headers=headers)

        return asyncio.run(sent())

    def to_flask(
        method: str, path: str, content: Any = None, headers: Any = None
    ) -> httpx.Response:
        with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://localhost") as one:
            return one.request(method, path, content=content, headers=headers)

    return to_flask if application.__name__.endswith("flask_app") else to_starlette


def body_of(length: int) -> bytes:
    body = json.dumps({"inputs": {"name": ""}}).encode()
    return body[:-3] + b"x" * (length - len(body)) + body[-3:]


def test_a_body_up_to_the_limit_is_taken(send: Send) -> None:
    headers = {"Content-Type": "application/json", "Prefer": "respond-async"}

    answer = send("POST", EXECUTION, body_of(MAX_REQUEST_BYTES), headers)

    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize("path", [EXECUTION, "/stac-api/search"])
def test_a_body_over_the_limit_is_refused_also_by_routes_of_pygeoapi(send: Send, path: str) -> None:
    headers = {"Content-Type": "application/json"}

    answer = send("POST", path, body_of(MAX_REQUEST_BYTES + 1), headers)

    assert (answer.status_code, answer.json()["status"]) == (413, 413)
    assert str(MAX_REQUEST_BYTES) in answer.json()["detail"]


# servers of WSGI applications tell the length, or end the body themselves
@pytest.mark.parametrize("application", ["starlette"], indirect=True)
def test_a_body_over_the_limit_is_not_read_to_its_end_where_nobody_says_how_long_it_is(
    send: Send,
) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 100 * MAX_REQUEST_BYTES:
            sent += 1000
            yield bytes(1000)

    headers = {"Content-Type": "application/json"}
    answer = send("POST", EXECUTION, endless(), headers)

    assert answer.status_code == 413
    assert sent <= MAX_REQUEST_BYTES + 2000


def test_no_redirect_leads_to_a_host_that_a_client_makes_up(send: Send) -> None:
    paths = ("/jobs/", "/jobs//x", "/jobs/..%2f", "//elsewhere.example/jobs/")

    answers = [send("GET", path, headers={"Host": "elsewhere.example"}) for path in paths]

    places = [answer.headers["Location"] for answer in answers if answer.is_redirect]
    assert places
    assert all(place.startswith("http://localhost:5000/jobs") for place in places)
    assert not any("http://elsewhere.example" in answer.text for answer in answers)
