"""Files of jobs: requests, outputs and their list, in a storage block or at any fsspec URL.

Every job owns the folder ``<job id>/`` of the result storage. Web process and workers see
the same storage under the same address; nothing else is shared between them.

A file is there as a whole or not at all, whatever happens while it is written.
"""

import functools
import hashlib
import io
import logging
import os
import posixpath
import time
import urllib.parse
import uuid
from collections.abc import Buffer, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, BinaryIO, Final, Protocol, cast, override

import fsspec
import httpx
import pydantic
from fsspec.core import url_to_fs
from fsspec.utils import get_protocol
from prefect.blocks.core import Block
from prefect.exceptions import PrefectException
from prefect.filesystems import LocalFileSystem, RemoteFileSystem

from pygeoapi_prefect import s3
from pygeoapi_prefect.errors import (
    BackendUnavailable,
    ConfigurationError,
    ResultMissing,
    StorageError,
)
from pygeoapi_prefect.storage_address import check_address, is_block, storage_name
from pygeoapi_prefect.storage_faults import NO_SUCH_BUCKET, is_broken_off, storage_error

logger = logging.getLogger(__name__)

PRESIGNED_URL_SECONDS = 3600
CHUNK_BYTES = 2 * 1024**2
PART_BYTES: Final = 8 * 1024**2
"""What is held in memory of a file that is being written, and sent in one go. S3 takes
10 000 parts: 80 GiB."""
READ_PAUSES_SECONDS: Final = (0.1, 0.5)
"""Before a part of a file is read again, of which not all came."""
BLOCK_KEPT_SECONDS: Final = 60.0
_BLOCK_FIELDS: Final = {"basepath", "settings"}
_NO_PREFECT: Final = "the Prefect server cannot be reached; try again later"

_WITH_BUCKETS: Final = s3.PROTOCOLS | {"gs", "gcs", "abfs", "abfss", "az", "oci", "oss"}
"""Filesystems that have no folders, and on which a file appears when it is complete."""


