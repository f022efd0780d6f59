"""The Prefect flow that is a job of a process.

A job's flow run executes what `job_flow` builds: the author's flow, or an ordinary
pygeoapi processor, behind two parameters that are the same for every process. In front
it turns them into what the author's function declares, and behind it stores what that
function returns. Name, retries, timeouts, hooks and all other options are the author's.

Deployments have the entrypoint ``pygeoapi_prefect.flows.process_flow``; which process it
is stands in the environment variable `DEFINITION_VARIABLE` of the job.
"""

import contextlib
import inspect
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, cast

import prefect.runtime.flow_run
import pydantic
import yaml
from prefect import get_run_logger
from prefect.context import FlowRunContext
from prefect.filesystems import WritableFileSystem
from prefect.flows import Flow
from pygeoapi.plugin import load_plugin
from pygeoapi.process.base import BaseProcessor, ProcessorExecuteError
from pygeoapi.util import yaml_load

from pygeoapi_prefect.callbacks import results_document
from pygeoapi_prefect.downloads import Downloads, current_downloads
from pygeoapi_prefect.errors import ConfigurationError, ExecutionError
from pygeoapi_prefect.execution import STORED_REQUEST_PREFIX, parse_request
from pygeoapi_prefect.input_contents import bare_inputs, check_references
from pygeoapi_prefect.job_callbacks import tell_subscriber
from pygeoapi_prefect.jobs import Job
from pygeoapi_prefect.outputs import lasting, load_outputs, opened, store_outputs
from pygeoapi_prefect.process.base import BasePrefectProcessor
from pygeoapi_prefect.progress import flush_progress
from pygeoapi_prefect.references import ReferencePolicy, current_policy
from pygeoapi_prefect.schemas import ExecuteRequest, ProcessDescription
from pygeoapi_prefect.storage import ResultStorage, block_for, open_storage, recent_block
from pygeoapi_prefect.wishes import Wishes

logger = logging.getLogger(__name__)

DEFINITION_VARIABLE: Final = "PYGEOAPI_PREFECT_PROCESS"
ENTRYPOINT: Final = "pygeoapi_prefect.flows.process_flow"

PARAMETERS_FOR_AUTHORS: Final = (
    "job_id",
    "result_storage_block",
    "process_description",
    "execution_request",
    "processor_id",
    "pygeoapi_job_id",
    "inputs",
    "outputs",
)


class ProcessDefinition(pydantic.BaseModel):
    """All that a worker has to know of a process to run its jobs.

    Attributes:
        processor: The ``processor`` mapping of the configuration. Placeholders of
            environment variables are still in it, and get the worker's values.
        result_storage: Block, URL or absolute path of the result storage.
        sign_links: Whether subscribers get signed addresses of it.
    """

    model_config = pydantic.ConfigDict(frozen=True)

    process_id: str
    processor: dict[str, Any]
    allow_internal_requests: bool = False
    result_storage: str
    sign_links: bool = True
    references: ReferencePolicy = ReferencePolicy()


