"""What flows and processors return, as files and their list."""

import dataclasses
import datetime as dt
import io
import json
import tempfile
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest

from pygeoapi_prefect.errors import ExecutionError, ResultMissing, StorageError
from pygeoapi_prefect.outputs import (
    HeldOutput,
    StoredOutput,
    lasting,
    load_outputs,
    opened,
    store_outputs,
)
from pygeoapi_prefect.schemas import (
    JobStatus,
    JobStatusInfoInternal,
    OutputExecutionResultInternal,
)
from pygeoapi_prefect.storage import FsspecStorage
from pygeoapi_prefect.wishes import Wishes

TEXT = {"result": {"schema": {"type": "string"}}}
NUMBER = {"result": {"schema": {"type": "number"}}}
PNG = {"result": {"schema": {"type": "string", "contentMediaType": "image/png"}}}
GEOJSON = {"result": {"schema": {"type": "object", "contentMediaType": "application/geo+json"}}}
THREE = {
    "text": {"schema": {"type": "string"}},
    "table": {"schema": {"type": "string", "contentMediaType": "text/csv"}},
    "zones": {"schema": {"type": "object"}},
}


@pytest.fixture
def storage() -> FsspecStorage:
    return FsspecStorage(f"memory://outputs-{uuid.uuid4()}")


def stored(
    storage: FsspecStorage, declared: dict[str, Any], returned: Any
) -> dict[str, tuple[str, bytes]]:
    """Store, read back through the list, and give media type and content by output id."""
    outputs = store_outputs(storage, "job", declared, returned)
    assert load_outputs(storage, "job") == outputs
    return {
        output_id: (output.media_type, storage.read(output.key))
        for output_id, output in outputs.items()
    }


@dataclasses.dataclass
class Record:
    name: str


class Model(pydantic.BaseModel):
    day: dt.date


@pytest.mark.parametrize(
    ("declared", "returned", "media_type", "content"),
    [
        # as processors return: media type and value
        (NUMBER, ("application/json", {"a": "<ü>"}), "application/json", '{"a": "<ü>"}'.encode()),
        (NUMBER, ("application/json", [1, 2]), "application/json", b"[1, 2]"),
        (NUMBER, ("application/json", "text"), "application/json", b'"text"'),
        (NUMBER, ("application/json", '{"a":1}'), "application/json", b'{"a":1}'),
        (NUMBER, ("application/json", "[broken"), "application/json", b'"[broken"'),
        (NUMBER, ("application/json", None), "application/json", b"null"),
        (TEXT, ("text/plain", "5 < 6 ☃"), "text/plain", "5 < 6 ☃".encode()),
        (TEXT, ("image/png", b"\x89PNG\r\n\x00"), "image/png", b"\x89PNG\r\n\x00"),
        (TEXT, ("application/json", b"\xff not JSON"), "application/json", b"\xff not JSON"),
        # as flows return: a value
        (TEXT, "text", "text/plain", b"text"),
        (TEXT, '{"a": 1}', "text/plain", b'{"a": 1}'),
        (TEXT, "", "text/plain", b""),
        (TEXT, {"a": 1}, "application/json", b'{"a": 1}'),
        (PNG, b"\x89PNG", "image/png", b"\x89PNG"),
        (PNG, bytearray(b"\x89PNG"), "image/png", b"\x89PNG"),
        (PNG, memoryview(b"\x89PNG"), "image/png", b"\x89PNG"),
        (GEOJSON, {"type": "Feature"}, "application/geo+json", b'{"type": "Feature"}'),
        (GEOJSON, '{"type": "Feature"}', "application/geo+json", b'{"type": "Feature"}'),
        (NUMBER, 5, "application/json", b"5"),
        (NUMBER, 5.5, "application/json", b"5.5"),
        (NUMBER, True, "application/json", b"true"),
        (NUMBER, [1, None], "application/json", b"[1, null]"),
        (
            NUMBER,
            ["text/plain", "a list and no media type"],
            "application/json",
            b'["text/plain", "a list and no media type"]',
        ),
        (NUMBER, (1, 2), "application/json", b"[1, 2]"),
        (NUMBER, np.float64(1.5), "application/json", b"1.5"),
        (NUMBER, np.float32(0.5), "application/json", b"0.5"),
        (NUMBER, np.int16(7), "application/json", b"7"),
        (
            NUMBER,
            {"mean": np.float32(0.5), "ok": np.bool_(True)},
            "application/json",
            b'{"mean": 0.5, "ok": true}',
        ),
        (NUMBER, np.array([[1, 2]]), "application/json", b"[[1, 2]]"),
        (NUMBER, dt.date(2020, 8, 10), "application/json", b'"2020-08-10"'),
        (
            NUMBER,
            {"at": dt.datetime(2020, 8, 10, tzinfo=dt.UTC)},
            "application/json",
            b'{"at": "2020-08-10T00:00:00Z"}',
        ),
        (NUMBER, uuid.UUID(int=5), "application/json", b'"00000000-0000-0000-0000-000000000005"'),
        (NUMBER, Path("a/b"), "application/json", b'"a/b"'),
        (NUMBER, Record("x"), "application/json", b'{"name": "x"}'),
        (NUMBER, Model(day=dt.date(2020, 8, 10)), "application/json", b'{"day": "2020-08-10"}'),
        # a single output is never taken apart
        (NUMBER, {"result": 1}, "application/json", b'{"result": 1}'),
    ],
)
def test_one_output_is_stored_in_the_form_that_it_came_in(
    storage: FsspecStorage,
    declared: dict[str, Any],
    returned: Any,
    media_type: str,
    content: bytes,
) -> None:
    assert stored(storage, declared, returned) == {"result": (media_type, content)}


