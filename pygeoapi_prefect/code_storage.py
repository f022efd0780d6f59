"""Code of processes in a storage block: uploaded on deployment, fetched by workers.

Each version of the code has a folder of its own, so that a job never finds half of one and
half of another. The folder's name begins with a key of the deployment, by which versions
that nobody needs any more are found again.
"""

import dataclasses
import functools
import hashlib
import importlib
import json
import os
import posixpath
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, cast

import fsspec
import prefect
from fsspec.core import url_to_fs
from prefect.filesystems import LocalFileSystem, RemoteFileSystem
from prefect.utilities.filesystem import filter_files

from pygeoapi_prefect import s3
from pygeoapi_prefect.errors import ConfigurationError, StorageError
from pygeoapi_prefect.flows import ProcessDefinition
from pygeoapi_prefect.storage import load_block

PULL_STEP: Final = "pygeoapi_prefect.code_storage.pull_code"
IGNORE_FILE: Final = ".prefectignore"
IMPORT_TIMEOUT_SECONDS: Final = 300

_IMPORT_ALL: Final = """
import json, sys
from pygeoapi_prefect import s3
from pygeoapi_prefect.errors import ConfigurationError
from pygeoapi_prefect.flows import ProcessDefinition, job_flow
problems = {}
for definition in map(ProcessDefinition.model_validate, json.load(sys.stdin)):
    try:
        job_flow(definition)
    except ConfigurationError as error:
        problems[definition.process_id] = error.detail
print("\\n" + json.dumps(problems))
"""


class _StoresFolders(Protocol):
    """What blocks for code have in common; Prefect has no class for it."""

    def put_directory(self, *, local_path: str, to_path: str, _sync: bool) -> Any: ...

    def get_directory(self, *, from_path: str, local_path: str, _sync: bool) -> Any: ...


@dataclasses.dataclass(frozen=True)
class StagedCode:
    """The module or package of a processor's class, without what is not uploaded.

    Attributes:
        directory: Where it is, with nothing beside it.
    """

    directory: Path

    @functools.cached_property
    def digest(self) -> str:
        """What changes whenever the code does."""
        digest = hashlib.sha256()
        for path in sorted(path for path in self.directory.rglob("*") if path.is_file()):
            content = path.read_bytes()
            name = path.relative_to(self.directory).as_posix()
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)
        return digest.hexdigest()[:16]

    def problems(self, definitions: Sequence[ProcessDefinition]) -> dict[str, str]:
        """Load processes where nothing but this code is, and say which cannot be, and why.

        A new interpreter does it, as a worker's does.

        Returns:
            Reasons by process id.
        """
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        # nothing is added to what will be uploaded
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        described = [definition.model_dump(mode="json") for definition in definitions]
        try:
            loaded = subprocess.run(
                [sys.executable, "-c", _IMPORT_ALL],
                input=json.dumps(described),
                cwd=self.directory,
                env=environment,
                capture_output=True,
                text=True,
                timeout=IMPORT_TIMEOUT_SECONDS,
                check=True,
            )
        except subprocess.SubprocessError as error:
            return {
                definition.process_id: f"a new interpreter that loads its code ends so: {error}"
                for definition in definitions
            }
        problems: dict[str, str] = json.loads(loaded.stdout.splitlines()[-1])
        return problems


def stage_code(class_path: str, directory: Path) -> StagedCode:
    """Copy the module or package that a processor's class is in.

    What the file `IGNORE_FILE` beside it names is left out; where there is none, what Prefect's
    own such file names.

    Args:
        class_path: Dotted path of the class.
        directory: Where to; has to be empty.

    Raises:
        ConfigurationError: There is no such module, or it is no regular package.
    """
    top_level = class_path.partition(".")[0]
    try:
        module_file = importlib.import_module(top_level).__file__
    except ImportError as error:
        raise ConfigurationError(
            f"there is no module {top_level} whose code could be uploaded; leave storage_block "
            "out where workers have the code of the process installed"
        ) from error
    if module_file is None:
        raise ConfigurationError(f"{top_level} is no regular package: its code cannot be uploaded")
    source = Path(module_file)
    if source.name == "__init__.py":
        source = source.parent
        shutil.copytree(source, directory / top_level)
    else:
        shutil.copy(source, directory)
    ignore_file = source.parent / IGNORE_FILE
    if not ignore_file.exists():
        ignore_file = Path(prefect.__module_path__) / IGNORE_FILE
    patterns = ignore_file.read_text(encoding="utf-8").splitlines()
    kept = filter_files(str(directory), patterns, include_dirs=False)
    for path in [path for path in directory.rglob("*") if path.is_file()]:
        if str(path.relative_to(directory)) not in kept:
            path.unlink()
    return StagedCode(directory)


