"""What there is to do for the Prefect server to have what a configuration says, and doing it."""

import contextlib
import dataclasses
import datetime as dt
import itertools
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterTags,
    FlowRunFilter,
)
from prefect.client.schemas.objects import TERMINAL_STATES
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

from pygeoapi_prefect.code_storage import (
    StagedCode,
    load_code_block,
    remove_code,
    stage_code,
    upload_code,
)
from pygeoapi_prefect.configuration_file import Configuration
from pygeoapi_prefect.deployments.existing import misfits
from pygeoapi_prefect.deployments.settings import (
    SERVICE_LABEL,
    CodeVersion,
    code_of,
    differences,
    is_ours,
    settings_of,
)
from pygeoapi_prefect.deployments.work_pools import (
    WorkPool,
    create_work_pool,
    find_work_pool,
    missing_work_pool,
    new_work_pool,
)
from pygeoapi_prefect.errors import BackendUnavailable, ConfigurationError, StorageError
from pygeoapi_prefect.flows import ProcessDefinition
from pygeoapi_prefect.jobs import JOB_TAG, PROCESS_LABEL
from pygeoapi_prefect.prefect_api import api_url, shown
from pygeoapi_prefect.processes import Process, load_process
from pygeoapi_prefect.storage import block_for, load_block
from pygeoapi_prefect.storage_address import is_block

logger = logging.getLogger(__name__)

PAGE_DEPLOYMENTS: Final = 200
NAMES_LACK: Final = frozenset("%&><")
"""Characters that Prefect does not take in names, beside the slash between two of them."""


class Action(StrEnum):
    """What becomes of a deployment."""

    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    REFUSED = "refused"
    ABANDONED = "abandoned"
    REMOVED = "removed"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeploymentChange:
    """What becomes, or became, of one deployment.

    Attributes:
        process_id: The process that it is, or was, for.
        deployment: Full name, ``flow name/deployment name``; empty if the process cannot be
            loaded.
        action: `ABANDONED` is a deployment of this service that its configuration does not
            name any more.
        work_pool: Where its jobs run; None where that is not known.
        settings: Names of the settings that change.
        problem: Why it was not done, or why the process cannot run through it.
    """

    process_id: str
    deployment: str
    action: Action
    work_pool: str | None = None
    settings: tuple[str, ...] = ()
    problem: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Wanted:
    """A deployment that is to be created or changed."""

    change: DeploymentChange
    process: Process
    definition: ProcessDefinition
    settings: Mapping[str, Any]
    before: DeploymentResponse | None
    code: CodeVersion | None
    staged: StagedCode | None

    @property
    def has_new_code(self) -> bool:
        return self.code is not None and (self.before is None or code_of(self.before) != self.code)


