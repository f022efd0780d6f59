"""Configuration: what is accepted, and how a mistake is named."""

from pathlib import Path
from typing import Any

import pytest

from pygeoapi_prefect.config import parse_manager, parse_process
from pygeoapi_prefect.configuration_file import load_configuration
from pygeoapi_prefect.errors import ConfigurationError
from pygeoapi_prefect.schemas import ProcessJobControlOption

MANAGER = {"name": "pygeoapi_prefect.manager.PrefectManager"}
SERVER = "server: {manager: {name: pygeoapi_prefect.PrefectManager}}"
METADATA = {"version": "1.0.0", "title": "Slope", "inputs": {}, "outputs": {}}


def process_resource(**processor: Any) -> dict[str, Any]:
    return {"type": "process", "processor": processor}


def test_the_name_alone_is_a_whole_configuration() -> None:
    manager = parse_manager(MANAGER)

    assert manager.work_pool == "pygeoapi"
    assert manager.enable_async_job_execution
    assert manager.enable_sync_job_execution
    assert not manager.sync_through_deployments
    assert Path(manager.result_storage_address).is_absolute()


def test_what_pygeoapi_adds_to_the_manager_is_no_mistake() -> None:
    manager = parse_manager(
        {**MANAGER, "connection": {"host": "x"}, "output_dir": "/srv/out", "processes": {"a": {}}}
    )

    assert manager.result_storage_address == "/srv/out"


