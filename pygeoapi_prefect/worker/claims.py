"""One claimed flow run, from its claim until Prefect knows how it ended."""

import asyncio
import tempfile
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field, replace
from os.path import isdir
from typing import Any

from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.responses import DeploymentResponse
from prefect.logging.loggers import PrefectLogAdapter
from prefect.states import Cancelling

from pygeoapi_prefect.os_processes import started_at
from pygeoapi_prefect.prefect_private import Intent, explain_exit_code
from pygeoapi_prefect.worker.api import RunsApi
from pygeoapi_prefect.worker.configuration import PygeoapiJobConfiguration
from pygeoapi_prefect.worker.messages import (
    Died,
    Done,
    FlowSource,
    HookJob,
    Interrupt,
    Job,
    Stale,
    Suspended,
)
from pygeoapi_prefect.worker.owner import Owner
from pygeoapi_prefect.worker.pool import PoolClosed, WarmPool, why_replace
from pygeoapi_prefect.worker.process import CommandProcess, JobProcess
from pygeoapi_prefect.worker.settings import PygeoapiWorkerSettings
from pygeoapi_prefect.worker.start import PROCESS_VARIABLE, Start, StartPlan, plan_start

EXIT_BY_KILL = -9
# The end of a dismissed job waits for its hooks
HOOKS_SECONDS = 60.0
HANDED_BACK = "Handed back by a worker that stops."


class WaitedInVain(Exception):
    """No process was free for the run for as long as it may wait for one."""


class _Interrupted(Exception):
    """The run was cancelled or handed back before it had a process."""


@dataclass(eq=False)
class Claim:
    """A run that this worker has claimed, or is about to.

    Attributes:
        flow_run: as the server gave it.
        known_since: as from `time.monotonic`.
        patience_seconds: how long it waits for a process; None for as long as it takes.
        process: that runs the flow; None before it starts.
        running_since: when it got its process, as from `time.monotonic`.
        interrupted: what becomes of the run where somebody ends it early.
    """

    flow_run: FlowRun
    known_since: float
    patience_seconds: float | None = None
    process: JobProcess | CommandProcess | None = None
    intent: Intent | None = None
    interrupted: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    running_since: float | None = None

    def start_in(self, process: "JobProcess | CommandProcess") -> None:
        """Take note of the process that runs the flow."""
        self.process = process
        self.running_since = self.running_since or time.monotonic()

    def suspend(self, state: State[Any]) -> None:
        """Tell the flow that it was suspended from outside."""
        if isinstance(self.process, JobProcess):
            self.process.tell(Suspended(self.flow_run.id, state))


@dataclass(frozen=True)
class Prepared:
    """All that is needed to start a run.

    Attributes:
        plan: how its process comes about.
        job: for the process; its owner does not name the process yet.
        command: to run instead; None as a rule.
        absent_directory: in which it cannot run, as it is on another machine.
    """

    plan: StartPlan
    job: Job
    command: str | None
    absent_directory: str | None = None


def prepare(
    flow_run: FlowRun,
    deployment: DeploymentResponse | None,
    configuration: PygeoapiJobConfiguration,
    *,
    worker_environment: dict[str, str],
    owner: Owner,
) -> Prepared:
    """Turn a run, its deployment and its job variables into a job.

    Raises:
        ValueError: the deployment names no flow.
    """
    entrypoint = deployment.entrypoint if deployment is not None else None
    command = configuration.configured_command
    if entrypoint is None and command is None:
        raise ValueError("its deployment has no entrypoint")
    environment = configuration.environment()
    working_directory = str(configuration.working_dir) if configuration.working_dir else None
    absent_directory = None
    if working_directory and PROCESS_VARIABLE in environment and not isdir(working_directory):
        # `deploy` has set its own; code that is installed does not need it
        absent_directory, working_directory = working_directory, None
    plan = plan_start(
        entrypoint=entrypoint or "",
        pull_steps=(deployment.pull_steps if deployment is not None else None) or [],
        environment=environment,
        worker_environment=worker_environment,
        working_directory=working_directory,
        command=command,
    )
    source = FlowSource(
        entrypoint=entrypoint or "",
        environment=environment,
        directory=plan.profile.directory if plan.start is Start.WARM else None,
        from_storage=plan.start is not Start.WARM,
    )
    job = Job(flow_run, source, working_directory, str(owner), configuration.stream_output)
    return Prepared(plan, job, command, absent_directory)