class Plan:
    """What there is to do, found out when it is made; nothing is done before `apply`.

    Args:
        client: The Prefect API, which stays open until the plan is done.
        configuration: The configuration.
        staging: A folder for code that will be uploaded.

    Attributes:
        changes: What becomes of the deployment of each process.
        abandoned: Deployments that this service has made, for which its configuration has no
            process any more.
        new_work_pool: The manager's work pool, if it does not exist yet.
    """

    def __init__(
        self, client: SyncPrefectClient, configuration: Configuration, staging: Path
    ) -> None:
        self._client = client
        self._configuration = configuration
        self._staging = staging
        self._pools: dict[str, WorkPool | None] = {}
        self._claimed: dict[str, str] = {}
        self._wanted: dict[str, _Wanted] = {}
        own_pool = self._find_pool(configuration.work_pool)
        self.new_work_pool = None if own_pool else new_work_pool(configuration.work_pool)
        changes = [
            self._plan_process(process_id, resource)
            for process_id, resource in configuration.process_resources.items()
        ]
        self.changes = self._with_loaded_code(changes)
        self._abandoned = self._find_abandoned()
        self.abandoned = [change for change, _ in self._abandoned]

    def apply(self) -> Iterator[DeploymentChange]:
        """Do what there is to do, and tell what became of each of `changes`.

        What Prefect or a storage refuses keeps nothing else from being done.
        """
        if self.new_work_pool is not None:
            create_work_pool(self._client, self.new_work_pool)
        for change in self.changes:
            wanted = self._wanted.get(change.process_id)
            yield change if wanted is None else self._apply(wanted)

    def prune(self) -> Iterator[DeploymentChange]:
        """Remove the `abandoned` deployments, and tell what became of each.

        One with jobs that have not ended stays, for Prefect would remove them with it.
        """
        for change, deployment in self._abandoned:
            yield self._prune(change, deployment)

    # -- finding out ------------------------------------------------------------------

    def _plan_process(self, process_id: str, resource: Mapping[str, Any]) -> DeploymentChange:
        process = None
        try:
            process = load_process(process_id, resource, self._configuration.manager)
            _check_name(process.deployment)
            other = self._claimed.setdefault(process.deployment, process_id)
            if other != process_id:
                raise ConfigurationError(f"the process {other} has this deployment already")
            before = self._find_deployment(process.deployment)
            if process.flow is None:
                return _existing(process, before)
            wanted = self._settings(process, before)
        except (ConfigurationError, StorageError) as error:
            return DeploymentChange(
                process_id=process_id,
                deployment=process.deployment if process else "",
                action=Action.REFUSED,
                problem=error.detail,
            )
        if wanted.change.action is not Action.UNCHANGED:
            self._wanted[process_id] = wanted
        return wanted.change

    def _settings(self, process: Process, before: DeploymentResponse | None) -> _Wanted:
        """Raises `ConfigurationError` and `StorageError` for what cannot be deployed."""
        assert process.flow is not None  # noqa: S101  else it would not be for us to deploy
        _check_owner(before, self._configuration.service)
        pool = self._pool_of(process)
        if is_block(process.definition.result_storage):
            load_block(process.definition.result_storage)
        # secrets stay in the environment, also in that of the worker
        definition = process.definition.model_copy(
            update={"processor": self._processor_as_written(process.process_id)}
        )
        staged, code = self._code_of(process)
        settings = settings_of(
            process,
            process.flow,
            definition,
            service=self._configuration.service,
            pool=pool,
            code=code,
            existing_schedules=before.schedules if before else (),
        )
        changed = differences(before, settings, pool) if before else ()
        action = Action.UNCHANGED
        if before is None:
            action = Action.CREATED
        elif changed:
            action = Action.CHANGED
        change = DeploymentChange(
            process_id=process.process_id,
            deployment=process.deployment,
            action=action,
            work_pool=pool.name,
            settings=changed,
        )
        return _Wanted(
            change=change,
            process=process,
            definition=definition,
            settings=settings,
            before=before,
            code=code,
            staged=staged,
        )

    def _processor_as_written(self, process_id: str) -> dict[str, Any]:
        """Return what the class of a process gets, without what only this module reads."""
        processor = self._configuration.processor_as_written(process_id)
        settings = {**(processor.pop("prefect", None) or {})}
        settings.pop("deployment", None)
        return {**processor, "prefect": settings} if settings else processor

    def _pool_of(self, process: Process) -> WorkPool:
        name = process.configuration.deployment.work_pool or self._configuration.work_pool
        pool = self._find_pool(name)
        if pool is None and self.new_work_pool and self.new_work_pool.name == name:
            pool = self.new_work_pool
        if pool is None:
            raise missing_work_pool(name)
        return pool

    def _find_pool(self, name: str) -> WorkPool | None:
        if name not in self._pools:
            self._pools[name] = find_work_pool(self._client, name)
        return self._pools[name]

    def _find_deployment(self, name: str) -> DeploymentResponse | None:
        try:
            return self._client.read_deployment_by_name(name)
        except ObjectNotFound:
            return None

    def _code_of(self, process: Process) -> tuple[StagedCode | None, CodeVersion | None]:
        deployment = process.configuration.deployment
        if deployment.storage_block is None:
            return None, None
        load_code_block(deployment.storage_block)
        directory = Path(tempfile.mkdtemp(dir=self._staging))
        staged = stage_code(str(process.definition.processor["name"]), directory)
        service = self._configuration.service
        return staged, CodeVersion.of(process, deployment, service, staged.digest)

    def _with_loaded_code(self, changes: Sequence[DeploymentChange]) -> list[DeploymentChange]:
        """Refuse those whose new code does not load where there is nothing else."""
        by_digest: dict[str, list[_Wanted]] = {}
        for wanted in self._wanted.values():
            if wanted.staged is not None and wanted.has_new_code:
                by_digest.setdefault(wanted.staged.digest, []).append(wanted)
        problems: dict[str, str] = {}
        for staged, group in ((group[0].staged, group) for group in by_digest.values()):
            if staged is not None:
                problems |= staged.problems([wanted.definition for wanted in group])
        for process_id in problems:
            del self._wanted[process_id]
        return [
            _refused(change, f"its uploaded code does not run alone: {problems[change.process_id]}")
            if change.process_id in problems
            else change
            for change in changes
        ]

    def _find_abandoned(self) -> list[tuple[DeploymentChange, DeploymentResponse]]:
        # of a process that cannot be loaded, nobody knows the deployment
        unclear = {change.process_id for change in self.changes if not change.deployment}
        abandoned = []
        for deployment in self._deployments_of_service():
            process_id = str(deployment.labels.get(PROCESS_LABEL))
            if process_id in unclear:
                continue
            name = f"{self._client.read_flow(deployment.flow_id).name}/{deployment.name}"
            if name not in self._claimed:
                change = DeploymentChange(
                    process_id=process_id,
                    deployment=name,
                    action=Action.ABANDONED,
                    work_pool=deployment.work_pool_name,
                )
                abandoned.append((change, deployment))
        return abandoned

    def _deployments_of_service(self) -> Iterator[DeploymentResponse]:
        ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[JOB_TAG]))
        for offset in itertools.count(0, PAGE_DEPLOYMENTS):
            page = self._client.read_deployments(
                deployment_filter=ours, limit=PAGE_DEPLOYMENTS, offset=offset
            )
            for deployment in page:
                service = deployment.labels.get(SERVICE_LABEL)
                if is_ours(deployment) and service == self._configuration.service:
                    yield deployment
            if len(page) < PAGE_DEPLOYMENTS:
                break

    # -- doing it ---------------------------------------------------------------------

    def _apply(self, wanted: _Wanted) -> DeploymentChange:
        flow_name, _, name = wanted.process.deployment.rpartition("/")
        try:
            if wanted.staged and wanted.code and wanted.has_new_code:
                upload_code(wanted.staged, wanted.code.block, wanted.code.path)
            block_for(wanted.process.definition.result_storage)
            body = DeploymentCreate(
                flow_id=self._client.create_flow_from_name(flow_name),
                name=name,
                **wanted.settings,
            )
            # client.create_deployment() knows no labels
            self._client.request(
                "POST", "/deployments/", json=body.model_dump(mode="json", exclude_unset=True)
            )
        except (ConfigurationError, StorageError) as error:
            return _refused(wanted.change, error.detail)
        except PrefectHTTPStatusError as error:
            return _refused(wanted.change, f"Prefect refused it: {error.response.text}")
        self._remove_earlier_code(wanted)
        return wanted.change

    def _remove_earlier_code(self, wanted: _Wanted) -> None:
        """Leave of earlier code what a job may be fetching now."""
        replaced = code_of(wanted.before) if wanted.before else None
        for code in {code for code in (wanted.code, replaced) if code}:
            keep = {kept.name for kept in (wanted.code, replaced) if kept}
            _remove_code(code, keep)

    def _prune(self, change: DeploymentChange, deployment: DeploymentResponse) -> DeploymentChange:
        criteria = {
            "deployment_id": {"any_": [deployment.id]},
            "state": {"type": {"not_any_": [*TERMINAL_STATES]}},
            # those that a schedule has made for later go with it
            "expected_start_time": {"before_": dt.datetime.now(dt.UTC)},
        }
        runs = FlowRunFilter.model_validate(criteria)
        if count := self._client.count_flow_runs(flow_run_filter=runs):
            self._client.pause_deployment(deployment.id)
            return dataclasses.replace(
                change,
                problem=f"{count} of its jobs have not ended; its schedules rest now: prune again "
                "when they have",
            )
        with contextlib.suppress(ObjectNotFound):
            self._client.delete_deployment(deployment.id)
        if code := code_of(deployment):
            _remove_code(code, keep=())
        return dataclasses.replace(change, action=Action.REMOVED)


