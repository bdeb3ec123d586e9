"""Carrying out a plan: one process per run, several at a time, each failure tried once more."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agents.training.run import plan_run
from configs.run_config import RunConfig
from experiments.comparison.execution.live_table import LiveTable
from experiments.comparison.plan import ComparisonPlan
from experiments.comparison.report.records import describe_source, has_ended, read_run, read_starts
from experiments.comparison.report.stages import StageWatch
from runtime.run_directory import RunDirectory
from runtime.stop_request import SIGNAL_BASE, STOPPING_SIGNALS, StopRequest

LOG_NAME = "output.log"
SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_FOR_SAVING = 120.0  # far more than a checkpoint takes
ATTEMPTS = 2
_EXITS_WHEN_STOPPED = {
    status for number in STOPPING_SIGNALS for status in (SIGNAL_BASE + number, -number)
}
_WORKER = "experiments.comparison.execution.worker"
_ROOT = Path(__file__).parents[3]


class Worker(Protocol):
    """A run that was started somewhere."""

    def poll(self) -> int | None:
        """Its exit status; None while it goes on."""

    def terminate(self) -> None:
        """Ask it to save and stop."""

    def kill(self) -> None:
        """End it now."""


Launch = Callable[[RunConfig, Path], Worker]


@dataclass(frozen=True)
class Failure:
    """A run that ended neither finished nor diverged, and was not to be saved."""

    name: str
    log: Path
    message: str

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"


@dataclass
class _Job:
    config: RunConfig
    attempt: int
    worker: Worker


class LocalWorker:
    """A run in a process of this machine, whose output goes to a log in the run's directory.

    It is in a session of its own: Ctrl-C on a terminal, or closing it, reaches the parent alone,
    which tells its workers. A worker ends when the parent does, and does not mind being told twice
    (`experiments.comparison.execution.worker`).

    `folder` is where a network of the user's own is looked for; None for the current one.
    """

    def __init__(self, config: RunConfig, runs: Path, folder: Path | None = None) -> None:
        log = runs / config.name / LOG_NAME
        log.parent.mkdir(parents=True, exist_ok=True)
        folder = folder or Path.cwd()
        arguments = [str(runs.absolute()), str(folder), config.to_json()]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _WORKER, *arguments],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=_ROOT,
                env=_environment(folder),
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """Its exit status; None while it goes on."""
        code = self._process.poll()
        if code is not None and self._process.stdin is not None:
            self._process.stdin.close()
        return code

    def terminate(self) -> None:
        """Ask it to save and stop."""
        self._process.terminate()

    def kill(self) -> None:
        """End it now, and wait until it is gone."""
        self._process.kill()
        self._process.wait()


def _environment(folder: Path) -> dict[str, str]:
    """The environment, in which Python's path means the same from another folder."""
    variables = dict(os.environ)
    if path := variables.get("PYTHONPATH"):
        parts = [str(folder / part) for part in path.split(os.pathsep)]
        variables["PYTHONPATH"] = os.pathsep.join(parts)
    return variables


def find_unfinished(plan: ComparisonPlan, runs: Path) -> list[RunConfig]:
    """The planned runs that are still to be trained, in order.

    Finished and diverged runs below the folder are adopted, whoever trained them.

    Raises:
        OSError, ValueError: If a run's directory holds one that does not fit the plan, or has ended
            and lost its games; one line.
    """
    unfinished = []
    for config in plan.runs():
        directory = RunDirectory(runs / config.name)
        if directory.exists():
            plan_run(directory, config)
            starts = read_starts(directory)
            if starts and describe_source(starts) != plan.source:
                raise ValueError(
                    f"{directory.path} was trained by source version {describe_source(starts)}, "
                    f"the plan is for {plan.source}; delete it, or choose another --runs folder."
                )
        if has_ended(directory, config):
            read_run(directory)  # what the report needs is there
        else:
            unfinished.append(config)
    return unfinished