def upload_code(code: StagedCode, block: str, folder: str) -> None:
    """Upload code.

    Args:
        code: The code.
        block: Slug of a block that stores folders (``type-slug/name``).
        folder: Folder within the block.

    Raises:
        ConfigurationError: There is no such block, or it stores no folders.
        StorageError: The block refused the files.
    """
    target = load_code_block(block)
    try:
        target.put_directory(local_path=str(code.directory), to_path=folder, _sync=True)
    except Exception as error:  # what stands behind the block can raise anything
        raise StorageError(
            f"block {block} did not take the code: {type(error).__name__}"
        ) from error


def remove_code(block: str, folder: str, key: str, keep: Collection[str] = ()) -> None:
    """Remove versions of code, from blocks that can tell what they store; leave it in others.

    Args:
        block: Slug of the block.
        folder: Folder within the block that the versions are in.
        key: How names of the versions begin.
        keep: Names of those that stay.

    Raises:
        ConfigurationError: There is no such block.
        StorageError: The block refused to remove them.
    """
    loaded: Any = load_code_block(block)
    filesystem: fsspec.AbstractFileSystem
    match loaded:
        case LocalFileSystem():
            filesystem, root = url_to_fs(
                os.path.realpath(os.path.expanduser(loaded.basepath or "."))
            )
        case RemoteFileSystem():
            filesystem, root = url_to_fs(loaded.basepath, **loaded.settings)
        case _:
            return
    try:
        for path in filesystem.ls(posixpath.join(root, folder), detail=False, refresh=True):
            name = posixpath.basename(path.rstrip("/"))
            if name.startswith(key) and name not in keep:
                filesystem.rm(path, recursive=True)
    except FileNotFoundError:
        return
    except Exception as error:  # as above
        raise StorageError(
            f"block {block} did not remove earlier code: {type(error).__name__}"
        ) from error


def pull_code(block: str, folder: str) -> dict[str, str]:
    """Fetch code that `upload_code` stored: a pull step of our deployments.

    Returns:
        Under ``directory`` where the code is, for Prefect to make the job's working directory.

    Raises:
        ConfigurationError: There is no such block, or it stores no folders.
        StorageError: The block does not hand it out.
    """
    source = load_code_block(block)
    # workers remove the folder in which a job starts, with all in it; images can be read-only
    parent = os.getcwd() if os.access(".", os.W_OK) else None
    directory = tempfile.mkdtemp(prefix="pygeoapi-code-", dir=parent)
    try:
        source.get_directory(from_path=folder, local_path=directory, _sync=True)
    except Exception as error:  # as above
        raise StorageError(
            f"block {block} does not hand out the code in {folder}: {type(error).__name__}"
        ) from error
    if not os.listdir(directory):
        raise StorageError(f"block {block} has no code in {folder}: deploy the process again")
    return {"directory": directory}


def load_code_block(block: str) -> _StoresFolders:
    """Load a block for code.

    Raises:
        ConfigurationError: There is no such block, or it stores no folders.
    """
    loaded = load_block(block)
    if loaded.get_block_type_slug() == s3.BUCKET_BLOCK:
        # whose own methods store below its folder, and look for it beside
        return cast(
            _StoresFolders,
            RemoteFileSystem(
                basepath=s3.url_of_bucket(loaded),
                settings=s3.filesystem_options(s3.options_of_bucket(loaded)),
            ),
        )
    if not hasattr(loaded, "get_directory") or not hasattr(loaded, "put_directory"):
        raise ConfigurationError(f"block {block} cannot store code: it stores no folders")
    return cast(_StoresFolders, loaded)
