"""A manager without a Prefect server, and pygeoapi's application around it."""

import gc
import importlib
import socket
import sys
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from flask import Flask
from flask.testing import FlaskClient

from pygeoapi_prefect import storage
from pygeoapi_prefect.manager import PrefectManager
from pygeoapi_prefect.testing import InMemoryGateway
from pygeoapi_prefect.webserver import point_pygeoapi_at, read_configuration

JOB_END_SECONDS = 120.0

MakeManager = Callable[..., PrefectManager]


@pytest.fixture(scope="session", autouse=True)
def _own_garbage() -> None:
    """Collect what tests of other layers left before it counts as what these left."""
    with warnings.catch_warnings(action="ignore"):
        gc.collect()


@pytest.fixture(autouse=True)
def _own_blocks() -> Iterator[None]:
    """Forget the blocks of a test, which the next one may have others of the same names for."""
    yield
    storage._loaded_block.cache_clear()
    storage._made_block.cache_clear()


@pytest.fixture
def deserted_host() -> Iterator[str]:
    """Address and port where nobody listens, nor can while the test goes on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def gateway() -> InMemoryGateway:
    return InMemoryGateway()


@pytest.fixture
def make_manager(gateway: InMemoryGateway) -> Iterator[MakeManager]:
    """Returns a function that makes a manager of processes, by id, and settings.

    A process is given as the path of its class, its `processor` mapping or its whole
    resource. All managers of a test share gateway and result storage.
    """
    result_storage = f"memory://results-{uuid.uuid4()}"

    managers: list[PrefectManager] = []

    def make(processes: Mapping[str, Any] | None = None, **settings: Any) -> PrefectManager:
        manager = PrefectManager(
            {
                "name": "pygeoapi_prefect.manager.PrefectManager",
                "result_storage": result_storage,
                "processes": {
                    process_id: _resource(process)
                    for process_id, process in (processes or {}).items()
                },
                **settings,
            },
            gateway=gateway,
        )
        managers.append(manager)
        return manager

    yield make
    for thread in threading.enumerate():
        # who closes a manager leaves the jobs alone that it still runs, and the watch over them
        if thread.name.startswith("pygeoapi_job_"):
            thread.join(JOB_END_SECONDS)
    for manager in managers:
        manager.close()


def _resource(process: Any) -> dict[str, Any]:
    match process:
        case str():
            return {"type": "process", "processor": {"name": process}}
        case {"processor": _}:
            return {"type": "process", **process}
    return {"type": "process", "processor": process}


@pytest.fixture(scope="session")
def _flask_modules(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """pygeoapi's Flask module and ours, with a configuration that has no processes."""
    folder = tmp_path_factory.mktemp("pygeoapi")
    template = Path(__file__).parents[2] / "pygeoapi-config.yml"
    configuration = yaml.safe_load(template.read_text(encoding="utf-8")) | {"resources": {}}
    configuration["server"]["manager"]["output_dir"] = str(folder / "results")
    path = folder / "pygeoapi.yml"
    path.write_text(yaml.safe_dump(configuration), encoding="utf-8")
    names = ("pygeoapi.flask_app", "pygeoapi_prefect.api.flask_app")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYGEOAPI_CONFIG", str(path))
        # set for good: point_pygeoapi_at() would generate a document of its own and keep it
        patch.setenv("PYGEOAPI_OPENAPI", str(folder / "openapi.yml"))
        (folder / "openapi.yml").write_text("{openapi: 3.0.2, info: {}, paths: {}}")
        point_pygeoapi_at(read_configuration(path), folder / "openapi.yml")
        # they read their configuration on import, which another test may have caused
        for name in names:
            patch.delitem(sys.modules, name, raising=False)
        theirs, ours = map(importlib.import_module, names)
        for name in names:
            sys.modules.pop(name, None)
    # the import has made its manager begin what goes on beside requests; each test has its own
    theirs.api_.manager.close()
    return theirs, ours


@pytest.fixture
def client_of(_flask_modules: tuple[Any, Any]) -> Callable[[PrefectManager], FlaskClient]:
    """Returns a function that puts our whole web application around a manager."""
    return lambda manager: _client(_flask_modules, manager, app=_flask_modules[1].APP)


@pytest.fixture
def stock_client_of(_flask_modules: tuple[Any, Any]) -> Callable[[PrefectManager], FlaskClient]:
    """Returns a function that puts pygeoapi's application, without ours, around a manager."""
    return lambda manager: _client(_flask_modules, manager, app=_flask_modules[0].APP)


def _client(modules: tuple[Any, Any], manager: PrefectManager, app: Flask) -> FlaskClient:
    theirs, ours = modules
    theirs.api_.manager = manager
    ours.prepare(theirs.api_)
    return app.test_client()
