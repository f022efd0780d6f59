"""Pages about jobs, as our Flask application makes them, without a Prefect server."""

from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from flask.testing import FlaskClient
from prefect.states import Failed

from pygeoapi_prefect.api.job_pages import SHOWN_INPUTS_MAX_BYTES
from pygeoapi_prefect.manager import PrefectManager
from pygeoapi_prefect.schemas import RequestedProcessExecutionMode
from pygeoapi_prefect.storage import open_storage
from pygeoapi_prefect.testing import InMemoryGateway, run_job

HELLO = "hello-world"
PREFECT_UI = "https://prefect.example.org/"


@pytest.fixture
def manager(make_manager: Callable[..., PrefectManager]) -> PrefectManager:
    return make_manager(
        {HELLO: "HelloWorld"}, sync_through_deployments=True, prefect_ui_url=PREFECT_UI
    )


@pytest.fixture
def client(
    client_of: Callable[[PrefectManager], FlaskClient], manager: PrefectManager
) -> FlaskClient:
    return client_of(manager)


def submitted(manager: PrefectManager, name: str = "Ada") -> str:
    asynchronous = RequestedProcessExecutionMode.respond_async
    return manager.execute(HELLO, {"inputs": {"name": name}}, asynchronous).job_id


def finished(manager: PrefectManager, name: str = "Ada") -> str:
    job_id = submitted(manager, name)
    run_job(manager, manager.gateway.find(job_id))
    return job_id


def page(client: FlaskClient, path: str) -> str:
    response = client.get(path, query_string={"f": "html"})
    assert response.status_code == 200
    assert response.mimetype == "text/html"
    return response.text


def test_the_page_of_a_job_has_its_inputs_and_outputs(
    manager: PrefectManager, client: FlaskClient
) -> None:
    job_id = finished(manager)
    content = page(client, f"/jobs/{job_id}")

    assert "&#34;name&#34;: &#34;Ada&#34;" in content
    assert f'data-href="../jobs/{job_id}/results/echo"' in content
    assert 'data-ended="true"' in content
    assert client.get(f"/jobs/{job_id}/results/echo").status_code == 200


def test_the_page_of_a_job_links_to_its_flow_run(
    manager: PrefectManager, client: FlaskClient
) -> None:
    job_id = submitted(manager)
    flow_run_id = manager.gateway.find(job_id).flow_run_id

    assert f"{PREFECT_UI}runs/flow-run/{flow_run_id}" in page(client, f"/jobs/{job_id}")


def test_why_a_job_failed_is_shown_as_it_was_said(
    manager: PrefectManager, gateway: InMemoryGateway, client: FlaskClient
) -> None:
    job_id = submitted(manager)
    gateway.set_state(job_id, Failed(message="ValueError: 5 < 6 & <b>7</b>"))

    for path in (f"/jobs/{job_id}", "/jobs"):
        content = page(client, path)
        assert "ValueError: 5 &lt; 6 &amp; &lt;b&gt;7&lt;/b&gt;<" in content
        assert "&amp;lt;" not in content


def test_large_inputs_are_left_out(manager: PrefectManager, client: FlaskClient) -> None:
    job_id = submitted(manager, "x" * SHOWN_INPUTS_MAX_BYTES)
    content = page(client, f"/jobs/{job_id}")

    assert "xxx" not in content
    assert "too large to be shown" in content


def test_a_job_without_its_files_still_has_a_page(
    manager: PrefectManager, client: FlaskClient
) -> None:
    job_id = finished(manager)
    open_storage(manager.configuration.result_storage_address).delete(job_id)
    content = page(client, f"/jobs/{job_id}")

    assert "are not in the result storage" in content


def test_a_job_outlives_its_process(manager: PrefectManager, client: FlaskClient) -> None:
    job_id = finished(manager)
    del manager.processes[HELLO]

    assert job_id in page(client, f"/jobs/{job_id}")
    assert job_id in page(client, "/jobs")


def test_results_come_as_a_page_to_whom_asks_for_one(
    manager: PrefectManager, client: FlaskClient
) -> None:
    job_id = finished(manager)

    assert f'data-href="../../jobs/{job_id}/results/echo"' in page(
        client, f"/jobs/{job_id}/results"
    )
    assert client.get(f"/jobs/{job_id}/results").mimetype == "application/json"


def test_execution_answers_with_a_page_to_whom_asks_for_one(
    manager: PrefectManager, client: FlaskClient, gateway: InMemoryGateway
) -> None:
    gateway.worker = lambda job: run_job(manager, job)
    response = client.post(
        f"/processes/{HELLO}/execution",
        json={"inputs": {"name": "Ada"}},
        headers={"Accept": "text/html"},
    )

    assert (response.status_code, response.mimetype) == (200, "text/html")
    assert 'data-id="echo"' in response.text


def test_dismissing_answers_with_a_page_to_whom_asks_for_one(
    manager: PrefectManager, client: FlaskClient
) -> None:
    response = client.delete(f"/jobs/{finished(manager)}", headers={"Accept": "text/html"})

    assert (response.status_code, response.mimetype) == (200, "text/html")
    assert "removed" in response.text


def test_the_list_shows_what_it_is_filtered_by(
    manager: PrefectManager, client: FlaskClient
) -> None:
    job_id = finished(manager)
    query = "processID=hello-world&status=failed&datetime=2020-01-01/.."
    content = client.get(f"/jobs?f=html&{query}").text

    assert job_id not in content
    assert "No job fits the filter." in content
    assert '<option value="hello-world" selected>' in content
    assert 'value="failed" id="filter-failed" checked' in content
    assert 'value="2020-01-01/.."' in content


def test_pages_of_the_list_keep_the_filter(manager: PrefectManager, client: FlaskClient) -> None:
    for _ in range(3):
        finished(manager)
    content = client.get("/jobs?f=html&limit=1&offset=1&status=successful").text
    links = [line for line in content.splitlines() if 'rel="next" href="?' in line]

    assert links
    href = links[-1].partition('rel="next" href="')[2].partition('"')[0]
    query = urlsplit(href).query
    assert "status=successful" in query
    assert "offset=2" in query