def test_a_result_storage_goes_before_the_output_directory() -> None:
    manager = parse_manager({**MANAGER, "output_dir": "/srv/out", "result_storage": "s3://a/b"})

    assert manager.result_storage_address == "s3://a/b"


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ({"work_pol": "x"}, "server.manager.work_pol: there is no such key (did you mean"),
        (
            {"references": {"nonsense": 1}},
            "server.manager.references.nonsense: there is no such key (there are: allow_hosts, ",
        ),
        (
            {"retention": {"max_job": 1}},
            "server.manager.retention.max_job: there is no such key (did you mean 'max_jobs'?)",
        ),
        ({"work_pool": ""}, "server.manager.work_pool: "),
        (
            {"sync_job_execution_timeout_seconds": 0},
            "server.manager.sync_job_execution_timeout_seconds: ",
        ),
        ({"inline_request_max_bytes": 600_000}, "server.manager.inline_request_max_bytes: "),
        ({"enable_async_job_execution": "perhaps"}, "server.manager.enable_async_job_execution: "),
        ({"references": {"allow": 1}}, "server.manager.references.allow"),
    ],
)
def test_a_mistake_in_the_manager_is_named_by_its_key(members: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse_manager({**MANAGER, **members})

    assert named in str(raised.value)


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse_manager({"result_storage": 5, "nonsense": 1})

    for key in ("name", "result_storage", "nonsense"):
        assert f"server.manager.{key}: " in str(raised.value)


def test_a_configuration_cannot_be_changed() -> None:
    manager = parse_manager(MANAGER)

    with pytest.raises(ValueError, match="frozen"):
        manager.work_pool = "other"


def test_every_key_in_the_wild_is_understood() -> None:
    process = parse_process(
        "a",
        process_resource(
            name="some.Processor",
            anything_of_its_own=[1],
            job_control_options=["async-execute"],
            prefect={
                "result_storage": "s3-bucket/x",
                "deployment": {
                    "name": "d",
                    "queue": "q",
                    "storage_block": "s3-bucket/code",
                    "storage_sub_path": "a",
                },
            },
        )
        | {"allow_internal_requests": True},
    )

    assert process.has_class
    assert process.allow_internal_requests
    assert process.processor["anything_of_its_own"] == [1]
    assert process.job_control_options == (ProcessJobControlOption.ASYNC_EXECUTE,)
    assert process.result_storage_address == "s3-bucket/x"
    assert process.deployment_name == "d"


def test_the_result_storage_has_a_second_name() -> None:
    process = parse_process(
        "a",
        process_resource(
            name="P", prefect={"deployment": {"result_storage_block": "local-file-system/x"}}
        ),
    )

    assert process.result_storage_address == "local-file-system/x"


def test_a_deployment_is_called_as_the_process_by_default() -> None:
    assert parse_process("a", process_resource(name="P")).deployment_name == "a"


def test_a_process_can_be_described_in_yaml_alone() -> None:
    process = parse_process(
        "slope",
        process_resource(prefect={"metadata": METADATA, "deployment": {"name": "slope-flow/main"}}),
    )

    assert not process.has_class
    assert process.deployment_name == "slope-flow/main"
    assert process.prefect.metadata is not None
    assert process.prefect.metadata.title == "Slope"


@pytest.mark.parametrize(
    ("resource", "named"),
    [
        ({}, "resources.a.processor is missing"),
        ({"processor": "HelloWorld"}, "resources.a.processor is missing or no mapping"),
        (process_resource(), "resources.a.processor needs either `name`"),
        (process_resource(prefect={"metadata": METADATA}), "prefect.deployment.name"),
        (
            process_resource(prefect={"metadata": METADATA, "deployment": {"name": "no-slash"}}),
            "flow name/deployment name",
        ),
        (
            process_resource(prefect={"deployment": {"name": "a/b"}}),
            "`prefect.metadata`",
        ),
        (
            process_resource(name="P", prefect={"deployement": {}}),
            "resources.a.processor.prefect.deployement: ",
        ),
        (
            process_resource(name="P", prefect={"deployment": {"que": 1}}),
            "resources.a.processor.prefect.deployment.que: ",
        ),
        (
            process_resource(name="P", prefect={"deployment": {"storage_sub_path": "x"}}),
            "storage_block is not",
        ),
        (
            process_resource(
                prefect={
                    "metadata": {"version": "1"},
                    "deployment": {"name": "a/b", "storage_block": "s3-bucket/code"},
                }
            ),
            "resources.a.processor.prefect.deployment.storage_block: a deployment that exists",
        ),
        (
            process_resource(
                prefect={"metadata": {"version": "1"}, "deployment": {"name": "a/b/c"}}
            ),
            "(flow name/deployment name)",
        ),
        (
            process_resource(name="P", job_control_options=["run-fast"]),
            "resources.a.processor.job_control_options.0: ",
        ),
        (
            process_resource(prefect={"metadata": {"title": "x"}, "deployment": {"name": "a/b"}}),
            "resources.a.processor.prefect.metadata.version: ",
        ),
    ],
)
def test_a_mistake_in_a_process_is_named_by_its_key(resource: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse_process("a", resource)

    assert named in str(raised.value)


def written(folder: Path, text: str) -> Path:
    path = folder / "pygeoapi.yml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_is_read_with_its_processes_and_placeholders_as_they_are(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        server: {manager: {name: pygeoapi_prefect.PrefectManager, work_pool: p}}
        resources:
          hello: {type: process, processor: {name: HelloWorld, token: "${TOKEN}"}}
          lakes: {type: collection}
        """,
    )

    configuration = load_configuration(path)

    assert configuration.work_pool == "p"
    assert list(configuration.process_resources) == ["hello"]
    assert configuration.process_resources["hello"]["processor"]["token"] == "${TOKEN}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", "is no valid YAML"),
        ("", "the file must be a mapping"),
        ("# nothing", "the file must be a mapping"),
        ("- a", "the file must be a mapping"),
        ("server: []", "does not choose this process manager"),
        ("server: {manager: true}", "does not choose this process manager"),
        ("server: {manager: {name: TinyDB}}", "does not choose this process manager"),
        ("server: {manager: {name: pygeoapi_prefect.PrefectManager, x: 1}}", "server.manager.x"),
        ("server: {manager: {name: pygeoapi_prefect.PrefectManager, 5: 1}}", "server.manager.5"),
        (f"{SERVER}\nresources: [a]", "resources must be a mapping"),
        (f"{SERVER}\nresources: a", "resources must be a mapping"),
        (f"{SERVER}\nresources: {{a: }}", "resources.a must be a mapping"),
        (f"{SERVER}\nresources: {{a: [process]}}", "resources.a must be a mapping"),
        (f"{SERVER}\nresources: {{5: {{type: process}}}}", "resources: the key 5 is no text"),
        (f"{SERVER}\n2030-01-01: a", "the file: the key 2030-01-01 is no text"),
        (f"{SERVER}\n? [a]\n: b", "line 2: found unhashable key"),
        (f"{SERVER}\n{SERVER}", "line 2: the key 'server' is there twice"),
        (f"{SERVER}\na:\n- {{b: 1, c: 2, b: 3}}", "line 3: the key 'b' is there twice"),
        (f"{SERVER}\na: ${{NO_SUCH_VARIABLE}}", "'NO_SUCH_VARIABLE'"),
        (
            f"{SERVER}\nresources:\n  a: {{}}\n  ${{B:-b}}: {{type: process}}",
            "resources.b: the id of a process cannot have a placeholder",
        ),
        (f"{SERVER}\n---\n{SERVER}", "another document"),
        (f"{SERVER}\na: !!python/name:os.system x", "line 2: could not determine a constructor"),
        (f"{SERVER}\na: 2030-02-31", "is no valid YAML: day is out of range"),
        (f"{SERVER}\na: !!int b", "is no valid YAML: invalid literal"),
        (f"{SERVER}\na: {'[' * 5000}{']' * 5000}", "is no valid YAML: maximum recursion depth"),
        (f"{SERVER}\na: \0", "is no valid YAML: unacceptable character"),
    ],
    ids=lambda value: value[-60:].encode("unicode_escape").decode(),
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(
    tmp_path: Path, text: str, reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason) as raised:
        load_configuration(written(tmp_path, text))

    assert "\n" not in str(raised.value)


def test_keys_of_anchors_may_be_there_again(tmp_path: Path) -> None:
    hello = "{<<: *process, processor: {name: HelloWorld}}"
    path = written(
        tmp_path,
        f"{SERVER}\nresources: {{a: &process {{type: process, processor: 1}}, b: {hello}}}",
    )

    assert load_configuration(path).process_resources["b"]["processor"] == {"name": "HelloWorld"}


@pytest.mark.parametrize("content", [bytes(range(256)), "server: {}".encode("utf-16")])
def test_a_file_that_is_no_text_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pygeoapi.yml"
    path.write_bytes(content)

    with pytest.raises(ConfigurationError, match=r"cannot read .*pygeoapi\.yml: 'utf-8' codec"):
        load_configuration(path)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read .*: Is a directory"):
        load_configuration(tmp_path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read .*nowhere\.yml: .*No such file"):
        load_configuration(tmp_path / "nowhere.yml")


def test_a_file_without_resources_has_no_processes(tmp_path: Path) -> None:
    path = written(tmp_path, "server: {manager: {name: pygeoapi_prefect.PrefectManager}}")

    assert load_configuration(path).process_resources == {}
