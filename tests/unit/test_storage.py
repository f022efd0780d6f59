"""Keys and locations that must not lead out of the result storage, and addresses."""

import errno
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from prefect.blocks.core import Block
from prefect.filesystems import SMB, LocalFileSystem, RemoteFileSystem
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from pygeoapi_prefect import storage as storage_module
from pygeoapi_prefect.errors import (
    BackendUnavailable,
    ConfigurationError,
    ResultMissing,
    StorageError,
)
from pygeoapi_prefect.storage import FsspecStorage, block_for, load_block, open_storage

OUTSIDE_KEYS = [
    "",
    "/",
    "..",
    "../x",
    "a/../../x",
    "a/..",
    "/etc/passwd",
    "a//b",
    "a/",
    "a\x00b",
]


@pytest.fixture
def inside(tmp_path: Path) -> FsspecStorage:
    (tmp_path / "secret.txt").write_text("secret")
    return FsspecStorage(str(tmp_path / "results"))


@pytest.mark.parametrize("key", OUTSIDE_KEYS)
@pytest.mark.parametrize(
    "use",
    [
        lambda storage, key: storage.read(key),
        lambda storage, key: storage.write(key, b"x"),
        lambda storage, key: storage.open(key),
        lambda storage, key: storage.size(key),
        lambda storage, key: storage.delete(key),
        lambda storage, key: storage.presigned_url(key, "text/plain"),
        lambda storage, key: storage.key_of(key),
    ],
    ids=["read", "write", "open", "size", "delete", "presigned_url", "key_of"],
)
def test_no_key_leads_out_of_the_storage(
    inside: FsspecStorage, tmp_path: Path, key: str, use: Callable[[FsspecStorage, str], Any]
) -> None:
    with pytest.raises(StorageError):
        use(inside, key)

    assert sorted(os.listdir(tmp_path)) in (["secret.txt"], ["results", "secret.txt"])


def test_dots_in_a_name_are_no_way_out(inside: FsspecStorage) -> None:
    inside.write("a/..b..c", b"x")

    assert inside.read("a/..b..c") == b"x"


def test_each_form_of_a_location_leads_to_the_same_key(tmp_path: Path) -> None:
    root = tmp_path / "results"
    storage = FsspecStorage(str(root), written_as="~/results")

    for location in (
        "job/x.txt",
        f"{root}/job/x.txt",
        f"file://{root}/job/x.txt",
        "~/results/job/x.txt",
    ):
        assert storage.key_of(location) == "job/x.txt"


@pytest.mark.parametrize(
    "location",
    [
        "/etc/passwd",
        "file:///etc/passwd",
        "s3://other/job/x.txt",
        "memory://results-of-others/x",
        "memory://results/../x",
        "memory://results/job/../../x",
        "memory://results/",
        "memory://results",
    ],
)
def test_a_location_outside_the_storage_is_refused(location: str) -> None:
    with pytest.raises(StorageError):
        FsspecStorage("memory://results").key_of(location)


def test_a_neighbour_whose_name_begins_alike_is_outside(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        FsspecStorage(str(tmp_path / "results")).key_of(f"{tmp_path}/results2/x")


class RefusingFileSystem(MemoryFileSystem):
    protocol = "refusing"

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise PermissionError("AKIASECRET may not touch s3://bucket/private")

    pipe_file = cat_file = info = rm = sign = _open = _refuse


@pytest.fixture
def refusing() -> FsspecStorage:
    fsspec.register_implementation("refusing", RefusingFileSystem, clobber=True)
    return FsspecStorage("refusing://bucket/private")


@pytest.mark.parametrize(
    "use",
    [
        lambda storage: storage.read("a/b"),
        lambda storage: storage.write("a/b", b"x"),
        lambda storage: storage.open("a/b"),
        lambda storage: storage.size("a/b"),
        lambda storage: storage.delete("a"),
    ],
    ids=["read", "write", "open", "size", "delete"],
)
def test_a_storage_that_refuses_is_an_error_that_tells_clients_nothing(
    refusing: FsspecStorage, use: Callable[[FsspecStorage], Any]
) -> None:
    with pytest.raises(StorageError) as raised:
        use(refusing)

    assert str(raised.value).endswith("the result storage refusing://bucket refuses access")
    assert isinstance(raised.value.__cause__, PermissionError)


def test_a_storage_that_cannot_sign_leaves_it_to_this_server_and_says_so_once(
    refusing: FsspecStorage, caplog: pytest.LogCaptureFixture
) -> None:
    for key in ("a/b", "a/c"):
        assert refusing.presigned_url(key, "text/plain") is None

    assert caplog.messages == [
        "the result storage refusing://bucket signs no addresses (PermissionError): clients get "
        "those of this server"
    ]


def test_a_url_that_nothing_opens_is_an_error() -> None:
    with pytest.raises(StorageError, match="could not be opened"):
        FsspecStorage("no-such-scheme://x")


def test_a_block_is_given_to_flows_as_it_is() -> None:
    assert block_for("local-file-system/results") == "local-file-system/results"


def test_a_block_that_cannot_be_made_is_an_error_that_says_so(deserted_host: str) -> None:
    url = f"http://{deserted_host}/api"
    with (
        temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}),
        pytest.raises(BackendUnavailable, match="try again later"),
    ):
        block_for("memory://nowhere")


