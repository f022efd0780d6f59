"""What every result storage does, whatever filesystem is behind it."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.blocks.core import Block
from prefect.filesystems import LocalFileSystem, RemoteFileSystem
from prefect_aws import AwsClientParameters, AwsCredentials
from prefect_aws.s3 import S3Bucket
from pydantic import SecretStr
from s3fs import S3FileSystem  # type: ignore[import-untyped]

from pygeoapi_prefect import storage as storage_module
from pygeoapi_prefect.errors import ConfigurationError, ResultMissing, StorageError
from pygeoapi_prefect.storage import ResultStorage, block_for, load_block, open_storage
from tests.object_storage import ACCESS_KEY, SECRET_KEY, ObjectStorage

ANY_BYTES = bytes(range(256)) * 3


@pytest.fixture(scope="module")
def bucket(s3: ObjectStorage) -> Iterator[str]:
    """Name of a bucket of the S3 server, which the environment leads to."""
    name = "contract"
    s3.create_bucket(name)
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in s3.environment.items():
            patch.setenv(variable, value)
        yield name
    # they were made in this environment
    S3FileSystem.clear_instance_cache()


ON_DISK_OR_IN_MEMORY = ("memory", "path", "file")
BLOCKS: dict[str, Callable[[Path, str, str], Any]] = {
    "local-block": lambda folder, _bucket, _endpoint: LocalFileSystem(basepath=str(folder)),
    "s3-block": lambda _, bucket, endpoint: RemoteFileSystem(
        basepath=f"s3://{bucket}/remote-block",
        settings={
            "client_kwargs": {"endpoint_url": endpoint},
            "key": ACCESS_KEY,
            "secret": SECRET_KEY,
        },
    ),
    "bucket-block": lambda _, bucket, endpoint: S3Bucket(
        bucket_name=bucket,
        bucket_folder="bucket-block/folder",
        credentials=AwsCredentials(
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SecretStr(SECRET_KEY),
            region_name="us-east-1",
            aws_client_parameters=AwsClientParameters(
                endpoint_url=endpoint, config={"s3": {"addressing_style": "path"}}
            ),
        ),
    ),
}


@pytest.fixture(scope="module")
def blocks(
    prefect_api: str, s3: ObjectStorage, bucket: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Slugs of `BLOCKS`, which take a second to save."""
    slugs = {}
    for name, make in BLOCKS.items():
        block = make(tmp_path_factory.mktemp(name), bucket, s3.endpoint)
        block.save(name, _sync=True)
        slugs[name] = f"{block.get_block_type_slug()}/{name}"
    return slugs


@pytest.fixture(params=[*ON_DISK_OR_IN_MEMORY, "s3", *BLOCKS])
def address(request: pytest.FixtureRequest) -> str:
    name = f"results-{uuid.uuid4()}"
    match request.param:
        case "memory":
            return f"memory://{name}"
        case "path" | "file":
            path = request.getfixturevalue("tmp_path") / name
            return str(path) if request.param == "path" else f"file://{path}"
        case "s3":
            return f"s3://{request.getfixturevalue('bucket')}/{name}"
    blocks: dict[str, str] = request.getfixturevalue("blocks")
    return blocks[request.param]


@pytest.fixture
def storage(address: str) -> Iterator[ResultStorage]:
    storage = open_storage(address)
    yield storage
    for folder in ("job", "job-2", "jo", "other"):
        storage.delete(folder)


def test_what_was_written_is_read(storage: ResultStorage) -> None:
    for number, content in enumerate([b"", b"x", ANY_BYTES, "☃\r\n".encode()]):
        key = f"job/outputs/{number}.bin"
        storage.write(key, content)

        assert storage.read(key) == content
        assert storage.size(key) == len(content)
        with storage.open(key) as file:
            assert file.read() == content


def test_what_is_written_again_is_replaced(storage: ResultStorage) -> None:
    storage.write("job/a", b"longer than after")
    storage.write("job/a", b"short")

    assert storage.read("job/a") == b"short"


def test_what_is_written_in_pieces_is_there_as_a_whole(
    storage: ResultStorage,
) -> None:
    storage.write("job/a", b"what was before")

    with storage.create("job/a") as file:
        assert file.write(ANY_BYTES) == len(ANY_BYTES)
        assert file.tell() == len(ANY_BYTES)
        file.write(memoryview(b"end"))
        assert storage.read("job/a") == b"what was before"

    assert storage.read("job/a") == ANY_BYTES + b"end"
    with storage.create("job/nothing"):
        pass
    assert storage.size("job/nothing") == 0