def load_processor(process_id: str, definition: Mapping[str, Any]) -> BaseProcessor:
    """Make the processor of a process, with metadata that is nobody else's.

    Raises:
        ConfigurationError: Its class cannot be imported or made, or is none for a process.
    """
    # a command has the folder of its script there instead, and a worker's job nothing:
    # for both, authors' modules are where they were started or a pull step has put the code
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        expanded = yaml_load(io.StringIO(yaml.safe_dump(dict(definition))))
        processor: BaseProcessor = load_plugin("process", expanded)
    except Exception as error:  # third-party code at import can raise anything
        raise ConfigurationError(
            f"process {process_id}: cannot load {definition.get('name')}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if isinstance(processor, BasePrefectProcessor):
        _check_prefect_processor(process_id, processor)
    if not isinstance(processor.metadata, dict):
        raise ConfigurationError(f"process {process_id}: its processor has no metadata")
    return processor


def job_flow(definition: ProcessDefinition) -> Flow[..., Any]:
    """Return the flow that runs jobs of a process.

    Its parameters are `job_id` (default: the id of the flow run) and `execution_request`
    (JSON text, or a reference to the result storage; default: no inputs).

    Raises:
        ConfigurationError: The process cannot be loaded.
    """
    processor = load_processor(definition.process_id, definition.processor)
    if isinstance(processor, BasePrefectProcessor):
        return _flow_around(definition, processor.process_flow, processor.process_description)
    return _flow_of_processor(definition, processor.metadata)


def read_request(execution_request: str, storage: ResultStorage) -> dict[str, Any]:
    """Return the execute request that a flow run carries or refers to.

    Raises:
        ResultMissing: It was kept in the result storage and is gone.
    """
    if execution_request.startswith(STORED_REQUEST_PREFIX):
        key = execution_request.removeprefix(STORED_REQUEST_PREFIX)
        execution_request = storage.read(key).decode()
    return parse_request(execution_request)


def __getattr__(name: str) -> Any:
    """Make ``process_flow``, the entrypoint of deployments, for the process of this job."""
    if name != "process_flow":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    definition = os.environ.get(DEFINITION_VARIABLE)
    if definition is None:
        raise ConfigurationError(
            f"the job's environment has no {DEFINITION_VARIABLE}: deploy the process again "
            "with `pygeoapi-prefect deploy`"
        )
    return job_flow(ProcessDefinition.model_validate_json(definition))


def _check_prefect_processor(process_id: str, processor: BasePrefectProcessor) -> None:
    flow = getattr(processor, "process_flow", None)
    if not isinstance(flow, Flow):
        raise ConfigurationError(
            f"process {process_id}: {type(processor).__name__}.process_flow is no Prefect flow"
        )
    if flow.isgenerator:
        raise ConfigurationError(f"process {process_id}: a flow that yields cannot be a process")
    if not isinstance(getattr(processor, "process_description", None), ProcessDescription):
        raise ConfigurationError(
            f"process {process_id}: {type(processor).__name__}.process_description is no "
            "ProcessDescription"
        )
    described_id = processor.process_description.id
    if described_id not in ("", process_id):
        raise ConfigurationError(
            f"process {process_id}: its description has the id {described_id!r}; both must be equal"
        )
    unknown = [
        name
        for name, parameter in inspect.signature(flow.fn).parameters.items()
        if name not in PARAMETERS_FOR_AUTHORS
        and parameter.default is inspect.Parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    if unknown:
        raise ConfigurationError(
            f"process {process_id}: flow {flow.name} asks for {', '.join(unknown)}; a flow can "
            f"be handed only {', '.join(PARAMETERS_FOR_AUTHORS)}"
        )


class _JobCall:
    """One execution of a job: what it is called with, and what becomes of its return value."""

    def __init__(
        self, definition: ProcessDefinition, job_id: str | None, execution_request: str
    ) -> None:
        self.definition = definition
        self.job_id = job_id or str(prefect.runtime.flow_run.get_id())
        self.storage = open_storage(definition.result_storage)
        self.request = read_request(execution_request, self.storage)
        self.inputs: dict[str, Any] = self.request.get("inputs") or {}

    def arguments(self, flow: Flow[..., Any], description: ProcessDescription) -> dict[str, Any]:
        """Return those arguments that the author's function declares."""
        available: dict[str, Callable[[], Any]] = {
            "job_id": lambda: self.job_id,
            "pygeoapi_job_id": lambda: self.job_id,
            "processor_id": lambda: self.definition.process_id,
            "result_storage_block": lambda: block_for(self.definition.result_storage),
            "process_description": lambda: description.model_copy(
                update={"id": self.definition.process_id}
            ),
            "execution_request": lambda: ExecuteRequest.model_validate(
                {name: value for name, value in self.request.items() if value is not None}
            ),
            "inputs": lambda: self.inputs,
            "outputs": lambda: self.request.get("outputs"),
        }
        declared = inspect.signature(flow.fn).parameters
        return {name: make() for name, make in available.items() if name in declared}

    @contextlib.contextmanager
    def surroundings(self, metadata: Mapping[str, Any]) -> Iterator[Downloads]:
        """What the author's code has around it, and what links in its inputs refer to.

        Args:
            metadata: The description of the process.

        Raises:
            InvalidRequest: A link leads to what does not fit, or nowhere.
        """
        definition = self.definition
        tell_subscriber(definition.references, lambda job: _results_document(definition, job))
        # what is computed for an hour should have a place then
        self.storage.check()
        if _is_deployed():
            self._keep_results_of_prefect()
        policy_token = current_policy.set(self.definition.references)
        try:
            with Downloads() as downloads:
                check_references(metadata, self.inputs, downloads.fetch)
                downloads_token = current_downloads.set(downloads)
                try:
                    yield downloads
                finally:
                    current_downloads.reset(downloads_token)
        finally:
            current_policy.reset(policy_token)
            flush_progress()

    def finish(self, declared_outputs: Mapping[str, Any], returned: Any) -> Any:
        """Store what the author's code returned; gives what Prefect is to take for its result.

        Raises:
            ExecutionError: It is not what the client has asked for.
        """
        wishes = Wishes.of_request(self.request)
        outputs = store_outputs(self.storage, self.job_id, declared_outputs, returned, wishes)
        missing = wishes.missing(outputs)
        if missing and (run := FlowRunContext.get()) is not None:
            get_run_logger(run).info(
                "Outputs that the process declares were not produced: %s", ", ".join(missing)
            )
        if not _is_deployed():
            self._keep_results_of_prefect()
        return lasting(self.job_id, returned, outputs)

    def _keep_results_of_prefect(self) -> None:
        """Have Prefect keep results there too, where the author names no other storage.

        In workers, also those of tasks, which workers on all machines then find again. Web
        servers have theirs to themselves: Prefect reads pickles, and a worker's are not for them.
        """
        run = FlowRunContext.get()
        if run is not None and run.flow is not None and run.flow.result_storage is None:
            # Prefect leaves it open until the first result
            run.result_store.result_storage = cast(
                WritableFileSystem, recent_block(self.definition.result_storage)
            )


def _is_deployed() -> bool:
    run = FlowRunContext.get()
    return run is not None and run.flow_run is not None and run.flow_run.deployment_id is not None


def _results_document(definition: ProcessDefinition, job: Job) -> bytes:
    storage = open_storage(definition.result_storage)
    request = read_request(job.execution_request or "{}", storage)
    stored = load_outputs(storage, job.job_id)
    outputs = opened(storage, stored, job.output_urls.get, sign_links=definition.sign_links)
    return results_document(outputs, request)


def _defaults(flow: Flow[..., Any]) -> dict[str, Any]:
    return {
        name: parameter.default
        for name, parameter in inspect.signature(flow.fn).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }


def _flow_around(
    definition: ProcessDefinition, flow: Flow[..., Any], description: ProcessDescription
) -> Flow[..., Any]:
    """Return the author's flow with our two parameters in place of its own."""
    # The author's function is called as it is, and its parameters are not validated by
    # Prefect: that would resolve `$ref`s to blocks, also those that a client has written.
    metadata = description.model_dump(mode="json", by_alias=True, exclude_none=True)
    declared_outputs = metadata["outputs"]

    async def run_async(job_id: str | None = None, execution_request: str = "{}") -> Any:
        call = _JobCall(definition, job_id, execution_request)
        with call.surroundings(metadata):
            returned = await flow.fn(**call.arguments(flow, description))
        return call.finish(declared_outputs, returned)

    def run(job_id: str | None = None, execution_request: str = "{}") -> Any:
        call = _JobCall(definition, job_id, execution_request)
        with call.surroundings(metadata):
            returned = flow.fn(**call.arguments(flow, description))
        return call.finish(declared_outputs, returned)

    def name_run() -> str:
        own_name = str(prefect.runtime.flow_run.get_name())
        try:
            if callable(flow.flow_run_name):
                return str(flow.flow_run_name())
            parameters = prefect.runtime.flow_run.get_parameters()
            call = _JobCall(definition, **parameters)
            arguments = _defaults(flow) | call.arguments(flow, description)
            return str(flow.flow_run_name).format(**arguments)
        except Exception:  # an author's template or function can raise anything
            # Prefect leaves a run hanging that gets no name
            logger.warning("%s keeps its name: flow_run_name failed", own_name, exc_info=True)
            return own_name

    return Flow(
        run_async if flow.isasync else run,
        name=flow.name,
        version=flow.version,
        flow_run_name=None if flow.flow_run_name is None else name_run,
        retries=flow.retries,
        retry_delay_seconds=flow.retry_delay_seconds,
        task_runner=flow.task_runner,
        description=flow.description,
        timeout_seconds=flow.timeout_seconds,
        persist_result=flow.persist_result,
        result_storage=flow.result_storage,
        result_serializer=flow.result_serializer,
        cache_result_in_memory=flow.cache_result_in_memory,
        log_prints=flow.log_prints,
        # copies: a job may add a hook of its own
        on_completion=[*flow.on_completion_hooks],
        on_failure=[*flow.on_failure_hooks],
        on_cancellation=flow.on_cancellation_hooks,
        on_crashed=flow.on_crashed_hooks,
        on_running=flow.on_running_hooks,
    )


def _flow_of_processor(
    definition: ProcessDefinition, metadata: Mapping[str, Any]
) -> Flow[..., Any]:
    """Return a flow that executes an ordinary pygeoapi processor."""

    def run(job_id: str | None = None, execution_request: str = "{}") -> Any:
        call = _JobCall(definition, job_id, execution_request)
        # a processor may keep state between set_job_id() and execute(): one for each job
        processor = load_processor(definition.process_id, definition.processor)
        processor.allow_internal_requests = definition.allow_internal_requests
        processor.set_job_id(call.job_id)
        arguments: dict[str, Any] = {}
        if processor.supports_outputs:
            arguments["outputs"] = call.request.get("outputs")
        try:
            with call.surroundings(processor.metadata) as downloads:
                inputs = bare_inputs(processor.metadata, call.inputs, downloads.fetch)
                returned = processor.execute(inputs, **arguments)
        except ProcessorExecuteError as error:
            if error.user_msg in (None, str(error)):
                raise
            # clients are told what the exception says, which was not meant for them
            raise ExecutionError(error.user_msg) from error
        call.finish(processor.metadata.get("outputs") or {}, returned)

    return Flow(
        run,
        name=flow_name(definition.process_id, metadata),
        version=str(metadata.get("version", "")) or None,
        description=in_default_language(metadata.get("description")),
        log_prints=True,
    )


def flow_name(process_id: str, metadata: Mapping[str, Any]) -> str:
    """Return the title of an ordinary process as Prefect allows it for the name of a flow."""
    title = in_default_language(metadata.get("title")) or process_id
    return " ".join(title.translate(dict.fromkeys(map(ord, "/%&><"), " ")).split())


def in_default_language(text: Mapping[str, str] | str | None) -> str | None:
    """Return a text that pygeoapi lets authors give once, or by language."""
    if isinstance(text, Mapping):
        return text.get("en") or next(iter(text.values()), None)
    return text
