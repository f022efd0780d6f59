"""Results that Prefect keeps: where they are, and what of them is read."""

import base64
import dataclasses
import json
import lzma
import pickle
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.core import Block
from prefect.blocks.system import Secret
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.filesystems import LocalFileSystem, RemoteFileSystem
from prefect.results import ResultRecordMetadata  # type: ignore[attr-defined]
from prefect.serializers import (
    CompressedSerializer,
    JSONSerializer,
    PickleSerializer,
    UnknownSerializer,
)
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from pygeoapi_prefect import prefect_results
from pygeoapi_prefect import storage as storage_module
from pygeoapi_prefect.config import DeploymentConfiguration
from pygeoapi_prefect.errors import (
    ConfigurationError,
    JobFailed,
    ResultMissing,
    ResultUnreadable,
    StorageError,
)
from pygeoapi_prefect.jobs import Job, job_of_run, run_name
from pygeoapi_prefect.outputs import HeldOutput, StoredOutput
from pygeoapi_prefect.prefect_results import PrefectResult, find_result
from pygeoapi_prefect.storage import FsspecStorage

JSON: Any = JSONSerializer()
SECRET_TYPE: Any = Secret  # with its type of value, it would be another type of block
DECLARED = {"first": {"schema": {}}, "second": {"schema": {"contentMediaType": "text/csv"}}}
ANY_DEPLOYMENT = DeploymentConfiguration(name="a/b")


@pytest.fixture
def storage(tmp_path: Path) -> FsspecStorage:
    return FsspecStorage(str(tmp_path))


@pytest.fixture
def job() -> Job:
    return job_of_run(
        FlowRun(
            flow_id=uuid.uuid4(),
            name=run_name("j1"),
            state_type=StateType.COMPLETED,
            parameters={"pygeoapi_job_id": "j1", "inputs": {"a": {"b": 1}}},
        )
    )


def outputs_of(storage: FsspecStorage, job: Job, content: bytes, serializer: Any) -> dict[str, Any]:
    storage.write("record", content)
    return PrefectResult(storage, "record", serializer).outputs(job, DECLARED, storage)


@pytest.mark.parametrize(
    ("value", "outputs"),
    [
        ({"a": 1}, {"first": HeldOutput(b'{"a": 1}', "application/json")}),
        (["a", "b"], {"first": HeldOutput(b'["a", "b"]', "application/json")}),
        (["text/csv", "a,b"], {"first": HeldOutput(b"a,b", "text/csv")}),
        ({"second": "a,b"}, {"second": HeldOutput(b"a,b", "text/csv")}),
        (None, {}),
    ],
)
def test_a_value_becomes_outputs_as_what_our_own_flows_return(
    storage: FsspecStorage, job: Job, value: Any, outputs: dict[str, Any]
) -> None:
    assert outputs_of(storage, job, json.dumps(value).encode(), JSON) == outputs


def test_the_value_in_the_envelope_of_a_task_is_read(storage: FsspecStorage, job: Job) -> None:
    envelope = {
        "metadata": {"storage_key": "record", "serializer": {"type": "json"}},
        "result": '{"a": 1}',
    }
    content = json.dumps(envelope).encode()
    assert outputs_of(storage, job, content, None) == {
        "first": HeldOutput(b'{"a": 1}', "application/json")
    }


def test_values_of_classes_are_read_as_plain_values(storage: FsspecStorage, job: Job) -> None:
    content = JSONSerializer().dumps({"at": ANY_DEPLOYMENT, "list": [ANY_DEPLOYMENT]})
    body = outputs_of(storage, job, content, JSON)["first"].content
    plain = ANY_DEPLOYMENT.model_dump(mode="json")
    assert json.loads(body) == {"at": plain, "list": [plain]}


@pytest.mark.parametrize(("library", "compress"), [("lzma", lzma), ("zlib", zlib)])
def test_compressed_json_is_read(
    storage: FsspecStorage, job: Job, library: str, compress: Any
) -> None:
    serializer: Any = CompressedSerializer(serializer=JSONSerializer(), compressionlib=library)
    content = base64.encodebytes(compress.compress(b'"dense"'))
    assert outputs_of(storage, job, content, serializer)["first"].content == b'"dense"'