def test_a_process_that_declares_no_outputs_has_one_all_the_same(storage: FsspecStorage) -> None:
    assert stored(storage, {}, 5) == {"result": ("application/json", b"5")}


def test_nothing_returned_is_no_output(storage: FsspecStorage) -> None:
    assert stored(storage, TEXT, None) == {}


@pytest.mark.parametrize("as_pair", [False, True])
def test_several_outputs_come_under_their_ids(storage: FsspecStorage, as_pair: bool) -> None:
    value = {"text": "x", "table": "a;b", "zones": {"type": "FeatureCollection"}}

    assert stored(storage, THREE, ("application/json", value) if as_pair else value) == {
        "text": ("text/plain", b"x"),
        "table": ("text/csv", b"a;b"),
        "zones": ("application/json", b'{"type": "FeatureCollection"}'),
    }


def test_outputs_that_a_flow_leaves_out_are_not_there(storage: FsspecStorage) -> None:
    assert set(stored(storage, THREE, {"table": "a"})) == {"table"}


def test_an_output_that_is_null_is_stored_as_such(storage: FsspecStorage) -> None:
    assert stored(storage, THREE, {"table": None}) == {"table": ("application/json", b"null")}


def test_a_mapping_of_something_else_is_one_output(storage: FsspecStorage) -> None:
    assert stored(storage, THREE, {"id": "text", "value": 1}) == {
        "text": ("application/json", b'{"id": "text", "value": 1}')
    }


def test_an_output_id_makes_no_path(storage: FsspecStorage) -> None:
    declared = {"../../a b/ü": {"schema": {"type": "string"}}, "b": {"schema": {}}}

    outputs = store_outputs(storage, "job", declared, {"../../a b/ü": "x"})

    assert outputs["../../a b/ü"].key.startswith("job/outputs/")
    assert outputs["../../a b/ü"].key.count("/") == 2
    assert storage.read(outputs["../../a b/ü"].key) == b"x"


def status_info(location: str, **members: Any) -> JobStatusInfoInternal:
    return JobStatusInfoInternal.model_validate(
        {
            "jobID": "job",
            "status": JobStatus.successful,
            "generated_outputs": {
                "map": OutputExecutionResultInternal(location=location, media_type="image/png")
            },
            **members,
        }
    )


def test_what_a_flow_has_stored_itself_is_listed_where_it_is(storage: FsspecStorage) -> None:
    storage.write("job/mine/x.png", b"\x89PNG")

    outputs = store_outputs(storage, "job", THREE, status_info("job/mine/x.png"))

    assert outputs == {"map": StoredOutput(key="job/mine/x.png", media_type="image/png")}
    assert load_outputs(storage, "job") == outputs


def test_a_flow_may_have_no_outputs(storage: FsspecStorage) -> None:
    returned = status_info("", generated_outputs=None)

    assert store_outputs(storage, "job", THREE, returned) == {}


def test_an_output_that_a_flow_reports_and_has_not_stored_is_an_error(
    storage: FsspecStorage,
) -> None:
    with pytest.raises(ExecutionError, match="reports output 'map', but stored nothing"):
        store_outputs(storage, "job", THREE, status_info("job/x.png"))

    with pytest.raises(ResultMissing):
        load_outputs(storage, "job")


