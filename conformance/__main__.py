"""Run the conformance suite: `python -m conformance`, or `make cite`."""

import sys
import tempfile
from pathlib import Path

import click

from conformance import service, suite


@click.command(context_settings={"show_default": True})
@click.option("--suite-version", default=suite.VERSION, help="Which release of the suite.")
@click.option(
    "--jar",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path),
    help="An archive of the suite (ets-ogcapi-processes10-...-aio.jar), instead of a release.",
)
@click.option(
    "--app",
    "apps",
    type=click.Choice(["flask", "starlette"]),
    multiple=True,
    default=["flask", "starlette"],
    help="Against which application; may be repeated.",
)
@click.option(
    "--keep",
    type=click.Path(file_okay=False, resolve_path=True, path_type=Path),
    help="Folder for logs and results. Default: none are kept.",
)
def main(suite_version: str, jar: Path | None, apps: tuple[str, ...], keep: Path | None) -> None:
    """Run the OGC's conformance suite for OGC API - Processes against a service of this package.

    Starts the service, with the process `echo`, and stops it in the end. Prints how many tests
    passed, failed and were skipped, and which. Ends with code 1 if any failed.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="conformance-") as scratch:
            folder = keep or Path(scratch)
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise click.UsageError("--keep: the folder is not empty")
            outcomes = _run(suite_version, jar, apps, folder)
    except suite.SuiteError as error:
        raise click.ClickException(str(error)) from error
    has_failed = any(outcome.failures or outcome.unprepared for outcome in outcomes)
    if has_failed and keep is None:
        click.echo(
            "With --keep FOLDER, the log of the suite is kept, which may say more.", err=True
        )
    sys.exit(has_failed)


def _run(
    suite_version: str, jar: Path | None, apps: tuple[str, ...], folder: Path
) -> list[suite.Outcome]:
    archive = jar or suite.fetch(suite_version, folder)
    click.echo(f"{archive.name}: starting the service …")
    outcomes = []
    with service.running(folder) as urls:
        for app in apps:
            results = folder / app / "suite"
            results.mkdir()
            outcome = suite.run(archive, urls[app], service.PROCESS_ID, results)
            _print(app, outcome)
            outcomes.append(outcome)
    return outcomes


def _print(app: str, outcome: suite.Outcome) -> None:
    counts = f"{outcome.passed} passed, {len(outcome.failures)} failed, "
    click.echo(f"{app}: {counts}{len(outcome.skipped)} skipped")
    for what, failures in (
        ("failed", outcome.failures),
        ("failed besides the tests", outcome.unprepared),
    ):
        for failure in failures:
            click.echo(f"  {what:8} {failure.test}\n           {failure.message}")
    for name in outcome.skipped:
        click.echo(f"  skipped  {name}")


if __name__ == "__main__":
    main()
