"""The Prefect API as commands meet it."""

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from pygeoapi_prefect.errors import BackendUnavailable
from pygeoapi_prefect.prefect_api import api_url, require_api, shown


def test_it_must_be_configured() -> None:
    refusal = pytest.raises(BackendUnavailable, match="set PREFECT_API_URL")
    with temporary_settings({PREFECT_API_URL: None}), refusal:
        api_url()


def test_it_must_answer(deserted_host: str) -> None:
    url = f"http://{deserted_host}/api"
    with temporary_settings({PREFECT_API_URL: url}):
        assert api_url() == url
        with pytest.raises(BackendUnavailable, match=f"no Prefect API answers at {url}.*refused"):
            require_api()


@pytest.mark.parametrize("address", ["nonsense", "http://operator:merganser@{}/api"])
def test_a_refusal_says_where_and_nothing_of_who(address: str, deserted_host: str) -> None:
    url = address.format(deserted_host)
    with (
        temporary_settings({PREFECT_API_URL: url}),
        pytest.raises(BackendUnavailable, match="no Prefect API answers at") as refusal,
    ):
        require_api()

    assert shown(url) in refusal.value.detail
    assert "merganser" not in refusal.value.detail


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://prefect.example.org/api", "https://prefect.example.org/api"),
        ("https://me:se/cr@et@prefect.example.org/api", "https://prefect.example.org/api"),
        ("not configured", "not configured"),
    ],
)
def test_an_address_is_shown_without_credentials(url: str, expected: str) -> None:
    assert shown(url) == expected
