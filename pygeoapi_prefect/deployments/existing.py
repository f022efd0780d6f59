"""Whether a deployment that somebody else has made fits the process that it is to run."""

from collections.abc import Collection, Mapping
from typing import Any, Final

HANDED: Final = ("processor_id", "pygeoapi_job_id", "inputs", "outputs")
"""Parameters that a job gets beside those that have the names of its inputs."""


def misfits(
    schema: Mapping[str, Any], preset: Collection[str], description: Mapping[str, Any]
) -> list[str]:
    """Say why jobs of a process could not run, or not with all of their inputs.

    Args:
        schema: ``parameter_openapi_schema`` of the deployment.
        preset: Parameters to which the deployment itself gives a value.
        description: The process (``process.yaml``).
    """
    parameters: Mapping[str, Any] = schema.get("properties") or {}
    described: Mapping[str, Any] = description.get("inputs") or {}
    problems = [
        f"its parameter {name!r} has no default, and no input of the process has to be given "
        f"for it; jobs are also handed {', '.join(HANDED)}"
        for name in schema.get("required") or ()
        if name not in preset
        and (name not in HANDED or name in described)
        and not _is_required(described.get(name))
    ]
    if "inputs" in described:
        return problems
    if "inputs" in parameters:
        definitions = {**(schema.get("definitions") or {}), **(schema.get("$defs") or {})}
        problems += _misfits_of_inputs(_resolved(parameters["inputs"], definitions), described)
    elif untaken := [name for name in described if name not in parameters]:
        problems.append(f"it has no parameter for {', '.join(untaken)}, and none named 'inputs'")
    return problems


def _is_required(description: Any) -> bool:
    return isinstance(description, Mapping) and description.get("minOccurs", 1) != 0


def _misfits_of_inputs(schema: Mapping[str, Any], described: Mapping[str, Any]) -> list[str]:
    if schema.get("type", "object") != "object":
        return [f"its parameter 'inputs' is no object, but of the type {schema['type']}"]
    members: Mapping[str, Any] = schema.get("properties") or {}
    problems = [
        f"its parameter 'inputs' needs the member {name!r}, and the process has no such input"
        for name in schema.get("required") or ()
        if name not in described
    ]
    if schema.get("additionalProperties") is False:
        problems += [
            f"its parameter 'inputs' takes no member {name!r}"
            for name in described
            if name not in members
        ]
    return problems


def _resolved(schema: Any, definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow a reference, as pydantic writes one for a model; what is not clear admits all."""
    seen = set[str]()
    while isinstance(schema, Mapping) and isinstance(reference := schema.get("$ref"), str):
        name = reference.rpartition("/")[2]
        if name in seen:
            return {}
        seen.add(name)
        schema = definitions.get(name)
    return schema if isinstance(schema, Mapping) and isinstance(schema.get("type"), str) else {}