@contextlib.contextmanager
def planned(configuration: Configuration) -> Iterator[Plan]:
    """Find out what there is to do for a configuration; the plan can be applied within.

    Raises:
        BackendUnavailable: The Prefect API does not answer, or none is configured; here and
            from the plan.
    """
    url = shown(api_url())
    try:
        with get_client(sync_client=True) as client, tempfile.TemporaryDirectory() as staging:
            yield Plan(client, configuration, Path(staging))
    except PrefectHTTPStatusError as error:
        raise BackendUnavailable(
            f"the Prefect API at {url} answered {error.response.status_code}: {error.response.text}"
        ) from error
    except httpx.TransportError as error:
        raise BackendUnavailable(f"the Prefect API at {url} cannot be reached") from error


def deploy(configuration: Configuration) -> list[DeploymentChange]:
    """Make work pool, result storage and deployments what a configuration says.

    Doing it again changes nothing. A process that cannot be deployed keeps no other from it.

    Raises:
        BackendUnavailable: The Prefect API does not answer, or none is configured.
    """
    with planned(configuration) as plan:
        return [*plan.apply()]


def _existing(process: Process, before: DeploymentResponse | None) -> DeploymentChange:
    """Return what there is to say about a deployment that somebody else has made."""
    if before is None:
        problems = [f"Prefect has no deployment {process.deployment!r}"]
    else:
        schema = before.parameter_openapi_schema or {}
        problems = misfits(schema, before.parameters, process.description)
    return DeploymentChange(
        process_id=process.process_id,
        deployment=process.deployment,
        action=Action.REFUSED if problems else Action.UNCHANGED,
        work_pool=before.work_pool_name if before else None,
        problem="; ".join(problems) or None,
    )


