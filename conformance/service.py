"""The service that the suite tests: what `pygeoapi-prefect up` runs, with the process `echo`."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

from conformance.suite import SuiteError

REPOSITORY: Final = Path(__file__).parents[1]
PROCESS_ID: Final = "echo"
START_SECONDS: Final = 300.0
STOP_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.2


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Mapping[str, str]]:
    """Run the service inside the block, once for each of its applications.

    Args:
        folder: An empty one, for its files and logs.

    Yields:
        The addresses of the applications, by their names.

    Raises:
        SuiteError: It does not start.
    """
    flask, starlette, prefect = _free_ports()
    # the stack serves the Flask application; a second web server beside it the other one
    up = ["up", "--port", str(flask), "--prefect-port", str(prefect)]
    serve = ["serve", "--app", "starlette"]
    with contextlib.ExitStack() as exits:
        urls = {}
        for name, port, command in (("flask", flask, up), ("starlette", starlette, serve)):
            config = _write_configuration(folder, name, port)
            process = exits.enter_context(
                _program(folder / name, [*command, "--config", str(config)], prefect)
            )
            urls[name] = f"http://127.0.0.1:{port}"
            _await(process, urls[name], folder / name / "log")
        yield urls


def _write_configuration(folder: Path, name: str, port: int) -> Path:
    text = (REPOSITORY / "pygeoapi-config.yml").read_text(encoding="utf-8")
    configuration: dict[str, Any] = yaml.safe_load(text)
    server = configuration["server"]
    server["bind"] = {"host": "127.0.0.1", "port": port}
    server["url"] = f"http://127.0.0.1:{port}"
    server["manager"]["output_dir"] = str(folder / "results")
    configuration["resources"] = {PROCESS_ID: configuration["resources"][PROCESS_ID]}
    (folder / name).mkdir()
    path = folder / name / "pygeoapi-config.yml"
    path.write_text(yaml.safe_dump(configuration), encoding="utf-8")
    return path


@contextlib.contextmanager
def _program(
    folder: Path, arguments: list[str], prefect_port: int
) -> Iterator[subprocess.Popen[bytes]]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "PYGEOAPI_"))
    }
    if arguments[0] == "serve":
        kept["PREFECT_API_URL"] = f"http://127.0.0.1:{prefect_port}/api"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pygeoapi_prefect.cli", *arguments],
            cwd=folder,
            env=kept,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def _await(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Wait until the service can execute its process."""
    give_up_at = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < give_up_at:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/processes/{PROCESS_ID}", params={"f": "json"}).is_success:
                return
        time.sleep(_POLL_SECONDS)
    raise SuiteError(f"the service does not start:\n{log.read_text(encoding='utf-8')}")


def _free_ports() -> tuple[int, int, int]:
    with contextlib.ExitStack() as exits:
        one, two, three = (
            exits.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            for _ in range(3)
        )
    return one, two, three
