"""The commands parse and print; what they call is tested where it is."""

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed, Running

from pygeoapi_prefect import check, cli, deployments, manager, prefect_api, stack, webserver
from pygeoapi_prefect.check import Finding, Topic
from pygeoapi_prefect.configuration_file import load_configuration
from pygeoapi_prefect.deployments import Action, DeploymentChange
from pygeoapi_prefect.deployments.work_pools import WorkPool, new_work_pool
from pygeoapi_prefect.errors import StackError, StorageError
from pygeoapi_prefect.jobs import run_labels
from pygeoapi_prefect.storage import FsspecStorage
from pygeoapi_prefect.testing import InMemoryGateway

SHIPPED = Path(__file__).parents[2] / "pygeoapi-config.yml"
COMMANDS = ["up", "deploy", "worker", "serve", "check", "prune"]


@pytest.fixture(autouse=True)
def in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.main, arguments, env=environment)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_commands_are_listed_in_the_order_of_use() -> None:
    code, printed, _ = run("--help")
    assert code == 0
    assert [name for name in cli.main.commands if f"\n  {name} " in printed] == COMMANDS


def test_the_same_commands_are_commands_of_pygeoapi() -> None:
    # what the program `pygeoapi` runs
    (script,) = entry_points(group="console_scripts", name="pygeoapi")
    printed = CliRunner().invoke(script.load(), ["plugins", "prefect", "--help"]).stdout
    for name in COMMANDS:
        assert f"\n  {name} " in printed


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(command: str) -> None:
    for parameter in cli.main.commands[command].params:
        assert isinstance(parameter, click.Option)
        assert parameter.help, parameter.name


@pytest.mark.parametrize("command", COMMANDS)
def test_a_missing_configuration_is_one_line_and_a_failure(command: str) -> None:
    code, printed, complaint = run(command, "--config", "absent.yml", PREFECT_API_URL="")
    assert (code, printed) == (1, "")
    assert complaint.startswith("Error: cannot read absent.yml")
    assert complaint.count("\n") == 1


def test_the_configuration_is_looked_for_where_pygeoapi_does() -> None:
    assert "elsewhere.yml" in run("up", PYGEOAPI_CONFIG="elsewhere.yml")[2]
    assert "pygeoapi-config.yml" in run("up")[2]


