"""What goes wrong with object storage: what passes is got over, what stays is told, in words."""

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from prefect_aws import AwsClientParameters, AwsCredentials, MinIOCredentials
from prefect_aws.s3 import S3Bucket
from pydantic import SecretStr
from s3fs import S3FileSystem  # type: ignore[import-untyped]

from pygeoapi_prefect import s3 as s3_module
from pygeoapi_prefect import storage as storage_module
from pygeoapi_prefect.errors import ResultMissing, StorageError, StorageUnavailable
from pygeoapi_prefect.storage import FsspecStorage, storage_of_block
from tests.object_storage import ACCESS_KEY, SECRET_KEY, Fault, FaultyWay, ObjectStorage

BUCKET = "faults"
PART_BYTES = 5 * 1024**2  # the least that S3 takes


@pytest.fixture(scope="module")
def bucket(s3: ObjectStorage) -> str:
    s3.create_bucket(BUCKET)
    return BUCKET


def storage_at(endpoint: str, bucket: str, secret: str = SECRET_KEY) -> FsspecStorage:
    login = {"key": ACCESS_KEY, "secret": secret}
    client = {"endpoint_url": endpoint, "region_name": "us-east-1"}
    return FsspecStorage(f"s3://{bucket}/results", {**login, "client_kwargs": client})


@pytest.fixture
def storage(
    faulty_way: FaultyWay, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FsspecStorage]:
    """A storage at the end of a faulty way, which is not waited for as long as elsewhere."""
    patience = {"retries": {"mode": "standard", "total_max_attempts": 2}, "read_timeout": 60}
    monkeypatch.setattr(s3_module, "PATIENCE", {**s3_module.PATIENCE, **patience})
    monkeypatch.setattr(storage_module, "PART_BYTES", PART_BYTES)
    storage = storage_at(faulty_way.storage.endpoint, bucket)
    yield storage
    faulty_way.mend()
    storage.delete("job")
    S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("fault", [Fault.SLOW_DOWN, Fault.RESET])
def test_a_fault_that_passes_is_got_over(
    storage: FsspecStorage, faulty_way: FaultyWay, fault: Fault
) -> None:
    faulty_way.fail(fault)
    storage.write("job/a", b"content")
    for read in (storage.read, lambda key: b"".join(storage.chunks(key, 0, 7))):
        faulty_way.fail(fault)
        assert read("job/a") == b"content"
    faulty_way.fail(fault)
    storage.delete("job")
    with pytest.raises(ResultMissing):
        storage.read("job/a")


def test_what_did_not_come_whole_is_read_again(
    storage: FsspecStorage, faulty_way: FaultyWay
) -> None:
    content = bytes(range(256)) * 1000
    storage.write("job/a", content)

    for read in (storage.read, lambda key: b"".join(storage.chunks(key, 0, len(content)))):
        faulty_way.fail(Fault.CUT, Fault.CUT, method="GET")
        assert read("job/a") == content

    faulty_way.fail_always(Fault.CUT, method="GET")
    with pytest.raises(StorageUnavailable, match="cannot be reached"):
        storage.read("job/a")


def test_a_part_that_is_refused_for_now_is_sent_again(
    storage: FsspecStorage, faulty_way: FaultyWay
) -> None:
    faulty_way.fail(Fault.SLOW_DOWN, method="PUT")
    with storage.create("job/a") as file:
        for number in range(3):
            file.write(bytes([number]) * 3 * 1024**2)

    size = 9 * 1024**2
    assert storage.size("job/a") == size
    assert sum(request.startswith("PUT") for request in faulty_way.requests) == 3
    last = b"".join(storage.chunks("job/a", size - 2, size))
    assert last == bytes([2, 2])


@pytest.mark.parametrize(
    ("fault", "kind", "problem"),
    [
        (Fault.SLOW_DOWN, StorageUnavailable, f"s3://{BUCKET} is overloaded"),
        (Fault.RESET, StorageUnavailable, f"s3://{BUCKET} cannot be reached"),
        (Fault.DENIED, StorageError, f"s3://{BUCKET} refuses access"),
    ],
)
def test_a_fault_that_stays_is_told_with_the_name_of_the_storage(
    storage: FsspecStorage,
    faulty_way: FaultyWay,
    fault: Fault,
    kind: type[StorageError],
    problem: str,
) -> None:
    faulty_way.fail_always(fault)

    uses: list[Callable[[], object]] = [
        lambda: storage.write("job/a", b"x"),
        lambda: storage.size("job/a"),
        lambda: storage.delete("job"),
    ]
    for use in uses:
        with pytest.raises(StorageError, match=problem) as error:
            use()
        assert type(error.value) is kind
        assert faulty_way.storage.endpoint not in str(error.value)


def test_an_endpoint_where_nobody_listens_is_told(
    bucket: str, refusing_port: int, storage: FsspecStorage
) -> None:
    away = storage_at(f"http://127.0.0.1:{refusing_port}", bucket)

    for use in (away.check, lambda: away.write("job/a", b"x")):
        with pytest.raises(StorageUnavailable, match=f"s3://{bucket} cannot be reached"):
            use()