def execute(
    plan: ComparisonPlan,
    unfinished: Sequence[RunConfig],
    runs: Path,
    *,
    jobs: int,
    threads: int,
    launch: Launch,
    stop: StopRequest,
    watch: StageWatch | None = None,
) -> list[Failure]:
    """Train all unfinished runs of a plan.

    Args:
        plan: What they belong to.
        unfinished: From `find_unfinished`.
        runs: The folder of the runs.
        jobs: How many at a time.
        threads: Of each run that has no number of its own yet.
        launch: Starts a run.
        stop: When asked to stop, all runs are saved and stopped.
        watch: Of a plan that goes on until decided: what it does not need is not trained.

    Returns:
        The runs that failed, also when tried once more, and those that could not be saved.

    Raises:
        KeyboardInterrupt: If interrupted again while stopping, and all runs are saved.
    """
    waiting = [(config, 1) for config in unfinished]
    active: list[_Job] = []
    failures: list[Failure] = []
    table = LiveTable(plan, runs, unfinished)
    told_to_stop = False
    try:
        while active or (_find_next(waiting, watch) is not None and not stop):
            while len(active) < jobs and not stop:
                place = _find_next(waiting, watch)
                if place is None:
                    break
                config, attempt = waiting.pop(place)
                table.run_starts(config)
                worker = launch(_with_threads(config, runs, threads), runs)
                active.append(_Job(config, attempt, worker))
            if stop and not told_to_stop:
                for job in active:
                    job.worker.terminate()
                told_to_stop = True
                table.say(f"stopping; runs to be saved: {len(active)}.")
            for job in list(active):
                code = job.worker.poll()
                if code is None:
                    continue
                active.remove(job)
                failure = _find_failure(job.config, runs, code, is_told=bool(stop))
                if failure is None:
                    table.run_ended(job.config)
                    if watch is not None:
                        for line in watch.look([job.config]):
                            table.say(line)
                        needed = [run for run in waiting if watch.may_be_needed(run[0])]
                        table.runs_are_not_needed(len(waiting) - len(needed))
                        waiting = needed
                elif job.attempt < ATTEMPTS and not stop:
                    table.say(f"{failure}; it is tried once more.")
                    waiting.insert(0, (job.config, job.attempt + 1))
                else:
                    table.say(f"{failure}; given up, see {failure.log}")
                    failures.append(failure)
            if not told_to_stop:
                training = [job.config for job in active]
                table.show(training, [config for config, _ in waiting], len(failures))
            time.sleep(SECONDS_BETWEEN_LOOKS)
    except BaseException as error:
        unsaved = _end(active, runs, table)
        failures += unsaved
        if not (isinstance(error, KeyboardInterrupt) and failures):
            for failure in unsaved:
                table.say(f"{failure}; see {failure.log}")
            raise
    return failures


def _find_next(waiting: Sequence[tuple[RunConfig, int]], watch: StageWatch | None) -> int | None:
    """The place of the first run that is waiting for nothing but a free job."""
    due = (place for place, (run, _) in enumerate(waiting) if watch is None or watch.is_due(run))
    return next(due, None)


def _end(jobs: Sequence[_Job], runs: Path, table: LiveTable) -> list[Failure]:
    """Give workers the time to save; returns the runs that could not be saved."""
    failures = []
    try:
        for job in jobs:
            job.worker.terminate()
        table.say(f"runs to be saved: {len(jobs)}; Ctrl-C ends them unsaved.")
        deadline = time.monotonic() + SECONDS_FOR_SAVING
        while any(job.worker.poll() is None for job in jobs) and time.monotonic() < deadline:
            time.sleep(SECONDS_BETWEEN_LOOKS)
    except KeyboardInterrupt:
        pass  # no more time is given; what becomes of the runs is told below
    finally:
        for job in jobs:
            code = job.worker.poll()
            if code is None:
                job.worker.kill()
            failure = _find_failure(job.config, runs, code, is_told=True)
            failures += [] if failure is None else [failure]
    return failures


def _with_threads(config: RunConfig, runs: Path, threads: int) -> RunConfig:
    """A new run gets its share of the threads; one that goes on keeps its number."""
    if config.execution.threads or RunDirectory(runs / config.name).exists():
        return config
    return config.with_execution(threads=threads)


def _find_failure(
    config: RunConfig, runs: Path, code: int | None, *, is_told: bool
) -> Failure | None:
    """What a worker has lost that ended with a status, or was killed (None), told to or not."""
    log = runs / config.name / LOG_NAME
    if code is None:
        return Failure(config.name, log, "killed before it was saved")
    is_stopped = is_told and code in _EXITS_WHEN_STOPPED
    if is_stopped or has_ended(RunDirectory(runs / config.name), config):
        return None
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    *_, last = ["no output", *text.strip().splitlines()]
    how = f"ended by signal {-code}" if code < 0 else f"ended with exit status {code}"
    return Failure(config.name, log, f"{how} ({last})")
