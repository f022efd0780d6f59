"""A configured process: its description, and what runs when it is executed."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from prefect.flows import Flow
from pygeoapi.process.base import BaseProcessor

from pygeoapi_prefect.config import ManagerConfiguration, ProcessConfiguration, parse_process
from pygeoapi_prefect.errors import ConfigurationError
from pygeoapi_prefect.flows import ProcessDefinition, in_default_language, job_flow, load_processor
from pygeoapi_prefect.schemas import ProcessJobControlOption


@dataclasses.dataclass(frozen=True, kw_only=True)
class Process:
    """A process of the configuration.

    Attributes:
        description: The description as pygeoapi publishes it (``process.yaml``, as a dict).
        definition: What runs its jobs needs to know.
        flow: What runs its jobs; None where a deployment that exists does, of which we
            know only the name.
        deployment: Full name, ``flow name/deployment name``.
        sync_is_deployed: Whether synchronous jobs run through the deployment too.
    """

    process_id: str
    configuration: ProcessConfiguration
    description: dict[str, Any]
    definition: ProcessDefinition
    flow: Flow[..., Any] | None
    deployment: str
    sync_is_deployed: bool

    @property
    def can_wait(self) -> bool:
        """Whether clients may wait for the end of its jobs."""
        return ProcessJobControlOption.SYNC_EXECUTE in self.description["jobControlOptions"]

    @property
    def can_respond_async(self) -> bool:
        """Whether clients may have its jobs run while they do not wait."""
        return ProcessJobControlOption.ASYNC_EXECUTE in self.description["jobControlOptions"]

    @property
    def work_queue(self) -> str | None:
        """The work queue of its jobs, where their deployment does not know it already."""
        return None if self.flow else self.configuration.deployment.queue

    def processor(self) -> BaseProcessor:
        """Return a new processor, with a description that the caller may change."""
        if self.flow is None:
            processor = BaseProcessor({"name": self.process_id}, {})
        else:
            processor = load_processor(self.process_id, self.definition.processor)
        processor.allow_internal_requests = self.definition.allow_internal_requests
        processor.metadata = copy.deepcopy(self.description)
        return processor


def load_process(
    process_id: str, resource: Mapping[str, Any], manager: ManagerConfiguration
) -> Process:
    """Load a ``type: process`` resource.

    Raises:
        ConfigurationError: Its configuration is wrong, or what it names cannot be loaded.
    """
    configuration = parse_process(process_id, resource)
    definition = ProcessDefinition(
        process_id=process_id,
        processor=dict(configuration.processor),
        allow_internal_requests=configuration.allow_internal_requests,
        result_storage=configuration.result_storage_address or manager.result_storage_address,
        sign_links=manager.sign_links,
        references=manager.references,
    )
    if configuration.has_class:
        flow = job_flow(definition)
        metadata = load_processor(process_id, definition.processor).metadata
        deployment = f"{flow.name}/{configuration.deployment_name}"
    else:
        flow = None
        described = configuration.prefect.metadata
        assert described is not None  # noqa: S101  parse_process() has checked it
        metadata = described.model_dump(mode="json", by_alias=True, exclude_none=True)
        deployment = configuration.deployment_name
    return Process(
        process_id=process_id,
        configuration=configuration,
        description=_description(configuration, metadata, manager),
        definition=definition,
        flow=flow,
        deployment=deployment,
        sync_is_deployed=flow is None
        or manager.sync_through_deployments
        or configuration.prefect.deployment is not None,
    )


def _description(
    configuration: ProcessConfiguration, metadata: Mapping[str, Any], manager: ManagerConfiguration
) -> dict[str, Any]:
    """Complete what authors leave out, and offer no execution mode that is disabled."""
    description: dict[str, Any] = copy.deepcopy(dict(metadata))
    for member in ("inputs", "outputs"):
        if not isinstance(description.setdefault(member, {}), dict):
            raise ConfigurationError(
                f"process {configuration.process_id}: `{member}` of its description is no mapping"
            )
    description["id"] = configuration.process_id
    description["version"] = str(description.get("version") or "0.0.0")
    description.setdefault("title", configuration.process_id)
    description.setdefault("description", in_default_language(description["title"]))
    description["jobControlOptions"] = _job_control_options(configuration, description, manager)
    return description


def _job_control_options(
    configuration: ProcessConfiguration,
    description: Mapping[str, Any],
    manager: ManagerConfiguration,
) -> list[str]:
    offered = configuration.job_control_options or description.get(
        "jobControlOptions",
        [ProcessJobControlOption.SYNC_EXECUTE, ProcessJobControlOption.ASYNC_EXECUTE],
    )
    disabled = set()
    if not manager.enable_sync_job_execution:
        disabled.add(ProcessJobControlOption.SYNC_EXECUTE)
    if not manager.enable_async_job_execution:
        disabled.add(ProcessJobControlOption.ASYNC_EXECUTE)
    enabled = [str(option) for option in offered if option not in disabled]
    if not {"sync-execute", "async-execute"} & set(enabled):
        raise ConfigurationError(
            f"process {configuration.process_id}: the configuration leaves no mode to execute it "
            "in: see job_control_options and server.manager.enable_..._job_execution"
        )
    return enabled