class ResultStorage(Protocol):
    """Where jobs keep files. Keys are relative, with ``/`` between their parts.

    All methods raise `StorageError` when the storage refuses or cannot be reached.
    """

    def check(self) -> None:
        """Find out whether files can be stored, as far as a look can tell."""

    def write(self, key: str, content: bytes) -> None:
        """Store `content` under `key`, replacing what was there."""

    def create(self, key: str) -> AbstractContextManager[BinaryIO]:
        """Open for writing in pieces, of which few are in memory at once.

        When the ``with`` block is left, the file is there and replaces what was; when it is
        left by an exception, all is as it was before.
        """

    def read(self, key: str) -> bytes:
        """Return the whole content. Raises `ResultMissing`."""

    def open(self, key: str) -> BinaryIO:
        """Open for reading; the caller closes. Raises `ResultMissing`."""

    def chunks(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        """Return the bytes from `start` up to `stop`, in pieces of `CHUNK_BYTES` at most.

        Nothing is held open between two pieces. Raises `ResultMissing`.
        """

    def size(self, key: str) -> int:
        """Return the size in bytes. Raises `ResultMissing`."""

    def delete(self, folder: str) -> None:
        """Remove a folder and all in it; one that does not exist is no error."""

    def presigned_url(self, key: str, media_type: str) -> str | None:
        """Return an address from which a client may fetch the file for an hour, if there is one.

        Args:
            key: Of the file.
            media_type: As which it is sent, where the storage can be told so.
        """

    def key_of(self, location: str) -> str:
        """Return the key for a path or URL within the storage, as flows report it."""


class FsspecStorage(ResultStorage):
    """A result storage in a folder of any filesystem that fsspec knows.

    Args:
        url: Folder, as URL or absolute path.
        options: Options of the fsspec filesystem, such as credentials.
        written_as: The folder's path as flows may write it in front of locations.
        name: What errors call it; by default, what `storage_name` makes of the URL.
    """

    def __init__(
        self,
        url: str,
        options: dict[str, Any] | None = None,
        written_as: str | None = None,
        name: str | None = None,
    ) -> None:
        self._name = name or storage_name(url)
        self._filesystem: fsspec.AbstractFileSystem
        self._is_s3 = get_protocol(url) in s3.PROTOCOLS
        with self._translated("opened"):
            self._filesystem, self._root = url_to_fs(
                os.path.expanduser(url),
                **(s3.filesystem_options(options or {}) if self._is_s3 else options or {}),
            )
        if self._is_s3:
            # botocore has tried as often as it should
            cast(Any, self._filesystem).retries = 1
        protocol = self._filesystem.protocol
        self._has_buckets = not _WITH_BUCKETS.isdisjoint(
            [protocol] if isinstance(protocol, str) else protocol
        )
        self._root = self._root.rstrip("/")
        self._prefixes = [
            prefix.rstrip("/") + "/"
            for prefix in (
                written_as,
                url,
                self._root,
                self._filesystem.unstrip_protocol(self._root),
            )
            if prefix
        ]

    @override
    def check(self) -> None:
        if not self._has_buckets:
            return
        try:
            with self._translated("stored"):
                self._filesystem.info(self._root.partition("/")[0])
        except ResultMissing as error:
            raise StorageError(f"the result storage {self._name} {NO_SUCH_BUCKET}") from error
        except StorageError as error:
            # who may store files need not be allowed to look at the bucket
            if not isinstance(error.__cause__, PermissionError):
                raise

    @override
    def write(self, key: str, content: bytes) -> None:
        if not self._has_buckets:
            with self.create(key) as file:
                file.write(content)
            return
        path = self._path(key)
        with self._translated("written"):
            self._filesystem.pipe_file(path, content)

    @override
    def create(self, key: str) -> AbstractContextManager[BinaryIO]:
        path = self._path(key)
        return self._uploaded(path) if self._has_buckets else self._moved(path)

    @override
    def read(self, key: str) -> bytes:
        return self._cat(self._path(key))

    @override
    def open(self, key: str) -> BinaryIO:
        with self._translated("read"):
            return cast(BinaryIO, self._filesystem.open(self._path(key), "rb"))

    @override
    def chunks(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        path = self._path(key)
        for position in range(start, stop, CHUNK_BYTES):
            end = min(position + CHUNK_BYTES, stop)
            chunk = self._cat(path, start=position, end=end)
            if len(chunk) != end - position:
                raise StorageError("a job's file has become shorter while it was read")
            yield chunk

    @override
    def size(self, key: str) -> int:
        with self._translated("read"):
            info = self._filesystem.info(self._path(key))
        if info["type"] != "file":
            raise ResultMissing("the result storage has a folder there, and no file")
        return int(info["size"])

    @override
    def delete(self, folder: str) -> None:
        path = self._path(folder)
        with self._translated("deleted"):
            try:
                self._filesystem.rm(path, recursive=True)
            except FileNotFoundError:
                return
            # which refusals of single files are no errors for
            if self._has_buckets and self._filesystem.find(path):
                raise PermissionError

    @override
    def presigned_url(self, key: str, media_type: str) -> str | None:
        path = self._path(key)
        if self._is_s3:
            with self._translated("signed"):
                options = s3.signing_options(media_type)
                return str(self._filesystem.sign(path, PRESIGNED_URL_SECONDS, **options))
        try:
            return str(self._filesystem.sign(path, PRESIGNED_URL_SECONDS))
        except NotImplementedError:
            return None
        except Exception as error:  # which others can, with credentials of some kinds
            _warn_unsigned(self._name, type(error).__name__)
            return None

    @override
    def key_of(self, location: str) -> str:
        for prefix in self._prefixes:
            if location.startswith(prefix):
                return _checked_key(location.removeprefix(prefix))
        if "://" in location or os.path.isabs(location):
            raise StorageError("an output was stored outside the result storage")
        return _checked_key(location)

    def _path(self, key: str) -> str:
        return f"{self._root}/{_checked_key(key)}"

    def _cat(self, path: str, **part: int) -> bytes:
        for pause_seconds in READ_PAUSES_SECONDS:
            with self._translated("read"):
                try:
                    return cast(bytes, self._filesystem.cat_file(path, **part))
                except Exception as error:
                    if not is_broken_off(error):
                        raise
            time.sleep(pause_seconds)
        with self._translated("read"):
            return cast(bytes, self._filesystem.cat_file(path, **part))

    @contextmanager
    def _uploaded(self, path: str) -> Iterator[BinaryIO]:
        """Write where a file appears when its upload is completed."""
        with self._translated("written"):
            file = self._filesystem.open(path, "wb", block_size=PART_BYTES)
        try:
            yield cast(BinaryIO, _Pieces(self, file))
            with self._translated("written"):
                file.close()
        except BaseException:
            # its own ``with`` block would complete the upload
            try:
                file.discard()
            except Exception as error:
                logger.warning("parts of %s are left in the storage: %r", path, error)
            file.closed = True
            raise

    @contextmanager
    def _moved(self, path: str) -> Iterator[BinaryIO]:
        """Write where a file is seen while it grows: elsewhere first."""
        folder = posixpath.dirname(path)
        partial = f"{folder}/.{uuid.uuid4().hex}.part"
        try:
            with self._translated("written"):
                self._filesystem.makedirs(folder, exist_ok=True)
                file = self._filesystem.open(partial, "wb")
            with file:
                yield cast(BinaryIO, _Pieces(self, file))
                with self._translated("written"):
                    file.flush()
            with self._translated("written"):
                self._filesystem.mv(partial, path)
        except BaseException:
            with suppress(Exception):
                self._filesystem.rm_file(partial)
            raise

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        """Raise our errors for those of fsspec and the storage behind it, which can be anything."""
        try:
            yield
        except (ResultMissing, StorageError):
            raise
        except Exception as error:
            raise storage_error(error, doing, self._name) from error


@functools.lru_cache(maxsize=64)
def _warn_unsigned(storage: str, reason: str) -> None:
    logger.warning(
        "the result storage %s signs no addresses (%s): clients get those of this server",
        storage,
        reason,
    )


class _Pieces(io.RawIOBase):
    """What writes to a file of a storage, and raises our errors."""

    def __init__(self, storage: FsspecStorage, file: Any) -> None:
        self._storage = storage
        self._file = file

    @override
    def writable(self) -> bool:
        return True

    @override
    def write(self, data: Buffer, /) -> int:
        with self._storage._translated("written"):  # noqa: SLF001 - a part of it
            self._file.write(data)
        return memoryview(data).nbytes

    @override
    def tell(self) -> int:
        return int(self._file.tell())


class StoredContent:
    """A file of the result storage, of which any part can be read without the rest."""

    def __init__(self, storage: ResultStorage, key: str) -> None:
        self._storage = storage
        self._key = key

    @functools.cached_property
    def size(self) -> int:
        """Length in bytes."""
        return self._storage.size(self._key)

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        """Return the bytes from `start` up to `stop`, in pieces."""
        return self._storage.chunks(self._key, start, stop)


def open_storage(address: str) -> ResultStorage:
    """Open the result storage at a block (``type-slug/name``), URL or absolute path.

    A block is as it was within the last minute; see `recent_block`.

    Raises:
        ConfigurationError: There is no such block, it is of a type that stores no files, or
            the URL holds a secret.
        BackendUnavailable: The Prefect server does not answer.
        StorageError: No installed filesystem opens the URL.
    """
    if is_block(address):
        return storage_of_block(recent_block(address), address)
    try:
        return FsspecStorage(check_address(address))
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


def storage_of_block(block: Block, slug: str | None = None) -> ResultStorage:
    """Return the result storage that a block describes.

    Args:
        block: The block.
        slug: ``type-slug/name``, for errors.

    Raises:
        ConfigurationError: The block is of a type that stores no files.
    """
    if block.get_block_type_slug() == s3.BUCKET_BLOCK:
        url, options = s3.url_of_bucket(block), s3.options_of_bucket(block)
        return FsspecStorage(url, options, written_as=_folder_in_bucket(url), name=slug)
    match block:
        case LocalFileSystem():
            folder = block.basepath or "."
            return FsspecStorage(
                os.path.realpath(os.path.expanduser(folder)), written_as=block.basepath, name=slug
            )
        case RemoteFileSystem():
            return FsspecStorage(block.basepath, options=block.settings, name=slug)
        case _:
            raise ConfigurationError(
                f"a block of the type {block.get_block_type_slug()} cannot be a result storage: "
                "use one of the type local-file-system, remote-file-system or s3-bucket, or a URL"
            )


def _folder_in_bucket(url: str) -> str | None:
    return urllib.parse.urlsplit(url).path.strip("/") or None


def load_block(address: str | uuid.UUID) -> Block:
    """Load a block document by ``type-slug/name``, or by its id.

    Raises:
        ConfigurationError: The Prefect server has no such block, or it cannot be used.
        BackendUnavailable: The Prefect server does not answer.
    """
    load: Any = Block.load_from_ref if isinstance(address, uuid.UUID) else Block.load
    try:
        # also below async flows, where it would be a coroutine; its type does not tell `_sync`
        return cast(Block, load(address, _sync=True))
    except pydantic.ValidationError as error:
        # its text quotes what is in the block
        fields = ", ".join(str(one["loc"][0]) for one in error.errors() if one["loc"])
        raise ConfigurationError(f"the block {address} cannot be used: see {fields}") from None
    except ValueError as error:
        raise ConfigurationError(
            f"Prefect has no block {address}: create it, or run `pygeoapi-prefect deploy` if it "
            "is one of ours"
        ) from error
    except (httpx.HTTPError, PrefectException) as error:
        raise BackendUnavailable(_NO_PREFECT) from error


def block_for(address: str) -> str:
    """Return the slug of a block that stores at `address`, made or renewed where it is none yet.

    Flows are handed a block whatever the operator configured, for a block is what they load.

    Raises:
        BackendUnavailable: The Prefect server does not answer.
    """
    if is_block(address):
        return address
    block = recent_block(address)
    return f"{block.get_block_type_slug()}/{_made_name(address)}"


def recent_block(address: str) -> Block:
    """Return the block that stores at an address, as it was within the last minute.

    Raises as `load_block` does.
    """
    period = int(time.monotonic() // BLOCK_KEPT_SECONDS)
    return _loaded_block(address, period) if is_block(address) else _made_block(address, period)


@functools.lru_cache(maxsize=64)
def _loaded_block(address: str, _period: int) -> Block:
    return load_block(address)


@functools.lru_cache(maxsize=64)
def _made_block(address: str, _period: int) -> Block:
    """Return our block for an address, made anew if it is gone or has become another one."""
    block = _block_at(address)
    name = _made_name(address)
    with suppress(ConfigurationError):
        there = load_block(f"{block.get_block_type_slug()}/{name}")
        if there.model_dump(include=_BLOCK_FIELDS) == block.model_dump(include=_BLOCK_FIELDS):
            return there
    save: Any = block.save  # the type of which does not tell `_sync`
    try:
        save(name, overwrite=True, _sync=True)
    except (httpx.HTTPError, PrefectException) as error:
        raise BackendUnavailable(_NO_PREFECT) from error
    return block


def _block_at(address: str) -> Block:
    if "://" in address and not address.startswith("file://"):
        is_s3 = get_protocol(address) in s3.PROTOCOLS
        settings = s3.filesystem_options({}) if is_s3 else {}
        return RemoteFileSystem(basepath=address, settings=settings)
    return LocalFileSystem(basepath=address.removeprefix("file://"))


def _made_name(address: str) -> str:
    return f"pygeoapi-results-{hashlib.sha256(address.encode()).hexdigest()[:8]}"


def _checked_key(key: str) -> str:
    parts = key.split("/")
    if not key or ".." in parts or "" in parts or "\x00" in key or os.path.isabs(key):
        raise StorageError("a job's file has an invalid name")
    return key