def test_an_output_that_a_flow_has_stored_elsewhere_is_an_error(storage: FsspecStorage) -> None:
    with pytest.raises(StorageError, match="outside the result storage"):
        store_outputs(storage, "job", THREE, status_info("/etc/passwd"))


@pytest.mark.parametrize(
    ("message", "shown"), [("no zones", "no zones"), (None, "the flow reports that it failed")]
)
def test_a_flow_that_reports_a_failure_fails(
    storage: FsspecStorage, message: str | None, shown: str
) -> None:
    with pytest.raises(ExecutionError, match=shown):
        store_outputs(storage, "job", THREE, status_info("x", status="failed", message=message))


EVIL = "text/plain\r\nX-Evil: 1"


def test_a_media_type_that_is_none_reaches_no_header(storage: FsspecStorage) -> None:
    with pytest.raises(ExecutionError, match=r"output 'result': .* is not a media type"):
        store_outputs(storage, "job", NUMBER, (EVIL, 5))
    with pytest.raises(pydantic.ValidationError, match="is not a media type"):
        OutputExecutionResultInternal(location="x", media_type=EVIL)
    storage.write("job/outputs.json", json.dumps({"a": {"key": "k", "media_type": EVIL}}).encode())
    with pytest.raises(StorageError, match="damaged"):
        load_outputs(storage, "job")


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"text": {}, "zones": {}}, "made no output 'zones', which was asked for"),
        ({"text": {"format": {"mediaType": "a/b"}}}, "'text' is text/plain; a/b was asked for"),
    ],
)
def test_outputs_other_than_those_asked_for_are_not_listed(
    storage: FsspecStorage, wanted: Any, reason: str
) -> None:
    wishes = Wishes.of_request({"outputs": wanted})

    with pytest.raises(ExecutionError, match=reason):
        store_outputs(storage, "job", THREE, {"text": "x"}, wishes)

    with pytest.raises(ResultMissing):
        load_outputs(storage, "job")


@pytest.mark.parametrize("sign_links", [True, False])
def test_a_signed_address_comes_before_our_own(tmp_path: Path, sign_links: bool) -> None:
    class Signing(FsspecStorage):
        def presigned_url(self, key: str, media_type: str) -> str | None:
            return f"https://s3.example.org/{key}?type={media_type}"

    storage = Signing(str(tmp_path))
    found: dict[str, StoredOutput | HeldOutput] = {
        "a": StoredOutput(key="job/a", media_type="a/b"),
        "b": HeldOutput(b"x", "text/plain"),
    }

    outputs = opened(storage, found, {"a": "own-a", "b": "own-b"}.get, sign_links=sign_links)

    signed = "https://s3.example.org/job/a?type=a/b"
    assert outputs["a"].address() == (signed if sign_links else "own-a")
    assert outputs["b"].address() == "own-b"
    assert outputs["b"].read() == b"x"


class BreakingStorage(FsspecStorage):
    """Takes so many files, and no more."""

    def __init__(self, url: str, files_left: int) -> None:
        super().__init__(url)
        self.files_left = files_left

    def write(self, key: str, content: bytes) -> None:
        if not self.files_left:
            raise StorageError("the disk is full")
        self.files_left -= 1
        super().write(key, content)


@pytest.mark.parametrize("files_left", [0, 1, 3])
def test_a_job_whose_outputs_were_not_all_written_has_none(files_left: int) -> None:
    storage = BreakingStorage(f"memory://outputs-{uuid.uuid4()}", files_left)
    value = {"text": "x", "table": "a;b", "zones": {}}

    with pytest.raises(StorageError, match="disk is full"):
        store_outputs(storage, "job", THREE, value)

    with pytest.raises(ResultMissing, match="the results of job job are not in"):
        load_outputs(storage, "job")


@pytest.mark.parametrize(
    "value", [object(), {"a": object()}, {1, object()}], ids=["object", "member", "set"]
)
def test_what_cannot_be_written_is_an_error_that_names_its_type(
    storage: FsspecStorage, value: Any
) -> None:
    with pytest.raises(Exception, match="object"):
        store_outputs(storage, "job", NUMBER, value)

    with pytest.raises(ResultMissing):
        load_outputs(storage, "job")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", json.dumps({"a": {"key": 1}}).encode()])
