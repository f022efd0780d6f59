"""What `deploy` makes of a configuration, on a real Prefect server."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import prefect.context
import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound
from prefect.filesystems import LocalFileSystem
from prefect.states import Cancelled
from prefect.utilities.templating import apply_values

from pygeoapi_prefect.configuration_file import load_configuration
from pygeoapi_prefect.deployments import Action, DeploymentChange, deploy, planned
from pygeoapi_prefect.errors import BackendUnavailable, ConfigurationError
from pygeoapi_prefect.flows import DEFINITION_VARIABLE, ENTRYPOINT, ProcessDefinition

POOL = "deploying"
CODE_BLOCK = "local-file-system/deploying-code"

Deploy = Callable[..., dict[str, DeploymentChange]]


@pytest.fixture
def client(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[SyncPrefectClient]:
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    prefect.context.refresh_global_settings_context()
    with get_client(sync_client=True) as client:
        yield client
    monkeypatch.undo()
    prefect.context.refresh_global_settings_context()


def configured(folder: Path, resources: dict[str, Any], **settings: Any) -> Path:
    manager = {
        "name": "pygeoapi_prefect.manager.PrefectManager",
        "work_pool": POOL,
        "result_storage": str(folder / "results"),
        **settings,
    }
    path = folder / "pygeoapi.yml"
    path.write_text(yaml.safe_dump({"server": {"manager": manager}, "resources": resources}))
    return path


@pytest.fixture
def deployed(client: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deploy:
    """Returns a function that deploys processes, given by id and `processor`."""
    monkeypatch.chdir(tmp_path)

    def make(**processors: dict[str, Any]) -> dict[str, DeploymentChange]:
        resources = {
            process_id: {"type": "process", "processor": processor}
            for process_id, processor in processors.items()
        }
        changes = deploy(load_configuration(configured(tmp_path, resources)))
        return {change.process_id: change for change in changes}

    return make


def read(client: SyncPrefectClient, change: DeploymentChange) -> DeploymentResponse:
    assert change.problem is None
    return client.read_deployment_by_name(change.deployment)


def test_a_process_gets_a_deployment_in_the_configured_pool(
    deployed: Deploy, client: SyncPrefectClient, tmp_path: Path
) -> None:
    change = deployed(hello={"name": "HelloWorld"})["hello"]

    made = read(client, change)
    assert (change.deployment, change.action) == ("Hello World/hello", "created")
    assert (made.work_pool_name, made.entrypoint) == (POOL, ENTRYPOINT)
    assert made.tags == ["pygeoapi", "pygeoapi_process:hello"]
    assert made.job_variables["working_dir"] == str(tmp_path)
    assert made.parameter_openapi_schema
    assert set(made.parameter_openapi_schema["properties"]) == {"job_id", "execution_request"}
    assert client.read_work_pool(POOL).type


def test_to_deploy_again_changes_nothing_but_what_has_changed(
    deployed: Deploy, client: SyncPrefectClient
) -> None:
    processes = {"again": {"name": "HelloWorld"}, "changing": {"name": "HelloWorld"}}
    first = deployed(**processes)
    ids = {process_id: read(client, change).id for process_id, change in first.items()}

    second = deployed(**processes)
    third = deployed(again={"name": "HelloWorld"}, changing={"name": "HelloWorld", "zoom": 3})

    assert {change.action for change in second.values()} == {"unchanged"}
    assert third["again"].action == "unchanged"
    assert third["changing"].action == "changed"
    assert third["changing"].settings == (f"job_variables.env.{DEFINITION_VARIABLE}",)
    assert ids == {process_id: read(client, change).id for process_id, change in third.items()}


def test_secrets_stay_in_the_environment(
    deployed: Deploy, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "top secret")

    made = read(client, deployed(tokens={"name": "HelloWorld", "token": "${TOKEN}"})["tokens"])

    definition = ProcessDefinition.model_validate_json(
        made.job_variables["env"][DEFINITION_VARIABLE]
    )
    assert definition.processor["token"] == "${TOKEN}"
    assert "top secret" not in json.dumps(made.model_dump(mode="json"))


def test_a_queue_is_the_configured_one(deployed: Deploy, client: SyncPrefectClient) -> None:
    change = deployed(
        queueing={
            "name": "HelloWorld",
            "prefect": {"deployment": {"queue": "fast", "name": "main"}},
        }
    )["queueing"]

    assert change.deployment == "Hello World/main"
    assert read(client, change).work_queue_name == "fast"


@pytest.fixture
def module(
    client: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A module that only this process can import."""
    LocalFileSystem(basepath=str(tmp_path / "code")).save(  # type: ignore[call-arg]
        "deploying-code", overwrite=True, _sync=True
    )
    module = tmp_path / "deploying_for_test.py"
    module.write_text("from pygeoapi.process.hello_world import HelloWorldProcessor as Hello\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield module
    sys.modules.pop("deploying_for_test", None)


class TestCode:
    """Code of a process, in a block."""

    def deploy(self, deployed: Deploy, process_id: str) -> DeploymentChange:
        deployment = {"storage_block": CODE_BLOCK, "storage_sub_path": "a/b"}
        processor = {"name": "deploying_for_test.Hello", "prefect": {"deployment": deployment}}
        return deployed(**{process_id: processor})[process_id]

    def versions(self, tmp_path: Path) -> set[str]:
        return {path.name for path in (tmp_path / "code" / "a" / "b").iterdir()}

    def test_each_version_has_a_folder_as_long_as_jobs_may_be_fetching_it(
        self, deployed: Deploy, client: SyncPrefectClient, module: Path, tmp_path: Path
    ) -> None:
        seen = []
        for number in range(3):
            with module.open("a") as file:
                file.write(f"number = {number}\n")
            change = self.deploy(deployed, "growing")
            assert change.settings == (() if number == 0 else ("pull_steps",))
            assert self.deploy(deployed, "growing").action is Action.UNCHANGED
            seen.append(self.versions(tmp_path))

        made = read(client, change)
        assert "working_dir" not in made.job_variables
        assert made.pull_steps
        step = made.pull_steps[0]["pygeoapi_prefect.code_storage.pull_code"]
        assert step["block"] == CODE_BLOCK
        (uploaded,) = (tmp_path / "code" / step["folder"]).iterdir()
        assert (uploaded.name, uploaded.read_text()) == (module.name, module.read_text())
        first, second, third = seen
        assert (len(first), len(second), len(third)) == (1, 2, 2)
        assert first < second
        assert first.isdisjoint(third)

        (tmp_path / "beside_for_test.py").write_text("")
        module.write_text(f"import beside_for_test\n{module.read_text()}")
        change = self.deploy(deployed, "growing")
        assert change.action is Action.REFUSED
        assert change.problem
        assert "No module named 'beside_for_test'" in change.problem
        assert self.versions(tmp_path) == third


FULL: dict[str, Any] = {
    "queue": "fast",
    "job_variables": {"env": {"OMP_NUM_THREADS": "1"}, "stream_output": False},
    "concurrency_limit": {"limit": 2, "collision_strategy": "CANCEL_NEW"},
    "tags": ["night"],
    "schedules": [
        {"cron": "0 6 * * *", "timezone": "Europe/Zurich", "inputs": {"name": "Ada"}},
        {"interval": "PT6H", "inputs": {"name": "Bo"}, "response": "document"},
        {"rrule": "FREQ=MONTHLY;BYDAY=-1FR", "inputs": {"name": "Cy"}, "active": False},
    ],
    "paused": True,
}


class TestSettings:
    """What a process may say of its deployment."""

    def test_all_of_them_arrive_and_none_changes_again(
        self, deployed: Deploy, client: SyncPrefectClient
    ) -> None:
        processor = {"name": "HelloWorld", "prefect": {"deployment": FULL}}

        made = read(client, deployed(full=processor)["full"])
        again = deployed(full=processor)["full"]

        assert again.action is Action.UNCHANGED
        assert read(client, again).updated == made.updated
        assert made.work_queue_name == "fast"
        assert made.tags == ["pygeoapi", "pygeoapi_process:full", "night"]
        assert made.job_variables["stream_output"] is False
        assert made.job_variables["env"].keys() == {DEFINITION_VARIABLE, "OMP_NUM_THREADS"}
        assert made.global_concurrency_limit
        assert made.global_concurrency_limit.limit == 2
        assert made.concurrency_options
        assert made.concurrency_options.collision_strategy == "CANCEL_NEW"
        assert made.paused
        assert sorted(schedule.active for schedule in made.schedules) == [False, True, True]
        # jobs need nothing of what only this command reads
        assert "schedules" not in made.job_variables["env"][DEFINITION_VARIABLE]

    def test_what_changes_is_named_and_what_others_have_added_stays(
        self, deployed: Deploy, client: SyncPrefectClient
    ) -> None:
        processor = {"name": "HelloWorld", "prefect": {"deployment": FULL}}
        made = read(client, deployed(shrinking=processor)["shrinking"])
        theirs = DeploymentScheduleCreate(schedule=CronSchedule(cron="@yearly"), slug="theirs")
        client.request(
            "POST",
            "/deployments/{id}/schedules",
            path_params={"id": made.id},
            json=[theirs.model_dump(mode="json", exclude_unset=True)],
        )

        change = deployed(shrinking={"name": "HelloWorld"})["shrinking"]

        assert change.action is Action.CHANGED
        assert set(change.settings) == {
            "work_queue_name",
            "job_variables.env.OMP_NUM_THREADS",
            "job_variables.stream_output",
            "concurrency_limit",
            "concurrency_options",
            "tags",
            "schedules",
        }
        left = read(client, change)
        assert [schedule.slug for schedule in left.schedules] == ["theirs"]
        assert left.work_queue_name == "default"
        assert left.global_concurrency_limit is None
        # somebody may have paused it for a reason
        assert left.paused
        assert deployed(shrinking={"name": "HelloWorld"})["shrinking"].action is Action.UNCHANGED


def test_nothing_is_done_before_it_is_told_to(client: SyncPrefectClient, tmp_path: Path) -> None:
    resources = {"planned": {"type": "process", "processor": {"name": "HelloWorld"}}}
    config = configured(tmp_path, resources, work_pool="planned-pool")

    with planned(load_configuration(config)) as plan:
        assert plan.new_work_pool
        assert [change.action for change in plan.changes] == [Action.CREATED]

    with pytest.raises(ObjectNotFound):
        client.read_work_pool("planned-pool")
    with pytest.raises(ObjectNotFound):
        client.read_deployment_by_name("Hello World/planned")


@pytest.fixture
def service(
    client: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Returns a function that configures a service with processes, by id and class."""
    monkeypatch.chdir(tmp_path)

    def make(name: str, **processes: str) -> Path:
        resources = {
            process_id: {"type": "process", "processor": {"name": class_path}}
            for process_id, class_path in processes.items()
        }
        return configured(tmp_path, resources, service=name)

    return make


class TestServices:
    """Deployments of several services on one Prefect server, and of other people."""

    def names(self, client: SyncPrefectClient) -> set[str]:
        return {deployment.name for deployment in client.read_deployments()}

    def test_only_what_a_service_has_made_and_no_longer_names_is_pruned(
        self, service: Callable[..., Path], client: SyncPrefectClient
    ) -> None:
        deploy(
            load_configuration(
                service("north", pruned="Echo", unclear="HelloWorld", kept="HelloWorld")
            )
        )
        deploy(load_configuration(service("south", southern="Echo")))
        # of a process that cannot be loaded, nobody knows which deployment was its own
        config = service("north", unclear="no_such_module.Process", kept="HelloWorld")

        with planned(load_configuration(config)) as plan:
            assert [change.process_id for change in plan.abandoned] == ["pruned"]
            actions = {change.process_id: change.action for change in plan.apply()}
            assert "pruned" in self.names(client)
            pruned = [*plan.prune()]

        assert actions == {"unclear": Action.REFUSED, "kept": Action.UNCHANGED}
        assert [(change.process_id, change.action) for change in pruned] == [
            ("pruned", Action.REMOVED)
        ]
        assert self.names(client) >= {"southern", "unclear", "kept"}
        assert "pruned" not in self.names(client)

    def test_a_deployment_whose_jobs_have_not_ended_is_not_pruned(
        self, service: Callable[..., Path], client: SyncPrefectClient
    ) -> None:
        (made,) = deploy(load_configuration(service("west", waited="Echo")))
        run = client.create_flow_run_from_deployment(read(client, made).id)

        with planned(load_configuration(service("west"))) as plan:
            (kept,) = plan.prune()
        assert kept.action is Action.ABANDONED
        assert kept.problem
        assert kept.problem.startswith("1 of its jobs")
        assert read(client, made).paused

        client.set_flow_run_state(run.id, Cancelled())
        with planned(load_configuration(service("west"))) as plan:
            (removed,) = plan.prune()
        assert removed.action is Action.REMOVED

    def test_a_deployment_of_another_service_is_left_alone(
        self, service: Callable[..., Path]
    ) -> None:
        deploy(load_configuration(service("east", shared="Echo")))

        (change,) = deploy(load_configuration(service("elsewhere", shared="Echo")))

        assert change.problem
        assert change.problem.startswith("it belongs to the service 'east'")

    def test_a_deployment_that_was_made_otherwise_is_left_alone(
        self, service: Callable[..., Path], client: SyncPrefectClient
    ) -> None:
        client.create_deployment(
            client.create_flow_from_name("Echo Process"), "handmade", entrypoint="a.py:b"
        )

        (change,) = deploy(load_configuration(service("any", handmade="Echo")))

        assert change.problem
        assert "was not made by this command" in change.problem


def test_two_processes_cannot_have_one_deployment(deployed: Deploy) -> None:
    processor = {"name": "HelloWorld", "prefect": {"deployment": {"name": "single"}}}

    changes = deployed(one=processor, other=processor)

    assert changes["one"].problem is None
    assert changes["other"].problem == "the process one has this deployment already"


class TestOtherWorkPools:
    """Pools of other types, as Prefect itself describes them; no cluster, no engine."""

    @pytest.fixture
    def template(self, client: SyncPrefectClient) -> Callable[[str], dict[str, Any]]:
        """Returns a function that makes a pool, named like its type, and gives its template."""

        def make(worker_type: str) -> dict[str, Any]:
            workers = {
                name: worker
                for collection in client.read_worker_metadata().values()
                for name, worker in collection.items()
            }
            template: dict[str, Any] = workers[worker_type]["default_base_job_configuration"]
            client.create_work_pool(
                WorkPoolCreate(name=worker_type, type=worker_type, base_job_template=template),
                overwrite=True,
            )
            return template

        return make

    def job(
        self,
        deployed: Deploy,
        client: SyncPrefectClient,
        template: dict[str, Any],
        **deployment: Any,
    ) -> dict[str, Any]:
        """What a worker makes of the template for a job of the process."""
        pool = deployment["work_pool"]
        processor = {"name": "HelloWorld", "prefect": {"deployment": deployment}}
        made = read(client, deployed(**{f"in-{pool}": processor})[f"in-{pool}"])
        assert made.work_pool_name == pool
        defaults = {
            name: variable["default"]
            for name, variable in template["variables"]["properties"].items()
            if "default" in variable
        }
        job: dict[str, Any] = apply_values(
            template["job_configuration"], {**defaults, **made.job_variables}
        )
        assert json.loads(job["env"][DEFINITION_VARIABLE])["process_id"] == f"in-{pool}"
        assert job.get("command") is None  # Prefect's own
        return job

    def test_docker(
        self,
        deployed: Deploy,
        client: SyncPrefectClient,
        template: Callable[[str], dict[str, Any]],
    ) -> None:
        variables = {"image": "lakes:1", "mem_limit": "2g", "env": {"GDAL_CACHEMAX": "64"}}
        job = self.job(
            deployed, client, template("docker"), work_pool="docker", job_variables=variables
        )
        assert (job["image"], job["mem_limit"]) == ("lakes:1", "2g")
        assert job["env"]["GDAL_CACHEMAX"] == "64"
        assert "working_dir" not in job

    def test_kubernetes(
        self,
        deployed: Deploy,
        client: SyncPrefectClient,
        template: Callable[[str], dict[str, Any]],
    ) -> None:
        variables = {"image": "lakes:1", "cpu_request": "500m", "memory_limit": "2Gi"}
        job = self.job(
            deployed,
            client,
            template("kubernetes"),
            work_pool="kubernetes",
            job_variables=variables,
        )
        manifest = job["job_manifest"]
        pod = manifest["spec"]["template"]["spec"]
        for misplaced in ("parallelism", "completions"):  # by Prefect's own template
            del pod[misplaced]
        (container,) = pod["containers"]
        # what the worker does with them itself
        container["env"] = [
            {"name": name, "value": value} for name, value in container["env"].items()
        ]
        container["args"] = ["prefect", "flow-run", "execute"]
        manifest["metadata"]["generateName"] = "a-"
        kubernetes_validate.validate(manifest, "1.34", strict=True)
        assert container["image"] == "lakes:1"
        assert container["resources"]["requests"]["cpu"] == "500m"

    def test_process(
        self,
        deployed: Deploy,
        client: SyncPrefectClient,
        template: Callable[[str], dict[str, Any]],
        tmp_path: Path,
    ) -> None:
        job = self.job(deployed, client, template("process"), work_pool="process")
        assert job["working_dir"] == str(tmp_path)

    def test_one_that_does_not_exist_is_not_made(
        self, deployed: Deploy, client: SyncPrefectClient
    ) -> None:
        processor = {"name": "HelloWorld", "prefect": {"deployment": {"work_pool": "absent"}}}

        change = deployed(poolless=processor)["poolless"]

        assert change.problem
        assert "Prefect has no work pool 'absent'" in change.problem
        with pytest.raises(ObjectNotFound):
            client.read_work_pool("absent")


@pytest.mark.parametrize(
    ("processor", "reason"),
    [
        ({"name": "no_such_module.Processor"}, "cannot load no_such_module.Processor"),
        ({"name": "HelloWorld", "prefect": {"deploymnt": {}}}, "deploymnt"),
        (
            {"name": "HelloWorld", "prefect": {"deployment": {"name": "a/b"}}},
            "cannot have the name 'Hello World/a/b'",
        ),
        (
            {"name": "HelloWorld", "prefect": {"deployment": {"tags": ["pygeoapi_x"]}}},
            "tag 'pygeoapi_x'",
        ),
        (
            {"name": "HelloWorld", "prefect": {"deployment": {"storage_block": CODE_BLOCK + "-2"}}},
            "Prefect has no block",
        ),
        (
            {
                "prefect": {
                    "deployment": {"name": "nobody/made-it"},
                    "metadata": {"version": "1"},
                }
            },
            "Prefect has no deployment 'nobody/made-it'",
        ),
    ],
)
def test_a_process_that_cannot_be_deployed_keeps_no_other_from_it(
    deployed: Deploy, processor: dict[str, Any], reason: str
) -> None:
    changes = deployed(broken=processor, sound={"name": "HelloWorld"})

    assert changes["broken"].action == "refused"
    assert changes["broken"].problem
    assert reason in changes["broken"].problem
    assert changes["sound"].problem is None


def test_without_an_address_of_a_prefect_server_nothing_is_deployed(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match="set PREFECT_API_URL"):
        deploy(load_configuration(configured(tmp_path, {})))


def test_without_a_configuration_nothing_is_deployed(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read"):
        deploy(load_configuration(tmp_path / "nowhere.yml"))
