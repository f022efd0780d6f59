"""Pages of the documentation, and what they have their readers do.

Pages are Markdown. What becomes of a fenced block is told by its info string, or by a comment
on the line above it:

* ``python`` and ``yaml`` blocks with a ``title`` are part of the file that the title names.
  All Python blocks have one, and those files are executed.
* ``<!-- executed -->``: a ``bash`` block, run in the folder of the page's surroundings, or where
  the page has gone from there. Variables live as long as the page. ``<!-- executed until
  printed -->`` repeats it, and ``<!-- executed in the background -->`` lets it run until the end
  of the page.
* ``<!-- printed -->``: what the block before printed. In JSON, the text ``...`` stands for any
  value, and a member ``...`` for any other members; in text, ``...`` stands for anything.
* ``<!-- printed by up -->``: what the command ``up`` printed, numbers aside.
"""

import dataclasses
import fnmatch
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from tests.conftest import die_with_parent

REPOSITORY = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent

STOP_TIMEOUT_SECONDS = 180.0
RESULT_TIMEOUT_SECONDS = 240.0
COMMAND_TIMEOUT_SECONDS = 300.0


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", REPOSITORY / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = _generator()
PAGES: dict[str, str] = {
    str(page.relative_to(REPOSITORY)): page.read_text(encoding="utf-8") for page in generate.pages()
}


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        where: Page and line.
        instruction: The comment above it, if it is one for this module.
    """

    where: str
    instruction: str
    language: str
    title: str
    text: str


BLOCK = re.compile(
    r"(?:^<!-- ((?:executed|printed)[a-z ]*) -->\n\n?)?"
    r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


def blocks(page: str) -> list[Block]:
    text = PAGES[page]
    return [
        Block(
            where=f"{page}:{text.count(chr(10), 0, match.start()) + 1}",
            instruction=match[1] or "",
            language=match[2],
            title=match[3] or "",
            text=match[4],
        )
        for match in BLOCK.finditer(text)
    ]


def environment() -> dict[str, str]:
    """The environment of a reader who has installed the package."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "PYGEOAPI_", "AWS_"))
    }
    return kept | {"PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"}


class Shell:
    """Runs commands one by one, and hands folder and variables on from each to the next.

    Args:
        folder: Where it runs the first.
        ports: Ports of this machine by those that stand in the page.
        variables: Of its environment, besides those of a reader.
        timeout_seconds: How long a command may take.
    """

    def __init__(
        self,
        folder: Path,
        ports: Mapping[int, int],
        variables: Mapping[str, str] | None = None,
        timeout_seconds: float = COMMAND_TIMEOUT_SECONDS,
    ) -> None:
        self._folder = folder
        self._ports = ports
        self._environment = environment() | dict(variables or {})
        self._timeout_seconds = timeout_seconds
        self._kept = folder / "variables.sh"
        self._kept.write_text("")
        self._background: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._background):
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def run(self, commands: str, *, may_fail: bool = False) -> str:
        """Return what the commands print, with the ports of the pages."""
        completed = subprocess.run(
            ["bash", "-c", f"{self._script(commands)}\nexport -p > {self._kept}"],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=self._timeout_seconds,
        )
        has_succeeded = completed.returncode == 0
        assert has_succeeded or may_fail, f"{commands}\n{completed.stdout}{completed.stderr}"
        printed = completed.stdout
        for page_port, port in self._ports.items():
            printed = printed.replace(f":{port}", f":{page_port}")
        return printed

    def start(self, command: str) -> None:
        """Let a command run in the background."""
        with (self._folder / f"background-{len(self._background)}.log").open("wb") as log:
            process = subprocess.Popen(
                ["bash", "-c", self._script(f"exec {command}")],
                cwd=self._folder,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
            )
        self._background.append(process)

    def _script(self, commands: str) -> str:
        for page_port, port in self._ports.items():
            commands = re.sub(rf"(?<=[: ]){page_port}\b", str(port), commands)
        # PWD is among the variables
        return f'set -eu -o pipefail -o allexport\n. {self._kept}\ncd "$PWD"\n{commands}'


def is_as_in_page(expected: Any, actual: Any) -> bool:
    """Compare JSON, where ``...`` stands for anything."""
    match expected, actual:
        case "...", _:
            return True
        case str(), str():
            return fnmatch.fnmatchcase(
                actual, re.sub(r"([*?\[])", r"[\1]", expected).replace("...", "*")
            )
        case dict(), dict():
            named = expected.keys() - {"..."}
            return (
                named <= actual.keys()
                and ("..." in expected or named == actual.keys())
                and all(is_as_in_page(expected[name], actual[name]) for name in named)
            )
        case list(), list():
            return len(expected) == len(actual) and all(
                is_as_in_page(*pair) for pair in zip(expected, actual, strict=True)
            )
    return bool(expected == actual)


def matches(block: Block, printed: str) -> bool:
    if block.language != "json":
        return is_as_in_page(" ".join(block.text.split()), " ".join(printed.split()))
    try:
        return is_as_in_page(json.loads(block.text), json.loads(printed))
    except ValueError:
        return False


def follow(page: str, shell: Shell) -> None:
    """Do what a page says, and fail where something else is printed."""
    following = [*blocks(page)[1:], None]
    for block, after in zip(blocks(page), following, strict=True):
        if not block.instruction.startswith("executed"):
            continue
        assert block.language == "bash", block.where
        if block.instruction == "executed in the background":
            shell.start(block.text)
            continue
        expected = after if after is not None and after.instruction == "printed" else None
        is_repeated = block.instruction == "executed until printed"
        printed = shell.run(block.text, may_fail=is_repeated)
        if is_repeated:
            assert expected is not None, block.where
            give_up_at = time.monotonic() + RESULT_TIMEOUT_SECONDS
            while not matches(expected, printed) and time.monotonic() < give_up_at:
                time.sleep(0.5)
                printed = shell.run(block.text, may_fail=True)
        if expected is not None:
            assert matches(expected, printed), f"{expected.where}:\n{printed}"