class RunExecutor:
    """Runs claimed flow runs in processes, and tells Prefect how they end.

    Args:
        api: of the work pool.
        pool: of the processes.
        settings: of the worker.
        owner: this worker.
        run_logger: makes the logger of a flow run.
    """

    def __init__(
        self,
        *,
        api: RunsApi,
        pool: WarmPool,
        settings: PygeoapiWorkerSettings,
        owner: Owner,
        run_logger: Callable[[FlowRun], PrefectLogAdapter],
    ) -> None:
        self._api = api
        self._pool = pool
        self._settings = settings
        self._owner = owner
        self._run_logger = run_logger

    async def execute(self, claim: Claim, prepared: Prepared) -> int:
        """Run a claimed flow run and report its end; returns the exit code of its process.

        Raises:
            WaitedInVain: it got no process in time, and is claimed as before.
        """
        logger = self._run_logger(claim.flow_run)
        plan = prepared.plan
        if plan.start is not Start.WARM:
            logger.info("Flow run starts %s: %s", plan.start, plan.reason)
        if prepared.absent_directory is not None:
            logger.warning(
                "There is no directory %s on this machine: the job runs in a temporary one",
                prepared.absent_directory,
            )
        try:
            if prepared.command is not None:
                outcome = await self._run_command(claim, prepared.job, prepared.command)
                loaded = None
            else:
                outcome, loaded = await self._run_in_process(claim, prepared)
        except PoolClosed:
            await self._api.run_again(claim.flow_run.id, HANDED_BACK)
            return EXIT_BY_KILL
        except _Interrupted:
            await self._conclude_interrupted(claim, prepared.job, hooks=False)
            return EXIT_BY_KILL
        if claim.intent is not None:
            hooks = loaded is not None and loaded.cancellation_hooks
            await self._conclude_interrupted(claim, prepared.job, hooks=hooks)
        elif isinstance(outcome, Died) or outcome.exit_code != 0:
            # a process that is gone has not said how the run ended, whatever its exit code
            hooks = loaded is not None and loaded.crashed_hooks
            await self._conclude_failure(claim, prepared.job, outcome, hooks=hooks)
        return outcome.exit_code

    async def interrupt(self, claim: Claim, intent: Intent) -> None:
        """End a run early: ask its process, then kill it and all that it started."""
        if claim.intent is not None:
            return
        claim.intent = intent
        claim.interrupted.set()
        process, task = claim.process, claim.task
        if process is None or task is None:
            return
        process.interrupt(Interrupt(intent))
        grace_over = asyncio.create_task(asyncio.sleep(self._settings.cancel_grace_seconds))
        while claim.process is process and not grace_over.done():
            await asyncio.wait({grace_over, task}, timeout=0.05)
        grace_over.cancel()
        if claim.process is process:
            await process.kill()

    async def _run_in_process(self, claim: Claim, prepared: Prepared) -> tuple[Done | Died, Any]:
        plan, job = prepared.plan, prepared.job
        while True:
            await self._wait_for_place(claim)
            process = await _unless_interrupted(
                claim, self._pool.take(plan, job.source.environment), self._give_back_unused
            )
            claim.start_in(process)
            replace_because: str | None = "it was interrupted"
            try:
                owner = replace(self._owner, job=(process.pid, process.started))
                outcome = await process.run(replace(job, owner=str(owner)))
                process.jobs_done += 1
                replace_because = self._why_replace(process, plan, outcome)
                if claim.intent is not None and not isinstance(outcome, Died):
                    # the job ended by itself; what it started may not have, and is found as
                    # long as its process lives
                    await process.kill_offspring()
            finally:
                claim.process = None
                if claim.intent is not None:
                    replace_because = "its job was interrupted"
                self._pool.give_back(process, replace_because=replace_because)
            if isinstance(outcome, Stale):
                # the next process imports it anew
                continue
            if isinstance(outcome, Died):
                # what the flow started lives on in the session of its process
                await process.kill()
            elif plan.start is Start.WARM and process.loaded is not None:
                self._pool.remember(plan.profile, job.source)
            return outcome, process.loaded

    def _why_replace(
        self, process: JobProcess, plan: StartPlan, outcome: Done | Stale | Died
    ) -> str | None:
        if isinstance(outcome, Stale):
            return f"{outcome.module} has changed"
        if isinstance(outcome, Died):
            return "it died"
        if plan.start is not Start.WARM:
            return "it was for one job"
        return why_replace(
            jobs_done=process.jobs_done,
            resident_mib=outcome.resident_mib,
            jobs_per_process=self._settings.jobs_per_process,
            memory_limit_mib=self._settings.memory_limit_mib,
        )

    def _give_back_unused(self, process: JobProcess) -> None:
        self._pool.give_back(process, replace_because=None)

    async def _run_command(self, claim: Claim, job: Job, command: str) -> Done | Died:
        await self._wait_for_place(claim)
        try:
            with tempfile.TemporaryDirectory(suffix="prefect") as temporary:
                process = await CommandProcess.start(
                    command,
                    environment={**self._pool.environment, **job.source.environment},
                    directory=job.working_directory or temporary,
                    show_output=job.show_output,
                )
                claim.start_in(process)
                job_process = (process.pid, int(started_at(process.pid) or 0))
                await self._api.name_infrastructure(
                    claim.flow_run.id, replace(self._owner, job=job_process)
                )
                outcome = await process.wait()
                await process.kill()
                return await self._check_end(claim, outcome)
        finally:
            claim.process = None
            self._pool.free_place()

    async def _wait_for_place(self, claim: Claim) -> None:
        await _unless_interrupted(
            claim,
            self._pool.wait_for_place(),
            lambda _: self._pool.free_place(),
            seconds=claim.patience_seconds,
        )

    async def _check_end(self, claim: Claim, outcome: Done | Died) -> Done | Died:
        """A command may end well without having run the flow; nobody would end the run."""
        run = await self._api.read_run(claim.flow_run.id)
        if outcome.exit_code != 0 or run is None or run.state is None:
            return outcome
        if run.state.is_pending() or run.state.is_running():
            return Done(1, "The command ended and left the flow run unfinished", 0.0)
        return outcome

    async def _conclude_interrupted(self, claim: Claim, job: Job, *, hooks: bool) -> None:
        run_id = claim.flow_run.id
        if claim.intent == "reschedule":
            await self._api.run_again(run_id, HANDED_BACK)
            return
        if hooks:
            await self._run_hooks(HookJob(job, "cancellation", Cancelling()))
        await self._api.cancel(run_id, "Flow run was cancelled and its process ended.")

    async def _conclude_failure(
        self, claim: Claim, job: Job, outcome: Done | Died, *, hooks: bool
    ) -> None:
        run_id = claim.flow_run.id
        if isinstance(outcome, Died):
            message = _explain_death(outcome.exit_code)
        else:
            message = outcome.explanation
        logger = self._run_logger(claim.flow_run)
        state = await self._api.crash(run_id, message)
        if state is None:
            return
        logger.error("Reported flow run as crashed: %s", message)
        if hooks:
            await self._run_hooks(HookJob(job, "crashed", state))

    async def _run_hooks(self, message: HookJob) -> None:
        logger = self._run_logger(message.job.flow_run)
        try:
            process = await JobProcess.fork(())
        except (ChildProcessError, TimeoutError, OSError) as error:
            logger.error("Hooks could not run: %s", error)
            return
        try:
            async with asyncio.timeout(HOOKS_SECONDS):
                outcome = await process.run(message)
            if not (isinstance(outcome, Done) and outcome.exit_code == 0):
                logger.error("Hooks did not end well: %s", outcome)
        except TimeoutError:
            logger.error("Hooks took longer than %s s and were ended", HOOKS_SECONDS)
            await process.kill()
        finally:
            await process.stop()


def _explain_death(exit_code: int) -> str:
    if exit_code == 0:
        return "Process exited with status code: 0. It did not say how the flow run ended."
    return f"Process exited with status code: {exit_code}. {explain_exit_code(exit_code)}"


async def _unless_interrupted[T](
    claim: Claim,
    waiting: Coroutine[Any, Any, T],
    undo: Callable[[T], None],
    seconds: float | None = None,
) -> T:
    """Await something unless the claim is interrupted first.

    Raises:
        _Interrupted: it was; what came nevertheless was undone.
        WaitedInVain: it took longer than `seconds`.
    """
    task = asyncio.create_task(waiting)
    interrupted = asyncio.create_task(claim.interrupted.wait())
    came = False
    try:
        await asyncio.wait(
            {task, interrupted}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        came = task.done() and not claim.interrupted.is_set()
    finally:
        interrupted.cancel()
        if not came:
            task.cancel()
            with suppress(asyncio.CancelledError):
                undo(await task)
    if came:
        return task.result()
    raise _Interrupted if claim.interrupted.is_set() else WaitedInVain
