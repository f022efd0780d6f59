"""What `docker compose` does, with processes of this machine in place of containers.

No engine runs where these tests do. This program reads the same files: it carries out the
steps of the Dockerfile in a folder that stands for the root of the image, starts the services
of compose.yaml in their order and under their conditions, and looks after their health with
the commands that stand there. Images of others are the programs that they contain. It does
not keep services from each other: there are no networks, users and limits.

    local_docker.py compose up --build --wait
    local_docker.py compose logs SERVICE
    local_docker.py compose down --volumes

``LOCAL_DOCKER_STATE`` names the folder that it works in, ``LOCAL_DOCKER_PORTS`` the ports of
this machine for published ones (``5000=41001,4200=41002``), ``LOCAL_DOCKER_OWNER`` a process
with which all ends.
"""

import contextlib
import ctypes
import json
import os
import re
import shlex
import shutil
import signal
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.stand.ports import free_port

START_TIMEOUT_SECONDS = 480.0
STOP_TIMEOUT_SECONDS = 20.0
POSTGRES_PROGRAMS = Path("/usr/lib/postgresql")
CONTAINER_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# what one program hands on to all that it starts, so that packages are found here
INHERITED = re.compile("UV_|SSL_|REQUESTS_|HTTPS?_PROXY|NO_PROXY|TZ$|LANG$", re.IGNORECASE)
FOLDERS = ("app", "build", "srv")


@dataclass(frozen=True)
class Image:
    """An image, or a stage of one.

    Attributes:
        root: The folder that stands for its root.
        elsewhere: Folders of its root that are in other folders of this machine.
    """

    root: Path
    elsewhere: dict[str, Path] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": CONTAINER_PATH})
    workdir: str = "/"
    user: str = "0:0"
    command: list[str] = field(default_factory=list)
    healthcheck: dict[str, Any] = field(default_factory=dict)

    def local(self, text: str) -> str:
        """Return a text with the paths that those of the image have on this machine."""
        for name in FOLDERS:
            root = self.elsewhere.get(name, self.root)
            text = re.sub(rf"(?<![\w/.-])/{name}\b", f"{root}/{name}", text)
        return text

    def local_environment(self) -> dict[str, str]:
        """Return the environment of its processes."""
        environment = {name: self.local(value) for name, value in self.environment.items()}
        folders = [
            str(self.root) + one if one.startswith("/usr/local") else one
            for one in environment["PATH"].split(":")
        ]
        # which the image of Python has in /usr/local/bin
        python = Path(sys.base_prefix) / "bin"
        inherited = {name: value for name, value in os.environ.items() if INHERITED.match(name)}
        return {
            "HOME": os.environ["HOME"],
            **inherited,
            **environment,
            "PATH": ":".join(dict.fromkeys([*folders[:1], str(python), *folders])),
        }


# A command of its own: no module of the tests can be imported here


def die_with_parent() -> None:
    """For `preexec_fn`: end the process when its parent does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


# Dockerfile


def instructions(dockerfile: Path) -> Iterator[tuple[str, str]]:
    """Yield name and text of each instruction."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE)
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            yield name.upper(), " ".join(rest.split())


def build(context: Path, root: Path) -> Image:
    """Carry out the instructions of a Dockerfile, and return its last stage."""
    stages: dict[str, Path] = {}
    stage = ""
    image = Image(root)
    for name, text in instructions(context / "Dockerfile"):
        if name == "FROM":
            if stage:
                # programs know the path that they were installed under
                stages[stage] = root.with_name(f"{root.name}-{stage}")
                root.rename(stages[stage])
            stage = text.partition(" AS ")[2] or "last"
            root.mkdir(parents=True)
            image = Image(root)
        elif name == "COPY":
            _copy(image, context, stages, shlex.split(text))
        elif name == "RUN":
            _run(image, re.sub(r"--mount=\S+ ", "", text))
        else:
            image = _changed(image, name, text)
    # what it runs is not root there
    subprocess.run(["chmod", "-R", "a-w", str(root)], check=True)
    return image


def _changed(image: Image, name: str, text: str) -> Image:
    match name:
        case "ENV":
            added = dict(item.partition("=")[::2] for item in shlex.split(text))
            known = image.environment
            return replace(
                image,
                environment=known
                | {key: string.Template(value).substitute(known) for key, value in added.items()},
            )
        case "WORKDIR":
            Path(image.local(text)).mkdir(parents=True, exist_ok=True)
            return replace(image, workdir=text)
        case "USER":
            return replace(image, user=text)
        case "CMD":
            return replace(image, command=json.loads(text))
        case "HEALTHCHECK":
            options, _, command = text.partition(" CMD ")
            settings = dict(item[2:].partition("=")[::2] for item in options.split())
            test = {"test": ["CMD", *json.loads(command)]}
            return replace(
                image,
                healthcheck={**test, **{k.replace("-", "_"): v for k, v in settings.items()}},
            )
        case "EXPOSE":
            return image
    raise NotImplementedError(f"{name} {text}")