@pytest.mark.parametrize(
    "arguments",
    [
        ["up", "--port", "0"],
        ["up", "--port", "65536"],
        ["up", "--prefect-port", "many"],
        ["up", "--workers", "-1"],
        ["worker", "--limit", "0"],
        ["serve", "--threads", "0"],
        ["serve", "--app", "django"],
        ["nonsense"],
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: list[str]) -> None:
    code, _, complaint = run(*arguments)
    assert code == 2
    assert "Error: " in complaint


@dataclasses.dataclass
class PlanForTest:
    """A plan that needs no Prefect server; what is done becomes of it as planned."""

    changes: list[DeploymentChange] = dataclasses.field(default_factory=list)
    abandoned: list[DeploymentChange] = dataclasses.field(default_factory=list)
    new_work_pool: WorkPool | None = None
    calls: list[str] = dataclasses.field(default_factory=list)
    refusal: str | None = None

    def apply(self) -> Iterator[DeploymentChange]:
        self.calls.append("apply")
        for change in self.changes:
            if self.refusal is None:
                yield change
            else:
                yield dataclasses.replace(change, action=Action.REFUSED, problem=self.refusal)

    def prune(self) -> Iterator[DeploymentChange]:
        self.calls.append("prune")
        yield from (dataclasses.replace(change, action=Action.REMOVED) for change in self.abandoned)


class TestDeploy:
    @pytest.fixture
    def plan(self, monkeypatch: pytest.MonkeyPatch) -> PlanForTest:
        plan = PlanForTest()
        monkeypatch.setattr(deployments, "planned", lambda _: contextlib.nullcontext(plan))
        monkeypatch.setattr(prefect_api, "require_api", lambda: None)
        return plan

    def deploy(self, *arguments: str) -> tuple[int, str]:
        code, printed, _ = run("deploy", "--config", str(SHIPPED), *arguments)
        return code, printed

    def change(self, process_id: str, action: Action, **more: Any) -> DeploymentChange:
        deployment = f"flow {process_id}/{process_id}"
        return DeploymentChange(process_id=process_id, deployment=deployment, action=action, **more)

    def test_it_shows_what_there_is_to_do_and_tells_what_it_did(self, plan: PlanForTest) -> None:
        plan.changes += [
            self.change("a", Action.CREATED, work_pool="gpu"),
            self.change("b", Action.UNCHANGED),
            self.change("c", Action.CHANGED, settings=("version", "job_variables.image")),
        ]
        plan.new_work_pool = new_work_pool("lakes")
        code, printed = self.deploy()
        assert code == 0
        rows = [re.split(r"  +", line.strip()) for line in printed.splitlines()]
        assert ["Work pool lakes (type pygeoapi): create"] in rows
        assert ["a", "flow a/a", "gpu", "create"] in rows
        assert ["b", "flow b/b", "nothing"] in rows
        assert ["c", "flow c/c", "change: version, job_variables.image"] in rows
        assert rows[-1] == ["1 created, 1 unchanged, 1 changed"]
        assert plan.calls == ["apply"]

    def test_no_name_is_cut_short(self, plan: PlanForTest) -> None:
        name = "a-process-with-quite-a-long-name"
        plan.changes.append(self.change(name, Action.CREATED, work_pool="kubernetes-cluster"))
        printed = self.deploy("--dry-run")[1]
        assert "…" not in printed

    def test_a_dry_run_does_nothing(self, plan: PlanForTest) -> None:
        plan.changes.append(self.change("a", Action.CREATED))
        code, printed = self.deploy("--dry-run", "--prune")
        assert code == 0
        assert "create" in printed
        assert "created" not in printed
        assert plan.calls == []

    def test_what_the_configuration_no_longer_names_stays_unless_told(
        self, plan: PlanForTest
    ) -> None:
        plan.abandoned.append(self.change("old", Action.ABANDONED))
        code, printed = self.deploy()
        assert code == 0
        assert re.search(r"old +flow old/old +--prune removes it", printed)
        assert "1 abandoned" in printed
        assert plan.calls == ["apply"]

    def test_what_the_configuration_no_longer_names_goes_when_told(self, plan: PlanForTest) -> None:
        plan.abandoned.append(self.change("old", Action.ABANDONED))
        code, printed = self.deploy("--prune")
        assert code == 0
        assert re.search(r"old +flow old/old +remove", printed)
        assert "1 removed" in printed
        assert plan.calls == ["apply", "prune"]

    @pytest.mark.parametrize("arguments", [[], ["--dry-run"]])
    def test_one_process_that_cannot_be_deployed_is_a_failure(
        self, plan: PlanForTest, arguments: list[str]
    ) -> None:
        plan.changes += [
            self.change("a", Action.CREATED),
            self.change("b", Action.REFUSED, problem="no class"),
        ]
        code, printed = self.deploy(*arguments)
        assert code == 1
        assert printed.count("b: no class") == 1
        assert "flow a/a" in printed

    def test_what_is_refused_only_then_is_told_too(self, plan: PlanForTest) -> None:
        plan.changes.append(self.change("a", Action.CREATED))
        plan.refusal = "the block is full"
        code, printed = self.deploy()
        assert code == 1
        assert "a: the block is full" in printed
        assert "1 refused" in printed


def test_worker_takes_the_work_pool_of_the_configuration_or_the_one_that_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[tuple[str, str | None, int | None]] = []
    monkeypatch.setattr(stack, "become_worker", lambda *arguments: started.append(arguments))
    assert run("worker", "--config", str(SHIPPED))[0] == 0
    own = ["--pool", "gpu", "--name", "n", "--limit", "2"]
    assert run("worker", "--config", str(SHIPPED), *own)[0] == 0
    assert started == [("pygeoapi", None, None), ("gpu", "n", 2)]


@pytest.mark.parametrize("application", ["flask", "starlette"])
def test_serve_listens_where_the_configuration_says_unless_told_otherwise(
    application: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[tuple[str, int, int]] = []
    checked: list[tuple[str, int]] = []
    monkeypatch.setattr(prefect_api, "api_url", lambda: "http://127.0.0.1:4200/api")
    monkeypatch.setattr(stack, "check_port", lambda host, port, _: checked.append((host, port)))
    monkeypatch.setattr(webserver, "point_pygeoapi_at", lambda *_: None)
    monkeypatch.setattr(webserver, f"serve_{application}", lambda *where: served.append(where))
    own = ["--host", "127.0.0.2", "--port", "5001", "--threads", "3"]
    for arguments in ([], own):
        assert run("serve", "--config", str(SHIPPED), "--app", application, *arguments)[0] == 0
    assert served == [("127.0.0.1", 5000, 32), ("127.0.0.2", 5001, 3)]
    assert checked == [("127.0.0.1", 5000), ("127.0.0.2", 5001)]


def test_a_process_that_ends_unasked_is_told_with_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: stack.StackOptions) -> None:
        raise StackError("Worker 1 ended with exit code 3; its log ends with:\nall is lost")

    monkeypatch.setattr(stack, "Stack", fail)
    code, _, complaint = run("up")
    assert code == 1
    assert complaint == (
        "Error: Worker 1 ended with exit code 3; its log ends with:\nall is lost\n"
    )


class TestPrune:
    @pytest.fixture
    def gateway(self, monkeypatch: pytest.MonkeyPatch) -> InMemoryGateway:
        """Of three jobs, one goes on; the commands find them behind the Prefect API."""
        gateway = InMemoryGateway()
        states: dict[str, State[Any]] = {"a": Completed(), "b": Failed(), "c": Running()}
        storage = load_configuration(SHIPPED).manager.result_storage_address
        for job_id, state in states.items():
            labels = run_labels(
                process_id="echo", result_media_type="text/plain", result_storage=storage
            )
            gateway.submit(
                job_id=job_id, process_id="echo", deployment="", parameters={}, labels=labels
            )
            gateway.set_state(job_id, state)
        monkeypatch.setattr(manager, "ApiGateway", lambda: gateway)
        monkeypatch.setattr(prefect_api, "require_api", lambda: None)
        return gateway

    def prune(self, *arguments: str) -> tuple[int, str, str]:
        return run("prune", "--config", str(SHIPPED), *arguments)

    def test_a_dry_run_shows_what_would_go_and_leaves_it(self, gateway: InMemoryGateway) -> None:
        code, printed, _ = self.prune("--keep", "0", "--dry-run")
        assert code == 0
        assert re.search(r"echo\W+2\W+0", printed)
        assert "jobs to remove" in printed
        assert list(gateway.runs) == ["a", "b", "c"]

    def test_what_goes_is_counted_by_process(self, gateway: InMemoryGateway) -> None:
        code, printed, _ = self.prune("--keep", "1")
        assert code == 0
        assert re.search(r"echo\W+1\W+0", printed)
        assert list(gateway.runs) == ["b", "c"]

    def test_an_age_has_a_unit(self, gateway: InMemoryGateway) -> None:
        assert self.prune("--older-than", "30d")[0] == 0
        assert list(gateway.runs) == ["a", "b", "c"]
        assert self.prune("--older-than", "0m")[0] == 0
        assert list(gateway.runs) == ["c"]

    @pytest.mark.parametrize("age", ["30", "d", "-1d", "1w", "1.5d"])
    @pytest.mark.usefixtures("gateway")
    def test_other_ages_are_refused(self, age: str) -> None:
        code, _, complaint = self.prune("--older-than", age)
        assert code == 2
        assert "30d" in complaint

    def test_without_a_rule_nothing_is_removed(self, gateway: InMemoryGateway) -> None:
        code, _, complaint = self.prune()
        assert code == 2
        assert "server.manager.retention" in complaint
        assert len(gateway.runs) == 3

    @pytest.mark.usefixtures("gateway")
    def test_a_job_that_stays_is_a_failure_with_its_reason(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise StorageError("the storage is read-only")

        monkeypatch.setattr(FsspecStorage, "delete", refuse)
        code, printed, complaint = self.prune("--keep", "0")
        assert code == 1
        assert re.search(r"echo\W+0\W+2", printed)
        assert "job a: the storage is read-only" in complaint


FINDINGS = [
    Finding(topic=Topic.API, name="http://127.0.0.1:4200/api", is_ok=True, fact="Prefect 3.8.8"),
    Finding(
        topic=Topic.RESULTS,
        name="s3://[bold]bucket",
        is_ok=False,
        fact="has no such bucket",
        remedy="make it",
    ),
]


@pytest.mark.parametrize(("findings", "code"), [(FINDINGS, 1), (FINDINGS[:1], 0)])
def test_check_prints_one_table_and_fails_on_a_problem(
    monkeypatch: pytest.MonkeyPatch, findings: list[Finding], code: int
) -> None:
    monkeypatch.setattr(check, "check_configuration", lambda _: findings)

    ended, printed, _ = run("check", "--config", str(SHIPPED), COLUMNS="200")

    assert ended == code
    rows = [re.split(" {2,}", line.strip()) for line in printed.splitlines() if line.strip()]
    assert ["Prefect API", "http://127.0.0.1:4200/api", "ok: Prefect 3.8.8"] in rows
    wrong = ["result storage", "s3://[bold]bucket", "problem: has no such bucket", "make it"]
    assert (wrong in rows) is bool(code)


def test_check_tells_machines_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "check_configuration", lambda _: FINDINGS)

    ended, printed, _ = run("check", "--config", str(SHIPPED), "--json")

    assert ended == 1
    assert json.loads(printed)[1] == {
        "topic": "result storage",
        "name": "s3://[bold]bucket",
        "is_ok": False,
        "fact": "has no such bucket",
        "remedy": "make it",
    }
