"""The job variables of a work pool of type `pygeoapi`, and what they come to for a run."""

from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.schemas.objects import Flow, FlowRun, WorkPool
from prefect.client.schemas.responses import DeploymentResponse
from prefect.workers.base import BaseJobConfiguration, BaseVariables, BaseWorkerResult
from pydantic import Field, PrivateAttr

from pygeoapi_prefect.prefect_private import ENGINE_RUNS_HOOKS

_UNUSED = frozenset({"name", "labels"})
"""Name and labels of infrastructure, which processes do not have."""


class PygeoapiVariables(BaseVariables):
    """What a deployment, or a work pool for all of its deployments, may set."""

    stream_output: bool = Field(
        default=True,
        description="Whether stdout and stderr of jobs go to those of the worker. "
        "Default: they do.",
    )
    working_dir: str | None = Field(
        default=None,
        title="Working Directory",
        description="Absolute path of the directory to run jobs in. Default: a temporary "
        "one for each job.",
    )

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The form of a work pool, in few words.

        The Prefect server checks it, and each of its defaults by it, whenever a run is created:
        a good part of what that call computes.
        """
        schema = super().model_json_schema(*args, **kwargs)
        schema["properties"] = {
            name: _plain(described)
            for name, described in schema["properties"].items()
            if name not in _UNUSED
        }
        return schema


class PygeoapiJobConfiguration(BaseJobConfiguration):
    """The job variables of one flow run."""

    stream_output: bool = Field(default=True)
    working_dir: Path | None = Field(default=None)

    _configured_command: str | None = PrivateAttr(default=None)

    @property
    def configured_command(self) -> str | None:
        """The command that somebody configured; `command` also holds Prefect's default."""
        return self._configured_command

    @classmethod
    def json_template(cls) -> dict[str, Any]:
        """Where the variables go; none for what a process does not have."""
        template = super().json_template()
        return {name: place for name, place in template.items() if name not in _UNUSED}

    @classmethod
    def _base_environment(cls) -> dict[str, str]:
        """The settings of the worker, which its processes have already.

        Prefect puts them together for each run, which takes 20 ms.
        """
        return {}

    def prepare_for_flow_run(
        self,
        flow_run: FlowRun,
        deployment: DeploymentResponse | None = None,
        flow: Flow | None = None,
        work_pool: WorkPool | None = None,
        worker_name: str | None = None,
        worker_id: UUID | None = None,
    ) -> None:
        """Fill in what depends on the flow run; called by the worker before it starts."""
        self._configured_command = self.command
        super().prepare_for_flow_run(
            flow_run, deployment, flow, work_pool, worker_name, worker_id=worker_id
        )

    def environment(self) -> dict[str, str]:
        """The variables of the run, without those that the worker itself has."""
        variables: dict[str, Any] = self.env
        return {
            **{name: value for name, value in variables.items() if value is not None},
            # the worker does it: the process may be gone by then
            ENGINE_RUNS_HOOKS: "false",
        }


class PygeoapiWorkerResult(BaseWorkerResult):
    """How the process of a flow run ended."""


def _plain(described: dict[str, Any]) -> dict[str, Any]:
    """Say what a variable is, where it is not left out, and what its values are."""
    plain = {name: value for name, value in described.items() if name not in ("anyOf", "default")}
    for choice in described.get("anyOf", ()):
        if choice != {"type": "null"}:
            plain |= choice
    match plain.get("additionalProperties"):
        case {"anyOf": choices} if all(choice.keys() == {"type"} for choice in choices):
            plain["additionalProperties"] = {"type": [choice["type"] for choice in choices]}
    return plain