def test_a_damaged_list_is_told_from_a_missing_one(storage: FsspecStorage, content: bytes) -> None:
    storage.write("job/outputs.json", content)

    with pytest.raises(StorageError, match="the list of outputs of job job is damaged"):
        load_outputs(storage, "job")


def test_a_number_that_json_does_not_know_fails_the_job_and_stores_nothing() -> None:
    storage = FsspecStorage("memory://not-a-number")
    with pytest.raises(ExecutionError, match="cannot be written as JSON"):
        store_outputs(storage, "job", {"mean": {"schema": {"type": "number"}}}, float("nan"))
    with pytest.raises(ResultMissing):
        load_outputs(storage, "job")


class OpenedOnce:
    """Pieces that tell whether their reader has done with them."""

    def __init__(self, pieces: list[Any]) -> None:
        self._pieces = iter(pieces)
        self.closed = False

    def __iter__(self) -> "OpenedOnce":
        return self

    def __next__(self) -> Any:
        return next(self._pieces)

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("make", "content"),
    [
        (lambda _: iter([b"\x89P", bytearray(b"N"), memoryview(b"G")]), b"\x89PNG"),
        (lambda _: (text for text in ["a", "ü"]), "aü".encode()),
        (lambda _: iter([]), b""),
        (lambda _: io.BytesIO(b"\x89PNG"), b"\x89PNG"),
        (lambda _: io.StringIO("aü"), "aü".encode()),
        (lambda folder: _written(folder).open("rb"), b"\x89PNG"),
        (lambda folder: _written(folder).open("r+b", buffering=0), b"\x89PNG"),
        (lambda _: _at_its_end(tempfile.TemporaryFile), b"\x89PNG"),
        (lambda _: _at_its_end(tempfile.NamedTemporaryFile), b"\x89PNG"),
        (lambda _: _at_its_end(tempfile.SpooledTemporaryFile), b"\x89PNG"),
    ],
    ids=["bytes", "text", "nothing", "memory", "text file", "file", "raw", "tmp", "named", "spool"],
)
def test_a_stream_is_stored_and_closed(
    storage: FsspecStorage, tmp_path: Path, make: Any, content: bytes
) -> None:
    stream = make(tmp_path)

    assert stored(storage, PNG, stream) == {"result": ("image/png", content)}
    assert getattr(stream, "closed", True)


def _written(folder: Path) -> Path:
    path = folder / "x.png"
    path.write_bytes(b"\x89PNG")
    return path


def _at_its_end(make: Any) -> Any:
    file = make()
    file.write(b"\x89PNG")
    return file


def test_streams_are_outputs_like_others(storage: FsspecStorage) -> None:
    value = {"text": "x", "table": iter([b"a;", b"b"]), "zones": iter([b"{", b"}"])}

    assert stored(storage, THREE, value) == {
        "text": ("text/plain", b"x"),
        "table": ("text/csv", b"a;b"),
        "zones": ("application/json", b"{}"),
    }
    assert stored(storage, {}, ("image/tiff", iter([b"II"]))) == {"result": ("image/tiff", b"II")}


@pytest.mark.parametrize("values", [[1, 2], []])
def test_an_iterator_of_values_is_a_list(storage: FsspecStorage, values: list[int]) -> None:
    assert stored(storage, NUMBER, iter(values)) == {
        "result": ("application/json", json.dumps(values).encode())
    }


def test_a_stream_that_fails_leaves_nothing_and_is_closed(storage: FsspecStorage) -> None:
    stream = OpenedOnce([b"begun", 5])

    with pytest.raises(ExecutionError, match="output 'result': its pieces are not all bytes"):
        store_outputs(storage, "job", PNG, stream)

    assert stream.closed
    with pytest.raises(ResultMissing):
        storage.read("job/outputs/result.png")
    with pytest.raises(ResultMissing):
        load_outputs(storage, "job")


@pytest.mark.parametrize("returned", [5, ("text/plain", "x"), None, {"text": 1}, [iter("ab")]])
def test_what_lasts_is_prefects_to_keep(returned: Any) -> None:
    assert lasting("job", returned, {}) is returned


@pytest.mark.parametrize(
    "returned", [iter([b"x"]), ("image/png", io.BytesIO()), {"a": 1, "b": iter([b"x"])}]
)
def test_what_was_read_once_is_told_by_its_place(returned: Any) -> None:
    outputs = {"map": StoredOutput(key="job/outputs/map.png", media_type="image/png")}

    assert lasting("job", returned, outputs) == status_info("job/outputs/map.png")
