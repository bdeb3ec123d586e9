"""The comparison command: plan, execute, report, and say how it ended."""

import sys
from contextlib import ExitStack
from pathlib import Path

from agents.algorithms.device import find_device
from agents.training.requirements import check_needs
from experiments.comparison.execution.forecast import PROCESS_BYTES, describe_plan
from experiments.comparison.execution.pool import LocalWorker, execute, find_unfinished
from experiments.comparison.execution.ray_cluster import connect
from experiments.comparison.plan import ComparisonPlan, continue_plan, load_plan, save_plan
from experiments.comparison.report.records import has_ended
from experiments.comparison.report.render import write_report
from experiments.comparison.report.stages import StageWatch
from runtime.command_line import FAILED, one_line, print_result
from runtime.process_settings import choose_threads, count_cores
from runtime.run_directory import RunDirectory, check_folder
from runtime.stop_request import SIGNAL_BASE, StopRequest


def run_comparison(
    asked: ComparisonPlan,
    runs: Path,
    *,
    jobs: int | None,
    ray_address: str | None,
    dry_run: bool,
    declare: bool,
) -> int:
    """Carry out the plan of a command, or go on with it, and write its report.

    Args:
        asked: The plan.
        runs: The folder of the runs.
        jobs: Runs at a time; None: one per core, or what the Ray cluster has room for.
        ray_address: Of a Ray cluster, or "auto"; None for this machine.
        dry_run: Only say what would be done.
        declare: Only say it and write the plan, to be carried out later.

    Returns:
        The exit status, as docs/comparison.md has it.

    Raises:
        OSError: If something cannot be read or written; one line.
        ValueError: If the plan cannot be carried out as asked; one line.
    """
    plan = _continue(asked, runs)
    unfinished = find_unfinished(plan, runs)
    watch = None if plan.design is None else StageWatch(plan, runs)
    if watch is not None:
        unfinished = [config for config in unfinished if watch.may_be_needed(config)]
    if not dry_run:
        for config in unfinished:
            check_folder(runs / config.name)
    stop = StopRequest()
    with ExitStack() as stack:
        cluster = None if ray_address is None else stack.enter_context(connect(ray_address))
        cores = count_cores() if cluster is None else cluster.cores
        jobs = min(jobs or cores, max(len(unfinished), 1))
        # What this machine's user and load allow says nothing of a cluster's nodes.
        most_threads = choose_threads(0)[0] if cluster is None else cluster.largest_node
        threads = min(max(cores // jobs, 1), most_threads)
        if declare and not dry_run:
            with RunDirectory(runs).lock():  # no comparison may be carrying out the one before
                save_plan(plan, runs)
        if dry_run or declare:
            on_cluster = cluster is not None
            print_result(describe_plan(plan, unfinished, runs, jobs, watch, on_cluster=on_cluster))
            return 0
        if cluster is None:
            find_device(plan.template.execution.device)
            check_needs(unfinished, runs, jobs, PROCESS_BYTES)
        stack.enter_context(RunDirectory(runs).lock())  # one comparison per folder
        stack.enter_context(stop.on_signals())
        save_plan(plan, runs)
        failures = execute(
            plan,
            unfinished,
            runs,
            jobs=jobs,
            threads=threads,
            launch=LocalWorker if cluster is None else cluster.launcher(jobs, threads),
            stop=stop,
            watch=watch,
        )
        for failure in failures:
            print(f"failed: {failure}; see {failure.log}", file=sys.stderr)
        try:
            if stop.signal is None:
                print(f"written: {write_report(runs)}", flush=True)
        except (OSError, ValueError) as error:
            if not failures:
                raise
            print(f"error: {one_line(error)}", file=sys.stderr)
    if failures:
        return FAILED
    if stop.signal is not None:
        print(f"{runs}: all runs are saved; the same command goes on from here.", flush=True)
        return SIGNAL_BASE + stop.signal
    return 0


def _continue(asked: ComparisonPlan, runs: Path) -> ComparisonPlan:
    saved = load_plan(runs)
    if saved is None:
        return asked
    incomplete = {
        config.run.game
        for config in saved.runs()
        if not has_ended(RunDirectory(runs / config.name), config)
    }
    return continue_plan(saved, asked, judged=incomplete != set(saved.games))
