"""Dockerfile, compose.yaml and manifests are what the engines expect, which are not here."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.settings import Settings
from prefect_redis.cleanup_queue import (  # type: ignore[import-untyped]
    RedisWorkerCleanupQueueSettings,
)
from prefect_redis.client import RedisMessagingSettings  # type: ignore[import-untyped]

REPOSITORY = Path(__file__).parents[2]
MANIFESTS = REPOSITORY / "examples" / "kubernetes"
KUBERNETES_VERSIONS = ("1.30", "1.37")
# those of others, which start as root and give that up themselves
FOREIGN = ("postgres", "redis", "s3")


def dockerfiles() -> dict[str, str]:
    """The Dockerfile, and those in pages."""
    found = {"Dockerfile": (REPOSITORY / "Dockerfile").read_text()}
    for page in (REPOSITORY / "docs").rglob("*.md"):
        for match in re.finditer(r"^```dockerfile\n(.*?)^```", page.read_text(), re.DOTALL | re.M):
            found[page.name] = match[1]
    return found


@pytest.mark.parametrize("name", dockerfiles())
def test_dockerfiles_are_clean(name: str) -> None:
    program = Path(sys.executable).with_name("hadolint")
    checked = subprocess.run(
        [str(program), "-"], input=dockerfiles()[name], capture_output=True, text=True
    )
    assert (checked.returncode, checked.stdout) == (0, "")


def test_what_is_sent_to_the_engine_is_what_it_copies() -> None:
    sources = {
        source.removeprefix("./").strip("/")
        for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfiles()["Dockerfile"], re.M)
        for source in line.split()[:-1]
    }
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    sent = {line.removeprefix("!") for line in ignored if line.startswith("!")}

    assert "*" in ignored
    assert sent == sources
    assert all((REPOSITORY / source).exists() for source in sources)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())
    return content


def test_the_compose_file_is_valid() -> None:
    compose_spec = pytest.importorskip("compose_spec", reason="has no wheel for this Python")
    options = compose_spec.PyOptions()
    options.apply_merge = True
    parsed = options.from_yaml((REPOSITORY / "compose.yaml").read_text())
    assert parsed.validate() is None


def test_nothing_is_published_beyond_this_machine(compose: dict[str, Any]) -> None:
    published = [port for one in compose["services"].values() for port in one.get("ports", ())]
    assert published
    assert all(port["host_ip"] == "127.0.0.1" for port in published)


def test_secrets_have_no_default(compose: dict[str, Any]) -> None:
    text = (REPOSITORY / "compose.yaml").read_text()
    asked_for = set(re.findall(r"\$\{(\w+):\?", text))
    example = (REPOSITORY / ".env.example").read_text()

    assert asked_for == set(re.findall(r"^(\w+)=", example, re.M))
    assert set(re.findall(r"\$\{(\w+)", text)) - asked_for == {"S3_BUCKET"}
    for ignoring in (".gitignore", ".dockerignore"):
        assert {".env", "*"} & {*(REPOSITORY / ignoring).read_text().splitlines()}


def test_containers_of_ours_may_do_nothing_special(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if name not in FOREIGN:
            assert service["cap_drop"] == ["ALL"]
            assert service["security_opt"] == ["no-new-privileges:true"]
            assert "user" not in service, "that of the image is not root"


def test_each_image_is_built_once(compose: dict[str, Any]) -> None:
    # several builds of one name run at once, and fail with "already exists"
    built = [one["image"] for one in compose["services"].values() if "build" in one]
    assert built == ["pygeoapi-prefect"]


def test_services_wait_for_what_they_need(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for service in services.values():
        for name, condition in service.get("depends_on", {}).items():
            needed = services[name]
            if condition["condition"] == "service_completed_successfully":
                assert needed["restart"] == "no"
            else:
                assert condition["condition"] == "service_healthy"
                assert "test" in needed["healthcheck"]


def manifests() -> dict[str, dict[str, Any]]:
    return {
        f"{document['kind']} {document['metadata']['name']}": document
        for file in sorted(MANIFESTS.glob("*.yaml"))
        if file.name != "kustomization.yaml"
        for document in yaml.safe_load_all(file.read_text())
    }


@pytest.mark.parametrize("name", manifests())
def test_manifests_are_valid(name: str) -> None:
    import kubernetes_validate  # type: ignore[import-untyped]

    for version in KUBERNETES_VERSIONS:
        kubernetes_validate.validate(manifests()[name], version, strict=True)


def test_manifests_are_told_apart_by_kustomize() -> None:
    listed = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())
    assert {*listed["resources"], "kustomization.yaml"} == {
        file.name for file in MANIFESTS.glob("*.yaml")
    }
    for generator in listed["configMapGenerator"]:
        assert all((MANIFESTS / file).exists() for file in generator["files"])


def pods() -> dict[str, dict[str, Any]]:
    return {
        name: manifest["spec"]["template"]
        for name, manifest in manifests().items()
        if manifest["kind"] in ("Deployment", "Job")
    }


@pytest.mark.parametrize("name", pods())
def test_pods_are_restricted(name: str) -> None:
    spec = pods()[name]["spec"]
    (container,) = spec["containers"]
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    # else the service `prefect` sets variables that look like settings
    assert spec["enableServiceLinks"] is False
    assert spec["automountServiceAccountToken"] is False


def test_only_those_who_need_it_reach_the_prefect_api() -> None:
    (rule,) = manifests()["NetworkPolicy prefect"]["spec"]["ingress"]
    (peer,) = rule["from"]
    selected = peer["podSelector"]["matchLabels"].items()
    reaching = {
        name for name, pod in pods().items() if selected <= pod["metadata"]["labels"].items()
    }
    assert reaching == {"Job deploy", "Deployment web", "Deployment worker"}


def names_in_environments(compose: dict[str, Any]) -> set[str]:
    """All variables that containers and pods have, which Prefect is to read."""
    names = {name for one in compose["services"].values() for name in one.get("environment", ())}
    for manifest in manifests().values():
        if manifest["kind"] == "ConfigMap":
            names |= manifest["data"].keys()
    for file in MANIFESTS.glob("*.example.env"):
        names |= set(re.findall(r"^(\w+)=", file.read_text(), re.M))
    return {name for name in names if name.startswith("PREFECT_")}


def test_prefect_knows_the_settings(
    compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = names_in_environments(compose)
    of_redis = {name for name in names if name.startswith("PREFECT_REDIS_")}
    for name in names:
        monkeypatch.setenv(name, "false" if name.endswith(("_ENABLED", "_START")) else "http://x")

    known = Settings().to_environment_variables(exclude_unset=True, include_secrets=True)
    redis = {
        f"{model.model_config['env_prefix']}{name}".upper()
        for model in (RedisMessagingSettings, RedisWorkerCleanupQueueSettings)
        for name in model.model_fields
    }

    assert len(names) > 10
    assert names - known.keys() - (of_redis & redis) == set()
