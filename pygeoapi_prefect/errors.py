"""Everything that can go wrong, as one tree.

::

    PygeoapiPrefectError
    ├─ ConfigurationError      (ValueError)              operator; start-up and commands
    ├─ StackError                                        operator; commands
    ├─ InvalidParameter                                  400
    ├─ UnknownProcess          (UnknownProcessError)     404
    ├─ JobNotFound             (JobNotFoundError)        404
    ├─ LogNotPublished                                   403
    ├─ UnsupportedMediaType                              415
    ├─ UnsupportedContentCoding                          415
    ├─ ResultUnavailable       (JobResultNotFoundError)
    │  ├─ ResultNotReady                                 404
    │  ├─ ResultMissing                                  404
    │  ├─ OutputsNotProduced                             500
    │  ├─ ResultUnreadable                               500
    │  ├─ JobFailed                                      500
    │  ├─ JobRefused                                     400
    │  └─ JobWasDismissed                                410
    └─ ExecutionError          (ProcessorExecuteError)   500
       ├─ InvalidRequest                                 400
       ├─ RequestTooLarge                                413
       ├─ DeploymentNotFound                             500
       ├─ BackendUnavailable                             503
       │  └─ BackendUnreachable                          503
       ├─ ServerBusy                                     503
       └─ StorageError                                   500
          └─ StorageUnavailable                          503

Each leaf also is the pygeoapi exception that its caller in pygeoapi's API layer
catches. HTTP status, header fields and OGC exception code are class attributes and
nowhere else.
Messages reach clients: they hold no path, address, credential or stack trace.
"""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import ClassVar, NamedTuple

from pygeoapi.process.base import (
    JobNotFoundError,
    JobResultNotFoundError,
    ProcessorExecuteError,
    UnknownProcessError,
)

from pygeoapi_prefect.media_types import JSON_MEDIA_TYPE

OGC_EXCEPTIONS = "http://www.opengis.net/def/exceptions/ogcapi-processes-1/1.0"


class PygeoapiPrefectError(Exception):
    """Base of all errors that this package raises on purpose."""

    http_status_code = HTTPStatus.INTERNAL_SERVER_ERROR
    ogc_exception_code = "NoApplicableCode"
    http_headers: ClassVar[Mapping[str, str]] = {}

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.detail = message


class ConfigurationError(PygeoapiPrefectError, ValueError):
    """The pygeoapi configuration cannot be used as it is."""


class StackError(PygeoapiPrefectError):
    """A server or worker cannot start here, or it ended unasked."""


class InvalidParameter(PygeoapiPrefectError):
    """A query parameter has a value that it cannot have."""

    http_status_code = HTTPStatus.BAD_REQUEST
    ogc_exception_code = "InvalidParameterValue"


class UnknownProcess(PygeoapiPrefectError, UnknownProcessError):
    """No process of that id is configured, or it disabled itself at start-up."""

    http_status_code = HTTPStatus.NOT_FOUND
    ogc_exception_code = f"{OGC_EXCEPTIONS}/no-such-process"


class JobNotFound(PygeoapiPrefectError, JobNotFoundError):
    """The Prefect server knows no job of that id."""

    http_status_code = HTTPStatus.NOT_FOUND
    ogc_exception_code = f"{OGC_EXCEPTIONS}/no-such-job"


class LogNotPublished(PygeoapiPrefectError):
    """The operator keeps the logs of jobs from clients."""

    http_status_code = HTTPStatus.FORBIDDEN


class UnsupportedMediaType(PygeoapiPrefectError):
    """The body of a request is not declared to be what it has to be."""

    http_status_code = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    http_headers: ClassVar = {"Accept": JSON_MEDIA_TYPE}


class UnsupportedContentCoding(PygeoapiPrefectError):
    """The body of a request is compressed, or packed in another way."""

    http_status_code = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    http_headers: ClassVar = {"Accept-Encoding": "identity"}


class ResultUnavailable(PygeoapiPrefectError, JobResultNotFoundError):
    """The job exists, but has no results to hand out."""

    http_status_code = HTTPStatus.NOT_FOUND


class ResultNotReady(ResultUnavailable):
    """The job has not ended yet."""

    ogc_exception_code = f"{OGC_EXCEPTIONS}/result-not-ready"


class ResultMissing(ResultUnavailable):
    """The job has ended, but the output asked for is not in the result storage."""

    ogc_exception_code = f"{OGC_EXCEPTIONS}/no-such-output"


class OutputsNotProduced(ResultUnavailable):
    """The job ended well, but its process has not made the outputs that were asked for."""

    http_status_code = HTTPStatus.INTERNAL_SERVER_ERROR


class ResultUnreadable(ResultUnavailable):
    """The flow stored its result in a form that this package does not read."""

    http_status_code = HTTPStatus.INTERNAL_SERVER_ERROR


class JobFailed(ResultUnavailable):
    """The job ended without success; the message says why."""

    http_status_code = HTTPStatus.INTERNAL_SERVER_ERROR


class JobRefused(ResultUnavailable):
    """The job failed for what the client sent, such as a link that could not be followed."""

    http_status_code = HTTPStatus.BAD_REQUEST
    ogc_exception_code = "InvalidParameterValue"


class JobWasDismissed(ResultUnavailable):
    """The job was dismissed: it has no results and will never have any."""

    http_status_code = HTTPStatus.GONE


class ExecutionError(PygeoapiPrefectError, ProcessorExecuteError):
    """An execute request could not be served."""

    def __init__(self, message: str) -> None:
        # pygeoapi shows `user_msg` to clients, and a generic text without it
        ProcessorExecuteError.__init__(self, message, user_msg=message)
        self.detail = message


class Flaw(NamedTuple):
    """One thing that is wrong with an execute request.

    Attributes:
        path: Names of the members that lead to it.
        reason: What is wrong there.
        text: The same as a part of a message, which says where too.
    """

    path: tuple[str, ...]
    reason: str
    text: str


class InvalidRequest(ExecutionError):
    """The execute request, or what it refers to, does not fit the process.

    Raised before there is a job; or by the flow of one, which fails with it.

    Attributes:
        flaws: What the message names, where it names several things.
    """

    http_status_code = HTTPStatus.BAD_REQUEST
    ogc_exception_code = "InvalidParameterValue"

    def __init__(self, message: str, flaws: Iterable[Flaw] = ()) -> None:
        super().__init__(message)
        self.flaws = (*flaws,)


class RequestTooLarge(ExecutionError):
    """The request, or something that it refers to, is over a configured limit."""

    http_status_code = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    ogc_exception_code = "InvalidParameterValue"


class DeploymentNotFound(ExecutionError):
    """The Prefect server has no deployment for the process."""


class BackendUnavailable(ExecutionError):
    """The Prefect API did not answer; the state of jobs is not known."""

    http_status_code = HTTPStatus.SERVICE_UNAVAILABLE


class BackendUnreachable(BackendUnavailable):
    """The Prefect API cannot have been asked at all: nothing has changed there."""


class ServerBusy(ExecutionError):
    """The web process runs as many jobs as it may, and the process has no other way to run."""

    http_status_code = HTTPStatus.SERVICE_UNAVAILABLE


class StorageError(ExecutionError):
    """The result storage refused or lost something."""


class StorageUnavailable(StorageError):
    """The result storage cannot be reached, or is overloaded."""

    http_status_code = HTTPStatus.SERVICE_UNAVAILABLE
