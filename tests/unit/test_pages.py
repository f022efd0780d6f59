import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from babel import Locale
from pygeoapi.api import API

from pygeoapi_prefect.api.pages import TEMPLATES, duration, render
from pygeoapi_prefect.api.request import Request

STATIC = TEMPLATES.parent / "static"
SCRIPT = "</script><script>alert(1)</script>"
STATUS = {"jobID": "j1", "processID": "p", "status": "failed", "message": SCRIPT, "progress": 0}
JOB: dict[str, Any] = {
    "jobs": STATUS,
    "now": "2030-01-01T00:00:00Z",
    "inputs": SCRIPT,
    "process_title": SCRIPT,
    "has_ended": True,
    "prefect_run_url": None,
    "outputs": [],
    "outputs_problem": None,
}


def api_of(templates: Path | None = None, url: str = "http://localhost:5000") -> API:
    """What pages need of pygeoapi's API."""
    server = {"url": url, "encoding": "utf-8", "icon": "", "logo": "", "admin": False}
    if templates is not None:
        server["templates"] = {"path": str(templates)}
    identification = {"title": "Title", "description": "", "keywords": []}
    config = {
        "server": server,
        "metadata": {"identification": identification, "contact": {"email": "a@example.org"}},
    }
    return cast(API, SimpleNamespace(config=config, tpl_config=config, base_url=url))


def page(
    template: str, data: Mapping[str, Any], api: API | None = None, path: str = "/jobs/j1"
) -> tuple[str, dict[str, str]]:
    request = cast(Request, SimpleNamespace(locale=Locale("en"), path=path))
    return render(api or api_of(), request, template, data)


def test_pages_name_no_other_server() -> None:
    content, _ = page("jobs/job.html", JOB)

    loaded = re.findall(r'(?:src|<link[^>]*href)="([^"]*)"', content)
    assert loaded
    assert [address for address in loaded if "://" in address] == []


def test_what_pages_load_is_there() -> None:
    content, _ = page("jobs/job.html", JOB)

    ours = re.findall(r'(?:src|href)="\.\./pygeoapi-prefect/([^"]*)"', content)
    assert len(ours) >= 3
    assert [name for name in ours if not (STATIC / name).is_file()] == []


def test_scripts_import_only_what_is_there() -> None:
    imported = {
        name
        for script in STATIC.glob("*.js")
        for name in re.findall(r'from "\./(.+?)"', script.read_text(encoding="utf-8"))
    }

    assert imported
    assert {name for name in imported if not (STATIC / name).is_file()} == set()


def test_scripts_make_no_markup_of_data() -> None:
    for script in STATIC.glob("*.js"):
        text = script.read_text(encoding="utf-8")
        assert (
            re.search(r"innerHTML\s*=[^=]|insertAdjacentHTML|document\.write|eval\(", text) is None
        )


def test_texts_of_scripts_can_be_translated() -> None:
    listed = set(re.findall(r'gettext\("(.+?)"\)', (TEMPLATES / "_script.html").read_text()))

    used = {
        text
        for script in STATIC.glob("*.js")
        for text in re.findall(r'\bt\("(.+?)"', script.read_text(encoding="utf-8"))
    }
    assert used
    assert used - listed == set()


def test_hostile_text_stays_text() -> None:
    content, headers = page("jobs/job.html", JOB)

    assert "<script>alert" not in content
    assert "script-src 'self';" in headers["Content-Security-Policy"]


def test_a_description_stands_in_its_page_as_data() -> None:
    description = {
        "id": "p",
        "title": SCRIPT,
        "version": "1",
        "jobControlOptions": ["sync-execute"],
        "outputTransmission": ["value"],
        "inputs": {"z": {"schema": {}, "title": SCRIPT}, "a": {"schema": {}}},
        "outputs": {},
        "links": [],
    }
    content, _ = page("processes/process.html", description, path="/processes/p")

    assert "<script>alert" not in content
    data = content.partition('id="process-description">')[2].partition("</script>")[0]
    assert data.index('"z"') < data.index('"a"')  # as the author has them


def test_the_templates_of_the_operator_come_first(tmp_path: Path) -> None:
    blocks = "{% block extrahead %}{% endblock %}{% block body %}{% endblock %}"
    (tmp_path / "_base.html").write_text(f"theirs {blocks}")
    content, headers = page("jobs/job.html", JOB, api_of(tmp_path))

    assert content.startswith("theirs")
    assert 'id="progress"' in content  # the rest is ours
    assert "pygeoapi-prefect/pages.css" in content
    assert headers == {}  # what their scripts may do is theirs to say


def test_templates_that_replace_none_of_ours_change_no_policy(tmp_path: Path) -> None:
    (tmp_path / "landing_page.html").write_text("theirs")

    assert page("jobs/job.html", JOB, api_of(tmp_path))[1]


def test_pages_that_only_pygeoapi_has_are_in_our_frame() -> None:
    content, _ = page("conformance.html", {"conformsTo": ["http://example.org/conf"]})

    assert "http://example.org/conf" in content
    assert "pygeoapi-prefect/frame.css" in content


@pytest.mark.parametrize(
    ("path", "root"), [("/jobs", "./"), ("/jobs/", "../"), ("/jobs/j1/logs", "../../")]
)
def test_addresses_are_relative_to_the_page(path: str, root: str) -> None:
    content, _ = page("jobs/job.html", JOB, path=path)

    assert f'href="{root}pygeoapi-prefect/pages.css"' in content


def test_an_api_below_a_path_is_found_there() -> None:
    api = api_of()
    api.base_url = "http://localhost:5000/v1"
    content, _ = page("jobs/job.html", JOB, api, path="/v1/jobs/j1")

    assert 'href="../../v1/pygeoapi-prefect/pages.css"' in content
    assert 'href="../../static/css/default.css"' in content


@pytest.mark.parametrize(
    ("end", "text"),
    [("00:00:02.540", "2.5 s"), ("00:02:03.000", "2 min 3 s"), ("02:01:00.000", "2 h 1 min")],
)
def test_durations_read_as_people_say_them(end: str, text: str) -> None:
    assert duration("2030-01-01T00:00:00.000Z", f"2030-01-01T{end}Z") == text
