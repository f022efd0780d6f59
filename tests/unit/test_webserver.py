"""The configuration as the web server gets it."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pygeoapi.util import yaml_load

from pygeoapi_prefect import webserver
from pygeoapi_prefect.errors import ConfigurationError

PROCESS = "\nresources:\n  a:"
SHIPPED = Path(__file__).parents[2] / "pygeoapi-config.yml"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yml"
    path.write_text(SHIPPED.read_text())
    return path


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new))


def content_of(path: Path) -> Mapping[str, Any]:
    return webserver.read_configuration(path).content


def localized(path: Path, host: str, port: int) -> dict[str, Any]:
    text = webserver.localize(path.read_text(), content_of(path), host, port)
    result: dict[str, Any] = yaml.safe_load(text)
    return result


def test_the_shipped_configuration_is_valid() -> None:
    processes = content_of(SHIPPED)["resources"]
    assert {"hello-world", "hi-prefect-world", "simple-flow", "echo", "zonal-statistics"} <= set(
        processes
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    port: 5000", "    port: many", "server.bind.port: 'many' is not of type 'integer'"),
        ("  level: WARNING", "  level: LOUD", "logging.level: 'LOUD' is not one of"),
        ("  level: WARNING", "  level: ${NO_SUCH_VARIABLE}", "'NO_SUCH_VARIABLE'"),
        ("    - en-US", "    - [en-US", "no valid YAML"),
        ("    output_dir: .pygeoapi-prefect/results", "    outputdir: x", "outputdir"),
        ("pygeoapi_prefect.manager.PrefectManager", "TinyDB", "does not choose this process"),
        ("server:\n", "serving:\n", "does not choose this process"),
        ("\nresources:\n", "\nresource:\n", "the file: 'resources' is a required property"),
        ("\nresources:\n", f"{PROCESS} {{type: process}}\n", "resources.a.processor is missing"),
        (
            "\nresources:\n",
            f"{PROCESS} {{type: process, processor: {{prefect: {{}}}}}}\n",
            "resources.a.processor needs either `name`",
        ),
        (
            "\nresources:\n",
            f"{PROCESS} &a {{type: process, processor: {{name: x, self: *a}}}}\n",
            "Circular reference",
        ),
        ("\nresources:\n", f"{PROCESS} {{type: !!set {{x}}}}\n", "not serializable"),
        ("http://localhost:5000", "'http://[::1'", "server.url: 'http://[::1' is no http"),
        ("http://localhost:5000", "localhost", "server.url: 'localhost' is no http"),
        ("    port: 5000", "    port: 99999", "server.bind.port: must be between 1 and 65535"),
    ],
    ids=lambda value: value[-40:].encode("unicode_escape").decode(),
)
def test_a_configuration_that_cannot_be_served_is_refused_in_one_line(
    config: Path, old: str, new: str, message: str
) -> None:
    replace(config, old, new)
    with pytest.raises(ConfigurationError) as refusal:
        webserver.read_configuration(config)
    assert message in refusal.value.detail
    assert "\n" not in refusal.value.detail
    assert any(
        where in refusal.value.detail
        for where in (str(config), "server.manager.", "resources.a.processor")
    )


def test_a_missing_configuration_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read .*absent\.yml"):
        webserver.read_configuration(tmp_path / "absent.yml")


def test_a_refusal_does_not_show_a_whole_configuration(config: Path) -> None:
    replace(config, "  level: WARNING", f"  level: {'LOUD' * 1000}")
    with pytest.raises(ConfigurationError) as refusal:
        webserver.read_configuration(config)
    assert len(refusal.value.detail) < 500


def test_placeholders_are_filled_in(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_PORT", "5999")
    replace(config, "    port: 5000", "    port: ${THE_PORT}")
    assert content_of(config)["server"]["bind"]["port"] == 5999


def test_address_and_port_are_set(config: Path) -> None:
    server = localized(config, "127.0.0.1", 5001)["server"]
    assert server["bind"] == {"host": "127.0.0.1", "port": 5001}
    assert server["url"] == "http://localhost:5001"


def test_nothing_else_changes(config: Path) -> None:
    expected = yaml.safe_load(config.read_text())
    expected["server"]["bind"] = {"host": "127.0.0.1", "port": 5001}
    expected["server"]["url"] = "http://localhost:5001"
    assert localized(config, "127.0.0.1", 5001) == expected


@pytest.mark.parametrize(
    ("url", "host", "expected"),
    [
        ("http://127.0.0.1:5000/oapi", "127.0.0.1", "http://127.0.0.1:80/oapi"),
        ("http://[::1]:5000", "::1", "http://[::1]:80"),
        ("http://localhost", "0.0.0.0", "http://localhost:80"),
        ("http://localhost:5000", "192.0.2.1", "http://192.0.2.1:80"),
        ("http://localhost:5000", "2001:db8::1", "http://[2001:db8::1]:80"),
        ("https://example.org/oapi", "127.0.0.1", "https://example.org/oapi"),
        ("http://192.0.2.7:5000", "127.0.0.1", "http://192.0.2.7:5000"),
    ],
)
def test_the_public_address_changes_only_if_it_is_local(
    config: Path, url: str, host: str, expected: str
) -> None:
    replace(config, "http://localhost:5000", f"'{url}'")
    assert localized(config, host, 80)["server"]["url"] == expected


def test_placeholders_stay_placeholders(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEVEL", "ERROR")
    monkeypatch.setenv("PUBLIC_URL", "https://example.org")
    replace(config, "  level: WARNING", "  level: ${LEVEL}")
    replace(config, "url: http://localhost:5000", "url: ${PUBLIC_URL}")
    replace(config, "    title: pygeoapi-prefect", "    title: '${LEVEL} is a placeholder'")
    text = webserver.localize(config.read_text(), content_of(config), "127.0.0.1", 5001)
    raw = yaml.safe_load(text)
    assert (raw["logging"]["level"], raw["server"]["url"]) == ("${LEVEL}", "${PUBLIC_URL}")
    config.write_text(text)
    with config.open() as file:
        read = yaml_load(file)
    assert read["logging"]["level"] == "ERROR"
    # pygeoapi leaves quoted text alone; so it must stay quoted
    assert read["metadata"]["identification"]["title"] == "${LEVEL} is a placeholder"


def test_a_local_placeholder_address_gets_the_chosen_port(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUBLIC_URL", "http://localhost:1234/oapi")
    replace(config, "url: http://localhost:5000", "url: ${PUBLIC_URL}")
    assert localized(config, "127.0.0.1", 5001)["server"]["url"] == "http://localhost:5001/oapi"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", "http://127.0.0.1:5000"),
        ("0.0.0.0", "http://127.0.0.1:5000"),
        ("::", "http://[::1]:5000"),
        ("2001:db8::1", "http://[2001:db8::1]:5000"),
        ("example.org", "http://example.org:5000"),
    ],
)
def test_an_address_can_be_asked_for_where_it_is_listened_on(host: str, expected: str) -> None:
    assert webserver.url_of(host, 5000) == expected


def test_the_openapi_document_describes_the_processes(config: Path, tmp_path: Path) -> None:
    target = tmp_path / "state" / "openapi.yml"
    webserver.write_openapi_document(webserver.read_configuration(config), target)
    document = yaml.safe_load(target.read_text())
    assert document["openapi"].startswith("3.0")
    assert "/processes/hello-world/execution" in document["paths"]


def test_a_document_that_cannot_be_made_is_an_error_of_the_configuration(
    config: Path, tmp_path: Path
) -> None:
    collection = "resources:\n  broken:\n    type: collection\n    title: t\n    description: d\n"
    replace(config, "\nresources:\n", f"\n{collection}    keywords: [k]\n    extents: {{}}\n")
    with pytest.raises(ConfigurationError):
        webserver.write_openapi_document(
            webserver.read_configuration(config), tmp_path / "openapi.yml"
        )


def test_applications_find_configuration_and_document(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYGEOAPI_CONFIG", "replaced")
    monkeypatch.setenv("PYGEOAPI_OPENAPI", "to be restored")
    monkeypatch.delenv("PYGEOAPI_OPENAPI")
    webserver.point_pygeoapi_at(webserver.read_configuration(config), tmp_path / "openapi.yml")
    assert os.environ["PYGEOAPI_CONFIG"] == str(config)
    assert os.environ["PYGEOAPI_OPENAPI"] == str(tmp_path / "openapi.yml")
    assert (tmp_path / "openapi.yml").exists()


def test_a_document_of_the_operators_own_is_kept(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own.yml"
    own.write_text("openapi: 3.0.2")
    monkeypatch.setenv("PYGEOAPI_CONFIG", "replaced")
    monkeypatch.setenv("PYGEOAPI_OPENAPI", str(own))
    webserver.point_pygeoapi_at(webserver.read_configuration(config), tmp_path / "generated.yml")
    assert own.read_text() == "openapi: 3.0.2"
    assert not (tmp_path / "generated.yml").exists()


def test_pygeoapis_warnings_of_what_it_has_dealt_with_are_not_logged(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PYGEOAPI_CONFIG", "replaced")
    monkeypatch.setenv("PYGEOAPI_OPENAPI", "restored")
    webserver.point_pygeoapi_at(webserver.read_configuration(config), tmp_path / "openapi.yml")
    logger = logging.getLogger("pygeoapi.l10n")
    logger.warning(ValueError("unknown locale 'type'"))
    logger.warning("something to know")
    logger.error(ValueError("something worse"))
    assert caplog.messages == ["something to know", "something worse"]
