"""The files of jobs, as the web side sees them: where they are, what is read, what is removed."""

import contextlib
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from pygeoapi_prefect import execution
from pygeoapi_prefect.config import DeploymentConfiguration, ManagerConfiguration
from pygeoapi_prefect.errors import (
    ConfigurationError,
    InvalidRequest,
    ResultMissing,
    ResultUnreadable,
    StorageError,
    UnknownProcess,
)
from pygeoapi_prefect.flows import read_request
from pygeoapi_prefect.jobs import Job
from pygeoapi_prefect.outputs import HeldOutput, StoredOutput, load_outputs, opened
from pygeoapi_prefect.prefect_results import find_result
from pygeoapi_prefect.processes import Process
from pygeoapi_prefect.results import BY_VALUE_ONLY, Output
from pygeoapi_prefect.schemas import ProcessOutputTransmissionMode
from pygeoapi_prefect.storage import ResultStorage, open_storage

logger = logging.getLogger(__name__)


class Service(Protocol):
    """What is asked of the service whose jobs they are."""

    @property
    def processes(self) -> Iterable[str]:
        """The ids of all processes."""

    def process(self, process_id: str) -> Process:
        """Return a process. Raises `UnknownProcess`."""

    def own_url(self, job_id: str, output_id: str) -> str | None:
        """Return where the service hands out an output, if it does."""


class JobFiles:
    """What jobs keep in result storages, as far as the configuration lets it be reached.

    Args:
        configuration: That of the manager.
        service: Whose jobs they are.
    """

    def __init__(self, configuration: ManagerConfiguration, service: Service) -> None:
        self._configuration = configuration
        self._service = service

    def request(self, job: Job) -> dict[str, Any]:
        """Return the execute request of a job; for existing deployments, without inputs.

        Raises:
            ResultMissing: It was kept in the result storage and is gone.
            StorageError: It cannot be read.
        """
        text = job.execution_request or "{}"
        if text.startswith(execution.STORED_REQUEST_PREFIX):
            return read_request(text, self._storage(job))
        return execution.parse_request(text)

    def inputs(self, job: Job, max_bytes: int) -> Mapping[str, Any] | None:
        """Return the inputs of a job; None if they are over a size, or kept no longer.

        Raises:
            StorageError: The result storage cannot be reached.
        """
        text = job.execution_request or "{}"
        try:
            if text.startswith(execution.STORED_REQUEST_PREFIX):
                key = text.removeprefix(execution.STORED_REQUEST_PREFIX)
                size = self._storage(job).size(key)
            else:
                size = len(text)
            if size > max_bytes:
                return None
            request = self.request(job)
        except ResultMissing:
            return None
        inputs = request.get("inputs")
        if inputs is None:
            return execution.inputs_in_parameters(request, job.parameters)
        return inputs if isinstance(inputs, Mapping) else {}

    def outputs(self, job: Job) -> dict[str, Output]:
        """Return the outputs that a successful job has, none of them read.

        Raises:
            ResultMissing: They are not in the result storage (any more).
            ResultUnreadable: The flow is not one of ours, and stored them in a form that is
                not read.
            JobFailed: It says that it failed.
        """
        storage = self._storage(job)
        found: Mapping[str, StoredOutput | HeldOutput]
        existing = self._existing_deployment_of(job)
        if existing is None:
            found = load_outputs(storage, job.job_id)
        else:
            deployment, declared = existing
            result = find_result(job, deployment, self._address(job))
            found = result.outputs(job, declared, storage)
        return opened(
            storage,
            found,
            lambda output_id: self._service.own_url(job.job_id, output_id),
            sign_links=self._configuration.sign_links,
        )

    def check_references(self, plan: execution.Plan, process: Process) -> None:
        """Refuse references before there is a job, where nobody could follow them.

        Raises:
            InvalidRequest: Outputs are wanted by reference, and would have no address.
        """
        homeless = [
            output_id
            for output_id, wish in plan.wishes.outputs.items()
            if wish.transmission_mode is ProcessOutputTransmissionMode.REFERENCE
            and self._service.own_url(plan.job_id, output_id) is None
        ]
        if not homeless:
            return
        storage = open_storage(process.definition.result_storage)
        anywhere = StoredOutput(key=f"{plan.job_id}/outputs", media_type=plan.result_media_type)
        outputs = opened(
            storage,
            dict.fromkeys(homeless, anywhere),
            lambda _: None,
            sign_links=self._configuration.sign_links,
        )
        if any(output.address() is None for output in outputs.values()):
            raise InvalidRequest(f"transmissionMode: {BY_VALUE_ONLY}")

    def remove(self, job: Job) -> None:
        """Remove the files of a job, and what Prefect has kept of it.

        Raises:
            StorageError: A file cannot be removed.
        """
        self._storage(job).delete(job.job_id)
        existing = self._existing_deployment_of(job)
        deployment = existing[0] if existing else DeploymentConfiguration()
        # what we may not read is not ours to remove either, and its block may be gone
        with contextlib.suppress(ResultMissing, ResultUnreadable, ConfigurationError):
            find_result(job, deployment, self._address(job)).delete(job)

    def _storage(self, job: Job) -> ResultStorage:
        return open_storage(self._address(job))

    def _address(self, job: Job) -> str:
        """Return where a job keeps its files: what its run says, if the configuration does too.

        Whoever can write to the Prefect API could else have any file read, or removed.

        Raises:
            StorageError: The configuration does not name it (any more).
        """
        default = self._configuration.result_storage_address
        address = job.result_storage or self._address_of_process(job.process_id) or default
        discover = self._configuration.discover
        discovered = discover and discover.result_storage
        if address in (default, discovered, *self._configuration.former_result_storages) or any(
            address == self._address_of_process(process_id)
            for process_id in self._service.processes
        ):
            return address
        logger.error(
            "job %s keeps its files at %s, which is no result storage of this configuration; "
            "former ones are listed under server.manager.former_result_storages",
            job.job_id,
            address,
        )
        raise StorageError(
            f"job {job.job_id} keeps its files in a storage that this server does not use"
        )

    def _address_of_process(self, process_id: str) -> str | None:
        try:
            return self._service.process(process_id).definition.result_storage
        except UnknownProcess:
            return None

    def _existing_deployment_of(
        self, job: Job
    ) -> tuple[DeploymentConfiguration, Mapping[str, Any]] | None:
        """Return configuration and declared outputs for a job whose flow is not one of ours."""
        try:
            process = self._service.process(job.process_id)
        except UnknownProcess:
            # the process is gone, and what the job stored is still there
            return None if job.runs_our_flow else (DeploymentConfiguration(), {})
        if process.flow is not None:
            return None
        return process.configuration.deployment, process.description["outputs"]
