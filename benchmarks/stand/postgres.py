"""A PostgreSQL server of the benchmarks' own, with the settings that it comes with."""

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from benchmarks.stand.ports import free_port

DEBIAN_PROGRAMS = Path("/usr/lib/postgresql")
SYSTEM_USER = "postgres"
ROLE = "benchmarks"


class Postgres:
    """A running server.

    Args:
        programs: Where `psql` is.
        data: Where it keeps its files.
        port: On which it listens, at 127.0.0.1.
        password: Of the role that owns everything.
    """

    def __init__(self, programs: Path, data: Path, port: int, password: str) -> None:
        self._programs = programs
        self._data = data
        self._port = port
        self._password = password

    def create_database(self, name: str, *, like: str = "template0") -> None:
        """Create a database, as a copy of another one that nobody is connected to."""
        self.execute("postgres", f'CREATE DATABASE "{name}" TEMPLATE "{like}"')

    def url(self, database: str) -> str:
        """Return the address of a database, as the Prefect server wants it."""
        return f"postgresql+asyncpg://{ROLE}:{self._password}@127.0.0.1:{self._port}/{database}"

    def execute(self, database: str, statements: str) -> str:
        """Execute SQL, and return what it prints. Raises `CalledProcessError`."""
        command = [str(self._programs / "psql"), "--quiet", "--no-psqlrc", "--tuples-only"]
        command += ["--no-align", "--set", "ON_ERROR_STOP=1", "--host", "127.0.0.1"]
        command += ["--port", str(self._port), "--username", ROLE, "--dbname", database]
        run = subprocess.run(
            command,
            input=statements,
            env=os.environ | {"PGPASSWORD": self._password},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        return run.stdout

    @property
    def processes(self) -> list[psutil.Process]:
        """All of its processes, as they are now."""
        server = psutil.Process(int((self._data / "postmaster.pid").read_text().split()[0]))
        return [server, *server.children(recursive=True)]

    @property
    def version(self) -> str:
        """Which one it is."""
        return self.execute("postgres", "SHOW server_version").strip()


@contextlib.contextmanager
def postgres(environment: Mapping[str, str]) -> Iterator[Postgres]:
    """Run a PostgreSQL server inside the block.

    Args:
        environment: Its variables.

    Raises:
        FileNotFoundError: It is not installed, and this user cannot install it.
    """
    programs = _installed_programs()
    with tempfile.TemporaryDirectory(prefix="benchmarks-postgres-") as directory:
        home = Path(directory)
        data = home / "data"
        password = secrets.token_urlsafe()
        (home / "password").write_text(password)
        if _is_root():
            for path in (home, home / "password"):
                shutil.chown(path, SYSTEM_USER)
        port = free_port()
        _run(
            [
                *(str(programs / "initdb"), "--pgdata", str(data)),
                *("--username", ROLE, "--pwfile", str(home / "password")),
                *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"),
            ],
            environment,
        )
        control = [str(programs / "pg_ctl"), "--pgdata", str(data), "--wait", "--silent"]
        options = f"-c port={port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={home}"
        _run([*control, "start", "--log", str(home / "log"), "--options", options], environment)
        try:
            yield Postgres(programs, data, port, password)
        finally:
            _run([*control, "stop", "--mode", "fast"], environment)


def _installed_programs() -> Path:
    programs = _find_programs()
    if programs is None and _is_root() and shutil.which("apt-get"):
        # the package would else start a server that nobody here needs
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        for arguments in (["update"], ["install", "-y", "--no-install-recommends", "postgresql"]):
            subprocess.run(
                ["apt-get", "-q", *arguments],
                env=environment,
                check=True,
                stdout=subprocess.DEVNULL,
            )
        programs = _find_programs()
    if programs is None:
        raise FileNotFoundError(
            "PostgreSQL is not installed: install it, or measure with `--database sqlite` alone"
        )
    return programs


def _find_programs() -> Path | None:
    versions = sorted(DEBIAN_PROGRAMS.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = str(versions[-1]) if versions else shutil.which("initdb")
    return Path(found).parent if found else None


def _is_root() -> bool:
    return os.geteuid() == 0


def _run(command: Sequence[str], environment: Mapping[str, str]) -> None:
    # PostgreSQL refuses to run as root
    prefix = ["runuser", "--user", SYSTEM_USER, "--"] if _is_root() else []
    run = subprocess.run(
        [*prefix, *command],
        cwd="/",
        env=dict(environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if run.returncode != 0:
        raise RuntimeError(f"{Path(command[0]).name} failed:\n{run.stderr}")
