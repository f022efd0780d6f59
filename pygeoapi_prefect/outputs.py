"""Outputs of a job in the result storage: their files, and the list that names them.

What a flow returns can have several forms. Here it becomes one: files below
``<job id>/``, and ``<job id>/outputs.json`` which names them. The list is written last,
so a job that has one has all of its outputs.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import mimetypes
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import pydantic

from pygeoapi_prefect.errors import ExecutionError, ResultMissing, StorageError
from pygeoapi_prefect.media_types import (
    JSON_MEDIA_TYPE,
    MediaType,
    described_media_type,
    essence,
    is_json,
    is_media_type,
)
from pygeoapi_prefect.results import Content, HeldContent, Output
from pygeoapi_prefect.schemas import (
    JobStatus,
    JobStatusInfoInternal,
    OutputExecutionResultInternal,
)
from pygeoapi_prefect.storage import CHUNK_BYTES, ResultStorage, StoredContent
from pygeoapi_prefect.wishes import EVERYTHING, Wishes

LIST_NAME: Final = "outputs.json"


class StoredOutput(pydantic.BaseModel):
    """Where one output is in the result storage, and what it is."""

    key: str
    media_type: MediaType


@dataclasses.dataclass(frozen=True)
class HeldOutput:
    """An output that is in no file of its own, for Prefect has kept it with others."""

    content: bytes
    media_type: str


_LIST = pydantic.TypeAdapter(dict[str, StoredOutput])


def store_outputs(
    storage: ResultStorage,
    job_id: str,
    declared: Mapping[str, Any],
    returned: Any,
    wishes: Wishes = EVERYTHING,
) -> dict[str, StoredOutput]:
    """Store what a flow or processor returned, and list it.

    Args:
        storage: Result storage of the job.
        job_id: The job.
        declared: Output descriptions of the process, by output id.
        returned: A `JobStatusInfoInternal`, whose outputs the flow has stored itself; a
            tuple ``(media type, value)``, as processors return it; or a plain value. A
            value that is a mapping with ids of declared outputs as keys holds one output
            under each. One that is an open file, or an iterator of bytes, is stored in
            pieces, and closed.
        wishes: What has to be among them; without it, nothing is listed.

    Raises:
        ExecutionError: The flow says that it failed, or that outputs are where there are none;
            or it has not made what was asked for.
        StorageError: The result storage refused a file.
    """
    match returned:
        case JobStatusInfoInternal():
            outputs = _stored_by_flow(storage, returned)
        case _:
            outputs = {
                output_id: _store(storage, job_id, output_id, value, media_type)
                for output_id, (value, media_type) in _values(declared, returned).items()
            }
    if problem := wishes.problem(media_types(outputs)):
        raise ExecutionError(problem)
    storage.write(f"{job_id}/{LIST_NAME}", _LIST.dump_json(outputs))
    return outputs


def media_types(
    outputs: Mapping[str, StoredOutput | HeldOutput | Output],
) -> dict[str, str]:
    """Return the media types of outputs, by output id."""
    return {output_id: output.media_type for output_id, output in outputs.items()}


def opened(
    storage: ResultStorage,
    outputs: Mapping[str, StoredOutput | HeldOutput],
    own_url: Callable[[str], str | None],
    *,
    sign_links: bool,
) -> dict[str, Output]:
    """Return outputs as they are handed out, none of them read.

    Args:
        storage: Result storage of the job.
        outputs: What the job made.
        own_url: Returns where this service hands out an output, given its id, if it does.
        sign_links: Whether clients may have signed addresses of the storage, which then come
            first.
    """

    def address(output_id: str, output: StoredOutput | HeldOutput) -> str | None:
        signed = None
        if sign_links and isinstance(output, StoredOutput):
            signed = storage.presigned_url(output.key, output.media_type)
        return signed or own_url(output_id)

    return {
        output_id: Output(
            output_id=output_id,
            media_type=output.media_type,
            content=_content(storage, output),
            address=functools.partial(address, output_id, output),
        )
        for output_id, output in outputs.items()
    }


def _content(storage: ResultStorage, output: StoredOutput | HeldOutput) -> Content:
    if isinstance(output, StoredOutput):
        return StoredContent(storage, output.key)
    return HeldContent(output.content)


def load_outputs(storage: ResultStorage, job_id: str) -> dict[str, StoredOutput]:
    """Return the outputs that a job stored.

    Raises:
        ResultMissing: The job stored none, or they were removed.
    """
    try:
        return _LIST.validate_json(storage.read(f"{job_id}/{LIST_NAME}"))
    except ResultMissing as error:
        raise ResultMissing(f"the results of job {job_id} are not in the result storage") from error
    except pydantic.ValidationError as error:
        raise StorageError(f"the list of outputs of job {job_id} is damaged") from error


def held_outputs(declared: Mapping[str, Any], returned: Any) -> dict[str, HeldOutput]:
    """Return the outputs, by output id, that a flow or processor returned.

    Args:
        declared: Output descriptions of the process, by output id.
        returned: A value, or a tuple ``(media type, value)``; see `store_outputs`.
    """
    return {
        output_id: HeldOutput(_encoded(value, media_type), media_type)
        for output_id, (value, media_type) in _values(declared, returned).items()
    }


def lasting(job_id: str, returned: Any, outputs: Mapping[str, StoredOutput]) -> Any:
    """Return what a flow returned or, if that can be read only once, where its outputs are."""
    _, value = returned if _is_pair(returned) else (None, returned)
    values = value.values() if isinstance(value, Mapping) else [value]
    if not any(map(_is_stream, values)):
        return returned
    return JobStatusInfoInternal(
        job_id=job_id,
        status=JobStatus.successful,
        generated_outputs={
            output_id: OutputExecutionResultInternal(
                location=output.key, media_type=output.media_type
            )
            for output_id, output in outputs.items()
        },
    )


def _stored_by_flow(
    storage: ResultStorage, status_info: JobStatusInfoInternal
) -> dict[str, StoredOutput]:
    if status_info.status is JobStatus.failed:
        raise ExecutionError(status_info.message or "the flow reports that it failed")
    outputs = {}
    for output_id, result in (status_info.generated_outputs or {}).items():
        key = storage.key_of(result.location)
        try:
            storage.size(key)
        except ResultMissing as error:
            raise ExecutionError(
                f"the flow reports output {output_id!r}, but stored nothing under its location; "
                "it should write through the block `result_storage_block`"
            ) from error
        outputs[output_id] = StoredOutput(key=key, media_type=result.media_type)
    return outputs


def _store(
    storage: ResultStorage, job_id: str, output_id: str, value: Any, media_type: str
) -> StoredOutput:
    extension = mimetypes.guess_extension(essence(media_type)) or ""
    key = f"{job_id}/outputs/{urllib.parse.quote(output_id, safe='')}{extension}"
    if _is_stream(value):
        with contextlib.ExitStack() as exits:
            if hasattr(value, "close"):
                exits.callback(value.close)
            _store_pieces(storage, key, output_id, value, media_type)
    else:
        storage.write(key, _encoded(value, media_type))
    return StoredOutput(key=key, media_type=media_type)


def _store_pieces(
    storage: ResultStorage, key: str, output_id: str, stream: Any, media_type: str
) -> None:
    pieces = _pieces_of_file(stream) if _is_file(stream) else iter(stream)
    first = [*itertools.islice(pieces, 1)]
    if is_json(media_type) and not _is_file(stream) and not any(map(_is_piece, first)):
        # an iterator of values is a list, which nobody can write before its end
        storage.write(key, _encoded([*first, *pieces], media_type))
        return
    with storage.create(key) as file:
        for piece in itertools.chain(first, pieces):
            if not _is_piece(piece):
                raise ExecutionError(f"output {output_id!r}: its pieces are not all bytes")
            file.write(piece.encode() if isinstance(piece, str) else piece)


def _pieces_of_file(file: Any) -> Iterator[Any]:
    if file.seekable():
        file.seek(0)
    while piece := file.read(CHUNK_BYTES):
        yield piece


def _is_piece(piece: Any) -> bool:
    return isinstance(piece, bytes | bytearray | memoryview | str)


def _is_stream(value: Any) -> bool:
    return isinstance(value, Iterator) or _is_file(value)


def _is_file(value: Any) -> bool:
    return hasattr(value, "read") and hasattr(value, "readable")


def _is_pair(returned: Any) -> bool:
    """Tell whether something is what processors return; a list of two texts is a value."""
    match returned:
        case (str(), _) if isinstance(returned, tuple):
            return True
    return False


def _values(declared: Mapping[str, Any], returned: Any) -> dict[str, tuple[Any, str]]:
    """Return value and media type by output id."""
    media_type, value = returned if _is_pair(returned) else (None, returned)
    if media_type is None and value is None:
        return {}
    if len(declared) > 1 and isinstance(value, Mapping) and value.keys() & declared.keys():
        # a media type given with it is that of the mapping
        return {
            output_id: (value[output_id], _media_type_of(value[output_id], declaration))
            for output_id, declaration in declared.items()
            if output_id in value
        }
    output_id = next(iter(declared), "result")
    if media_type is None:
        media_type = _media_type_of(value, declared.get(output_id, {}))
    elif not is_media_type(media_type):
        raise ExecutionError(f"output {output_id!r}: {media_type[:80]!r} is not a media type")
    return {output_id: (value, media_type)}


def _media_type_of(value: Any, output_description: Mapping[str, Any]) -> str:
    """Return the described media type where the value can have it."""
    described = described_media_type(output_description)
    if isinstance(value, bytes | bytearray | memoryview | str) or is_json(described):
        return described
    if _is_stream(value):
        return described
    return JSON_MEDIA_TYPE


def _encoded(value: Any, media_type: str) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str) and (not is_json(media_type) or _is_json_text(value)):
        return value.encode()
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)
    except ValueError as error:
        raise ExecutionError(f"an output cannot be written as JSON: {error}") from error
    return text.encode()


def _is_json_text(text: str) -> bool:
    """Tell whether text given as JSON is an object or array that is serialised already."""
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _plain(value: Any) -> Any:
    """Serialise what `json` cannot, the way pydantic does (dates, numpy scalars, models)."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return pydantic.TypeAdapter(Any).dump_python(value, mode="json")
