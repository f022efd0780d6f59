"""Deployments that become processes by their tags, while the server runs.

A deployment is read as what an operator would have written of it: a process resource
without a class. From there on, both are the same to this package.
"""

import hashlib
import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, Final, override

from pygeoapi_prefect.config import DiscoveryConfiguration
from pygeoapi_prefect.errors import BackendUnavailable, ConfigurationError, PygeoapiPrefectError
from pygeoapi_prefect.execution import PARAMETERS_FILLED_IN
from pygeoapi_prefect.gateway import PrefectGateway, TaggedDeployment
from pygeoapi_prefect.jobs import JOB_TAG
from pygeoapi_prefect.parameter_schema import inputs_of_parameters

logger = logging.getLogger(__name__)

Resource = Mapping[str, Any]

OUTPUT_ID: Final = "result"
_HASH_CHARACTERS: Final = 6


def process_id_of(deployment: str) -> str:
    """Return the id of the process that a deployment becomes.

    It depends on nothing but the name, and needs no escaping in an address: ``flow.deployment``,
    in which other characters than letters, digits, ``-`` and ``_`` have become ``-``. Where some
    have, a hash of the name keeps two names from having one id.

    Args:
        deployment: Full name, ``flow name/deployment name``.
    """
    names = deployment.split("/", 1)
    safe = [re.sub(r"[^A-Za-z0-9_-]+", "-", name) for name in names]
    process_id = ".".join(safe)
    if safe == names:
        return process_id
    return f"{process_id}-{hashlib.sha256(deployment.encode()).hexdigest()[:_HASH_CHARACTERS]}"


def resource_of(deployment: TaggedDeployment, result_storage: str | None = None) -> Resource:
    """Return the process resource that a deployment stands for.

    Args:
        deployment: The deployment.
        result_storage: Where its flow keeps results, if that is not the manager's default.
    """
    inputs = inputs_of_parameters(
        deployment.parameter_schema, deployment.preset, PARAMETERS_FILLED_IN
    )
    output = {"title": "Result", "description": "What the flow returns", "schema": {}}
    return {
        "type": "process",
        "processor": {
            "prefect": {
                "result_storage": result_storage,
                "deployment": {"name": deployment.name},
                "metadata": {
                    "version": deployment.version or "0.0.0",
                    "title": deployment.name,
                    "description": deployment.description or deployment.name,
                    "inputs": inputs,
                    "outputs": {OUTPUT_ID: output},
                },
            }
        },
    }


class Discovery:
    """The deployments that have the tags, as the Prefect server last had them.

    It is asked when somebody wants to know and what is known is too old. While it is asked,
    and while it does not answer, what is known holds; before its first answer, nothing is.
    Any thread may use it.

    Args:
        configuration: Which tags, and what too old is.
        gateway: The Prefect server.

    Raises:
        ConfigurationError: A tag is one that this package has for its jobs.
    """

    def __init__(self, configuration: DiscoveryConfiguration, gateway: PrefectGateway) -> None:
        if JOB_TAG in configuration.tags:
            raise ConfigurationError(
                f"server.manager.discover.tags: {JOB_TAG!r} is the tag of jobs and deployments "
                "that this service makes; choose another one"
            )
        self._configuration = configuration
        self._gateway = gateway
        self._lock = threading.Lock()
        self._due = -float("inf")
        self._is_away = False
        self._has_answered = False
        self._known: dict[str, tuple[TaggedDeployment, Resource]] = {}

    def resources(self) -> Mapping[str, Resource]:
        """Return the process resources of the deployments, by process id."""
        is_first = self._due < 0
        if time.monotonic() >= self._due and self._lock.acquire(blocking=is_first):
            try:
                if time.monotonic() >= self._due:
                    self._refresh()
            finally:
                self._lock.release()
        return {process_id: resource for process_id, (_, resource) in self._known.items()}

    def resource(self, process_id: str) -> Resource:
        """Return one of them.

        Raises:
            KeyError: There is no such deployment.
            BackendUnavailable: That is not known, for the Prefect server has not answered yet.
        """
        found = self.resources()
        if process_id not in found and not self._has_answered:
            raise BackendUnavailable(
                f"whether there is a process {process_id} is not known yet, for the Prefect "
                "server did not answer; try again later"
            )
        return found[process_id]

    def _refresh(self) -> None:
        try:
            found = self._gateway.tagged_deployments(self._configuration.tags)
        except PygeoapiPrefectError as error:
            if not self._is_away:
                logger.warning("deployments are not looked for: %s", error.detail)
            self._is_away = True
        else:
            self._is_away = False
            self._has_answered = True
            self._known = {
                process_id_of(deployment.name): self._kept(deployment)
                for deployment in found
                if JOB_TAG not in deployment.tags  # those that `deploy` has made
            }
        self._due = time.monotonic() + self._configuration.refresh_seconds

    def _kept(self, deployment: TaggedDeployment) -> tuple[TaggedDeployment, Resource]:
        """Return what is known of a deployment; the same as before where it is the same."""
        known = self._known.get(process_id_of(deployment.name))
        if known is not None and known[0] == deployment:
            return known
        return deployment, resource_of(deployment, self._configuration.result_storage)


class LiveResources(MutableMapping[str, Resource]):
    """The configured process resources, then those of discovered deployments.

    What is written goes to the configured ones. A discovered deployment is left out that the
    configuration has as a process already, and one whose id is that of a configured process.

    Args:
        configured: The configured ones, by process id.
        discovery: The others.
    """

    def __init__(self, configured: MutableMapping[str, Resource], discovery: Discovery) -> None:
        self.configured = configured
        self._discovery = discovery
        self._warned: set[str] = set()

    @override
    def __getitem__(self, process_id: str) -> Resource:
        if process_id in self.configured:
            return self.configured[process_id]
        resource = self._discovery.resource(process_id)
        if _deployment_of(resource) in self._configured_deployments():
            raise KeyError(process_id)
        return resource

    @override
    def __setitem__(self, process_id: str, resource: Resource) -> None:
        self.configured[process_id] = resource

    @override
    def __delitem__(self, process_id: str) -> None:
        del self.configured[process_id]

    @override
    def __iter__(self) -> Iterator[str]:
        return iter([*self.configured, *self._discovered()])

    @override
    def __len__(self) -> int:
        return len(self.configured) + len(self._discovered())

    def _discovered(self) -> dict[str, Resource]:
        named = self._configured_deployments()
        discovered = {}
        for process_id, resource in self._discovery.resources().items():
            if process_id in self.configured:
                self._warn(process_id, _deployment_of(resource))
            elif _deployment_of(resource) not in named:
                discovered[process_id] = resource
        return discovered

    def _configured_deployments(self) -> set[str | None]:
        return {_deployment_of(resource) for resource in self.configured.values()}

    def _warn(self, process_id: str, deployment: str | None) -> None:
        if process_id not in self._warned:
            self._warned.add(process_id)
            logger.warning(
                "deployment %s is no process: the configuration has another one with the id %s",
                deployment,
                process_id,
            )


def _deployment_of(resource: Resource) -> str | None:
    """Return the full name of the deployment that a resource without a class is."""
    match resource:
        case {"processor": {"name": _}}:
            return None
        case {"processor": {"prefect": {"deployment": {"name": str() as name}}}}:
            return name
    return None
