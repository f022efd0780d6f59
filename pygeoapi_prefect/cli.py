"""The commands: they parse and print, and leave the work to other modules.

pygeoapi loads this module on every start, to offer its commands under `pygeoapi plugins
prefect`: each command imports what it needs when it runs.
"""

import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from pygeoapi_prefect.check import Finding
    from pygeoapi_prefect.deployments import DeploymentChange, Plan
    from pygeoapi_prefect.stack import Stack, Step

port_type = click.IntRange(1, 65535)


class _Commands(click.Group):
    """A group whose commands end on this package's own errors with their message and code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        from pygeoapi_prefect.errors import PygeoapiPrefectError

        try:
            return super().invoke(ctx)
        except PygeoapiPrefectError as error:
            raise click.ClickException(error.detail) from error

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """In the order in which they stand here."""
        return list(self.commands)


config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar="PYGEOAPI_CONFIG",
    default="pygeoapi-config.yml",
    show_default=True,
    show_envvar=True,
    help="Configuration of pygeoapi.",
)


@click.group(name="prefect", cls=_Commands)
@click.version_option(package_name="pygeoapi-prefect")
def main() -> None:
    """Run the processes of a pygeoapi configuration with Prefect."""


@main.command()
@config_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to serve the API.")
@click.option("--port", type=port_type, default=5000, show_default=True, help="Port of the API.")
@click.option(
    "--prefect-port",
    type=port_type,
    default=4200,
    show_default=True,
    help="Port of the Prefect API and UI, on 127.0.0.1. Unused if PREFECT_API_URL is set.",
)
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="How many workers to start.",
)
def up(config: Path, host: str, port: int, prefect_port: int, workers: int) -> None:
    """Run everything on this machine, until Ctrl-C.

    Starts a Prefect API (unless PREFECT_API_URL is set), deploys the processes, and starts
    workers and the web server. All files are kept in ./.pygeoapi-prefect: the next `up` in
    this directory finds the jobs of this one.
    """
    from rich.console import Console

    from pygeoapi_prefect.stack import Stack, StackOptions, StopRequested

    console = Console(highlight=False, soft_wrap=True)
    is_up = False
    try:
        with Stack(StackOptions(config, host, port, prefect_port, workers)) as stack:
            try:
                for step in stack.steps:
                    _run_step(console, step)
                _print_addresses(console, stack)
                is_up = True
                for line in stack.watch():
                    console.print(line, style="yellow", markup=False)
            except StopRequested:
                console.print(
                    "Stopping: running jobs have some seconds to end; asynchronous ones that are "
                    "not done by then run again after the next start …"
                )
                raise
    except StopRequested as stop:
        console.print(f"Stopped ({stop}).")
        # asked to stop what runs, it did; what never came up, failed
        sys.exit(0 if is_up else 128 + stop.signal_number)


@main.command()
@config_option
@click.option("--dry-run", is_flag=True, help="Show what there is to do, and do nothing.")
@click.option(
    "--prune",
    is_flag=True,
    help="Remove deployments that an earlier run made, and the configuration no longer names.",
)
def deploy(config: Path, dry_run: bool, prune: bool) -> None:
    """Create or update the work pool and the deployments of all processes.

    Shows first what there is to do. Ends with code 1 if a process cannot be deployed, or a
    deployment not be removed; all others are.
    """
    from rich.console import Console

    from pygeoapi_prefect.deployments import planned
    from pygeoapi_prefect.prefect_api import require_api
    from pygeoapi_prefect.webserver import read_configuration

    configuration = read_configuration(config)
    require_api()
    console = Console(highlight=False, soft_wrap=True)
    with planned(configuration) as plan:
        _print_plan(console, plan, removes=prune)
        changes = [*plan.changes, *plan.abandoned]
        if not dry_run:
            changes = [*plan.apply(), *(plan.prune() if prune else plan.abandoned)]
            _print_outcome(console, plan, changes)
    if any(change.problem for change in changes):
        sys.exit(1)


@main.command()
@config_option
@click.option("--pool", help="Work pool, instead of the one that the configuration names.")
@click.option("--name", help="What the Prefect UI calls the worker.")
@click.option("--limit", type=click.IntRange(1), help="How many jobs it runs at once.")
def worker(config: Path, pool: str | None, name: str | None, limit: int | None) -> None:
    """Run a worker, which executes the jobs of deployed processes."""
    from pygeoapi_prefect.configuration_file import load_configuration
    from pygeoapi_prefect.stack import become_worker

    become_worker(pool or load_configuration(config).work_pool, name, limit)


@main.command()
@config_option
@click.option("--host", help="Where to serve. Default: `server.bind` of the configuration.")
@click.option("--port", type=port_type, help="Port. Default: as above.")
@click.option(
    "--app",
    type=click.Choice(["flask", "starlette"]),
    default="flask",
    show_default=True,
    help="Which of pygeoapi's applications.",
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="How many requests are worked on at once; a synchronous job is one.",
)
def serve(config: Path, host: str | None, port: int | None, app: str, threads: int) -> None:
    """Run the web server.

    Serves the OpenAPI document that PYGEOAPI_OPENAPI names, or else a fresh one.
    """
    from pygeoapi_prefect import webserver
    from pygeoapi_prefect.prefect_api import api_url
    from pygeoapi_prefect.stack import STATE_DIRECTORY, check_port

    configuration = webserver.read_configuration(config)
    bind = configuration.content["server"]["bind"]
    api_url()
    host, port = host or bind["host"], port or bind["port"]
    check_port(host, port, "--port")
    webserver.point_pygeoapi_at(configuration, STATE_DIRECTORY / "openapi.yml")
    {"flask": webserver.serve_flask, "starlette": webserver.serve_starlette}[app](
        host, port, threads
    )


_TO_DO = {
    "created": "create",
    "changed": "change",
    "unchanged": "nothing",
    "refused": "cannot be deployed",
}


@main.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
def check(config: Path, as_json: bool) -> None:
    """Try all parts of a configuration, and tell what to do about those that do not work.

    Tries the Prefect API and its events, work pools, storages, with a file that is removed
    again, processes, and their deployments. Changes nothing. Ends with code 1 if something
    does not work.
    """
    import dataclasses
    import json

    from rich.console import Console

    from pygeoapi_prefect.check import check_configuration
    from pygeoapi_prefect.webserver import read_configuration

    configuration = read_configuration(config)
    console = Console(highlight=False, soft_wrap=True)
    with console.status("Checking …"):
        findings = check_configuration(configuration)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        _print_findings(console, findings)
    if not all(finding.is_ok for finding in findings):
        sys.exit(1)


_AGE_UNITS = {"d": "days", "h": "hours", "m": "minutes"}


class _Age(click.ParamType[timedelta]):
    """A number and a unit, such as `30d`."""

    name = "AGE"

    def convert(
        self, value: str | timedelta, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        if isinstance(value, timedelta):
            return value
        parts = re.fullmatch(r"([0-9]{1,6})([dhm])", value)
        if parts is None:
            self.fail(f"{value!r} is no age: write e.g. 30d, 12h or 90m", param, ctx)
        return timedelta(**{_AGE_UNITS[parts[2]]: int(parts[1])})


@main.command()
@config_option
@click.option("--older-than", type=_Age(), help="Remove jobs that ended so long ago, e.g. 30d.")
@click.option("--keep", type=click.IntRange(0), help="Keep so many ended jobs, the newest.")
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and remove nothing.")
def prune(config: Path, older_than: timedelta | None, keep: int | None, dry_run: bool) -> None:
    """Remove ended jobs and their files.

    Without --older-than and --keep, `server.manager.retention` of the configuration says which.
    Ends with code 1 if a job could not be removed; the others are.
    """
    from rich.console import Console
    from rich.table import Table

    from pygeoapi_prefect.configuration_file import load_configuration
    from pygeoapi_prefect.manager import manager_of_commands
    from pygeoapi_prefect.prefect_api import require_api
    from pygeoapi_prefect.retention import Removal, RetentionRule

    manager = manager_of_commands(load_configuration(config))
    rule = RetentionRule(older_than, keep)
    if rule.keeps_all:
        rule = RetentionRule.of(manager.configuration.retention)
    if rule.keeps_all:
        raise click.UsageError(
            "nothing says which jobs to remove: give --older-than or --keep, or set "
            "server.manager.retention"
        )
    require_api()
    removals = map(Removal, manager.expired_jobs(rule)) if dry_run else manager.prune(rule)
    counts, problems = Counter[str](), Counter[str]()
    for removal in removals:
        process_id = removal.job.process_id
        if removal.problem is None:
            counts[process_id] += 1
        else:
            problems[process_id] += 1
            click.echo(f"job {removal.job.job_id}: {removal.problem}", err=True)
    table = Table("process", "jobs to remove" if dry_run else "jobs removed", "not removed")
    for process_id in sorted(counts.keys() | problems.keys()):
        table.add_row(process_id, str(counts[process_id]), str(problems[process_id]))
    table.add_section()
    table.add_row("all", str(counts.total()), str(problems.total()))
    Console(highlight=False).print(table)
    if problems:
        sys.exit(1)


def _print_plan(console: "Console", plan: "Plan", *, removes: bool) -> None:
    from rich import box
    from rich.table import Table

    if plan.new_work_pool is not None:
        pool = plan.new_work_pool
        console.print(f"Work pool {pool.name} (type {pool.type}): create\n", markup=False)
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("process", "deployment", "work pool", "to do"):
        # a name that is cut short cannot be looked for
        table.add_column(title, overflow="fold")
    abandoned = "remove" if removes else "--prune removes it"
    for change in (*plan.changes, *plan.abandoned):
        to_do = _TO_DO.get(change.action, abandoned)
        table.add_row(
            change.process_id,
            change.deployment,
            change.work_pool,
            ": ".join(filter(None, (to_do, ", ".join(change.settings)))),
        )
    console.print(table)
    for change in plan.changes:
        _print_problem(console, change)


def _print_outcome(console: "Console", plan: "Plan", changes: "Sequence[DeploymentChange]") -> None:
    """Tell what was done, and what of the plan was not."""
    planned = [*plan.changes, *plan.abandoned]
    for change in changes:
        if change not in planned:
            _print_problem(console, change)
    counts = Counter(change.action for change in changes)
    text = ", ".join(f"{count} {action}" for action, count in counts.items())
    console.print(text or "The configuration has no processes.")


def _print_problem(console: "Console", change: "DeploymentChange") -> None:
    if change.problem:
        console.print(f"{change.process_id}: {change.problem}", style="yellow", markup=False)


def _print_findings(console: "Console", findings: "Sequence[Finding]") -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for header in ("what", "name", "", "what to do"):
        table.add_column(header, overflow="fold")
    for finding in findings:
        mark = Text(f"{'ok' if finding.is_ok else 'problem'}: {finding.fact}")
        if not finding.is_ok:
            mark.stylize("yellow")
        table.add_row(finding.topic, Text(finding.name), mark, Text(finding.remedy))
    console.print(table)


def _run_step(console: "Console", step: "Step") -> None:
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    started_at = time.monotonic()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        progress.add_task(f"{step.title} …", total=None)
        outcome = step.run()
    seconds = time.monotonic() - started_at
    console.print(f"✓ {step.title:<15} {seconds:5.1f} s  {outcome.summary}", markup=False)
    for warning in outcome.warnings:
        console.print(f"  {warning}", style="yellow", markup=False)


def _print_addresses(console: "Console", stack: "Stack") -> None:
    addresses = {
        "API": stack.api_url,
        "Processes": f"{stack.api_url}/processes",
        "Jobs": f"{stack.api_url}/jobs",
        "Prefect UI": stack.prefect_ui_url,
    }
    console.print()
    for title, url in addresses.items():
        console.print(f"  {title:<12} {url}", markup=False)
    console.print("\nTry it:\n")
    console.print(f"  {stack.example_command()}\n", markup=False)
    console.print("Ctrl-C stops everything.")


if __name__ == "__main__":
    main()
