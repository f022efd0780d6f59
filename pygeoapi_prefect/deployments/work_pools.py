"""Work pools, and what they let deployments set for their jobs."""

import dataclasses
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import jsonschema
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.utilities.templating import find_placeholders

from pygeoapi_prefect.errors import ConfigurationError
from pygeoapi_prefect.worker import PygeoapiWorker

WORKER_TYPE: Final = PygeoapiWorker.type
"""Type of the work pool that is made where the manager's does not exist."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkPool:
    """A work pool, there already or about to be made.

    Attributes:
        template: Its base job template.
        default_queue_id: Work queue of deployments that name none; None where the pool is
            still to be made.
    """

    name: str
    type: str
    template: Mapping[str, Any]
    default_queue_id: uuid.UUID | None

    def job_variables(
        self, configured: Mapping[str, Any], environment: Mapping[str, str], directory: Path | None
    ) -> dict[str, Any]:
        """Return the job variables of a deployment.

        Args:
            configured: Those of the configuration. They win, but for `environment`.
            environment: Environment variables that each job needs.
            directory: In which jobs should run, if the pool lets them choose.

        Raises:
            ConfigurationError: The pool does not offer a variable, or not with this value.
        """
        variables: dict[str, Any] = {}
        if directory is not None and "working_dir" in self._schema.get("properties", {}):
            variables["working_dir"] = str(directory)
        variables |= configured
        if not isinstance(variables.get("env") or {}, Mapping):
            raise ConfigurationError("job_variables.env must be a mapping")
        variables["env"] = {**(variables.get("env") or {}), **environment}
        variables = {name: value for name, value in variables.items() if value is not None}
        self._check(variables)
        return variables

    @property
    def _schema(self) -> Mapping[str, Any]:
        schema: Mapping[str, Any] = self.template.get("variables") or {}
        return schema

    def _check(self, variables: Mapping[str, Any]) -> None:
        configuration = self.template.get("job_configuration") or {}
        if "env" not in configuration:
            raise ConfigurationError(
                f"the base job template of work pool {self.name} has no `env` in its "
                "job_configuration, by which jobs learn which process they are"
            )
        used = {placeholder.name for placeholder in find_placeholders(dict(configuration))}
        known = used | set(self._schema.get("properties") or {})
        for name in variables:
            if name.partition(".")[0] not in known:
                raise ConfigurationError(
                    f"job_variables.{name}: work pool {self.name}, of the type {self.type}, has "
                    f"no such variable; it has {', '.join(sorted(known))}"
                )
        try:
            update = DeploymentUpdate(job_variables=dict(variables))
            update.check_valid_configuration(dict(self.template))
        except jsonschema.ValidationError as error:
            where = ".".join(["job_variables", *(str(part) for part in error.absolute_path)])
            raise ConfigurationError(f"{where}: {error.message}") from error


def find_work_pool(client: SyncPrefectClient, name: str) -> WorkPool | None:
    """Return a work pool of the Prefect server, if there is one of that name."""
    try:
        found = client.read_work_pool(name)
    except ObjectNotFound:
        return None
    return WorkPool(
        name=name,
        type=found.type,
        template=found.base_job_template,
        default_queue_id=found.default_queue_id,
    )


def new_work_pool(name: str) -> WorkPool:
    """Return a work pool as `create_work_pool` makes it."""
    return WorkPool(
        name=name,
        type=WORKER_TYPE,
        template=PygeoapiWorker.get_default_base_job_template(),
        default_queue_id=None,
    )


def create_work_pool(client: SyncPrefectClient, pool: WorkPool) -> None:
    """Make a work pool; one that somebody else has made meanwhile is used as it is."""
    try:
        client.create_work_pool(
            WorkPoolCreate(name=pool.name, type=pool.type, base_job_template=dict(pool.template))
        )
    except ObjectAlreadyExists:
        return


def missing_work_pool(name: str) -> ConfigurationError:
    """Return what to say where a process names a work pool that does not exist."""
    return ConfigurationError(
        f"Prefect has no work pool {name!r}: `prefect work-pool create {name} --type TYPE` makes "
        f"one, where TYPE is process, docker, kubernetes or {WORKER_TYPE}, for example"
    )
