"""What is wrong with a storage, told from whatever its filesystem raised.

Filesystems of fsspec raise their own errors, those of the libraries below them, and those
of Python. Which ones is known by name here, since none of those libraries has to be
installed. What comes out is fit for clients: it names the storage and what is wrong with
it, and quotes nothing.
"""

import errno
from collections.abc import Iterator
from typing import Any, Final

from pygeoapi_prefect.errors import ResultMissing, StorageError, StorageUnavailable

# classes of botocore, aiohttp, requests and Python
_UNREACHABLE: Final = frozenset(
    {
        "ConnectionError",
        "HTTPClientError",
        "ClientConnectionError",
        "ClientOSError",
        "TimeoutError",
        "FSTimeoutError",
        "gaierror",
    }
)
_BROKEN_OFF: Final = frozenset(
    {"ClientPayloadError", "IncompleteRead", "IncompleteReadError", "ResponseStreamingError"}
)
_WITHOUT_CREDENTIALS: Final = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "CredentialRetrievalError"}
)

# error codes of S3
_NO_BUCKET: Final = frozenset({"NoSuchBucket", "InvalidBucketName"})
_CREDENTIALS_REFUSED: Final = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}
)
_BUSY: Final = frozenset(
    {"SlowDown", "ServiceUnavailable", "RequestTimeout", "InternalError", "500", "502", "503"}
)

CANNOT_BE_REACHED: Final = "cannot be reached"
NO_SUCH_BUCKET: Final = "has no such bucket"


def storage_error(error: Exception, doing: str, name: str) -> StorageError | ResultMissing:
    """Return our error for one of a filesystem.

    Args:
        error: What the filesystem raised.
        doing: What could not be done, in the past tense: ``written``.
        name: What the storage is called; see `storage_name`.
    """
    chain = [*_chain(error)]
    codes = {code for one in chain if (code := _s3_code(one))}
    if isinstance(error, FileNotFoundError) and not codes & _NO_BUCKET:
        return ResultMissing("the result storage has no such file")
    kind, problem = _diagnosis(error, chain, codes)
    return kind(f"a job's file could not be {doing}: the result storage {name} {problem}")


def is_broken_off(error: Exception) -> bool:
    """Tell whether a storage began to answer, and did not end: it may do so another time."""
    return any(_classes(one) & _BROKEN_OFF for one in _chain(error))


def _diagnosis(
    error: Exception, chain: list[BaseException], codes: set[str]
) -> tuple[type[StorageError], str]:
    classes = frozenset[str]().union(*map(_classes, chain))
    if codes & _NO_BUCKET:
        return StorageError, NO_SUCH_BUCKET
    if codes & _CREDENTIALS_REFUSED:
        return StorageError, "does not accept the credentials"
    if codes & _BUSY:
        return StorageUnavailable, "is overloaded"
    if classes & _WITHOUT_CREDENTIALS:
        return StorageError, "has no credentials: they are in its block, or in the environment"
    if isinstance(error, PermissionError):
        return StorageError, "refuses access"
    if isinstance(error, ImportError):
        return StorageError, "needs a Python package that is not installed"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError, "is full"
    if classes & (_UNREACHABLE | _BROKEN_OFF):
        return StorageUnavailable, CANNOT_BE_REACHED
    return StorageError, f"answered {type(error).__name__}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__ or one.__context__


def _classes(error: BaseException) -> frozenset[str]:
    return frozenset(kind.__name__ for kind in type(error).__mro__)


def _s3_code(error: BaseException) -> str | None:
    response: Any = getattr(error, "response", None)
    match response:
        case {"Error": {"Code": code}}:
            return str(code)
    return None
