"""Fills in what documentation pages say about the code, from the code.

A page marks a region with ``<!-- generated: NAME -->`` and ``<!-- end -->``; what stands
between them is written here. Run ``python docs/generate.py`` after a change to what a region
shows; a test fails while a page is not up to date.
"""

import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pydantic

from pygeoapi_prefect import config, errors, inputs, jobs, references, schemas, testing
from pygeoapi_prefect.cli import main as commands
from pygeoapi_prefect.worker.settings import PygeoapiWorkerSettings

REPOSITORY = Path(__file__).parent.parent
HELP_COLUMNS = 88
_REGION = re.compile(r"(<!-- generated: ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_README_KEYS = (
    "name",
    "output_dir",
    "result_storage",
    "work_pool",
    "sync_through_deployments",
    "sync_job_execution_timeout_seconds",
)


def pages() -> list[Path]:
    """Return all pages, generated or not."""
    return [
        *sorted(REPOSITORY.glob("*.md")),
        *sorted((REPOSITORY / "docs").rglob("*.md")),
        *sorted((REPOSITORY / "examples").rglob("*.md")),
    ]


def filled(page: str) -> str:
    """Return the text of a page with its regions up to date."""
    return _REGION.sub(lambda match: f"{match[1]}\n{REGIONS[match[2]]()}\n\n{match[3]}", page)


def _table(*rows: tuple[str, ...]) -> str:
    header, *body = rows
    lines = [header, tuple("---" for _ in header), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _first_paragraph(thing: object) -> str:
    paragraph = (inspect.getdoc(thing) or "").partition("\n\n")[0]
    return _as_markdown(" ".join(paragraph.split()))


def _as_markdown(docstring: str) -> str:
    return docstring.replace("``", "`")


# Configuration


def _keys(model: type[pydantic.BaseModel], only: tuple[str, ...] | None = None) -> str:
    schema = model.model_json_schema()
    rows = [
        (
            f"`{name}`",
            _type(field, schema.get("$defs", {})),
            _default(name, field, schema.get("required", ())),
            field["description"],
        )
        for name, field in schema["properties"].items()
        if only is None or name in only
    ]
    return _table(("Key", "Type", "Default", "Meaning"), *rows)


def _type(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    kinds = [
        definitions[kind["$ref"].rpartition("/")[2]] if "$ref" in kind else kind
        for kind in field.get("anyOf", [field])
    ]
    return " or ".join(
        ", ".join(f"`{value}`" for value in kind["enum"])
        if "enum" in kind
        else _NAMES_OF_TYPES[kind.get("type", "any")]
        for kind in kinds
        if kind.get("type") != "null"
    )


_NAMES_OF_TYPES = {
    "string": "text",
    "boolean": "true or false",
    "integer": "integer",
    "number": "number",
    "array": "list",
    "object": "mapping",
    "any": "any",
}


def _default(name: str, field: dict[str, Any], required: list[str]) -> str:
    if name in required:
        return "required"
    default = field.get("default")
    if isinstance(default, dict) and default:
        return "see below"
    return "" if default in (None, {}, []) else f"`{json.dumps(default)}`"


def _worker_settings() -> str:
    prefix = PygeoapiWorkerSettings.model_config["env_prefix"]
    rows = [
        (
            f"`{prefix}{name.upper()}`",
            "" if field.is_required() or field.default_factory else f"`{field.default}`",
            field.description or "",
        )
        for name, field in PygeoapiWorkerSettings.model_fields.items()
    ]
    return _table(("Variable", "Default", "Meaning"), *rows)


# Commands


def _help_texts() -> str:
    return "\n\n".join(_help_of(commands, "pygeoapi-prefect", None))


def _help_of(command: click.Command, path: str, parent: click.Context | None) -> Iterator[str]:
    context = click.Context(
        command, info_name=path.rpartition(" ")[2], parent=parent, terminal_width=HELP_COLUMNS
    )
    yield f"## `{path}`\n\n```text\n{command.get_help(context)}\n```"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            yield from _help_of(command.commands[name], f"{path} {name}", context)


# Jobs


def _states() -> str:
    rows = [
        (f"`{state.name}`", f"`{status}`", "yes" if status in jobs.ENDED else "no")
        for state, status in jobs.STATUS_OF_STATE.items()
    ]
    return _table(("Prefect state type", "Status of the job", "Last status"), *rows)


# Errors


def _error_table() -> str:
    rows = [
        (
            "&nbsp;&nbsp;" * depth + f"`{error.__name__}`",
            str(int(error.http_status_code)),
            f"`{error.ogc_exception_code.replace(errors.OGC_EXCEPTIONS, '…')}`",
            _first_paragraph(error),
        )
        for depth, error in _subtree(errors.PygeoapiPrefectError)
    ]
    return _table(("Error", "HTTP status", "Code", "When"), *rows)


def _subtree(
    error: type[errors.PygeoapiPrefectError], depth: int = 0
) -> Iterator[tuple[int, type[errors.PygeoapiPrefectError]]]:
    yield depth, error
    for leaf in error.__subclasses__():
        yield from _subtree(leaf, depth + 1)


# Python


def _public_names() -> str:
    package = importlib.import_module("pygeoapi_prefect")
    rows = [
        (f"`{name}`", _first_paragraph(getattr(package, name)))
        for name in package.__all__
        if name != "__version__"
    ]
    return _table(("Name", "What it is"), *rows, ("`__version__`", "Version of the package."))


def _models() -> str:
    rows = [
        (f"`{name}`", _first_paragraph(model))
        for name, model in vars(schemas).items()
        if inspect.isclass(model)
        and model.__module__ == schemas.__name__
        and name.isidentifier()
        and not name.startswith("_")
    ]
    return _table(("Name", "What it is"), *sorted(rows))


def _described(*things: Any) -> Callable[[], str]:
    def describe() -> str:
        return "\n\n".join(
            f"### `{thing.__name__}`\n\n```text\n{thing.__name__}{_signature(thing)}\n\n"
            f"{inspect.getdoc(thing)}\n```"
            for thing in things
        )

    return describe


def _signature(thing: Any) -> str:
    text = str(inspect.signature(thing))
    return re.sub(r"\b(?:pygeoapi_prefect|collections\.abc|typing|pathlib)\.(?:\w+\.)*", "", text)


REGIONS: dict[str, Callable[[], str]] = {
    "manager keys": lambda: _keys(config.ManagerConfiguration),
    "important manager keys": lambda: _keys(config.ManagerConfiguration, _README_KEYS),
    "reference keys": lambda: _keys(references.ReferencePolicy),
    "discovery keys": lambda: _keys(config.DiscoveryConfiguration),
    "process keys": lambda: _keys(config.PrefectConfiguration),
    "deployment keys": lambda: _keys(config.DeploymentConfiguration),
    "concurrency keys": lambda: _keys(config.ConcurrencyConfiguration),
    "schedule keys": lambda: _keys(config.ScheduleConfiguration),
    "worker settings": _worker_settings,
    "help texts": _help_texts,
    "states": _states,
    "error table": _error_table,
    "public names": _public_names,
    "models": _models,
    "readers of inputs": _described(inputs.input_json, inputs.input_bytes),
    "means for tests": _described(testing.run_process, testing.InMemoryGateway, testing.run_job),
}


def main() -> None:
    """Write all pages anew."""
    for page in pages():
        before = page.read_text(encoding="utf-8")
        after = filled(before)
        if after != before:
            page.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
