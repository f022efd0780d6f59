"""Checks side by side: what one of them does is no other's affair, nor the command's."""

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prefect.settings import PREFECT_API_URL, temporary_settings

from pygeoapi_prefect.check import (
    Finding,
    Topic,
    _Check,
    _findings,
    _Subject,
    _try_discovery,
    check_configuration,
)
from pygeoapi_prefect.configuration_file import load_configuration
from pygeoapi_prefect.errors import ConfigurationError, StorageError
from pygeoapi_prefect.gateway import ApiGateway
from pygeoapi_prefect.storage import FsspecStorage

SHIPPED = Path(__file__).parents[2] / "pygeoapi-config.yml"


def ok(one: _Subject) -> Iterator[Finding]:
    yield one.ok("well")


def raising(error: Exception) -> Callable[[_Subject], Iterable[Finding]]:
    def run(_: _Subject) -> Iterator[Finding]:
        raise error
        yield

    return run


@pytest.mark.parametrize(
    ("error", "fact"),
    [
        (StorageError("the result storage s3://a is full"), "the result storage s3://a is full"),
        (httpx.ConnectError("refused"), "the Prefect API does not answer (ConnectError)"),
        (
            RuntimeError("see https://user:secret@host/x?key=secret,\nor /etc/secret/x"),
            "RuntimeError: see https://host/x or x",
        ),
    ],
)
def test_what_a_check_raises_is_a_finding_without_secrets(error: Exception, fact: str) -> None:
    (finding,) = _findings([_Check(_Subject(Topic.RESULTS, "a"), raising(error))])

    assert (finding.is_ok, finding.fact) == (False, fact)
    assert "result_storage" in finding.remedy or "PREFECT_API_URL" in finding.remedy


def test_a_check_that_never_ends_is_a_finding_among_others() -> None:
    never = threading.Event()

    def hang(_: _Subject) -> Iterator[Finding]:
        never.wait()
        yield from ()

    checks = [
        _Check(_Subject(Topic.RESULTS, "hanging"), hang, seconds=0.5),
        _Check(_Subject(Topic.WORK_POOL, "fine"), ok, seconds=120),
    ]
    findings = {finding.name: finding for finding in _findings(checks)}
    never.set()

    assert findings["fine"].is_ok
    assert "no answer within" in findings["hanging"].fact


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Returns a function that writes a configuration, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)

    def write(resources: dict[str, Any], **manager: Any) -> Path:
        content = yaml.safe_load(SHIPPED.read_text())
        name = content["server"]["manager"]["name"]
        content["server"]["manager"] = {"name": name, **manager}
        content["resources"] = {
            process_id: {"type": "process", "processor": processor}
            for process_id, processor in resources.items()
        }
        path = tmp_path / "pygeoapi-config.yml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


@pytest.fixture
def _no_name_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no host but this one, and nobody is asked for others, which can take long."""
    resolve = socket.getaddrinfo

    def resolve_here(host: str, *arguments: Any, **keywords: Any) -> Any:
        if host.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve(host, *arguments, **keywords)

    monkeypatch.setattr(socket, "getaddrinfo", resolve_here)


@pytest.mark.usefixtures("_no_name_servers")
def test_without_prefect_all_else_is_checked(configure: Callable[..., Path]) -> None:
    path = configure(
        {
            "hello": {"name": "HelloWorld"},
            "broken": {"name": "no.such.Class"},
            "elsewhere": {"name": "HelloWorld", "prefect": {"result_storage": "memory://check"}},
            "in-block": {"name": "HelloWorld", "prefect": {"result_storage": "s3-bucket/x"}},
            "misspelt": {"name": "HelloWorld", "prefect": {"result_storag": "x"}},
        },
        output_dir="results",
        references={"allow_hosts": ["localhost", "[::1]:80", "*.example.org", "no-such.invalid"]},
    )

    found = {(one.topic, one.name): one for one in check_configuration(load_configuration(path))}

    results = str(path.parent / "results")
    assert {key for key, one in found.items() if one.is_ok} == {
        (Topic.RESULTS, results),
        (Topic.RESULTS, "memory://check"),
        (Topic.PROCESS, "hello"),
        (Topic.PROCESS, "elsewhere"),
        (Topic.PROCESS, "in-block"),
        (Topic.HOST, "localhost"),
        (Topic.HOST, "[::1]:80"),
        (Topic.HOST, "*.example.org"),
    }
    assert "set PREFECT_API_URL" in found[Topic.API, "not configured"].fact
    assert "no.such.Class" in found[Topic.PROCESS, "broken"].fact
    assert "result_storag" in found[Topic.PROCESS, "misspelt"].fact
    assert "does not resolve" in found[Topic.HOST, "no-such.invalid"].fact
    assert list(Path(results).iterdir()) == []  # the probe is gone


def test_a_storage_that_keeps_something_else_is_a_problem(
    configure: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FsspecStorage, "read", lambda *_: b"another")

    findings = check_configuration(
        load_configuration(configure({}, result_storage="memory://check"))
    )

    (one,) = (finding for finding in findings if finding.topic is Topic.RESULTS)
    assert (one.is_ok, one.fact) == (False, "what was read is not what was stored")


def test_the_probe_goes_also_where_it_cannot_be_read(
    configure: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> bytes:
        raise StorageError("the result storage refuses access")

    monkeypatch.setattr(FsspecStorage, "read", refuse)
    path = configure({}, output_dir="results")

    findings = check_configuration(load_configuration(path))

    (one,) = (finding for finding in findings if finding.topic is Topic.RESULTS)
    assert (one.is_ok, one.fact) == (False, "the result storage refuses access")
    assert list((path.parent / "results").iterdir()) == []


def test_former_storages_are_read_and_nothing_is_written_there(
    configure: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    monkeypatch.setattr(FsspecStorage, "write", lambda storage, *_: written.append(storage._name))
    former = ["memory://former", "memory://both"]
    path = configure({}, result_storage="memory://both", former_result_storages=former)

    found = {one.name: one for one in check_configuration(load_configuration(path))}

    assert (found["memory://former"].is_ok, found["memory://former"].fact) == (True, "can be read")
    assert written == ["memory://both"]


def test_tags_may_have_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def tagged(_: ApiGateway, tags: Iterable[str]) -> list[Any]:
        asked.append(set(tags))
        return []

    monkeypatch.setattr(ApiGateway, "tagged_deployments", tagged)
    subject = _Subject(Topic.DISCOVERY, "a, b, c")

    (finding,) = _try_discovery(subject, tags={"a, b", "c"})

    assert finding.is_ok
    assert asked == [{"a, b", "c"}]


def test_a_configuration_that_cannot_be_used_is_an_error(configure: Callable[..., Path]) -> None:
    with pytest.raises(ConfigurationError, match="no password"):
        check_configuration(
            load_configuration(configure({}, result_storage="s3://key:secret@bucket/x"))
        )


def test_a_prefect_api_that_refuses_connections_is_one_finding(
    configure: Callable[..., Path], deserted_host: str
) -> None:
    url = f"http://{deserted_host}/api"
    with temporary_settings({PREFECT_API_URL: url}):
        findings = check_configuration(
            load_configuration(configure({}, result_storage="memory://check"))
        )

    assert [(one.topic, one.name, one.is_ok) for one in findings] == [
        (Topic.API, url, False),
        (Topic.RESULTS, "memory://check", True),
    ]
