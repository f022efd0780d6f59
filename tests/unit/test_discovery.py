"""Deployments become processes by their tags, without a restart."""

import dataclasses
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pygeoapi_prefect.config import DiscoveryConfiguration
from pygeoapi_prefect.discovery import Discovery, process_id_of
from pygeoapi_prefect.errors import ConfigurationError, InvalidRequest, UnknownProcess
from pygeoapi_prefect.gateway import TaggedDeployment
from pygeoapi_prefect.jobs import run_tags
from pygeoapi_prefect.testing import InMemoryGateway
from tests.unit.conftest import MakeManager

DEADLINE_SECONDS = 120
TAGS = frozenset({"published"})
SHORT: Any = {"tags": ["published"], "refresh_seconds": 1e-9}
LONG: Any = {"tags": ["published"], "refresh_seconds": 1e9}
COUNT = TaggedDeployment(
    name="count/main",
    version="3",
    description="Counts.",
    tags=TAGS,
    parameter_schema={"properties": {"limit": {"type": "integer"}}, "required": ["limit"]},
)


@pytest.mark.parametrize(
    ("deployment", "process_id"),
    [
        ("bounding-box/nightly", "bounding-box.nightly"),
        ("a_B/c-1", "a_B.c-1"),
        ("Größe der Fläche/täglich", "Gr-e-der-Fl-che.t-glich-50d495"),
        ("a.b/c", "a-b.c-fc7cd9"),
        ("a/b.c", "a.b-c-c06205"),
    ],
)
def test_the_id_of_a_process_is_made_of_the_names_alone(deployment: str, process_id: str) -> None:
    assert process_id_of(deployment) == process_id


def test_no_two_deployments_become_one_process() -> None:
    names = ["a b/c", "a-b/c", "a--b/c", "a/b-c", "a-b-c/d", "a/b.c", "a.b/c", "ä/c", "ö/c"]

    assert len(set(map(process_id_of, names))) == len(names)


def test_a_deployment_with_the_tags_is_described_as_a_process(
    gateway: InMemoryGateway, make_manager: MakeManager
) -> None:
    manager = make_manager({"hello-world": "HelloWorld"}, discover=SHORT)
    gateway.tagged = [COUNT, TaggedDeployment(name="other/main", tags=frozenset({"x"}))]

    assert [*manager.processes] == ["hello-world", "count.main"]
    assert len(manager.processes) == 2
    description = manager.get_processor("count.main").metadata
    assert {name: description[name] for name in ("id", "version", "title", "description")} == {
        "id": "count.main",
        "version": "3",
        "title": "count/main",
        "description": "Counts.",
    }
    assert description["inputs"] == {
        "limit": {"title": "limit", "schema": {"type": "integer"}, "minOccurs": 1, "maxOccurs": 1}
    }
    assert [*description["outputs"]] == ["result"]


def test_processes_come_and_go_with_their_deployments(
    gateway: InMemoryGateway, make_manager: MakeManager
) -> None:
    manager = make_manager(discover=SHORT)
    assert [*manager.processes] == []

    gateway.tagged = [COUNT]
    assert "count.main" in manager.processes
    first = manager.process("count.main")
    assert manager.process("count.main") is first, "nothing is read anew while nothing changes"

    gateway.tagged = [dataclasses.replace(COUNT, version="4")]
    assert manager.process("count.main").description["version"] == "4"

    gateway.tagged = []
    assert "count.main" not in manager.processes
    with pytest.raises(UnknownProcess):
        manager.process("count.main")


def test_what_is_known_is_not_asked_for_again(
    gateway: InMemoryGateway, make_manager: MakeManager
) -> None:
    manager = make_manager(discover=LONG)
    gateway.tagged = [COUNT]
    assert [*manager.processes] == ["count.main"]

    gateway.tagged = []
    assert [*manager.processes] == ["count.main"]


def test_a_manager_that_nobody_asks_asks_nobody(
    gateway: InMemoryGateway, make_manager: MakeManager
) -> None:
    gateway.unavailable = True
    make_manager({"hello-world": "HelloWorld"}, discover=SHORT)


def test_before_its_first_answer_nobody_knows_what_there_is(
    gateway: InMemoryGateway, make_manager: MakeManager, client_of: Any
) -> None:
    manager = make_manager({"hello-world": "HelloWorld"}, discover=SHORT)
    client = client_of(manager)
    gateway.tagged = [COUNT]
    gateway.unavailable = True

    answer = client.get("/processes/count.main")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
    assert client.post("/processes/count.main/execution", json={}).status_code == 503
    # what is configured is there all the same
    assert client.get("/processes/hello-world").status_code == 200
    assert [one["id"] for one in client.get("/processes").json["processes"]] == ["hello-world"]

    gateway.unavailable = False
    assert client.get("/processes/count.main").status_code == 200
    assert client.get("/processes/none").status_code == 404
    gateway.unavailable = True
    assert client.get("/processes/none").status_code == 404


