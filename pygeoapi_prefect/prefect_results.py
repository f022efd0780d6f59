"""Results that Prefect keeps of flows which were written and deployed without this package.

Such a flow returns a value, and Prefect stores it (``persist_result``). Here it is read
and becomes outputs by the rules that hold for every flow. Only JSON is read: what runs in
a worker may differ from what the web server trusts, and reading a pickle runs code.
"""

import base64
import bz2
import contextlib
import dataclasses
import gzip
import itertools
import lzma
import os
import posixpath
import re
import types
import uuid
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import pydantic
from prefect.blocks.core import Block
from prefect.filesystems import LocalFileSystem, RemoteFileSystem
from prefect.results import ResultRecordMetadata  # type: ignore[attr-defined]
from prefect.serializers import CompressedSerializer, Serializer
from prefect.settings import get_current_settings
from pydantic_core import from_json

from pygeoapi_prefect.config import DeploymentConfiguration
from pygeoapi_prefect.errors import (
    ConfigurationError,
    ExecutionError,
    JobFailed,
    ResultMissing,
    ResultUnreadable,
    StorageError,
)
from pygeoapi_prefect.jobs import Job, run_name
from pygeoapi_prefect.media_types import is_media_type
from pygeoapi_prefect.outputs import HeldOutput, StoredOutput, held_outputs
from pygeoapi_prefect.schemas import JobStatus, JobStatusInfoInternal
from pygeoapi_prefect.storage import (
    FsspecStorage,
    ResultStorage,
    load_block,
    open_storage,
    recent_block,
)
from pygeoapi_prefect.storage_address import is_block

_DECOMPRESS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "lzma": lzma.decompress,
    "bz2": bz2.decompress,
    "gzip": gzip.decompress,
    "zlib": zlib.decompress,
}


@dataclasses.dataclass(frozen=True)
class PrefectResult:
    """Where Prefect keeps the result of a flow run.

    Attributes:
        serializer: What wrote it; None where the flow run does not say.
    """

    storage: ResultStorage
    key: str
    # quoted, as are those below: Prefect takes a parametrised serializer for another one
    serializer: "Serializer[Any] | None"

    def outputs(
        self, job: Job, declared: Mapping[str, Any], files: ResultStorage
    ) -> dict[str, StoredOutput | HeldOutput]:
        """Return the outputs by id: files of a storage, or contents of the result.

        Args:
            job: The job that the flow run is.
            declared: Output descriptions of the process, by output id.
            files: The result storage of the job, in which the flow stores those outputs
                that it reports by their location.

        Raises:
            ResultMissing: The result is not where Prefect has stored it (any more).
            ResultUnreadable: It is no JSON, or no result.
            JobFailed: The flow says that it failed.
        """
        try:
            content = self.storage.read(self.key)
        except ResultMissing as error:
            raise ResultMissing(
                f"the results of job {job.job_id} are not where its flow has stored them"
            ) from error
        match _plain(_decoded(content, self.serializer)):
            case {"status": _, "generated_outputs": _} as status_info:
                return {**_reported_files(job, status_info, files)}
            case [str() as media_type, value] if is_media_type(media_type):
                returned: Any = (media_type, value)
            case returned:
                pass
        try:
            return {**held_outputs(declared, returned)}
        except ExecutionError as error:
            raise ResultUnreadable(error.detail) from error

    def delete(self, job: Job) -> None:
        """Remove the result, unless other jobs may have it too."""
        stem = posixpath.basename(self.key).partition(".")[0]
        ids = (job.job_id, str(job.flow_run_id))
        # without a key of the author's, Prefect makes a random one
        if any(job_id in self.key for job_id in ids) or re.fullmatch(r"[0-9a-f]{32}", stem):
            self.storage.delete(self.key)


def find_result(job: Job, deployment: DeploymentConfiguration, address: str) -> PrefectResult:
    """Find where Prefect keeps the result of a job.

    The flow run says it where its result is persisted. What it leaves open, or all where a
    flow stores its result unknown to Prefect, the configuration says.

    Args:
        job: A successful job of a deployment that is not ours.
        deployment: ``processor.prefect.deployment`` of its process.
        address: The result storage of the job.

    Raises:
        ResultMissing: Neither says it.
        ResultUnreadable: The flow run says that it is where the configuration has no storage.
        ConfigurationError: ``result_storage_key_template`` refers to what the flow run does
            not have, or there is no such block (any more).
    """
    record = job.state_data
    if isinstance(record, ResultRecordMetadata) and record.storage_key:
        storage, key = _located(record.storage_key, record.storage_block_id, address)
        return PrefectResult(storage, key, record.serializer)
    if deployment.result_storage_key_template is None:
        raise ResultMissing(
            f"the flow of job {job.job_id} keeps no result: set persist_result=True and "
            "result_serializer='json' on it"
        )
    return PrefectResult(
        open_storage(address), _formatted(deployment.result_storage_key_template, job), None
    )


