"""What the Dockerfile, compose.yaml and the page about them say was done, and works.

There is no engine here: `local_docker` does what they say, with processes of this machine.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.stand.ports import free_port
from tests.acceptance.pages import REPOSITORY, Shell, environment, follow
from tests.containers import local_docker

PAGE = "examples/compose/README.md"
UP_TIMEOUT_SECONDS = 600.0
SENT = [
    *("Dockerfile", ".dockerignore", ".env.example", "compose.yaml", "pyproject.toml", "uv.lock"),
    *("README.md", "LICENSE", "pygeoapi_prefect", "container", "examples"),
]


def missing_programs() -> list[str]:
    found = {
        "redis-server": shutil.which("redis-server"),
        "postgres": [*local_docker.POSTGRES_PROGRAMS.glob("*/bin/postgres")],
        "uv": shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"),
    }
    return [name for name, where in found.items() if not where]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone of the repository, as far as the page has to do with it."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in SENT:
        origin = REPOSITORY / name
        if origin.is_dir():
            shutil.copytree(origin, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(origin, folder)
    return folder


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Variables with which `docker` is our own, and ports it publishes."""
    programs = tmp_path / "programs"
    programs.mkdir()
    docker = programs / "docker"
    docker.write_text(f'#!/bin/sh\nexec {sys.executable} {local_docker.__file__} "$@"\n')
    docker.chmod(0o755)
    # which PostgreSQL's own user has to enter
    with tempfile.TemporaryDirectory(prefix="local-docker-") as root:
        Path(root).chmod(0o755)
        state = Path(root) / "state"
        yield {
            "PATH": f"{programs}:{environment()['PATH']}",
            "LOCAL_DOCKER_STATE": str(state),
            "LOCAL_DOCKER_OWNER": str(os.getpid()),
        }
        if state.exists():
            local_docker.down(state)


def assert_small(image: Path) -> None:
    """Fail where an image has what nothing in it uses."""
    (packages,) = image.glob("app/.venv/lib/python3*/site-packages")
    names = {path.name.partition("-")[0] for path in packages.glob("*.dist-info")}
    assert {"pygeoapi_prefect", "prefect", "pygeoapi", "s3fs", "prefect_redis"} <= names
    assert names & {"pytest", "mypy", "ruff", "moto", "exactextract", "pip", "uv"} == set()
    assert {path.name for path in image.iterdir()} == {"app", "srv"}
    assert [*image.glob("srv/pygeoapi/*")] == []
    # it is not root that runs it
    assert all(path.stat().st_mode & 0o004 for path in packages.rglob("*.py"))


@pytest.mark.timeout(UP_TIMEOUT_SECONDS + 300)
def test_the_page_about_containers_is_right(clone: Path, engine: dict[str, str]) -> None:
    if missing := missing_programs():
        message = f"needs {', '.join(missing)}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    port, prefect_port = free_port(), free_port()
    published = {"LOCAL_DOCKER_PORTS": f"5000={port},4200={prefect_port}"}
    ports = {5000: port, 4200: prefect_port}

    with Shell(clone, ports, engine | published, UP_TIMEOUT_SECONDS) as shell:
        follow(PAGE, shell)

    state = Path(engine["LOCAL_DOCKER_STATE"])
    assert not state.exists()
    assert_small(state.with_name("image"))
