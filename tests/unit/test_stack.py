"""What the stack checks before it starts anything, and what it hands to its processes."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from benchmarks.stand.ports import free_port
from pygeoapi_prefect import stack as stack_module
from pygeoapi_prefect.children import marked_processes
from pygeoapi_prefect.errors import BackendUnavailable, ConfigurationError, StackError
from pygeoapi_prefect.stack import (
    RESTARTS_AT_MOST,
    Stack,
    StackOptions,
    StopRequested,
    check_port,
    locked,
    stack_environment,
    worker_command,
)

SHIPPED = Path(__file__).parents[2] / "pygeoapi-config.yml"
WAITING = "import signal; signal.pause()"


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def free_ports() -> tuple[int, int]:
    return free_port(), free_port()


@pytest.fixture(autouse=True)
def in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def options(ports: tuple[int, int], config: Path = SHIPPED) -> StackOptions:
    return StackOptions(config, "127.0.0.1", *ports, workers=1)


class TestEnvironment:
    def test_leads_to_a_prefect_server_of_its_own(self, tmp_path: Path) -> None:
        environment = stack_environment({}, tmp_path, 4201)
        assert environment["PREFECT_API_URL"] == "http://127.0.0.1:4201/api"
        assert environment["PREFECT_SERVER_UI_API_URL"] == "http://127.0.0.1:4201/api"
        assert environment["PREFECT_HOME"] == str(tmp_path / "prefect")

    def test_leads_away_from_the_users_profile(self, tmp_path: Path) -> None:
        inherited = {
            "PREFECT_HOME": "/home/me/.prefect",
            "PREFECT_PROFILE": "mine",
            "PREFECT_PROFILES_PATH": "/home/me/profiles.toml",
        }
        environment = stack_environment(inherited, tmp_path, 4201)
        assert "PREFECT_PROFILE" not in environment
        assert "PREFECT_PROFILES_PATH" not in environment
        assert environment["PREFECT_HOME"] == str(tmp_path / "prefect")

    def test_follows_the_prefect_api_that_is_set(self, tmp_path: Path) -> None:
        inherited = {
            "PREFECT_API_URL": "https://prefect.example.org/api",
            "PREFECT_HOME": "/home/me/.prefect",
            "PREFECT_PROFILE": "mine",
        }
        environment = stack_environment(inherited, tmp_path, 4201)
        assert inherited.items() <= environment.items()
        assert "PREFECT_SERVER_UI_API_URL" not in environment

    def test_an_empty_address_counts_as_none(self, tmp_path: Path) -> None:
        environment = stack_environment({"PREFECT_API_URL": ""}, tmp_path, 4201)
        assert environment["PREFECT_API_URL"] == "http://127.0.0.1:4201/api"

    def test_sends_no_usage_statistics(self, tmp_path: Path) -> None:
        environment = stack_environment({}, tmp_path, 4201)
        assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
        assert environment["DO_NOT_TRACK"] == "1"

    def test_keeps_what_the_operator_sets(self, tmp_path: Path) -> None:
        inherited = {"PREFECT_WORKER_QUERY_SECONDS": "0.2", "PATH": "/bin", "no_proxy": "a.org"}
        environment = stack_environment(inherited, tmp_path, 4201)
        assert environment["PREFECT_WORKER_QUERY_SECONDS"] == "0.2"
        assert environment["PATH"] == "/bin"
        assert environment["no_proxy"] == environment["NO_PROXY"] == "a.org,127.0.0.1,localhost"

    def test_polls_the_queue_every_second_or_faster(self, tmp_path: Path) -> None:
        assert float(stack_environment({}, tmp_path, 1)["PREFECT_WORKER_QUERY_SECONDS"]) <= 1

    def test_never_starts_a_second_server_unasked(self, tmp_path: Path) -> None:
        inherited = {"PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true"}
        environment = stack_environment(inherited, tmp_path, 4201)
        assert environment["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] == "false"

    def test_a_document_of_another_service_is_not_served(self, tmp_path: Path) -> None:
        assert "PYGEOAPI_OPENAPI" not in stack_environment(
            {"PYGEOAPI_OPENAPI": "other.yml"}, tmp_path, 4201
        )


class TestPorts:
    def test_a_free_port_is_fine(self, free_ports: tuple[int, int]) -> None:
        check_port("127.0.0.1", free_ports[0], "--port")
        check_port("localhost", free_ports[0], "--port")

    def test_a_taken_port_is_an_error_that_names_the_option(self, taken_port: int) -> None:
        with pytest.raises(StackError, match=rf"port {taken_port} is taken.* --other-port"):
            check_port("127.0.0.1", taken_port, "--other-port")

    def test_a_port_taken_on_all_interfaces_is_taken_on_each(self) -> None:
        with socket.create_server(("", 0)) as server:
            port = server.getsockname()[1]
            with pytest.raises(StackError, match="is taken"):
                check_port("127.0.0.1", port, "--port")

    def test_a_port_is_free_again_right_after_its_connections_ended(
        self, free_ports: tuple[int, int]
    ) -> None:
        port = free_ports[0]
        with (
            socket.create_server(("127.0.0.1", port)) as server,
            socket.create_connection(("127.0.0.1", port)),
        ):
            connection, _ = server.accept()
            connection.close()
        check_port("127.0.0.1", port, "--port")

    @pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
    def test_a_host_that_is_not_this_machine_is_an_error(self, host: str) -> None:
        with pytest.raises(StackError, match=f"cannot listen on {host}"):
            check_port(host, 5000, "--port")


class TestLock:
    def test_the_second_holder_is_told_of_the_first(self, tmp_path: Path) -> None:
        path = tmp_path / "state" / "up.lock"
        refusal = pytest.raises(StackError, match=rf"already runs .*process {os.getpid()}\)")
        with locked(path), refusal, locked(path):
            pytest.fail("two hold the lock")
        with locked(path):
            assert path.read_text() == str(os.getpid())

    def test_the_lock_of_a_killed_process_is_free(self, tmp_path: Path) -> None:
        path = tmp_path / "up.lock"
        holder = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import pathlib, signal; from pygeoapi_prefect.stack import locked\n"
                f"with locked(pathlib.Path({str(path)!r})):\n"
                "    print('ready', flush=True); signal.pause()",
            ],
            stdout=subprocess.PIPE,
        )
        assert holder.stdout is not None
        with holder.stdout as output:
            assert output.readline() == b"ready\n"
            with pytest.raises(StackError, match=f"process {holder.pid}"), locked(path):
                pytest.fail("two hold the lock")
            holder.kill()
            holder.wait()
        with locked(path):
            assert path.read_text() == str(os.getpid())

    def test_a_directory_that_cannot_be_made_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StackError, match="cannot write to"), locked(tmp_path / "file" / "l"):
            pytest.fail("there is no such directory")


class TestWorkerCommand:
    def test_names_the_work_pool_and_makes_none(self) -> None:
        command = worker_command("pool", None)
        assert command[: command.index("--pool") + 2][-2:] == ["--pool", "pool"]
        assert "--no-create-pool-if-not-found" in command
        assert "--name" not in command
        assert "--limit" not in command

    def test_passes_on_name_and_limit(self) -> None:
        command = worker_command("pool", "me", 3)
        assert command[-4:] == ["--name", "me", "--limit", "3"]


class TestBeforeTheStart:
    """Entering the stack finds errors, and leaves nothing running."""

    def refusal(self, choice: StackOptions) -> str:
        stack = Stack(choice)
        handlers = {number: signal.getsignal(number) for number in stack_module._STOP_SIGNALS}
        with pytest.raises((StackError, ConfigurationError, BackendUnavailable)) as refusal, stack:
            pytest.fail("nothing was found")
        assert marked_processes(stack._mark) == []
        assert {number: signal.getsignal(number) for number in handlers} == handlers
        assert "\n" not in refusal.value.detail
        return refusal.value.detail

    def test_a_missing_configuration(self, free_ports: tuple[int, int]) -> None:
        assert "absent.yml" in self.refusal(options(free_ports, Path("absent.yml")))
        assert not Path(".pygeoapi-prefect").exists()

    def test_a_taken_port(self, taken_port: int, free_ports: tuple[int, int]) -> None:
        assert f"port {taken_port} " in self.refusal(options((taken_port, free_ports[0])))

    def test_a_taken_prefect_port(self, taken_port: int, free_ports: tuple[int, int]) -> None:
        refusal = self.refusal(options((free_ports[0], taken_port)))
        assert f"port {taken_port} " in refusal
        assert "--prefect-port" in refusal

    def test_one_port_for_both(self, free_ports: tuple[int, int]) -> None:
        refusal = self.refusal(options((free_ports[0], free_ports[0])))
        assert "--port and --prefect-port are both" in refusal

    def test_another_stack_in_the_same_directory(self, free_ports: tuple[int, int]) -> None:
        with locked(Path(".pygeoapi-prefect/up.lock")):
            assert f"process {os.getpid()}" in self.refusal(options(free_ports))

    def test_a_prefect_api_that_does_not_answer(
        self, free_ports: tuple[int, int], taken_port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = f"http://127.0.0.1:{free_ports[1]}/api"
        monkeypatch.setenv("PREFECT_API_URL", url)
        with temporary_settings({PREFECT_API_URL: url}):
            # the port of a Prefect server of its own does not matter then
            assert url in self.refusal(options((free_ports[0], taken_port)))

    def test_no_error_is_followed_by_what_the_processes_will_see(
        self, free_ports: tuple[int, int]
    ) -> None:
        with Stack(options(free_ports)) as stack:
            assert stack.api_url == f"http://127.0.0.1:{free_ports[0]}"
            served = Path(".pygeoapi-prefect/pygeoapi-config.yml").read_text()
            assert f"url: http://localhost:{free_ports[0]}\n" in served
            assert [step.title for step in stack.steps] == [
                "Prefect server",
                "Deployments",
                "Worker 1",
                "Web server",
            ]
            assert marked_processes(stack._mark) == []


class TestWorkerNames:
    def test_differ_between_workers_and_between_stacks_of_one_machine(self) -> None:
        stacks = [Stack(options((port, 4200))) for port in (5000, 5001)]
        names = [stack._worker_name(number) for stack in stacks for number in (1, 2)]
        assert len(set(names)) == 4

    def test_are_the_same_at_the_next_start(self) -> None:
        first, second = (Stack(options((5000, 4200))) for _ in range(2))
        assert first._worker_name(1) == second._worker_name(1)


class TestStopping:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_a_signal_is_a_request_to_stop(
        self, free_ports: tuple[int, int], number: signal.Signals
    ) -> None:
        with contextlib.suppress(StopRequested), Stack(options(free_ports)):
            signal.raise_signal(number)
            pytest.fail("it went on")
        with locked(Path(".pygeoapi-prefect/up.lock")):  # and everything is given back
            pass

    def test_all_processes_are_stopped_whatever_the_error(
        self, free_ports: tuple[int, int]
    ) -> None:
        stack = Stack(options(free_ports))

        def fail() -> None:
            stack._prefect_server = stack._child("Server", [sys.executable, "-c", WAITING])
            stack._workers.append(stack._child("Worker", [sys.executable, "-c", WAITING]))
            # one that is just being started cannot be found yet
            while len(marked_processes(stack._mark)) < 2:
                assert not any(child.has_ended for child in stack._children)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError), stack:
            fail()
        assert marked_processes(stack._mark) == []


class TestWatching:
    def test_warnings_of_the_web_server_are_passed_on(self, free_ports: tuple[int, int]) -> None:
        program = (
            "print('[12:00] {x.py:3} INFO - fine'); print('[12:00] {x.py:4} WARNING - odd');"
            f"print('not a WARNING: level', flush=True); {WAITING}"
        )
        with Stack(options(free_ports)) as stack:
            stack._web_server = stack._child("Web server", [sys.executable, "-c", program])
            assert next(stack.watch()) == "[12:00] {x.py:4} WARNING - odd"

    def test_an_end_that_nobody_asked_for_is_reported_with_the_log(
        self, free_ports: tuple[int, int]
    ) -> None:
        program = "import sys; print('all is lost\\nbye'); sys.exit(3)"
        with Stack(options(free_ports)) as stack:
            stack._web_server = stack._child("Web server", [sys.executable, "-c", program])
            with pytest.raises(StackError) as report:
                list(stack.watch())
        assert report.value.detail.startswith("Web server ended with exit code 3; its log ")
        assert report.value.detail.endswith("web-server.log ends with:\nall is lost\nbye")

    def test_a_worker_that_ends_is_started_again(self, free_ports: tuple[int, int]) -> None:
        # the first one ends, those after it find its trace and stay
        program = (
            "import pathlib, sys; trace = pathlib.Path('ended')\n"
            f"if trace.exists(): {WAITING}\n"
            "trace.touch(); print('bye'); sys.exit(3)"
        )
        with Stack(options(free_ports)) as stack:
            stack._web_server = stack._child("Web server", [sys.executable, "-c", WAITING])
            stack._workers.append(stack._child("Worker 1", [sys.executable, "-c", program]))
            told = next(stack.watch())
            (worker,) = stack._workers
            assert not worker.has_ended
            assert told.startswith("Worker 1 ended with exit code 3 and was started again")
            assert Path(told.rpartition(" ")[2]).read_text() == "bye\n"

    def test_a_worker_that_ends_again_and_again_is_not(self, free_ports: tuple[int, int]) -> None:
        program = "import sys; print('all is lost'); sys.exit(3)"
        with Stack(options(free_ports)) as stack:
            stack._web_server = stack._child("Web server", [sys.executable, "-c", WAITING])
            stack._workers.append(stack._child("Worker 1", [sys.executable, "-c", program]))
            told: list[str] = []
            with pytest.raises(StackError) as report:
                told.extend(stack.watch())
        assert len(told) == RESTARTS_AT_MOST
        assert report.value.detail.endswith("worker-1.log ends with:\nall is lost")