def _copy(image: Image, context: Path, stages: Mapping[str, Path], arguments: list[str]) -> None:
    origin = context
    if arguments[0].startswith("--from="):
        origin = stages.get(arguments.pop(0).removeprefix("--from="), Path("/"))
    *sources, target = arguments
    for source in sources:
        found = origin / source.lstrip("/")
        if origin == Path("/"):  # another image, which has the one program
            found = Path(shutil.which(found.name) or found)
        place = image.root / os.path.join(image.workdir, target).lstrip("/").replace("./", "")
        if target.endswith("/"):
            place /= found.name
        place.parent.mkdir(parents=True, exist_ok=True)
        if found.is_dir():
            # as hard links: an image is large
            subprocess.run(["cp", "-al", str(found), str(place)], check=True)
        else:
            shutil.copy(found, place)


def _run(image: Image, command: str) -> None:
    subprocess.run(
        ["sh", "-c", image.local(command)],
        cwd=image.local(image.workdir),
        env=image.local_environment(),
        check=True,
    )


# compose.yaml


def interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    """Fill in variables, in the forms that Compose knows and our file uses."""

    def filled(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "$"
        given = variables.get(match["name"], "")
        if not given and match["kind"] == ":?":
            sys.exit(f"required variable {match['name']} is missing a value: {match['rest']}")
        return given or match["rest"] or ""

    match value:
        case str():
            pattern = r"(?P<escaped>\$\$)|\$\{(?P<name>\w+)(?:(?P<kind>:[-?])(?P<rest>[^}]*))?\}"
            return re.sub(pattern, filled, value)
        case dict():
            return {name: interpolated(item, variables) for name, item in value.items()}
        case list():
            return [interpolated(item, variables) for item in value]
    return value


def read_compose_file(folder: Path) -> dict[str, Any]:
    """Return the services of a folder, with the variables of its `.env` filled in."""
    lines = (folder / ".env").read_text().splitlines() if (folder / ".env").exists() else []
    variables = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    text = yaml.safe_load((folder / "compose.yaml").read_text())
    services: dict[str, Any] = interpolated(text, variables)["services"]
    return services


PORTS_OF_IMAGES = {"postgres": 5432, "redis": 6379, "minio/minio": 9000}


@dataclass
class Container:
    """One process that a service consists of.

    Attributes:
        folder: Where the files of all are.
        ports: Ports of this machine by those of the container.
        addresses: What others are reached by, by what they are called there.
        image: What it is made from, if that is ours.
    """

    service: str
    number: int
    specification: dict[str, Any]
    folder: Path
    ports: dict[int, int]
    addresses: dict[str, str]
    image: Image | None
    process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return f"{self.service}-{self.number}"

    def local(self, value: Any) -> str:
        """Return a text with addresses, ports and paths of this machine."""
        text = str(value).replace("0.0.0.0", "127.0.0.1")
        for address, here in self.addresses.items():
            text = re.sub(rf"\b{re.escape(address)}\b", here, text)
        for port, here_port in self.ports.items():
            text = re.sub(rf"(?<![\w.]){port}\b(?!\.)", str(here_port), text)
        return self.image.local(text) if self.image else text

    def environment(self) -> dict[str, str]:
        base = self.image.local_environment() if self.image else dict(os.environ)
        own = self.specification.get("environment") or {}
        return {
            **base,
            **{name: self.local(value) for name, value in own.items()},
            "HOSTNAME": f"host-of-{self.name}",
        }

    def start(self) -> None:
        workdir = self.folder
        if self.image is not None:
            workdir = Path(self.image.local(self.image.workdir))
            workdir.mkdir(parents=True)
            for volume in self.specification.get("volumes") or ():
                # with the port by which it is known outside
                mounted = self.local(Path(volume["source"]).read_text())
                Path(self.image.local(volume["target"])).write_text(mounted)
        with (self.folder / f"{self.name}.log").open("wb") as log:
            self.process = subprocess.Popen(
                self._command(),
                cwd=workdir,
                env=self.environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def ask_to_stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            if self.service == "postgres":
                # which would else wait for its clients; `runuser` does not hand that on
                os.killpg(self.process.pid, signal.SIGINT)
            else:
                self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float) -> None:
        if self.process is not None:
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()

    def _command(self) -> list[str]:
        if self.image is not None:
            command = self.specification.get("command") or self.image.command
            return [*_without_privileges(), *(self.local(item) for item in command)]
        (port,) = self.ports.values()
        data = self.folder / f"{self.service}-data"
        match self.specification["image"].partition(":")[0]:
            case "postgres":
                return _postgres(data, port, self.environment())
            case "redis":
                data.mkdir()
                arguments = self.specification["command"]
                return [*arguments, "--port", str(port), "--dir", str(data)]
            case "minio/minio":
                return [sys.executable, "-m", "moto.server", "-p", str(port)]
        raise NotImplementedError(self.specification["image"])

    def is_healthy(self) -> bool:
        """Whether it runs, and its health check says so where it has one."""
        if self.process is None or self.process.poll() is not None:
            return False
        command = self._health_command()
        if command is None:
            return True
        checked = subprocess.run(
            command, env=self.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        return checked.returncode == 0

    def _health_command(self) -> list[str] | None:
        check = self.specification.get("healthcheck") or (self.image and self.image.healthcheck)
        if not check or check.get("disable"):
            return None
        kind, *arguments = [self.local(item) for item in check["test"]]
        if self.image is not None:
            return ["sh", "-c", *arguments] if kind == "CMD-SHELL" else arguments
        (port,) = self.ports.values()
        match arguments[0]:
            case "pg_isready":
                program = shutil.which("pg_isready") or str(_postgres_programs() / "pg_isready")
                return [program, *arguments[1:], "--host=127.0.0.1", f"--port={port}"]
            case "redis-cli":
                return ["redis-cli", "-p", str(port), *arguments[1:]]
            case "mc":  # is not here; any answer will do
                probe = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
                return [sys.executable, "-c", probe]
        raise NotImplementedError(arguments[0])


def _without_privileges() -> list[str]:
    """Return with what to run a command that may write to what is writable alone."""
    capability = "-dac_override"
    options = [f"--bounding-set={capability}", f"--inh-caps={capability}"]
    return ["setpriv", *options, "--"] if os.geteuid() == 0 else []


def _postgres_programs() -> Path:
    return max(POSTGRES_PROGRAMS.glob("*/bin"))


def _postgres(data: Path, port: int, environment: Mapping[str, str]) -> list[str]:
    """Make a database as the image does, and return what serves it."""
    # which refuses to be run by root
    run_as = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if run_as:
        data.mkdir()
        shutil.chown(data, "postgres")
    user, database = environment["POSTGRES_USER"], environment["POSTGRES_DB"]
    programs = _postgres_programs()
    server = [*run_as, str(programs / "postgres")]
    quiet: Any = {"check": True, "stdout": subprocess.DEVNULL}
    options = ["--pgdata", str(data), "--username", user, "--auth", "scram-sha-256", "--no-sync"]
    with tempfile.NamedTemporaryFile("w") as password:
        password.write(environment["POSTGRES_PASSWORD"])
        password.flush()
        if run_as:
            shutil.chown(password.name, "postgres")
        initdb = [*run_as, str(programs / "initdb"), *options, "--pwfile", password.name]
        subprocess.run(initdb, **quiet)
    subprocess.run(
        [*server, "--single", "-D", str(data), "postgres"],
        input=f"CREATE DATABASE {database};\n".encode(),
        **quiet,
    )
    return [*server, "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(data)]


def containers_of(services: Mapping[str, Any], image: Image, folder: Path) -> list[Container]:
    """Return the containers of all services, none of them started."""
    published = dict(
        item.split("=") for item in os.environ.get("LOCAL_DOCKER_PORTS", "").split(",") if item
    )
    # nobody listens on those that are published, as yet
    unpublished = (one for one in iter(free_port, None) if str(one) not in published.values())
    made: list[Container] = []
    for service, specification in services.items():
        number = (specification.get("deploy") or {}).get("replicas", 1)
        name = specification["image"].partition(":")[0]
        port = PORTS_OF_IMAGES.get(name)
        for mapping in specification.get("ports") or ():
            port = mapping["target"]
        for replica in range(1, number + 1):
            chosen = published.get(str(port)) if replica == 1 else None
            root = folder / f"{service}-{replica}"
            ours = replace(image, elsewhere={"srv": root}) if name not in PORTS_OF_IMAGES else None
            ports = {port: int(chosen or next(unpublished))} if port else {}
            made.append(Container(service, replica, specification, folder, ports, {}, ours))
    for index, container in enumerate(made):
        for service in services:
            replicas = [other for other in made if other.service == service and other.ports]
            if replicas:  # as names do, which have all addresses
                other = replicas[index % len(replicas)]
                ((port, here),) = other.ports.items()
                container.addresses[f"{service}:{port}"] = f"127.0.0.1:{here}"
    return made


class Project:
    """All containers, started in the order that their conditions ask for."""

    def __init__(self, containers: list[Container]) -> None:
        self.containers = containers
        self._reached: dict[tuple[str, str], bool] = {}

    def start(self) -> None:
        """Start all, and wait until all work or have done their work.

        Raises:
            RuntimeError: One ended that should not have, or not well; or time is up.
        """
        waiting = [*self.containers]
        awaited = {
            service: condition["condition"]
            for container in self.containers
            for service, condition in (container.specification.get("depends_on") or {}).items()
        }
        give_up_at = time.monotonic() + START_TIMEOUT_SECONDS
        while waiting or not all(
            self._is(container.service, awaited.get(container.service, "service_healthy"))
            for container in self.containers
        ):
            for container in [*waiting]:
                conditions = container.specification.get("depends_on") or {}
                if all(self._is(name, one["condition"]) for name, one in conditions.items()):
                    container.start()
                    waiting.remove(container)
            self._raise_for_ended(awaited)
            if time.monotonic() > give_up_at:
                raise RuntimeError(f"not up in time: {[one.name for one in waiting]}")
            time.sleep(0.2)

    def stop(self) -> None:
        for container in reversed(self.containers):
            container.ask_to_stop()
        give_up_at = time.monotonic() + STOP_TIMEOUT_SECONDS
        for container in reversed(self.containers):
            container.wait(max(0, give_up_at - time.monotonic()))

    def _is(self, service: str, condition: str) -> bool:
        if not self._reached.get((service, condition)):
            members = [one for one in self.containers if one.service == service]
            self._reached[service, condition] = all(
                one.process is not None and one.process.poll() == 0
                if condition == "service_completed_successfully"
                else one.is_healthy()
                for one in members
            )
        return self._reached[service, condition]

    def _raise_for_ended(self, awaited: Mapping[str, str]) -> None:
        for container in self.containers:
            code = container.process and container.process.poll()
            may_end = awaited.get(container.service) == "service_completed_successfully"
            if code is not None and (code or not may_end):
                log = (container.folder / f"{container.name}.log").read_text()
                raise RuntimeError(f"container {container.name} exited ({code})\n{log}")


# Commands


def keep(folder: Path, state: Path) -> None:
    """Be the process that all containers belong to."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    os.chdir(folder)
    (state / "keeper").write_text(str(os.getpid()))
    project = None
    try:
        image = build(folder, state.with_name("image"))
        project = Project(containers_of(read_compose_file(folder), image, state))
        project.start()
        (state / "up").write_text("up")
        while psutil.pid_exists(int(os.environ["LOCAL_DOCKER_OWNER"])):
            time.sleep(1)
    finally:
        if project is not None:
            project.stop()


def up(folder: Path, state: Path) -> None:
    """Start all; the processes stay when this command has ended."""
    read_compose_file(folder)  # whose problems are the operator's
    state.mkdir(parents=True)
    # whoever reads what this command prints waits for nobody else
    with (state / "keeper.log").open("wb") as log:
        keeper = subprocess.Popen(
            [sys.executable, __file__, "keep", str(folder), str(state)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    while not (state / "up").exists():
        if keeper.poll() is not None:
            sys.exit((state / "keeper.log").read_text())
        time.sleep(0.2)


def down(state: Path) -> None:
    """Stop all, and remove all but the image."""
    with contextlib.suppress(psutil.NoSuchProcess):
        keeper = psutil.Process(int((state / "keeper").read_text()))
        keeper.terminate()
        keeper.wait(10 * STOP_TIMEOUT_SECONDS)
    shutil.rmtree(state)


def main(arguments: list[str]) -> None:
    """Carry out one command line."""
    state = Path(os.environ["LOCAL_DOCKER_STATE"])
    match arguments:
        case ["compose", "up", "--build", "--wait"]:
            up(Path.cwd(), state)
        case ["compose", "logs", "--no-log-prefix", service]:
            sys.stdout.write((state / f"{service}-1.log").read_text())
        case ["compose", "down", "--volumes"]:
            down(state)
        case ["keep", folder, keeper_state]:
            keep(Path(folder), Path(keeper_state))
        case _:
            sys.exit(f"not known here: docker {shlex.join(arguments)}")


if __name__ == "__main__":
    main(sys.argv[1:])
