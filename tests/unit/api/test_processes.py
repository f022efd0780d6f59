"""Processes over HTTP."""

from typing import Any

import pytest
from babel import Locale

from .conftest import FRAMEWORKS, URL, Service

pytestmark = pytest.mark.parametrize("service", FRAMEWORKS, indirect=True)


def test_pages_of_the_list_link_to_each_other(service: Service) -> None:
    first = service.send("GET", "/processes?limit=1").json
    (next_page,) = [link["href"] for link in first["links"] if link["rel"] == "next"]
    second = service.send("GET", next_page.removeprefix(URL)).json

    ids = [process["id"] for page in (first, second) for process in page["processes"]]
    assert ids == list(service.manager.processes)
    assert "next" not in [link["rel"] for link in second["links"]]


def test_a_summary_has_no_inputs_and_a_description_has(service: Service) -> None:
    summary = service.send("GET", "/processes").json["processes"][0]
    description = service.send("GET", f"/processes/{summary['id']}").json

    assert not {"inputs", "outputs", "example"} & summary.keys()
    assert {"inputs", "outputs"} <= description.keys()


def test_a_process_offers_the_modes_that_it_has_and_no_others(service: Service) -> None:
    resource: dict[str, Any] = {
        "type": "process",
        "processor": {"name": "HelloWorld", "job_control_options": ["sync-execute"]},
    }
    service.manager.processes["waiting"] = resource

    for _ in range(2):
        options = service.send("GET", "/processes/waiting").json["jobControlOptions"]
        assert options == ["sync-execute", "dismiss"]


def test_a_process_of_the_application_has_a_page(service: Service) -> None:
    service.manager.processes["late"] = {"type": "process", "processor": {"name": "HelloWorld"}}

    answer = service.send("GET", "/processes/late?f=html")

    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html")


def test_links_lead_to_a_process_with_any_name(service: Service) -> None:
    service.manager.processes["a&b c"] = {"type": "process", "processor": {"name": "HelloWorld"}}

    links = service.send("GET", "/processes").json["processes"][-1]["links"]
    hrefs = {link["rel"].rpartition("/")[2]: link["href"] for link in links}

    assert hrefs["execute"] == f"{URL}/processes/a%26b%20c/execution"
    assert hrefs["job-list"] == f"{URL}/jobs?processID=a%26b%20c"


def test_an_unknown_process_is_not_found(service: Service) -> None:
    answer = service.send("GET", "/processes/none")

    assert answer.status == 404
    assert answer.json["type"].endswith("/1.0/no-such-process")


def test_outputs_can_be_had_by_reference_where_the_author_says_nothing(service: Service) -> None:
    modes = service.send("GET", "/processes/table").json["outputTransmission"]

    assert modes == ["value", "reference"]


def test_an_answer_says_in_which_language_it_is_and_what_it_depends_on(service: Service) -> None:
    service.api.locales.append(Locale("fr"))
    for path, language in (
        ("/processes/table", "fr"),
        ("/processes", "fr"),
        ("/processes/table?f=html", "fr"),
        ("/jobs", "en-US"),
    ):
        answer = service.send("GET", path, headers={"Accept-Language": "fr"})
        assert answer.headers["Content-Language"] == language, path
        assert {"Accept", "Accept-Language"} <= set(answer.headers["Vary"].split(", "))


def test_the_landing_page_is_one_of_ours_and_leads_to_processes_and_jobs(service: Service) -> None:
    document = service.send("GET", "/").json
    relations = {link["rel"].rpartition("/")[2] for link in document["links"]}
    assert {"service-desc", "conformance", "processes", "job-list"} <= relations

    identification = service.api.config["metadata"]["identification"]
    identification |= {"title": {"en": "a < b"}, "description": "&lt; is <"}
    texts = service.send("GET", "/?f=json").json
    assert (texts["title"], texts["description"]) == ("a < b", "&lt; is <")
    assert "a < b" in [link.get("title") for link in texts["links"]]

    page = service.send("GET", "/?f=html")
    assert page.headers["Content-Type"] == "text/html"
    assert b'href="./processes?f=html"' in page.body
    assert b"/jobs?f=html" in page.body
    assert b"View the processes in this service" in page.body
    assert b"unpkg" not in page.body
    # without any, there are none to view
    service.manager.processes = {}
    assert b"View the processes in this service" not in service.send("GET", "/?f=html").body
