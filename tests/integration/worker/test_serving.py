"""What a stock process worker gives, from processes that are kept warm."""

import sys
import textwrap
from pathlib import Path

import pytest

from tests.integration.worker.conftest import Site, read_logs, wait_for


@pytest.fixture
def site(served_site: Site) -> Site:
    return served_site


def test_jobs_share_a_process_and_leave_nothing_behind_in_it(site: Site, tmp_path: Path) -> None:
    deployment = site.deploy("look_around")
    red = site.deploy("look_around", job_variables={"env": {"COLOR": "red"}})

    plain = [site.submit(deployment, into=tmp_path) for _ in range(3)]
    # a job of another environment takes a process away from them
    assert all(job.wait_until_ended().is_completed() for job in plain)
    coloured = site.submit(red)
    assert coloured.wait_until_ended().is_completed()

    assert len(set(plain[0].lines("pid"))) <= 2
    assert plain[0].lines("color") == ["None"] * 3
    assert coloured.lines("color") == ["red"]
    directories = plain[0].lines("directory") + coloured.lines("directory")
    assert len(set(directories)) == 4
    wait_for(
        lambda: not any(Path(directory).exists() for directory in directories),
        "the directories to be removed",
    )


def test_a_working_directory_is_used(site: Site, tmp_path: Path) -> None:
    deployment = site.deploy("look_around", job_variables={"working_dir": str(tmp_path)})

    job = site.submit(deployment)

    assert job.wait_until_ended().is_completed()
    assert job.lines("directory") == [str(tmp_path)]


def test_what_a_flow_prints_and_how_it_went_is_in_the_logs_of_prefect(site: Site) -> None:
    job = site.submit("talk")

    assert job.wait_until_ended().is_completed()
    logs = wait_for(
        lambda: logs if "Finished in state" in (logs := read_logs(site, job)) else None,
        "logs at the Prefect server",
    )
    assert "something to read in the UI" in logs


def test_the_output_of_a_job_goes_to_that_of_the_worker_unless_it_is_silenced(site: Site) -> None:
    silent = site.deploy("print_plainly", job_variables={"stream_output": False})

    jobs = [
        site.submit("print_plainly", text="said aloud"),
        site.submit(silent, text="said to nobody"),
    ]

    assert all(job.wait_until_ended().is_completed() for job in jobs)
    wait_for(lambda: "said aloud" in site.read_worker_logs(), "what was printed")
    assert "said to nobody" not in site.read_worker_logs()


def test_hooks_of_a_flow_run_in_its_process(site: Site) -> None:
    job = site.submit("tell_of_its_end")

    assert job.wait_until_ended().is_completed()
    assert job.wait_until_it_said("completed") == job.lines("pid")


def test_the_infrastructure_id_names_the_worker_and_the_process(site: Site) -> None:
    job = site.submit("talk")

    assert job.wait_until_ended().is_completed()
    infrastructure = job.read().infrastructure_pid or ""
    assert infrastructure.startswith("pygeoapi:worker:")
    assert infrastructure.split(":")[5] == job.lines("pid")[0]


def test_the_run_that_a_flow_sees_is_that_of_the_server(site: Site) -> None:
    job = site.submit("compare_with_server", name="us")

    assert job.wait_until_ended().is_completed()
    assert job.read().name == "named by us"
    # at its first attempt, for which the server is not asked, and at the second
    assert job.lines("differ") == ["[]", "[]"]


def test_an_asynchronous_flow_runs(site: Site) -> None:
    job = site.submit("wait_asynchronously")

    assert job.wait_until_ended().is_completed()
    assert len(job.lines("ended")) == 1
    assert (job.read().infrastructure_pid or "").split(":")[5] == str(job.pid)


def test_a_flow_is_retried_in_its_process(site: Site) -> None:
    job = site.submit("fail_once")

    assert job.wait_until_ended().is_completed()
    assert len(job.lines("began")) == 2
    assert len(set(job.lines("began"))) == 1


def test_a_flow_that_takes_too_long_is_stopped(site: Site) -> None:
    job = site.submit("take_too_long")

    state = job.wait_until_ended()

    assert state.name == "TimedOut"
    assert job.lines("ended") == []


def test_a_flow_whose_code_is_missing_crashes_and_says_so(site: Site) -> None:
    job = site.submit(site.deploy("nothing", entrypoint="no_such_module.nothing"))

    state = job.wait_until_ended()

    assert state.is_crashed()
    assert "could not be loaded: ModuleNotFoundError" in (state.message or "")


def test_a_job_whose_parameters_do_not_fit_fails_in_a_process_that_has_run_others(
    site: Site,
) -> None:
    deployment = site.deploy("talk", enforce_parameter_schema=False)
    # as many as there are processes, so that none is new
    before = [site.submit(deployment) for _ in range(2)]
    assert all(job.wait_until_ended().is_completed() for job in before)

    job = site.submit(deployment, unknown=1)

    assert job.wait_until_ended().is_crashed()
    wait_for(lambda: "SignatureMismatchError" in read_logs(site, job), "the reason in its log")


def test_a_process_that_vanishes_without_an_error_ends_its_job_as_crashed(site: Site) -> None:
    job = site.submit("vanish")

    state = job.wait_until_ended()

    assert state.is_crashed()
    assert "did not say how the flow run ended" in (state.message or "")
    assert len(job.lines("began")) == 1


