"""Code of processes, to a block and back."""

import importlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.system import Secret
from prefect.filesystems import LocalFileSystem
from prefect_aws import AwsClientParameters, AwsCredentials, S3Bucket
from pydantic import SecretStr

from pygeoapi_prefect import code_storage
from pygeoapi_prefect.code_storage import (
    PULL_STEP,
    StagedCode,
    pull_code,
    remove_code,
    stage_code,
    upload_code,
)
from pygeoapi_prefect.errors import ConfigurationError, StorageError
from pygeoapi_prefect.flows import ProcessDefinition
from tests.object_storage import ObjectStorage

BLOCK = "local-file-system/code"


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of an author's modules, importable."""
    folder = tmp_path / "modules"
    package = folder / "slopes_for_test"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "process.py").write_text("class Slope: ...\n")
    (package / "data" / "table.csv").write_bytes(b"a;b\r\n")
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "process.cpython-312.pyc").write_bytes(b"\x00")
    (folder / "single_for_test.py").write_text("class Single: ...\n")
    (folder / "bare_for_test").mkdir()
    (folder / "bare_for_test" / "process.py").write_text("class Bare: ...\n")
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [name for name in sys.modules if "_for_test" in name]:
        del sys.modules[name]


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a block, which a Prefect server would know by name; jobs run elsewhere."""
    (tmp_path / "job").mkdir()
    monkeypatch.chdir(tmp_path / "job")
    folder = tmp_path / "stored"
    folder.mkdir()
    blocks: dict[str, Any] = {
        BLOCK: LocalFileSystem(basepath=str(folder)),
        "secret/x": Secret(value=SecretStr("x")),
    }
    monkeypatch.setattr(code_storage, "load_block", blocks.__getitem__)
    return folder


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def staged(class_path: str, tmp_path: Path) -> StagedCode:
    directory = tmp_path / f"staged-{len(list(tmp_path.iterdir()))}"
    directory.mkdir()
    return stage_code(class_path, directory)


def pulled(folder: str) -> dict[str, bytes]:
    return files_below(Path(pull_code(BLOCK, folder)["directory"]))


def definition(class_path: str) -> ProcessDefinition:
    return ProcessDefinition(
        process_id="slope", processor={"name": class_path}, result_storage="memory://slope"
    )


@pytest.mark.usefixtures("modules", "stored")
def test_a_package_comes_back_as_it_was(tmp_path: Path) -> None:
    upload_code(staged("slopes_for_test.process.Slope", tmp_path), BLOCK, "slope/1")

    assert pulled("slope/1") == {
        "slopes_for_test/__init__.py": b"",
        "slopes_for_test/process.py": b"class Slope: ...\n",
        "slopes_for_test/data/table.csv": b"a;b\r\n",
    }


@pytest.mark.usefixtures("modules", "stored")
def test_a_single_module_comes_back_alone(tmp_path: Path) -> None:
    upload_code(staged("single_for_test.Single", tmp_path), BLOCK, "single")

    assert pulled("single") == {"single_for_test.py": b"class Single: ...\n"}


def test_what_an_ignore_file_names_is_not_uploaded(modules: Path, tmp_path: Path) -> None:
    (modules / ".prefectignore").write_text("# tables\n/slopes_for_test/data/\n")

    code = staged("slopes_for_test.process.Slope", tmp_path)

    # an ignore file of one's own is instead of Prefect's, as in Prefect
    assert files_below(code.directory).keys() == {
        "slopes_for_test/__init__.py",
        "slopes_for_test/process.py",
        "slopes_for_test/__pycache__/process.cpython-312.pyc",
    }


def test_the_digest_is_that_of_names_and_contents(modules: Path, tmp_path: Path) -> None:
    first = staged("single_for_test.Single", tmp_path).digest
    again = staged("single_for_test.Single", tmp_path).digest
    (modules / "single_for_test.py").write_text("class Single: a = 1\n")
    changed = staged("single_for_test.Single", tmp_path).digest

    assert first == again != changed


def test_code_that_needs_what_is_beside_it_does_not_run_alone(
    modules: Path, tmp_path: Path
) -> None:
    (modules / "helpers_for_test.py").write_text("")
    (modules / "single_for_test.py").write_text(
        "import helpers_for_test\n"
        "from pygeoapi.process.hello_world import HelloWorldProcessor as Single\n"
        "print('{ importing')\n"
    )

    problems = staged("single_for_test.Single", tmp_path).problems(
        [definition("single_for_test.Single"), definition("HelloWorld")]
    )

    assert list(problems) == ["slope"]
    assert "No module named 'helpers_for_test'" in problems["slope"]


def test_code_that_ends_its_interpreter_does_not_run_alone(modules: Path, tmp_path: Path) -> None:
    (modules / "single_for_test.py").write_text("import os; os._exit(3)\n")
    (tmp_path / "staged").mkdir()
    shutil.copy(modules / "single_for_test.py", tmp_path / "staged")

    problems = StagedCode(tmp_path / "staged").problems([definition("single_for_test.Single")])

    assert "exit status 3" in problems["slope"]


@pytest.mark.usefixtures("modules")
def test_earlier_versions_are_removed_and_nothing_else(tmp_path: Path, stored: Path) -> None:
    code = staged("single_for_test.Single", tmp_path)
    for folder in ("all/ours-1", "all/ours-2", "all/ours-3", "all/theirs-1", "other/ours-1"):
        upload_code(code, BLOCK, folder)

    remove_code(BLOCK, "all", "ours-", keep=["ours-2", "ours-3"])
    remove_code(BLOCK, "nowhere", "ours-")

    assert {path.parent.relative_to(stored).as_posix() for path in stored.rglob("*.py")} == {
        "all/ours-2",
        "all/ours-3",
        "all/theirs-1",
        "other/ours-1",
    }


@pytest.mark.usefixtures("stored")
def test_a_folder_without_init_is_refused(modules: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="bare_for_test is no regular package"):
        staged("bare_for_test.process.Bare", tmp_path)


@pytest.mark.parametrize("class_path", ["HelloWorld", "nowhere_for_test.process.Slope"])
def test_a_module_that_is_not_there_is_refused(class_path: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no module"):
        staged(class_path, tmp_path)


@pytest.mark.usefixtures("modules")
def test_a_block_that_takes_no_files_is_an_error(stored: Path, tmp_path: Path) -> None:
    (stored / "a").write_text("a file where a folder should be")

    with pytest.raises(StorageError, match=f"{BLOCK} did not take the code: FileExistsError"):
        upload_code(staged("single_for_test.Single", tmp_path), BLOCK, "a")


def test_code_that_is_not_there_is_an_error(stored: Path) -> None:
    (stored / "empty").mkdir()

    with pytest.raises(StorageError, match="does not hand out the code in nowhere"):
        pull_code(BLOCK, "nowhere")
    with pytest.raises(StorageError, match="has no code in empty"):
        pull_code(BLOCK, "empty")


def test_a_block_that_stores_no_folders_is_refused(stored: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="block secret/x cannot store code"):
        upload_code(StagedCode(tmp_path), "secret/x", "a")
    with pytest.raises(ConfigurationError, match="block secret/x cannot store code"):
        pull_code("secret/x", "a")


def test_the_pull_step_is_where_deployments_say() -> None:
    module, _, name = PULL_STEP.rpartition(".")

    assert getattr(importlib.import_module(module), name) is pull_code


def test_a_bucket_block_stores_below_its_folder(
    modules: Path,
    stored: Path,
    s3: ObjectStorage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = staged("single_for_test.Single", tmp_path)
    s3.create_bucket("code-in-a-block")
    credentials = AwsCredentials(
        aws_access_key_id="key",
        aws_secret_access_key=SecretStr("secret"),
        aws_client_parameters=AwsClientParameters(endpoint_url=s3.endpoint),
    )
    bucket = S3Bucket(bucket_name="code-in-a-block", bucket_folder="lakes", credentials=credentials)
    monkeypatch.setattr(code_storage, "load_block", {BLOCK: bucket}.__getitem__)

    upload_code(code, BLOCK, "all/ours-1")
    upload_code(code, BLOCK, "all/ours-2")
    remove_code(BLOCK, "all", "ours-", keep=["ours-2"])

    assert s3.keys("code-in-a-block") == {"lakes/all/ours-2/single_for_test.py"}
    assert pulled("all/ours-2").keys() == {"single_for_test.py"}