def _reported_files(
    job: Job, status_info: Mapping[str, Any], files: ResultStorage
) -> dict[str, StoredOutput]:
    try:
        info = JobStatusInfoInternal.model_validate({"jobID": job.job_id, **status_info})
    except pydantic.ValidationError as error:
        raise ResultUnreadable(
            f"job {job.job_id}: what its flow returned is no status of a job"
        ) from error
    if info.status is JobStatus.failed:
        raise JobFailed(f"job {job.job_id} has no results: {info.message}")
    return {
        output_id: StoredOutput(key=files.key_of(output.location), media_type=output.media_type)
        for output_id, output in (info.generated_outputs or {}).items()
    }


def _located(key: str, block_id: uuid.UUID | None, address: str) -> tuple[ResultStorage, str]:
    """Return where a result is, of which a flow run tells, in a storage that we may read.

    Whoever can write to the Prefect API can have a flow run name any file and any block. What
    is read, though, lies in the result storage of the job, or where Prefect keeps results on
    this machine; blocks only tell paths and URLs in there.
    """
    storage = open_storage(address)
    locations = [key]
    if block_id is not None:
        block = load_block(block_id)
        if is_block(address) and _is_same(block, recent_block(address)):
            return storage, storage.key_of(key)
        locations = [posixpath.join(folder, key) for folder in _folders_of(block)]
    prefects_own = FsspecStorage(str(get_current_settings().results.local_storage_path))
    for known, location in itertools.product((storage, prefects_own), locations):
        with contextlib.suppress(StorageError):
            return known, known.key_of(location)
    raise ResultUnreadable(
        "its flow keeps the result where this server does not read: the operator sets "
        "deployment.result_storage_block of the process to the storage of the flow"
    )


def _is_same(block: Block, other: Block) -> bool:
    return type(block) is type(other) and block.model_dump() == other.model_dump()


def _folders_of(block: Block) -> list[str]:
    """Return the absolute path or URL at which a block keeps files, as far as it can tell."""
    match block:
        case LocalFileSystem():
            folder = os.path.abspath(os.path.expanduser(block.basepath or "."))
            return [folder, os.path.realpath(folder)]
        case RemoteFileSystem():
            return [block.basepath]
    return []


def _formatted(template: str, job: Job) -> str:
    """Fill in what `result_storage_key` of a flow may refer to."""
    flow_run = types.SimpleNamespace(id=job.flow_run_id, name=run_name(job.job_id))
    try:
        return template.format(parameters=job.parameters, flow_run=flow_run)
    except (KeyError, IndexError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"process {job.process_id}: result_storage_key_template cannot be filled in; it may "
            "hold {parameters[<name>]}, {flow_run.id} and {flow_run.name}"
        ) from error


def _decoded(content: bytes, serializer: "Serializer[Any] | None") -> Any:
    """Return the value in a result, which may be in Prefect's envelope."""
    content = _json_of(content, serializer)
    try:
        value = from_json(content, allow_inf_nan=False)
        match value:
            case {"metadata": {"serializer": {"type": str() as kind}}, "result": result}:
                if kind != "json":
                    raise _refused(kind)
                return from_json(result, allow_inf_nan=False) if isinstance(result, str) else result
    except ValueError as error:
        raise ResultUnreadable(
            "the result of the job is no JSON: set result_serializer='json' on its flow"
        ) from error
    return value


def _json_of(content: bytes, serializer: "Serializer[Any] | None") -> bytes:
    match serializer:
        case None:
            return content
        case CompressedSerializer(compressionlib=library, serializer=inner) if (
            library in _DECOMPRESS and inner.type == "json"
        ):
            try:
                return _DECOMPRESS[library](base64.decodebytes(content))
            except (ValueError, OSError, EOFError, lzma.LZMAError, zlib.error) as error:
                raise ResultUnreadable("the result of the job is damaged") from error
        case Serializer(type="json"):
            return content
    raise _refused(serializer.type)


def _refused(kind: str) -> ResultUnreadable:
    return ResultUnreadable(
        f"its result is stored with the serializer {kind!r}; only JSON is read: set "
        "result_serializer='json' on the flow"
    )


def _plain(value: Any) -> Any:
    """Unwrap what Prefect's serializer marks with a class, without making an instance of it."""
    match value:
        case {"__class__": str(), "data": data} if len(value) == 2:
            return _plain(data)
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case list():
            return [_plain(item) for item in value]
    return value