@pytest.mark.parametrize("size", [5, 6 * 1024**2], ids=["small", "several parts"])
def test_what_is_broken_off_leaves_no_trace(
    storage: ResultStorage, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(storage_module, "PART_BYTES", 5 * 1024**2)  # the least that S3 takes
    storage.write("job/before", b"before")

    for key in ("job/before", "job/new"):
        with suppress(ZeroDivisionError), storage.create(key) as file:
            file.write(bytes(size))
            raise ZeroDivisionError

    assert storage.read("job/before") == b"before"
    with pytest.raises(ResultMissing):
        storage.size("job/new")
    storage.delete("job")
    with pytest.raises(ResultMissing):
        storage.read("job/before")


def test_a_folder_is_no_file(storage: ResultStorage) -> None:
    storage.write("job/outputs/a", b"x")

    with pytest.raises(ResultMissing):
        storage.size("job/outputs")


def test_a_storage_that_is_there_can_be_stored_in(storage: ResultStorage) -> None:
    storage.check()


def test_another_storage_at_the_same_address_has_the_same_files(
    storage: ResultStorage, address: str
) -> None:
    storage.write("job/a", b"x")

    assert open_storage(address).read("job/a") == b"x"


# in one test each: every call goes to a server, for half of the storages


def test_a_name_may_be_anything(storage: ResultStorage) -> None:
    names = ["a b", "ü☃", "a+b%20c", "a#b", "a&b=c", "..a", "*", "[a]", "~"]
    for name in names:
        storage.write(f"job/{name}", name.encode())

    for name in names:
        content = name.encode()
        assert storage.read(f"job/{name}") == content, name
        assert storage.size(f"job/{name}") == len(content), name
        assert b"".join(storage.chunks(f"job/{name}", 0, len(content))) == content, name


def test_any_part_can_be_read_alone(storage: ResultStorage) -> None:
    storage.write("job/a", ANY_BYTES)

    for start, stop in [(0, len(ANY_BYTES)), (0, 1), (5, 300), (767, 768), (0, 0), (9, 9)]:
        part = b"".join(storage.chunks("job/a", start, stop))
        assert part == ANY_BYTES[start:stop], (start, stop)


def test_a_large_file_is_read_in_pieces(
    storage: ResultStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pygeoapi_prefect.storage.CHUNK_BYTES", 100)
    storage.write("job/a", ANY_BYTES)

    pieces = list(storage.chunks("job/a", 0, len(ANY_BYTES)))

    assert [len(piece) for piece in pieces] == [100] * 7 + [68]
    assert b"".join(pieces) == ANY_BYTES


def test_a_file_that_is_not_there_is_missing(storage: ResultStorage) -> None:
    storage.write("job/b", b"x")

    uses: list[Callable[[], object]] = [
        lambda: storage.read("job/a"),
        lambda: storage.open("job/a").read(),
        lambda: storage.size("job/a"),
        lambda: list(storage.chunks("job/a", 0, 1)),
    ]
    for use in uses:
        with pytest.raises(ResultMissing):
            use()


def test_a_folder_is_removed_with_all_in_it_and_no_other(storage: ResultStorage) -> None:
    for key in ("job/a", "job/outputs/b", "job/outputs/deeper/c", "job-2/a", "jo/a"):
        storage.write(key, b"x")

    storage.delete("job")

    for key in ("job/a", "job/outputs/b", "job/outputs/deeper/c"):
        with pytest.raises(ResultMissing):
            storage.read(key)
    assert storage.read("job-2/a") == storage.read("jo/a") == b"x"


def test_removing_a_folder_that_is_not_there_is_no_error(storage: ResultStorage) -> None:
    storage.write("other/a", b"x")

    storage.delete("job")
    storage.delete("job")

    assert storage.read("other/a") == b"x"


def test_a_folder_that_was_removed_can_be_written_again(storage: ResultStorage) -> None:
    storage.write("job/a", b"x")
    storage.delete("job")

    storage.write("job/a", b"y")

    assert storage.read("job/a") == b"y"


def test_a_presigned_url_gives_the_file_to_anybody(storage: ResultStorage, address: str) -> None:
    storage.write("job/a b☃.bin", ANY_BYTES)

    url = storage.presigned_url("job/a b☃.bin", "image/png")

    if "s3" not in address and not address.startswith("remote-file-system/"):
        assert url is None
    else:
        assert url is not None
        assert SECRET_KEY not in url
        fetched = httpx.get(url, timeout=60)
        assert fetched.content == ANY_BYTES
        assert fetched.headers["content-type"] == "image/png"


def test_locations_below_the_address_are_keys(storage: ResultStorage, address: str) -> None:
    assert storage.key_of("job/a.txt") == "job/a.txt"
    if "://" in address or address.startswith("/"):
        assert storage.key_of(f"{address}/job/a.txt") == "job/a.txt"
    for outside in ("/etc/passwd", "s3://other/job/a.txt", f"{address}-2/../x", "job/../../x"):
        with pytest.raises(StorageError):
            storage.key_of(outside)


def _remove(slug: str) -> None:
    delete: Any = Block.delete
    delete(slug, _sync=True)


def _spoil(slug: str) -> None:
    other: Any = LocalFileSystem(basepath="/elsewhere")
    other.save(slug.partition("/")[2], overwrite=True, _sync=True)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_block_is_made_for_a_path_and_stores_there(
    prefect_api: str, tmp_path: Path, scheme: str
) -> None:
    address = f"{scheme}{tmp_path}/results"

    slug = block_for(address)

    block = load_block(slug)
    assert isinstance(block, LocalFileSystem)
    block.write_path("job/a.txt", b"x", _sync=True)  # type: ignore[call-arg]
    assert open_storage(address).read("job/a.txt") == b"x"
    assert open_storage(slug).read("job/a.txt") == b"x"
    # as it is a minute later, where somebody has removed it or made another one of it
    for change in (_remove, _spoil):
        change(slug)
        storage_module._made_block.cache_clear()
        assert block_for(address) == slug
        assert load_block(slug).model_dump()["basepath"] == str(tmp_path / "results")


def test_a_block_is_made_for_a_url_and_stores_there(prefect_api: str) -> None:
    address = f"memory://results-{uuid.uuid4()}"

    block = load_block(block_for(address))

    assert isinstance(block, RemoteFileSystem)
    block.write_path("job/a.txt", b"x", _sync=True)  # type: ignore[call-arg]
    assert open_storage(address).read("job/a.txt") == b"x"


def test_a_block_that_is_not_there_is_a_configuration_error(prefect_api: str) -> None:
    for slug in ("local-file-system/absent", "no-such-type/absent"):
        with pytest.raises(ConfigurationError, match=f"no block {slug}"):
            open_storage(slug)
