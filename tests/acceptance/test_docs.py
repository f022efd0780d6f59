"""The documentation says what is so. How pages tell it is told in `pages`."""

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.stand.ports import free_port
from pygeoapi_prefect.webserver import read_configuration, write_openapi_document
from tests.acceptance.pages import (
    BLOCK,
    PAGES,
    PROGRAMS,
    REPOSITORY,
    STOP_TIMEOUT_SECONDS,
    Block,
    Shell,
    blocks,
    environment,
    follow,
    generate,
    is_as_in_page,
)
from tests.conftest import copy_empty_database, database_cache, die_with_parent

EXAMPLES = REPOSITORY / "examples"
START_TIMEOUT_SECONDS = 280.0

EXECUTED_FILES = {
    # by `test_commands_print_what_pages_say`
    "examples/first-process/my_processes.py",
    "examples/existing-deployment/bounding_box.py",
    "examples/existing-deployment/great_circle.py",
    "pygeoapi_prefect/examples/simple_flow.py",
    # by `test_following.test_tasks_of_a_flow_report_for_their_job`
    "tests/acceptance/processes/mosaic.py",
    # by `test_the_tests_of_the_example_pass`
    "examples/first-process/test_my_processes.py",
    # by `test_an_output_goes_from_worker_to_bucket_to_client_in_pieces`
    "tests/processes/streaming.py",
}


ALL_BLOCKS = [block for page in PAGES for block in blocks(page)]


# What pages say of the code, and of each other


@pytest.mark.parametrize("page", PAGES)
def test_generated_parts_of_pages_are_up_to_date(page: str) -> None:
    assert PAGES[page] == generate.filled(PAGES[page]), "run: python docs/generate.py"


def test_every_region_is_in_a_page() -> None:
    text = "".join(PAGES.values())

    assert [name for name in generate.REGIONS if f"<!-- generated: {name} -->" not in text] == []


@pytest.mark.parametrize("block", ALL_BLOCKS, ids=lambda block: block.where)
def test_blocks_with_a_title_are_part_of_that_file(block: Block) -> None:
    assert block.title or block.language != "python", "a Python block names the file it is from"
    if block.title:
        assert block.text.strip() in (REPOSITORY / block.title).read_text(encoding="utf-8")


def test_python_in_pages_is_from_files_that_are_executed() -> None:
    titles = {block.title for block in ALL_BLOCKS if block.language == "python"}

    assert titles == EXECUTED_FILES


_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def _anchors(page: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", PAGES[page]), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")
        for heading in headings
    }


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    broken = []
    for target in _LINK.findall(BLOCK.sub("", PAGES[page])):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = (REPOSITORY / page).parent / path if path else REPOSITORY / page
        linked = os.path.relpath(file.resolve(), REPOSITORY)
        if not file.exists() or (anchor and anchor not in _anchors(linked)):
            broken.append(target)

    assert broken == []


def test_every_page_can_be_reached_from_the_start_page() -> None:
    reached = {"docs/index.md"}
    waiting = ["docs/index.md"]
    while waiting:
        page = waiting.pop()
        for target in _LINK.findall(PAGES[page]):
            file = (REPOSITORY / page).parent / target.partition("#")[0]
            linked = os.path.relpath(file.resolve(), REPOSITORY)
            if linked in PAGES and linked not in reached:
                reached.add(linked)
                waiting.append(linked)

    assert {page for page in PAGES if page.startswith("docs/")} - reached == set()


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    listed = re.findall(r"[\w/-]+\.md$", (REPOSITORY / "mkdocs.yml").read_text(), re.MULTILINE)

    assert {f"docs/{page}" for page in listed} == {
        page for page in PAGES if page.startswith("docs/")
    }


# What pages have readers do


@dataclasses.dataclass(frozen=True)
class RunningStack:
    folder: Path
    port: int
    prefect_port: int
    printed: str

    @property
    def ports(self) -> dict[int, int]:
        """Its ports, by those that stand in the pages."""
        return {5000: self.port, 4200: self.prefect_port}


def _write_files(folder: Path) -> None:
    """Write the configuration of the repository with the processes of all pages, and their code."""
    configuration = yaml.safe_load((REPOSITORY / "pygeoapi-config.yml").read_text())
    for title in EXECUTED_FILES:
        if title.startswith("examples/"):
            shutil.copy(REPOSITORY / title, folder)
    for example in ("first-process", "existing-deployment"):
        example_configuration = (EXAMPLES / example / "pygeoapi-config.yml").read_text()
        example_content = yaml.safe_load(example_configuration)
        configuration["resources"] |= example_content["resources"]
        configuration["server"]["manager"] |= {
            key: value
            for key, value in example_content["server"]["manager"].items()
            if key == "discover"
        }
    (folder / "pygeoapi-config.yml").write_text(yaml.safe_dump(configuration, sort_keys=False))
    _make_root_folder(folder)