@pytest.mark.parametrize(
    ("serializer", "kind"),
    [
        (PickleSerializer(), "pickle"),
        (CompressedSerializer(serializer=PickleSerializer()), "compressed"),
        (UnknownSerializer.model_construct(type="theirs"), "theirs"),
    ],
)
def test_anything_but_json_is_refused_by_name(
    storage: FsspecStorage, job: Job, serializer: Any, kind: str
) -> None:
    content = base64.encodebytes(pickle.dumps({"a": 1}))
    with pytest.raises(ResultUnreadable, match=f"serializer '{kind}'; only JSON is read"):
        outputs_of(storage, job, content, serializer)


def test_a_pickle_in_an_envelope_is_refused_by_name(storage: FsspecStorage, job: Job) -> None:
    content = json.dumps({"metadata": {"serializer": {"type": "pickle"}}, "result": "gASV"})
    with pytest.raises(ResultUnreadable, match="serializer 'pickle'"):
        outputs_of(storage, job, content.encode(), None)


@pytest.mark.parametrize(
    ("content", "serializer"),
    [
        (b"gASVAAAA", None),
        (b"\xff\xfe\x00", JSON),
        (b'{"mean": NaN}', JSON),
        (b'{"mean": 1e999}', JSON),
        (b"[" * 100_000 + b"]" * 100_000, JSON),
        (b"!", CompressedSerializer(serializer=JSONSerializer())),
    ],
)
def test_what_is_no_json_is_no_result(
    storage: FsspecStorage, job: Job, content: bytes, serializer: Any
) -> None:
    with pytest.raises(ResultUnreadable):
        outputs_of(storage, job, content, serializer)


def test_reported_files_are_those_of_the_jobs_storage(storage: FsspecStorage, job: Job) -> None:
    info = {
        "status": "successful",
        "generated_outputs": {"first": {"location": "x/a.txt", "media_type": "text/plain"}},
    }
    assert outputs_of(storage, job, json.dumps(info).encode(), JSON) == {
        "first": StoredOutput(key="x/a.txt", media_type="text/plain")
    }


@pytest.mark.parametrize(
    ("info", "error"),
    [
        ({"status": "failed", "message": "no", "generated_outputs": None}, JobFailed),
        ({"status": "unheard of", "generated_outputs": None}, ResultUnreadable),
        (
            {"status": "successful", "generated_outputs": {"a": {"location": "/etc/passwd"}}},
            StorageError,
        ),
    ],
)
def test_a_report_of_a_failure_or_of_foreign_files_gives_no_outputs(
    storage: FsspecStorage, job: Job, info: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        outputs_of(storage, job, json.dumps(info).encode(), JSON)


def test_a_result_that_is_gone_is_missing(storage: FsspecStorage, job: Job) -> None:
    with pytest.raises(ResultMissing, match="job j1 are not where its flow has stored them"):
        PrefectResult(storage, "gone", JSON).outputs(job, DECLARED, storage)


@dataclasses.dataclass(frozen=True)
class Disk:
    """Folders of a machine, each with a result of its own name.

    Attributes:
        results: What the configuration names.
        prefects: Where Prefect keeps results by default.
        other: Anything else.
    """

    results: Path
    prefects: Path
    other: Path


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folders = Disk(*(tmp_path / name for name in ("results", "prefects", "other")))
    for folder in (folders.results, folders.prefects, folders.other):
        folder.mkdir()
        (folder / "key").write_text(json.dumps(folder.name))
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: str(folders.prefects)}):
        yield folders


def told(job: Job, key: str, block_id: uuid.UUID | None = None) -> Job:
    """A job whose flow run says where its result is."""
    record = ResultRecordMetadata(storage_key=key, storage_block_id=block_id, serializer=JSON)
    return dataclasses.replace(job, state_data=record)


def content_of(result: PrefectResult) -> Any:
    return json.loads(result.storage.read(result.key))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("key", "results"),
        ("{0.results}/key", "results"),
        ("file://{0.results}/key", "results"),
        ("{0.prefects}/key", "prefects"),
    ],
)
def test_the_run_says_where_its_result_is(job: Job, disk: Disk, key: str, value: str) -> None:
    result = find_result(told(job, key.format(disk)), ANY_DEPLOYMENT, str(disk.results))
    assert content_of(result) == value


