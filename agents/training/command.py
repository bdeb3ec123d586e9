"""The training command: plan one run, train it, and say how it ended."""

import shlex
import sys
from pathlib import Path

from agents.algorithms.divergence import Divergence
from agents.training.requirements import check_needs
from agents.training.run import plan_run, train_run
from configs.run_config import RunConfig
from envs.game_batch import EnvironmentFailure
from runtime.command_line import FAILED, align_columns
from runtime.episodes import FINAL_GAMES, moving_means, read_episodes
from runtime.run_directory import RunDirectory
from runtime.stop_request import SIGNAL_BASE, StopRequest, TrainingStopped


def run_training(config: RunConfig, runs: Path, stop: StopRequest | None = None) -> int:
    """Train what a config asks for, below a folder of runs; returns the exit status.

    A `stop` that was made before is heeded as well as signals.

    Raises:
        ValueError: If it cannot be trained as asked; one line.
    """
    directory = RunDirectory(runs / config.name)
    plan = plan_run(directory, config)
    if plan.is_finished:
        cannot_grow = directory.is_packed() or config.find_schedule()
        more = "" if cannot_grow else "; a larger --steps extends it"
        _tell_end(directory, plan.config, plan.agent_steps, more)
        return 0
    check_needs([plan.config], runs)
    stop = StopRequest() if stop is None else stop
    try:
        with stop.on_signals():
            agent_steps = train_run(directory, plan.config, stop)
    except TrainingStopped:
        assert stop.signal is not None
        print(f"{directory.path}: saved; the same command goes on from here.", flush=True)
        return SIGNAL_BASE + stop.signal
    except (Divergence, EnvironmentFailure) as error:
        remedy = "; the same command goes on from the last checkpoint."
        end = "" if isinstance(error, Divergence) else remedy
        print(f"{config.name}: {error}{end}", file=sys.stderr)
        return FAILED
    _tell_end(directory, plan.config, agent_steps)
    return 0


def _tell_end(directory: RunDirectory, config: RunConfig, agent_steps: int, more: str = "") -> None:
    print(f"{directory.path}: finished, {agent_steps:_} agent steps{more}.")
    if not directory.is_packed():
        evaluate = ["python", "evaluate.py", str(directory.path), "--video"]
        if config.network.extractor:
            evaluate += ["--extractor", config.network.extractor]
        rows = describe_returns(directory.episodes_path) | {"model": str(directory.final_path)}
        # Without the table it may be left from before a new start.
        if directory.evaluations_path.exists() and directory.best_path.exists():
            rows["best model"] = str(directory.best_path)
        rows["evaluate"] = shlex.join(evaluate)
        print("\n".join(align_columns(list(rows.items()), left=2)), flush=True)


def describe_returns(path: Path) -> dict[str, str]:
    """The mean return of a run's last games, and the best that so many in a row had."""
    try:
        path.stat()  # a file that is missing is read as one without games
        episodes = read_episodes(path)
    except (OSError, ValueError):
        return {"mean return": f"unknown, as {path.name} cannot be read"}
    count = min(len(episodes.returns), FINAL_GAMES)
    if not count:
        return {"mean return": "no finished game"}
    means = moving_means(episodes.returns, count)
    best = int(means.argmax())
    step = episodes.agent_steps[best + count - 1]
    return {
        "mean return": f"{means[-1]:.1f}, of the last {count} games",
        "best": f"{means[best]:.1f}, of {count} games up to {step:_} agent steps",
    }