def test_who_may_not_look_at_the_bucket_may_store_in_it(
    storage: FsspecStorage, faulty_way: FaultyWay
) -> None:
    faulty_way.fail_always(Fault.DENIED, method="HEAD")

    storage.check()


def test_a_bucket_that_is_not_there_is_told_and_not_made(
    s3: ObjectStorage, storage: FsspecStorage
) -> None:
    absent = storage_at(s3.endpoint, "absent")

    def create() -> None:
        with absent.create("job/a") as file:
            file.write(bytes(PART_BYTES))

    for use in (
        absent.check,
        create,
        lambda: absent.write("job/a", b"x"),
        lambda: absent.read("job/a"),
        lambda: absent.size("job/a"),
    ):
        with pytest.raises(StorageError, match="s3://absent has no such bucket"):
            use()
    assert "absent" not in s3.buckets()


@pytest.mark.parametrize("bytes_before", [3, 2 * PART_BYTES], ids=["at once", "in parts"])
def test_an_upload_that_is_broken_off_leaves_nothing_in_the_bucket(
    storage: FsspecStorage, faulty_way: FaultyWay, s3: ObjectStorage, bytes_before: int
) -> None:
    with suppress(StorageError), storage.create("job/refused") as file:
        file.write(bytes(bytes_before))
        faulty_way.fail_always(Fault.DENIED, method="PUT")
        file.write(bytes(PART_BYTES))
    faulty_way.fail_always(Fault.DENIED, method="POST")  # of which the last one completes
    with suppress(StorageError), storage.create("job/incomplete") as file:
        file.write(bytes(bytes_before))
    faulty_way.mend()
    with suppress(ZeroDivisionError), storage.create("job/failed") as file:
        file.write(bytes(bytes_before))
        raise ZeroDivisionError

    assert s3.keys(BUCKET, "results/job/") - {"results/job/incomplete"} == set()
    assert s3.unfinished_uploads(BUCKET) == []


def test_files_that_are_not_removed_are_an_error(
    storage: FsspecStorage, faulty_way: FaultyWay
) -> None:
    storage.write("job/a", b"x")
    faulty_way.fail_always(Fault.NOT_REMOVED, method="POST")

    with pytest.raises(StorageError, match="refuses access"):
        storage.delete("job")


def test_no_secret_is_in_an_error_or_log(
    storage: FsspecStorage,
    faulty_way: FaultyWay,
    s3: ObjectStorage,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.INFO, logger="botocore")  # which shows each header
    messages = []
    for fault in (Fault.DENIED, Fault.SLOW_DOWN, Fault.RESET):
        faulty_way.fail_always(fault)
        try:
            storage.write("job/a", b"x")
        except StorageError as error:
            messages.append(f"{error} {error!r} {error.__cause__!r}")

    assert len(messages) == 3
    for text in (*messages, caplog.text, repr(storage)):
        assert SECRET_KEY not in text
        assert ACCESS_KEY not in text


MINIO = MinIOCredentials(minio_root_user=ACCESS_KEY, minio_root_password=SecretStr(SECRET_KEY))
ROLE = AwsCredentials(
    aws_access_key_id=ACCESS_KEY,
    aws_secret_access_key=SecretStr(SECRET_KEY),
    region_name="us-east-1",
    assume_role_arn="arn:aws:iam::123456789012:role/results",
)


@pytest.mark.parametrize("credentials", [MINIO, ROLE], ids=["minio", "role"])
def test_credentials_of_a_block_may_be_of_any_kind(
    s3: ObjectStorage,
    bucket: str,
    credentials: MinIOCredentials | AwsCredentials,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", s3.endpoint)
    parameters = AwsClientParameters(endpoint_url=s3.endpoint)
    at_server = credentials.model_copy(update={"aws_client_parameters": parameters})
    storage = storage_of_block(S3Bucket(bucket_name=bucket, credentials=at_server))

    storage.write("of-a-block/a", b"x")

    assert storage.read("of-a-block/a") == b"x"
    assert s3.keys(bucket, "of-a-block/") == {"of-a-block/a"}
    assert SECRET_KEY not in str(storage.presigned_url("of-a-block/a", "text/plain"))


LARGE_MIB = 64
FEW_MIB = 48
_COPY = f"""
import sys
from pathlib import Path
from pygeoapi_prefect.storage import FsspecStorage

def peak_mib():
    # not `ru_maxrss`, which begins with that of the process that started this one
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024

storage = FsspecStorage(sys.argv[1])
storage.write("large/before", b"x")
storage.read("large/before")
before = peak_mib()
with storage.create("large/a") as file:
    for _ in range({LARGE_MIB}):
        file.write(bytes(1024**2))
size = storage.size("large/a")
assert sum(len(chunk) for chunk in storage.chunks("large/a", 0, size)) == {LARGE_MIB} * 1024**2
print(peak_mib() - before)
"""


def test_a_large_file_is_written_and_read_with_little_memory(
    s3: ObjectStorage, bucket: str
) -> None:
    printed = subprocess.run(
        [sys.executable, "-c", _COPY, f"s3://{bucket}/results"],
        env={**s3.environment, "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert float(printed) < FEW_MIB