def _make_root_folder(folder: Path) -> None:
    """Write what pages find in the root folder of a clone where `make up` has been."""
    # without what a service leaves there
    ignored = shutil.ignore_patterns(".pygeoapi-prefect", "__pycache__")
    shutil.copytree(EXAMPLES, folder / "examples", ignore=ignored)
    (folder / ".venv").symlink_to(PROGRAMS.parent)


@pytest.fixture(scope="module")
def docs_stack(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[RunningStack]:
    folder = tmp_path_factory.mktemp("docs")
    _write_files(folder)
    home = folder / ".pygeoapi-prefect" / "prefect"
    home.mkdir(parents=True)
    copy_empty_database(database_cache(pytestconfig), home)
    port, prefect_port = free_port(), free_port()
    log = folder / "up.log"
    command = [str(PROGRAMS / "pygeoapi-prefect"), "up", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--prefect-port", str(prefect_port)],
            cwd=folder,
            env=environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,
        )
    try:
        give_up_at = time.monotonic() + START_TIMEOUT_SECONDS
        while "Ctrl-C stops everything." not in (printed := log.read_text()):
            assert process.poll() is None, printed
            assert time.monotonic() < give_up_at, printed
            time.sleep(0.2)
        yield RunningStack(folder, port, prefect_port, printed)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(STOP_TIMEOUT_SECONDS)


@pytest.mark.parametrize(
    ("expected", "actual", "is_same"),
    [
        ({"a": 1}, {"a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": 1, "...": "..."}, {"a": 1, "b": 2}, True),
        ({"a": 1, "...": "..."}, {"b": 2}, False),
        ({"a": "..."}, {"a": [1]}, True),
        ([1, "..."], [1, 2], True),
        ([1], [1, 2], False),
        ("job ... [1]", "job 25 [1]", True),
        ("job ... [1]", "job 25 1", False),
    ],
)
def test_dots_stand_for_what_may_differ(expected: Any, actual: Any, is_same: bool) -> None:
    assert is_as_in_page(expected, actual) is is_same


# followed elsewhere, each with what it needs
OTHER_SURROUNDINGS = ("examples/compose/README.md", "examples/s3/README.md")
PAGES_WITH_COMMANDS = [
    page
    for page in PAGES
    if page not in OTHER_SURROUNDINGS
    and any(block.instruction.startswith("executed") for block in blocks(page))
]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS)
def test_commands_print_what_pages_say(page: str, docs_stack: RunningStack) -> None:
    with Shell(docs_stack.folder, docs_stack.ports) as shell:
        follow(page, shell)


@pytest.mark.timeout(900)
def test_the_page_about_object_storage_is_right(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    _make_root_folder(tmp_path)
    home = tmp_path / "examples" / "s3" / ".pygeoapi-prefect" / "prefect"
    home.mkdir(parents=True)
    copy_empty_database(database_cache(pytestconfig), home)

    with Shell(tmp_path, {port: free_port() for port in (5000, 4200, 5555)}) as shell:
        follow("examples/s3/README.md", shell)


@pytest.mark.timeout(900)
def test_up_prints_what_the_readme_says(docs_stack: RunningStack) -> None:
    (block,) = [block for block in blocks("README.md") if block.instruction == "printed by up"]

    def without_numbers(text: str) -> str:
        return " ".join(re.sub(r"\d+(\.\d+)?", "0", text).split())

    # the flow of this process is deployed by a command of its page, later
    warning = "  bounding-box: Prefect has no deployment 'bounding-box/nightly'\n"
    assert warning in docs_stack.printed
    printed = docs_stack.printed.replace(warning, "")
    assert without_numbers(block.text) == without_numbers(printed)


@pytest.mark.parametrize("name", ["first-process", "existing-deployment", "s3"])
def test_the_configurations_of_the_examples_are_complete(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(EXAMPLES / name, tmp_path / name)
    monkeypatch.chdir(tmp_path / name)
    monkeypatch.setattr(sys, "path", [*sys.path])

    write_openapi_document(read_configuration(Path("pygeoapi-config.yml")), Path("openapi.yml"))
    sys.modules.pop("my_processes", None)  # another test may have one of that name

    document = yaml.safe_load(Path("openapi.yml").read_text())
    for process_id in yaml.safe_load(Path("pygeoapi-config.yml").read_text())["resources"]:
        assert f"/processes/{process_id}/execution" in document["paths"]


SERVER_OF_THE_SESSION = """
import contextlib
import inspect
import prefect.testing.utilities

signature = inspect.signature(prefect.testing.utilities.prefect_test_harness)
prefect.testing.utilities.prefect_test_harness = lambda *arguments, **keywords: (
    contextlib.nullcontext(signature.bind(*arguments, **keywords))
)
"""


def test_the_tests_of_the_example_pass(prefect_server: str, tmp_path: Path) -> None:
    for file in (EXAMPLES / "first-process").glob("*.py"):
        shutil.copy(file, tmp_path)
    # one server less to start: that of this session stands in for the one of the example
    (tmp_path / "conftest.py").write_text(SERVER_OF_THE_SESSION)

    completed = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=environment()
        | {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_API_URL": prefect_server},
        capture_output=True,
        text=True,
    )

    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "3 passed" in completed.stdout