def test_a_block_is_read_once_for_all_that_a_request_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def load(address: str) -> LocalFileSystem:
        read.append(address)
        return LocalFileSystem(basepath=str(tmp_path))

    monkeypatch.setattr(storage_module, "load_block", load)
    for _ in range(3):
        open_storage("local-file-system/x").write("job/a.txt", b"1")

    # twice where a minute ends between them
    assert 1 <= len(read) <= 2


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands in for the block documents of a Prefect server, by slug."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(storage_module, "load_block", found.__getitem__)
    return found


def test_a_local_block_is_opened_at_its_folder(tmp_path: Path, blocks: dict[str, Any]) -> None:
    blocks["local-file-system/x"] = LocalFileSystem(basepath=str(tmp_path))

    open_storage("local-file-system/x").write("job/a.txt", b"1")

    assert (tmp_path / "job" / "a.txt").read_bytes() == b"1"


def test_locations_are_read_as_a_local_block_writes_them(
    tmp_path: Path, blocks: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "link"
    (tmp_path / "real").mkdir()
    link.symlink_to(tmp_path / "real")
    blocks["local-file-system/x"] = block = LocalFileSystem(basepath=str(link))
    storage = open_storage("local-file-system/x")
    storage.write("job/a.txt", b"1")

    assert storage.key_of(f"{block.basepath}/job/a.txt") == "job/a.txt"
    assert storage.key_of(str(tmp_path / "real" / "job" / "a.txt")) == "job/a.txt"


def test_a_block_that_stores_no_folders_is_a_configuration_error(blocks: dict[str, Any]) -> None:
    blocks["smb/x"] = SMB(share_path="/share", smb_host="host")

    with pytest.raises(ConfigurationError, match=r"smb.* cannot be a result storage"):
        open_storage("smb/x")


def test_what_is_missing_is_told_from_what_cannot_be_read(inside: FsspecStorage) -> None:
    inside.write("a/b", b"x")

    for use in (inside.read, inside.open, inside.size):
        with pytest.raises(ResultMissing):
            use("a/c")


def test_a_url_with_a_secret_is_refused_and_not_quoted() -> None:
    with pytest.raises(ConfigurationError, match="no password") as error:
        open_storage("s3://key:merganser@bucket/x")

    assert "merganser" not in str(error.value)


def test_the_secrets_of_a_block_that_cannot_be_used_are_not_quoted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(*_: object, **__: object) -> RemoteFileSystem:
        return RemoteFileSystem(basepath="no-url?key=merganser", settings={"secret": "merganser"})

    monkeypatch.setattr(Block, "load", load)

    with pytest.raises(ConfigurationError, match="cannot be used: see basepath") as error:
        load_block("remote-file-system/x")

    assert "merganser" not in "".join(traceback.format_exception(error.value))


def test_a_block_without_its_package_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)

    with pytest.raises(StorageError, match="gs://bucket needs a Python package"):
        open_storage("gs://bucket/x")


class Interrupted(MemoryFileSystem):
    """A filesystem on which moving a file fails."""

    protocol = "interrupted"

    def mv(self, *_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_that_cannot_be_moved_into_place_is_not_there() -> None:
    fsspec.register_implementation("interrupted", Interrupted, clobber=True)
    storage = FsspecStorage("interrupted://folder")

    with pytest.raises(StorageError, match="the result storage interrupted://folder is full"):
        storage.write("job/a", b"x")

    with pytest.raises(ResultMissing):
        storage.size("job/a")


def test_nothing_is_left_of_a_file_that_was_not_finished(tmp_path: Path) -> None:
    storage = FsspecStorage(str(tmp_path))

    with suppress(ZeroDivisionError), storage.create("job/a") as file:
        file.write(b"x")
        assert not (tmp_path / "job" / "a").exists()
        raise ZeroDivisionError

    assert list((tmp_path / "job").iterdir()) == []


def test_a_disk_that_refuses_is_named_without_its_folder(tmp_path: Path) -> None:
    (tmp_path / "job").write_text("a file where a folder should be")

    with pytest.raises(StorageError, match="the result storage on disk") as error:
        FsspecStorage(str(tmp_path)).write("job/a", b"x")

    assert str(tmp_path) not in str(error.value)
