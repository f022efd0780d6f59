"""Configuration of the manager and of each process, parsed once from pygeoapi's dict.

Models are frozen and refuse keys that they do not know, so that a typing error is found
at start-up. The reference table in the documentation is generated from the fields here.
"""

import datetime as dt
import difflib
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args, get_origin
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pydantic
from pydantic import ConfigDict, Field

from pygeoapi_prefect.errors import ConfigurationError
from pygeoapi_prefect.references import ReferencePolicy
from pygeoapi_prefect.schemas import (
    ProcessDescription,
    ProcessJobControlOption,
    ProcessResponseType,
)
from pygeoapi_prefect.storage_address import check_address

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

StorageAddress = Annotated[str, pydantic.AfterValidator(check_address)]

DEFAULT_OUTPUT_DIR = Path(".pygeoapi-prefect/results")


class LogPublication(StrEnum):
    """How much of the log of a job its clients see."""

    NONE = "none"
    REDACTED = "redacted"
    VERBATIM = "verbatim"


class _Configuration(pydantic.BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class RetentionConfiguration(_Configuration):
    """``server.manager.retention``: how long jobs are kept. By default, for ever."""

    max_age_days: Annotated[
        float | None,
        Field(gt=0, description="Jobs are removed with their files so many days after their end."),
    ] = None
    max_jobs: Annotated[
        int | None,
        Field(
            ge=0,
            description="So many ended jobs are kept, the newest; all others are removed with "
            "their files.",
        ),
    ] = None


class DiscoveryConfiguration(_Configuration):
    """``server.manager.discover``: deployments that become processes without being configured."""

    tags: Annotated[
        frozenset[Annotated[str, Field(min_length=1)]],
        Field(min_length=1, description="Deployments that have all of these tags are processes."),
    ]
    result_storage: Annotated[
        StorageAddress | None,
        Field(description="Where their flows keep results. Default: `result_storage` as above."),
    ] = None
    refresh_seconds: Annotated[
        float,
        Field(
            gt=0,
            description="How old at most what is known of them is when a request is answered.",
        ),
    ] = 10


class ManagerConfiguration(_Configuration):
    """``server.manager`` of the pygeoapi configuration."""

    name: Annotated[
        str, Field(description="`pygeoapi_prefect.manager.PrefectManager` chooses this manager.")
    ]
    connection: Annotated[
        Any,
        Field(
            description="Asked for by pygeoapi, not used here: the Prefect API is found through "
            "`PREFECT_API_URL` or the active Prefect profile."
        ),
    ] = None
    output_dir: Annotated[
        Path | None,
        Field(description="Directory of the result storage where `result_storage` is not set."),
    ] = None
    result_storage: Annotated[
        StorageAddress | None,
        Field(
            description="Where jobs keep requests and outputs: a Prefect block "
            "(`local-file-system/results`, `remote-file-system/results`, `s3-bucket/results`) or "
            "a URL that fsspec opens (`s3://bucket/prefix`, `file:///srv/results`), without "
            "credentials."
        ),
    ] = None
    former_result_storages: Annotated[
        tuple[StorageAddress, ...],
        Field(
            description="Where jobs kept their files under earlier configurations. A job whose "
            "files are in a storage that the configuration does not name has no results."
        ),
    ] = ()
    sign_links: Annotated[
        bool,
        Field(
            description="Whether clients that ask for outputs by reference get signed addresses "
            "of the result storage, where it can sign. Otherwise they get addresses of this "
            "server, as they must where they cannot reach the storage."
        ),
    ] = True
    work_pool: Annotated[
        str, Field(min_length=1, description="Prefect work pool in which deployed processes run.")
    ] = "pygeoapi"
    service: Annotated[
        str | None,
        Field(
            min_length=1,
            description="By what `deploy` tells deployments of this service from those of others "
            "on the same Prefect server. Default: `server.url`.",
        ),
    ] = None
    enable_async_job_execution: Annotated[
        bool, Field(description="Whether clients may ask for asynchronous execution.")
    ] = True
    enable_sync_job_execution: Annotated[
        bool, Field(description="Whether clients may ask for synchronous execution.")
    ] = True
    sync_through_deployments: Annotated[
        bool,
        Field(
            description="Whether synchronous jobs run in the work pool too, instead of in the web "
            "process. A process whose `deployment` is configured always does."
        ),
    ] = False
    max_jobs_in_web_process: Annotated[
        int,
        Field(
            ge=1,
            description="How many synchronous jobs run at once in one web process, whether clients "
            "still wait for them or not. One more goes to the work pool, if the process can be "
            "executed asynchronously; otherwise it is refused with status 503.",
        ),
    ] = 32
    sync_job_execution_timeout_seconds: Annotated[
        float,
        Field(
            gt=0,
            description="How long a synchronous request waits. The job then goes on, and the "
            "client gets its address as for an asynchronous one.",
        ),
    ] = 300
    sync_monitor_link: Annotated[
        bool,
        Field(
            description="Whether the answer to a synchronous request links to its job (`Link: "
            '<...>; rel="monitor"`). The standard asks for it, but its conformance suite fails '
            "on it."
        ),
    ] = False
    prefect_ui_url: Annotated[
        str | None,
        Field(
            pattern="^https?://",
            description="Address of the Prefect UI. With it, the page of a job links to its flow "
            "run there: for services the users of which may see that.",
        ),
    ] = None
    inline_request_max_bytes: Annotated[
        int,
        Field(
            ge=0,
            le=500_000,
            description="Execute requests up to this size travel in the flow run's parameters; "
            "larger ones go to the result storage. (Prefect takes 512 KiB at most.)",
        ),
    ] = 32_768
    max_request_bytes: Annotated[
        int,
        Field(
            gt=0,
            description="Requests with a larger body are refused (413). A server needs several "
            "times as much memory for each request that it works on; files that are larger are "
            "for inputs by reference.",
        ),
    ] = 256 * 1024**2
    publish_logs: Annotated[
        LogPublication,
        Field(
            description="What clients see of the log of a job, at `/jobs/{id}/logs`. `redacted`: "
            "what its flow and tasks log at the level INFO and above, without stack traces, file "
            "paths and what looks like a secret. `verbatim`: everything. `none`: nothing."
        ),
    ] = LogPublication.REDACTED
    retention: Annotated[
        RetentionConfiguration,
        Field(
            description="Which ended jobs web servers remove, every hour. "
            "`pygeoapi-prefect prune --dry-run` shows them."
        ),
    ] = RetentionConfiguration()
    discover: Annotated[
        DiscoveryConfiguration | None,
        Field(description="Which deployments that others made are processes by themselves."),
    ] = None
    references: Annotated[
        ReferencePolicy, Field(description="What inputs and callbacks may refer to.")
    ] = ReferencePolicy()

    @property
    def result_storage_address(self) -> str:
        """The block or absolute URL or path at which jobs keep their files by default."""
        return self.result_storage or str((self.output_dir or DEFAULT_OUTPUT_DIR).absolute())


class CollisionStrategy(StrEnum):
    """What becomes of a job that is due while as many run as may."""

    ENQUEUE = "ENQUEUE"
    CANCEL_NEW = "CANCEL_NEW"


class ConcurrencyConfiguration(_Configuration):
    """``concurrency_limit`` of a deployment, with all that Prefect knows of it."""

    limit: Annotated[int, Field(ge=1, description="How many jobs of the process run at once.")]
    collision_strategy: Annotated[
        CollisionStrategy,
        Field(
            description="What becomes of a job that is one too many: it waits (`ENQUEUE`), or is "
            "dismissed (`CANCEL_NEW`)."
        ),
    ] = CollisionStrategy.ENQUEUE
    grace_period_seconds: Annotated[
        int | None,
        Field(
            ge=60,
            le=86_400,
            description="How long a job may take to start before its place is given to another. "
            "Default: what the Prefect server is set to.",
        ),
    ] = None


class ScheduleConfiguration(_Configuration):
    """One of ``schedules`` of a deployment: when jobs are made, and of which execute request."""

    cron: Annotated[str | None, Field(description="When, as cron has it: `0 6 * * 1-5`.")] = None
    interval: Annotated[
        dt.timedelta | None,
        Field(
            gt=dt.timedelta(0),
            description="Every so many seconds, or ISO 8601 duration (`PT6H`).",
        ),
    ] = None
    rrule: Annotated[
        str | None, Field(description="When, as iCalendar has it: `FREQ=MONTHLY;BYDAY=-1FR`.")
    ] = None
    anchor_date: Annotated[
        dt.datetime | None,
        Field(
            description="With `interval`: a time from which it counts. Default: midnight at the "
            "beginning of 2020, in `timezone`."
        ),
    ] = None
    timezone: Annotated[
        str, Field(description="IANA name of the time zone that the times are meant in.")
    ] = "UTC"
    inputs: Annotated[
        Mapping[str, Any], Field(description="Inputs of each job, as in an execute request.")
    ] = {}
    outputs: Annotated[
        Mapping[str, Any] | None,
        Field(description="Wanted outputs, as in an execute request. Default: all."),
    ] = None
    response: Annotated[
        ProcessResponseType, Field(description="Form of the result, as in an execute request.")
    ] = ProcessResponseType.raw
    active: Annotated[
        bool | None,
        Field(
            description="Whether jobs are made. Default: as it is on the Prefect server, where a "
            "new schedule is active."
        ),
    ] = None

    @pydantic.field_validator("timezone")
    @classmethod
    def _check_timezone(cls, name: str) -> str:
        try:
            return ZoneInfo(name).key
        except (ValueError, OSError, ZoneInfoNotFoundError):  # a folder of zones, for example
            raise ValueError(f"there is no time zone {name!r}") from None

    @pydantic.model_validator(mode="after")
    def _check_kind(self) -> "ScheduleConfiguration":
        if [self.cron, self.interval, self.rrule].count(None) != 2:
            raise ValueError("a schedule has one of cron, interval and rrule")
        if self.anchor_date is not None and self.interval is None:
            raise ValueError("anchor_date is set, but interval is not")
        return self


class DeploymentConfiguration(_Configuration):
    """``processor.prefect.deployment`` of a process."""

    name: Annotated[
        str | None,
        Field(
            description="Name of the Prefect deployment; for a process without a Python class, "
            "`flow name/deployment name` of one that exists. Default: the process id."
        ),
    ] = None
    work_pool: Annotated[
        str | None,
        Field(
            min_length=1,
            description="Work pool of the process, of any type; it has to exist. Default: that of "
            "the manager.",
        ),
    ] = None
    queue: Annotated[
        str | None,
        Field(
            description="Work queue of the work pool, also for jobs of a deployment that exists. "
            "Default: the pool's own, or that of the existing deployment."
        ),
    ] = None
    job_variables: Annotated[
        Mapping[str, Any],
        Field(
            description="Job variables that the work pool offers, such as `image`, `env` or "
            "`cpu_request`. `null` takes out what `deploy` would set."
        ),
    ] = {}
    concurrency_limit: Annotated[
        ConcurrencyConfiguration | None,
        Field(
            description="How many jobs of the process run at once, in all workers together; a "
            "number stands for a mapping with this `limit` alone. Default: any number."
        ),
    ] = None
    tags: Annotated[
        tuple[str, ...],
        Field(
            description="Tags of the deployment and its flow runs, beside those of this package."
        ),
    ] = ()
    schedules: Annotated[
        tuple[ScheduleConfiguration, ...], Field(description="When jobs are made by themselves.")
    ] = ()
    paused: Annotated[
        bool | None,
        Field(
            description="Whether all schedules rest; clients' jobs run all the same. Default: as "
            "it is on the Prefect server."
        ),
    ] = None
    storage_block: Annotated[
        str | None,
        Field(
            description="Block to which `deploy` uploads the code of the process, and from which "
            "workers fetch it. Default: workers have the code installed."
        ),
    ] = None
    storage_sub_path: Annotated[
        str | None, Field(description="Folder within `storage_block`. Default: the process id.")
    ] = None
    result_storage_block: Annotated[
        StorageAddress | None,
        Field(description="As `result_storage` of the process (name used by other managers)."),
    ] = None
    result_storage_key_template: Annotated[
        str | None,
        Field(
            description="For an existing deployment whose flow stores its result by a key of its "
            "own: that key, e.g. `{parameters[pygeoapi_job_id]}.json`."
        ),
    ] = None

    @pydantic.model_validator(mode="after")
    def _check_sub_path(self) -> "DeploymentConfiguration":
        if self.storage_sub_path is not None and self.storage_block is None:
            raise ValueError("storage_sub_path is set, but storage_block is not")
        return self

    @pydantic.field_validator("concurrency_limit", mode="before")
    @classmethod
    def _limit_alone(cls, value: Any) -> Any:
        return {"limit": value} if isinstance(value, int) else value


OWNERS_KEYS: Final = frozenset(
    {
        "work_pool",
        "job_variables",
        "concurrency_limit",
        "tags",
        "schedules",
        "paused",
        "storage_block",
        "storage_sub_path",
    }
)
"""Keys of a deployment that only the configuration which makes it may set."""


class PrefectConfiguration(_Configuration):
    """``processor.prefect`` of a process."""

    result_storage: Annotated[
        StorageAddress | None,
        Field(description="Result storage of this process. Default: that of the manager."),
    ] = None
    deployment: Annotated[
        DeploymentConfiguration | None,
        Field(description="Own settings for the deployment; synchronous jobs then use it too."),
    ] = None
    metadata: Annotated[
        ProcessDescription | None,
        Field(description="Description of a process that has no Python class."),
    ] = None


class ProcessConfiguration(_Configuration):
    """What this package reads of one ``type: process`` resource.

    Attributes:
        process_id: Key of the resource.
        processor: The whole ``processor`` mapping, as the processor's class gets it.
    """

    process_id: str
    processor: Mapping[str, Any]
    allow_internal_requests: bool = False
    job_control_options: tuple[ProcessJobControlOption, ...] | None = None
    prefect: PrefectConfiguration = PrefectConfiguration()

    @property
    def has_class(self) -> bool:
        """Whether a Python class stands behind the process, or an existing deployment alone."""
        return "name" in self.processor

    @property
    def deployment(self) -> DeploymentConfiguration:
        """The settings of the deployment, where there are any."""
        return self.prefect.deployment or DeploymentConfiguration()

    @property
    def deployment_name(self) -> str:
        """Name of the deployment, without that of its flow (unless it is an existing one)."""
        deployment = self.prefect.deployment
        return (deployment.name if deployment else None) or self.process_id

    @property
    def result_storage_address(self) -> str | None:
        """The block or URL at which jobs of this process keep their files, if not the default."""
        deployment = self.prefect.deployment
        return self.prefect.result_storage or (
            deployment.result_storage_block if deployment else None
        )


def parse_manager(definition: Mapping[str, Any]) -> ManagerConfiguration:
    """Read ``server.manager``, to which pygeoapi adds all processes under ``processes``.

    Raises:
        ConfigurationError: A key is unknown, missing or of the wrong type.
    """
    own = {key: value for key, value in definition.items() if key != "processes"}
    return _parse(ManagerConfiguration, own, "server.manager")


def parse_process(process_id: str, resource: Mapping[str, Any]) -> ProcessConfiguration:
    """Read one resource of ``type: process``.

    Raises:
        ConfigurationError: A key under ``processor.prefect`` is unknown, missing or of the
            wrong type, or nothing says what the process runs.
    """
    where = f"resources.{process_id}.processor"
    processor = resource.get("processor")
    if not isinstance(processor, Mapping):
        raise ConfigurationError(f"{where} is missing or no mapping")
    parsed = _parse(
        ProcessConfiguration,
        {
            "process_id": process_id,
            "processor": processor,
            "allow_internal_requests": resource.get("allow_internal_requests", False),
            "job_control_options": processor.get("job_control_options"),
            "prefect": processor.get("prefect") or {},
        },
        where,
    )
    if not parsed.has_class:
        existing = parsed.prefect.deployment
        if existing is not None and (others := existing.model_fields_set & OWNERS_KEYS):
            raise ConfigurationError(
                f"{where}.prefect.deployment.{min(others)}: a deployment that exists has this "
                "from its owner"
            )
        is_named = existing is not None and (existing.name or "").count("/") == 1
        if not is_named or parsed.prefect.metadata is None:
            raise ConfigurationError(
                f"{where} needs either `name` (the processor's class), or both "
                "`prefect.deployment.name` (flow name/deployment name) and `prefect.metadata`"
            )
    return parsed


def _parse[Model: _Configuration](model: type[Model], data: Any, where: str) -> Model:
    try:
        return model.model_validate(data)
    except pydantic.ValidationError as error:
        problems = [
            ".".join([where, *(str(part) for part in problem["loc"])])
            + f": {_reason(problem, model)}"
            for problem in error.errors()
        ]
        raise ConfigurationError("; ".join(problems)) from error


def _reason(problem: "ErrorDetails", model: type[_Configuration]) -> str:
    if problem["type"] != "extra_forbidden":
        return problem["msg"]
    *place, unknown = problem["loc"]
    known = sorted(_keys_at(model, place))
    hint = ""
    if close := difflib.get_close_matches(str(unknown), known, n=1):
        hint = f" (did you mean {close[0]!r}?)"
    elif known:
        hint = f" (there are: {', '.join(known)})"
    return f"there is no such key{hint}"


def _keys_at(annotation: Any, place: Sequence[str | int]) -> set[str]:
    """Return the keys that there are at a place in what an annotation describes."""
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        fields = {field.alias or name: field for name, field in annotation.model_fields.items()}
        if not place:
            return {*fields}
        field = fields.get(str(place[0]))
        return _keys_at(field.annotation, place[1:]) if field else set()
    origin = get_origin(annotation)
    has_items = isinstance(origin, type) and issubclass(origin, Collection)
    deeper = place[1:] if has_items else place
    return set[str]().union(*(_keys_at(one, deeper) for one in get_args(annotation)))
