"""Results over HTTP: their forms, and parts of them."""

import pytest
from pygeoapi.formats import F_GZIP, FORMAT_TYPES

from .conftest import FRAMEWORKS, Service, Table

pytestmark = pytest.mark.parametrize("service", FRAMEWORKS, indirect=True)

CSV = Table.CSV.encode()


@pytest.fixture
def job(service: Service) -> str:
    """Path of a job that was successful."""
    job_id = service.submit("table", {})
    service.run(job_id)
    return f"/jobs/{job_id}"


def test_an_output_is_sent_as_it_was_stored(service: Service, job: str) -> None:
    answer = service.send("GET", f"{job}/results/csv")

    assert (answer.status, answer.body) == (200, CSV)
    assert answer.headers["Content-Type"] == "text/csv"
    assert answer.headers["Content-Length"] == str(len(CSV))
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "sandbox"
    assert "Content-Language" not in answer.headers


@pytest.mark.parametrize(
    ("asked", "body", "content_range"),
    [
        ("bytes=0-2", CSV[0:3], "bytes 0-2/10"),
        ("bytes=3-", CSV[3:], "bytes 3-9/10"),
        ("bytes=-4", CSV[-4:], "bytes 6-9/10"),
        ("bytes=-99", CSV, "bytes 0-9/10"),
        ("bytes=8-99", CSV[8:], "bytes 8-9/10"),
    ],
)
def test_a_part_can_be_asked_for(
    service: Service, job: str, asked: str, body: bytes, content_range: str
) -> None:
    answer = service.send("GET", f"{job}/results/csv", headers={"Range": asked})

    assert (answer.status, answer.body) == (206, body)
    assert answer.headers["Content-Range"] == content_range
    assert answer.headers["Content-Length"] == str(len(body))


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=99-100"])
def test_a_part_that_is_not_there_is_refused(service: Service, job: str, asked: str) -> None:
    answer = service.send("GET", f"{job}/results/csv", headers={"Range": asked})

    assert (answer.status, answer.body) == (416, b"")
    assert answer.headers["Content-Range"] == "bytes */10"


@pytest.mark.parametrize("asked", ["bytes=0-1,4-5", "rows=0-1", "bytes=5-1", "nonsense"])
def test_what_is_no_single_part_is_the_whole(service: Service, job: str, asked: str) -> None:
    answer = service.send("GET", f"{job}/results/csv", headers={"Range": asked})

    assert (answer.status, answer.body) == (200, CSV)


def test_an_output_that_the_client_has_is_not_sent_again(service: Service, job: str) -> None:
    etag = service.send("GET", f"{job}/results/csv").headers["ETag"]

    assert service.send("GET", f"{job}/results/csv", headers={"If-None-Match": etag}).status == 304
    assert service.send("GET", f"{job}/results/csv", headers={"If-None-Match": '"x"'}).status == 200


@pytest.mark.parametrize(
    ("status", "asked"), [(304, {"If-None-Match": "*"}), (416, {"Range": "bytes=99-"})]
)
def test_an_answer_without_content_is_not_compressed(
    service: Service,
    job: str,
    status: int,
    asked: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # as `server.gzip` of pygeoapi's configuration does
    monkeypatch.setitem(FORMAT_TYPES, F_GZIP, "application/gzip")

    answer = service.send("GET", f"{job}/results/csv", headers={"Accept-Encoding": "gzip", **asked})

    assert (answer.status, answer.body) == (status, b"")
    assert "Content-Encoding" not in answer.headers
    assert answer.headers.get("Content-Length", "0") == "0"
    page = service.send("GET", job, headers={"Accept-Encoding": "gzip"})
    assert page.headers["Content-Encoding"] == "gzip"
    assert page.body.startswith(b"\x1f\x8b")


def test_a_part_of_another_version_is_not_sent(service: Service, job: str) -> None:
    etag = service.send("GET", f"{job}/results/csv").headers["ETag"]

    for condition, status in ((etag, 206), ('"x"', 200), ("Sat, 01 Jan 2000 00:00:00 GMT", 200)):
        headers = {"Range": "bytes=0-1", "If-Range": condition}
        assert service.send("GET", f"{job}/results/csv", headers=headers).status == status


def test_outputs_have_tags_of_their_own(service: Service, job: str) -> None:
    tags = {
        service.send("GET", f"{job}/results/{output_id}").headers["ETag"]
        for output_id in ("csv", "note", "rows")
    }

    assert len(tags) == 3


@pytest.mark.parametrize("path", ["/results/csv", "/results"])
def test_head_tells_the_length_and_sends_nothing(service: Service, job: str, path: str) -> None:
    whole = service.send("GET", f"{job}{path}")

    answer = service.send("HEAD", f"{job}{path}")

    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Content-Length"] == whole.headers["Content-Length"]


def test_an_unknown_output_is_not_found(service: Service, job: str) -> None:
    answer = service.send("GET", f"{job}/results/none")

    assert answer.status == 404
    assert answer.json["type"].endswith("/no-such-output")


def test_results_of_a_job_that_goes_on_are_not_ready(service: Service) -> None:
    job_id = service.submit("table", {})

    for path in ("results", "results/csv"):
        answer = service.send("GET", f"/jobs/{job_id}/{path}")
        assert answer.status == 404
        assert answer.json["type"].endswith("/1.0/result-not-ready")


def test_several_results_are_one_multipart_message(service: Service, job: str) -> None:
    answer = service.send("GET", f"{job}/results")

    assert answer.headers["Content-Type"].startswith("multipart/related; boundary=")
    assert answer.headers["Content-Length"] == str(len(answer.body))
    for content_id in (b"<csv>", b"<note>", b"<rows>"):
        assert b"Content-ID: " + content_id in answer.body


def test_who_asks_for_json_gets_several_results_as_one_document(service: Service, job: str) -> None:
    answer = service.send("GET", f"{job}/results?f=json", headers={"Accept": "text/html"})

    assert answer.headers["Content-Type"].startswith("application/json")
    csv = {"value": Table.CSV, "mediaType": "text/csv"}
    assert answer.json == {"csv": csv, "note": "5 < 6", "rows": 1}

    headers = {"Prefer": "return=minimal"}
    links = service.send("GET", f"{job}/results?f=json", headers=headers)

    assert links.headers["Preference-Applied"] == "return=minimal"
    assert links.json["csv"]["href"].endswith(f"{job}/results/csv")


def test_one_result_is_its_value_also_where_json_is_asked_for(service: Service) -> None:
    job_id = service.submit("table", {}, outputs={"csv": {}})
    service.run(job_id)

    assert service.send("GET", f"/jobs/{job_id}/results?f=json").body == CSV


def test_who_prefers_little_gets_links_to_results(service: Service, job: str) -> None:
    answer = service.send("GET", f"{job}/results", headers={"Prefer": "return=minimal"})

    assert answer.headers["Preference-Applied"] == "return=minimal"
    assert (answer.status, answer.body) == (204, b"")
    for output_id in ("csv", "note", "rows"):
        assert f'{job}/results/{output_id}>; rel="item"' in answer.headers["Link"]
