"""The tree of errors, and what pygeoapi makes of each."""

import json
import re
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import pytest
from flask.testing import FlaskClient
from pygeoapi.process.base import (
    JobNotFoundError,
    JobResultNotFoundError,
    ProcessorExecuteError,
    UnknownProcessError,
)
from werkzeug.test import TestResponse

from pygeoapi_prefect import errors
from pygeoapi_prefect.errors import (
    ExecutionError,
    JobNotFound,
    PygeoapiPrefectError,
    ResultUnavailable,
    UnknownProcess,
)
from pygeoapi_prefect.manager import PrefectManager
from pygeoapi_prefect.testing import InMemoryGateway

JSON_ACCEPTED = {"Accept": "application/json"}
HELLO = {"hello-world": "HelloWorld"}
MESSAGE = "the lake has no shore: see zone 3/4"


def tree(root: type[PygeoapiPrefectError] = PygeoapiPrefectError) -> Iterator[Any]:
    yield root
    for branch in root.__subclasses__():
        yield from tree(branch)


ALL = [error for error in tree() if error.__module__ == errors.__name__]
EXECUTION_ERRORS = [error for error in ALL if issubclass(error, ExecutionError)]


class FailingGateway(InMemoryGateway):
    """Raises one error whatever it is asked."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def _require_available(self) -> None:
        raise self.error


def answered(answer: TestResponse) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(answer.data)
    return body


@pytest.fixture
def failing_manager(
    make_manager: Callable[..., PrefectManager],
) -> Callable[[Exception], PrefectManager]:
    """Returns a function that makes a manager with which everything fails with one error."""

    def make(error: Exception) -> PrefectManager:
        manager = make_manager(HELLO)
        manager.gateway = FailingGateway(error)
        return manager

    return make


@pytest.fixture
def failing(
    failing_manager: Callable[[Exception], PrefectManager],
    client_of: Callable[[PrefectManager], FlaskClient],
) -> Callable[[Exception], FlaskClient]:
    return lambda error: client_of(failing_manager(error))


@pytest.fixture
def failing_stock(
    failing_manager: Callable[[Exception], PrefectManager],
    stock_client_of: Callable[[PrefectManager], FlaskClient],
) -> Callable[[Exception], FlaskClient]:
    return lambda error: stock_client_of(failing_manager(error))


def execute(client: FlaskClient) -> TestResponse:
    return client.post(
        "/processes/hello-world/execution",
        json={"inputs": {"name": "x"}},
        headers={"Prefer": "respond-async"},
    )


@pytest.mark.parametrize("error_class", EXECUTION_ERRORS)
def test_pygeoapi_answers_a_failed_execution_with_the_errors_status_and_words(
    error_class: type[ExecutionError], failing_stock: Callable[[Exception], FlaskClient]
) -> None:
    answer = execute(failing_stock(error_class(MESSAGE)))

    assert answer.status_code == error_class.http_status_code
    assert answered(answer)["type"] == error_class.ogc_exception_code
    assert answered(answer)["description"] == MESSAGE


@pytest.mark.parametrize("error_class", ALL)
@pytest.mark.parametrize(
    "request_to",
    [
        execute,
        lambda client: client.get("/jobs/a", headers=JSON_ACCEPTED),
        lambda client: client.get("/jobs/a/results", headers=JSON_ACCEPTED),
        lambda client: client.get("/jobs/a/results/result", headers=JSON_ACCEPTED),
        lambda client: client.delete("/jobs/a", headers=JSON_ACCEPTED),
    ],
    ids=["execution", "job", "results", "output", "dismiss"],
)
def test_each_error_is_answered_with_its_status_and_words(
    error_class: type[PygeoapiPrefectError],
    request_to: Callable[[FlaskClient], TestResponse],
    failing: Callable[[Exception], FlaskClient],
) -> None:
    answer = request_to(failing(error_class(MESSAGE)))

    problem = answered(answer)
    assert answer.status_code == problem["status"] == error_class.http_status_code
    assert problem["detail"] == MESSAGE
    code = error_class.ogc_exception_code
    assert problem["code"] == code.rpartition("/")[2]
    assert problem["type"] == (code if "://" in code else "about:blank")


@pytest.mark.parametrize("method", ["get", "delete"])
def test_for_pygeoapi_an_unknown_job_is_404_whatever_is_done_with_it(
    method: str, failing_stock: Callable[[Exception], FlaskClient]
) -> None:
    client = failing_stock(JobNotFound("there is no job a"))

    answer = client.open("/jobs/a", method=method, headers=JSON_ACCEPTED)

    assert answer.status_code == HTTPStatus.NOT_FOUND


@pytest.mark.parametrize("error_class", ALL)
def test_each_error_is_what_its_caller_in_pygeoapi_catches(error_class: type[Exception]) -> None:
    for ours, theirs in (
        (UnknownProcess, UnknownProcessError),
        (JobNotFound, JobNotFoundError),
        (ResultUnavailable, JobResultNotFoundError),
        (ExecutionError, ProcessorExecuteError),
    ):
        assert issubclass(error_class, theirs) is issubclass(error_class, ours)


@pytest.mark.parametrize("error_class", ALL)
def test_an_error_keeps_its_words(error_class: type[PygeoapiPrefectError]) -> None:
    error = error_class(MESSAGE)

    assert str(error) == MESSAGE
    assert error.detail == MESSAGE


def test_the_tree_in_the_documentation_is_the_tree_in_the_code() -> None:
    assert errors.__doc__
    drawn = re.findall(r"^    [│├└─ ]*(\w+)(?: .*?(\d{3}))?", errors.__doc__, re.MULTILINE)

    assert [name for name, _ in drawn] == [error.__name__ for error in ALL]
    for name, status in drawn:
        if status:
            assert getattr(errors, name).http_status_code == int(status)