def test_a_server_that_is_down_changes_nothing_and_is_mentioned_once(
    gateway: InMemoryGateway, make_manager: MakeManager, caplog: pytest.LogCaptureFixture
) -> None:
    manager = make_manager(discover=SHORT)
    gateway.tagged = [COUNT]
    assert "count.main" in manager.processes

    gateway.unavailable = True
    for _ in range(3):
        assert [*manager.processes] == ["count.main"]
    assert caplog.messages == [
        "deployments are not looked for: the Prefect server cannot be reached; try again later"
    ]

    gateway.unavailable = False
    gateway.tagged = []
    assert [*manager.processes] == []


def test_a_configured_process_wins(
    gateway: InMemoryGateway, make_manager: MakeManager, caplog: pytest.LogCaptureFixture
) -> None:
    manager = make_manager({"count.main": "HelloWorld"}, discover=SHORT)
    gateway.tagged = [COUNT]

    for _ in range(3):
        assert [*manager.processes] == ["count.main"]
    assert manager.get_processor("count.main").metadata["title"] != "count/main"
    assert caplog.messages == [
        "deployment count/main is no process: the configuration has another one with the id "
        "count.main"
    ]


def test_a_deployment_that_is_configured_already_is_not_offered_twice(
    gateway: InMemoryGateway, make_manager: MakeManager
) -> None:
    existing = {
        "prefect": {"deployment": {"name": "count/main"}, "metadata": {"version": "1"}},
    }
    manager = make_manager({"counting": existing}, discover=SHORT)
    gateway.tagged = [COUNT]

    assert [*manager.processes] == ["counting"]


def test_deployments_of_this_package_are_processes_already(
    gateway: InMemoryGateway, make_manager: MakeManager
) -> None:
    manager = make_manager(discover=SHORT)
    gateway.tagged = [dataclasses.replace(COUNT, tags=TAGS | {*run_tags("count")})]

    assert [*manager.processes] == []


def test_the_tag_of_jobs_publishes_nothing(make_manager: MakeManager) -> None:
    with pytest.raises(ConfigurationError, match=r"discover\.tags: 'pygeoapi' is the tag of jobs"):
        make_manager(discover={"tags": ["pygeoapi"]})


def test_applications_replace_what_is_configured_alone(
    gateway: InMemoryGateway, make_manager: MakeManager
) -> None:
    resource = {"type": "process", "processor": {"name": "HelloWorld"}}
    manager = make_manager({"hello-world": "HelloWorld"}, discover=SHORT)
    gateway.tagged = [COUNT]

    manager.processes["added"] = resource
    del manager.processes["hello-world"]
    assert [*manager.processes] == ["added", "count.main"]
    with pytest.raises(KeyError):
        del manager.processes["count.main"]

    manager.processes = {"only": resource}
    assert [*manager.processes] == ["only", "count.main"]


def test_a_job_of_it_is_given_its_parameters(
    gateway: InMemoryGateway, make_manager: MakeManager
) -> None:
    manager = make_manager(discover=SHORT)
    gateway.tagged = [dataclasses.replace(COUNT, preset=frozenset({"key"}))]

    job = manager.execute("count.main", {"inputs": {"limit": 7}}, None, wait_seconds=0)

    assert {**job.parameters, "pygeoapi_job_id": job.job_id} == {
        "limit": 7,
        "processor_id": "count.main",
        "pygeoapi_job_id": job.job_id,
        "inputs": {"limit": 7},
        "outputs": None,
    }
    assert manager.inputs(job, 1000) == {"limit": 7}
    assert json.loads(manager.get_job(job.job_id)["parameters"]) == {"limit": 7}
    with pytest.raises(InvalidRequest, match="'limit': \"many\" is not of type integer"):
        manager.execute("count.main", {"inputs": {"limit": "many"}}, None)


class SlowGateway(InMemoryGateway):
    """Its answer takes until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.calls = 0

    def tagged_deployments(self, tags: Any) -> list[TaggedDeployment]:
        self.calls += 1
        self.asked.release()
        assert self.go_on.wait(DEADLINE_SECONDS)
        return super().tagged_deployments(tags)


def test_nobody_waits_for_what_another_asks_but_at_the_beginning() -> None:
    gateway = SlowGateway()
    gateway.tagged = [COUNT]
    discovery = Discovery(DiscoveryConfiguration(tags=TAGS, refresh_seconds=1e-9), gateway)
    with ThreadPoolExecutor() as pool:
        first = [pool.submit(discovery.resources) for _ in range(3)]
        assert gateway.asked.acquire(timeout=DEADLINE_SECONDS)
        gateway.go_on.set()
        assert [[*one.result(DEADLINE_SECONDS)] for one in first] == [["count.main"]] * 3

        gateway.asked = threading.Semaphore(0)
        gateway.go_on.clear()
        gateway.tagged = []
        asking = pool.submit(discovery.resources)
        assert gateway.asked.acquire(timeout=DEADLINE_SECONDS)
        assert [*discovery.resources()] == ["count.main"]
        gateway.go_on.set()
        assert [*asking.result(DEADLINE_SECONDS)] == []