def test_a_module_that_exits_when_it_is_imported_crashes_its_jobs_and_says_so(
    site: Site, tmp_path: Path
) -> None:
    (tmp_path / "leaving_flow.py").write_text("import sys\nsys.exit(0)\n")
    options = {"working_dir": str(tmp_path)}
    deployment = site.deploy("leave", entrypoint="leaving_flow.leave", job_variables=options)

    state = site.submit(deployment).wait_until_ended()

    assert state.is_crashed()
    assert "could not be loaded: SystemExit" in (state.message or "")


def test_an_environment_that_needs_a_new_interpreter_runs_cold_and_the_log_says_why(
    site: Site,
) -> None:
    cold = site.deploy("look_around", job_variables={"env": {"PYTHONHASHSEED": "7"}})

    job = site.submit(cold)

    assert job.wait_until_ended().is_completed()
    logs = wait_for(
        lambda: logs if "starts cold" in (logs := read_logs(site, job)) else None, "the reason"
    )
    assert "a running interpreter cannot follow PYTHONHASHSEED" in logs


FLOW_FILE = """
    from pathlib import Path

    from prefect import flow

    from helper_of_{name} import ANSWER

    @flow
    def answer(out: str) -> None:
        with (Path(out) / "answer").open("a") as file:
            file.write(ANSWER + "\\n")
"""


def write_flow(directory: Path, name: str, answer: str) -> None:
    (directory / f"flow_of_{name}.py").write_text(textwrap.dedent(FLOW_FILE.format(name=name)))
    (directory / f"helper_of_{name}.py").write_text(f"ANSWER = {answer!r}\n")


def test_changed_code_is_used_by_the_next_job(site: Site, tmp_path: Path) -> None:
    write_flow(tmp_path, "fixed", "before")
    step = {"prefect.deployments.steps.set_working_directory": {"directory": str(tmp_path)}}
    deployment = site.deploy("answer", entrypoint="flow_of_fixed.py:answer", pull_steps=[step])

    for answer in ("before", "a longer answer"):
        write_flow(tmp_path, "fixed", answer)
        job = site.submit(deployment)
        assert job.wait_until_ended().is_completed()
        assert job.lines("answer") == [answer]


def test_code_that_changes_while_a_job_runs_is_used_by_the_next(site: Site, tmp_path: Path) -> None:
    helper = tmp_path / "helper_of_changing.py"
    helper.write_text("ANSWER = 'before'\n")
    (tmp_path / "flow_of_changing.py").write_text(
        "import pathlib, time\n"
        "from prefect import flow\n"
        "from helper_of_changing import ANSWER\n\n"
        "@flow\n"
        "def tell(out):\n"
        "    with (pathlib.Path(out) / 'answer').open('a') as file:\n"
        "        print(ANSWER, file=file)\n"
        "    while not (pathlib.Path(out) / 'go').exists():\n"
        "        time.sleep(0.01)\n"
    )
    step = {"prefect.deployments.steps.set_working_directory": {"directory": str(tmp_path)}}
    deployment = site.deploy("tell", entrypoint="flow_of_changing.py:tell", pull_steps=[step])
    job = site.submit(deployment)
    job.wait_until_it_said("answer")
    helper.write_text("ANSWER = 'after that'\n")
    (job.out / "go").touch()
    assert job.wait_until_ended().is_completed()

    # whichever process takes it, that of the first job among them
    followers = [site.submit(deployment, into=job.out) for _ in range(4)]

    assert all(follower.wait_until_ended().is_completed() for follower in followers)
    assert job.lines("answer") == ["before", *["after that"] * 4]


def test_code_in_a_local_path_is_copied_for_each_job(site: Site, tmp_path: Path) -> None:
    write_flow(tmp_path, "path", "from a path")
    deployment = site.deploy(
        "answer", entrypoint="flow_of_path.py:answer", path=str(tmp_path), pull_steps=None
    )

    job = site.submit(deployment)

    assert job.wait_until_ended().is_completed()
    assert job.lines("answer") == ["from a path"]


def test_pull_steps_run_before_the_flow_is_loaded(site: Site, tmp_path: Path) -> None:
    write_flow(tmp_path, "pulled", "pulled")
    target = tmp_path / "pulled"
    steps = [
        {
            "prefect.deployments.steps.run_shell_script": {
                "script": f"bash -c 'mkdir {target} && cp {tmp_path}/*.py {target}'"
            }
        },
        {"prefect.deployments.steps.set_working_directory": {"directory": str(target)}},
    ]
    deployment = site.deploy("answer", entrypoint="flow_of_pulled.py:answer", pull_steps=steps)

    job = site.submit(deployment)

    assert job.wait_until_ended().is_completed()
    assert job.lines("answer") == ["pulled"]


def test_a_configured_command_runs_instead(site: Site) -> None:
    command = f"{sys.executable} -m prefect.engine"
    deployment = site.deploy("talk", job_variables={"command": command})

    job = site.submit(deployment)

    assert job.wait_until_ended().is_completed()
    assert len(job.lines("pid")) == 1


def test_a_command_that_does_not_run_the_flow_crashes_the_run(site: Site, tmp_path: Path) -> None:
    deployment = site.deploy("talk", job_variables={"command": f"touch {tmp_path}/ran"})

    job = site.submit(deployment)

    assert job.wait_until_ended().is_crashed()
    assert (tmp_path / "ran").exists()
    assert job.lines("pid") == []