def _check_name(deployment: str) -> None:
    """Refuse a full name that Prefect would not take, or take for another one."""
    if deployment.count("/") != 1 or NAMES_LACK & {*deployment}:
        raise ConfigurationError(
            f"a deployment cannot have the name {deployment!r}: it is that of the flow, a slash, "
            f"and deployment.name, and has none of / {' '.join(sorted(NAMES_LACK))} otherwise"
        )


def _check_owner(before: DeploymentResponse | None, service: str) -> None:
    if before is None:
        return
    if not is_ours(before):
        raise ConfigurationError(
            "Prefect has a deployment of this name that was not made by this command: choose "
            "another deployment.name"
        )
    owner = before.labels.get(SERVICE_LABEL, service)
    if owner != service:
        raise ConfigurationError(
            f"it belongs to the service {owner!r}, and this is {service!r}: choose another "
            "deployment.name, or set server.manager.service to go on as that service"
        )


def _refused(change: DeploymentChange, problem: str) -> DeploymentChange:
    return dataclasses.replace(change, action=Action.REFUSED, settings=(), problem=problem)


def _remove_code(code: CodeVersion, keep: Sequence[str] | set[str]) -> None:
    try:
        remove_code(code.block, code.folder, code.key, keep)
    except (ConfigurationError, StorageError) as error:
        logger.warning("%s", error.detail)