@pytest.mark.parametrize(
    "key",
    [
        "{0.other}/key",
        "file://{0.other}/key",
        "{0.results}/../other/key",
        "../other/key",
        "simplecache::file://{0.other}/key",
        "http://127.0.0.1:1/key",
    ],
)
def test_a_run_cannot_name_any_other_file(job: Job, disk: Disk, key: str) -> None:
    with pytest.raises(ResultUnreadable, match="result_storage_block") as refusal:
        find_result(told(job, key.format(disk)), ANY_DEPLOYMENT, str(disk.results))
    assert str(disk.other) not in refusal.value.detail


@pytest.fixture
def block(monkeypatch: pytest.MonkeyPatch) -> Callable[[Block], uuid.UUID]:
    """Puts a block on the Prefect server, as `local-file-system/it` too, and returns its id."""
    blocks: dict[str | uuid.UUID, Block] = {}
    monkeypatch.setattr(prefect_results, "load_block", blocks.__getitem__)
    monkeypatch.setattr(storage_module, "load_block", blocks.__getitem__)

    def put(made: Block) -> uuid.UUID:
        block_id = uuid.uuid4()
        blocks[block_id] = blocks["local-file-system/it"] = made
        return block_id

    return put


@pytest.mark.parametrize("address", ["local-file-system/it", "{0.results}", "file://{0.results}"])
def test_a_block_tells_a_path_in_the_storage_that_the_configuration_names(
    job: Job, disk: Disk, block: Callable[[Block], uuid.UUID], address: str
) -> None:
    block_id = block(LocalFileSystem(basepath=str(disk.results)))
    result = find_result(told(job, "key", block_id), ANY_DEPLOYMENT, address.format(disk))
    assert content_of(result) == "results"


def test_a_block_may_tell_where_prefect_keeps_results_by_default(
    job: Job, disk: Disk, block: Callable[[Block], uuid.UUID]
) -> None:
    block_id = block(LocalFileSystem(basepath=str(disk.prefects)))
    result = find_result(told(job, "key", block_id), ANY_DEPLOYMENT, str(disk.results))
    assert content_of(result) == "prefects"


@pytest.mark.parametrize(
    "made",
    [
        lambda disk: LocalFileSystem(basepath=str(disk.other)),
        lambda _: LocalFileSystem(basepath="/"),
        lambda _: RemoteFileSystem(basepath="memory://other"),
        lambda _: SECRET_TYPE(value="a"),
    ],
)
def test_a_block_that_the_configuration_does_not_name_is_not_read(
    job: Job,
    disk: Disk,
    block: Callable[[Block], uuid.UUID],
    made: Callable[[Disk], Block],
) -> None:
    with pytest.raises(ResultUnreadable, match="result_storage_block"):
        find_result(told(job, "key", block(made(disk))), ANY_DEPLOYMENT, str(disk.results))


@pytest.mark.parametrize(
    ("template", "key"),
    [
        ("{parameters[pygeoapi_job_id]}.json", "j1.json"),
        ("{parameters[inputs][a][b]}/{flow_run.name}", "1/pygeoapi_job_j1"),
    ],
)
def test_the_configuration_says_where_where_the_run_does_not(
    tmp_path: Path, job: Job, template: str, key: str
) -> None:
    deployment = DeploymentConfiguration(name="a/b", result_storage_key_template=template)
    assert find_result(job, deployment, str(tmp_path)).key == key


@pytest.mark.parametrize("template", ["{parameters[absent]}", "{job}", "{0}", "{"])
def test_a_template_that_cannot_be_filled_in_is_the_operators_error(
    tmp_path: Path, job: Job, template: str
) -> None:
    deployment = DeploymentConfiguration(name="a/b", result_storage_key_template=template)
    with pytest.raises(ConfigurationError, match="result_storage_key_template cannot be filled"):
        find_result(job, deployment, str(tmp_path))


def test_a_flow_that_keeps_no_result_is_told_how_to(tmp_path: Path, job: Job) -> None:
    with pytest.raises(ResultMissing, match="persist_result=True and result_serializer='json'"):
        find_result(job, ANY_DEPLOYMENT, str(tmp_path))


@pytest.mark.parametrize(
    ("key", "is_removed"),
    [("x/j1.json", True), ("0" * 32, True), ("latest.json", False)],
)
def test_a_result_that_other_jobs_may_share_is_left(
    storage: FsspecStorage, job: Job, tmp_path: Path, key: str, is_removed: bool
) -> None:
    storage.write(key, b"1")
    PrefectResult(storage, key, JSON).delete(job)
    assert (tmp_path / key).exists() is not is_removed
