"""A pygeoapi configuration file, read as pygeoapi reads it, and refused where that says too little.

pygeoapi fills in placeholders, and takes the last of two keys of one name; what a file says is
kept as it stands there too, for those that hand it on.
"""

import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from pygeoapi.util import yaml_load

from pygeoapi_prefect.config import ManagerConfiguration, parse_manager
from pygeoapi_prefect.errors import ConfigurationError

_MERGE_TAG: Final = "tag:yaml.org,2002:merge"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Configuration:
    """A whole pygeoapi configuration file, as far as this package reads it.

    Attributes:
        path: Where it was read.
        raw: The file's content, with ``${VARIABLE}`` placeholders as they stand there.
        content: The same, placeholders replaced.
        process_resources: The ``type: process`` resources by process id, placeholders
            replaced.
    """

    path: Path
    raw: Mapping[str, Any]
    content: Mapping[str, Any]
    manager: ManagerConfiguration
    process_resources: Mapping[str, Mapping[str, Any]]

    @property
    def work_pool(self) -> str:
        """Prefect work pool in which deployed processes run."""
        return self.manager.work_pool

    @property
    def service(self) -> str:
        """What tells deployments of this service from those of others."""
        return self.manager.service or str(self.content["server"].get("url", "")).rstrip("/")

    def processor_as_written(self, process_id: str) -> dict[str, Any]:
        """Return the ``processor`` mapping of a process, placeholders not replaced."""
        return dict(self.raw["resources"][process_id]["processor"])


def load_configuration(path: Path) -> Configuration:
    """Read a pygeoapi configuration file.

    Raises:
        ConfigurationError: The file is missing, no YAML, has a key twice or a placeholder for
            a variable that is not set, is no configuration, or names another manager.
    """
    raw, filled_in = _read_yaml(path)
    content = _mapping(filled_in, f"{path}: the file")
    server = content.get("server")
    manager = server.get("manager") if isinstance(server, dict) else None
    if not isinstance(manager, dict) or "pygeoapi_prefect" not in str(manager.get("name")):
        raise ConfigurationError(
            f"{path} does not choose this process manager: set server.manager.name to "
            "pygeoapi_prefect.manager.PrefectManager"
        )
    return Configuration(
        path=path,
        raw=raw,
        content=content,
        manager=parse_manager(manager),
        process_resources=_process_resources(path, raw, content),
    )


def _process_resources(
    path: Path, raw: Mapping[str, Any], content: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    where = f"{path}: resources"
    resources = _mapping(content.get("resources") or {}, where)
    for resource_id, resource in resources.items():
        _mapping(resource, f"{where}.{resource_id}")
    processes = {
        resource_id: resource
        for resource_id, resource in resources.items()
        if resource.get("type") == "process"
    }
    # workers are told of a process what the file says of it, and look for it by its id
    if with_placeholder := processes.keys() - (raw.get("resources") or {}).keys():
        raise ConfigurationError(
            f"{where}.{min(with_placeholder)}: the id of a process cannot have a placeholder"
        )
    return processes


def _read_yaml(path: Path) -> tuple[Any, Any]:
    """Return what a file says, and the same with its placeholders filled in by pygeoapi."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from error
    try:
        _refuse_repeated_keys(yaml.compose(text, Loader=yaml.SafeLoader))
        return yaml.safe_load(text), yaml_load(io.StringIO(text))
    except OSError as error:  # what pygeoapi raises for a placeholder without a value
        raise ConfigurationError(f"{path}: {error}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = f"line {line}: {error.problem}"
        raise ConfigurationError(f"{path} is no valid YAML: {problem}") from error
    # values that look like numbers or dates, and are none, are errors of Python's
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ConfigurationError(f"{path} is no valid YAML: {_one_line(error)}") from error


def _refuse_repeated_keys(document: yaml.Node | None) -> None:
    """Raise a YAML error for a key that a mapping has twice: else the last one would count."""
    nodes, seen = [document] if document is not None else [], set[int]()
    while nodes:
        node = nodes.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
        elif isinstance(node, yaml.MappingNode):
            keys = set[str]()
            for key, value in node.value:
                nodes.append(value)
                if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE_TAG:
                    continue
                if key.value in keys:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value!r} is there twice",
                        problem_mark=key.start_mark,
                    )
                keys.add(key.value)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    """Return a value that has to be a mapping whose keys are text. Raises `ConfigurationError`."""
    if not isinstance(value, dict):
        raise ConfigurationError(f"{where} must be a mapping")
    for key in value:
        if not isinstance(key, str):
            raise ConfigurationError(f"{where}: the key {key} is no text; write it in quotes")
    return value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
