"""Parameters, preferences and negotiation, as both frameworks hand requests over."""

import datetime as dt
from typing import Any

import pytest
from babel import Locale

from pygeoapi_prefect.api.request import LIMIT_MAX, Preferences, Request
from pygeoapi_prefect.errors import InvalidParameter
from pygeoapi_prefect.schemas import ReturnPreference

from .conftest import FRAMEWORKS, make_request

LOCALES = [Locale("en", "US")]


@pytest.fixture(params=FRAMEWORKS)
def request_of(request: pytest.FixtureRequest) -> Any:
    """Returns a function that makes a request of a path, with header fields."""

    def make(path: str, *headers: tuple[str, str]) -> Request:
        return make_request(request.param, LOCALES, path, headers=headers)

    return make


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("", Preferences()),
        ("respond-async", Preferences(respond_async=True)),
        ("RESPOND-ASYNC , Wait=10", Preferences(respond_async=True, wait_seconds=10)),
        ('wait="5"', Preferences(wait_seconds=5)),
        ("wait", Preferences()),
        ("wait=", Preferences()),
        ("wait=soon", Preferences()),
        ("wait=-1", Preferences()),
        ("wait=3, wait=9", Preferences(wait_seconds=3)),
        ("wait=soon, wait=9", Preferences()),
        ('respond-async=""', Preferences(respond_async=True)),
        ("respond-async=no", Preferences()),
        ("return=minimal", Preferences(returns=ReturnPreference.minimal)),
        (
            "return=representation; foo=1, handling=lenient",
            Preferences(returns=ReturnPreference.representation),
        ),
        ("return=everything", Preferences()),
        ('comment="respond-async, wait=1"', Preferences()),
        (";,=,,", Preferences()),
    ],
)
def test_preferences_are_read_as_rfc_7240_has_them(fields: str, expected: Preferences) -> None:
    assert Preferences.of(fields) == expected


def test_preferences_may_stand_on_several_lines(request_of: Any) -> None:
    request = request_of("/jobs", ("Prefer", "respond-async"), ("Prefer", "wait=1"))

    assert request.preferences() == Preferences(respond_async=True, wait_seconds=1)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/jobs?processID=a&processID=b,c", ["a", "b", "c"]),
        ("/jobs?processID=a,%20b%20,,", ["a", "b"]),
        ("/jobs?processID=", []),
        ("/jobs", []),
    ],
)
def test_lists_are_repeated_or_separated_by_commas(
    request_of: Any, path: str, expected: list[str]
) -> None:
    assert request_of(path).strings("processID") == expected


def test_of_a_parameter_that_is_one_the_first_counts(request_of: Any) -> None:
    request = request_of("/jobs?limit=1&limit=2&f=html&f=json")
    assert (request.limit(None), request.format) == (1, "html")


@pytest.mark.parametrize(("limit", "expected"), [("1", 1), ("10000", 10_000), ("99999", LIMIT_MAX)])
def test_a_limit_over_the_maximum_is_the_maximum(
    request_of: Any, limit: str, expected: int
) -> None:
    assert request_of(f"/jobs?limit={limit}").limit(None) == expected


def test_the_configuration_has_limits_of_its_own(request_of: Any) -> None:
    limits = {"default_items": 7, "max_items": 20}

    assert request_of("/jobs").limit(limits) == 7
    assert request_of("/jobs?limit=100").limit(limits) == 20
    assert request_of("/jobs").limit(None) == 10


@pytest.mark.parametrize("limit", ["0", "-1", "1.5", "", "ten", "٣", "9" * 200, "%00"])
def test_a_limit_that_is_none_is_refused(request_of: Any, limit: str) -> None:
    with pytest.raises(InvalidParameter, match="limit"):
        request_of(f"/jobs?limit={limit}").limit(None)


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "1e3", "", "one", "5,one", ","])
def test_a_duration_that_is_none_is_refused(request_of: Any, text: str) -> None:
    with pytest.raises(InvalidParameter, match="minDuration"):
        request_of(f"/jobs?minDuration={text}").durations("minDuration")


@pytest.mark.parametrize(
    ("query", "expected"),
    [("", []), ("d=5", [5]), ("d=5,10", [5, 10]), ("d=5&d=10.5", [5, 10.5])],
)
def test_durations_are_one_or_several(request_of: Any, query: str, expected: list[float]) -> None:
    assert request_of(f"/jobs?{query}").durations("d") == expected


def moment(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("2030-01-02T03:04:05Z/..", "2030-01-02T03:04:05+00:00", None),
        ("2030-01-02T03:04:05Z/", "2030-01-02T03:04:05+00:00", None),
        ("../2030-01-02T05:04:05%2B02:00", None, "2030-01-02T03:04:05.000999+00:00"),
        ("/2030-01-02t03:04:05z", None, "2030-01-02T03:04:05.000999+00:00"),
        (
            "2030-01-02T03:04:05.678Z",
            "2030-01-02T03:04:05.678+00:00",
            "2030-01-02T03:04:05.678999+00:00",
        ),
        (
            "2030-01-02/2030-01-03",
            "2030-01-02T00:00:00+00:00",
            "2030-01-03T23:59:59.999999+00:00",
        ),
    ],
)
def test_a_time_is_a_moment_a_day_or_an_interval(
    request_of: Any, text: str, first: str | None, last: str | None
) -> None:
    interval = request_of(f"/jobs?datetime={text}").interval("datetime")

    assert interval == (first and moment(first), last and moment(last))


def test_no_time_is_any_time(request_of: Any) -> None:
    assert request_of("/jobs").interval("datetime") == (None, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "..",
        "../..",
        "/",
        "yesterday",
        "2030-13-01T00:00:00Z",
        "2030-01-02T03:04:05",
        "20300102T030405Z",
        "2030-01-02T03:04:05Z/2030-01-01T00:00:00Z",
        "2030-01-02/2030-01-03/2030-01-04",
        "9999-12-31T23:59:59-23:59",
        "0001-01-01T00:00:00%2B23:59",
        "9999-12-31T23:59:59.999999Z",
    ],
)
def test_a_time_that_is_none_is_refused(request_of: Any, text: str) -> None:
    with pytest.raises(InvalidParameter, match="datetime"):
        request_of(f"/jobs?datetime={text}").interval("datetime")


@pytest.mark.parametrize(
    ("path", "accept", "wants_html"),
    [
        ("/jobs", "", False),
        ("/jobs", "*/*", False),
        ("/jobs", "application/json", False),
        ("/jobs", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", True),
        ("/jobs", "text/html;q=0.4, application/json;q=0.5", False),
        ("/jobs", "text/html;q=0", False),
        ("/jobs", "image/png, text/html;q=0.5", True),
        ("/jobs", "text/html;q=nonsense, application/json", False),
        ("/jobs?f=html", "application/json", True),
        ("/jobs?f=json", "text/html", False),
    ],
)
def test_browsers_get_pages_and_all_others_json(
    request_of: Any, path: str, accept: str, wants_html: bool
) -> None:
    assert request_of(path, ("Accept", accept)).wants_html is wants_html


@pytest.mark.parametrize("language", ["en;q=0", "de;q=1.2.3", "*", ";;;", "xx-YY"])
def test_no_language_is_too_odd(request_of: Any, language: str) -> None:
    assert request_of("/jobs", ("Accept-Language", language)).locale == LOCALES[0]
