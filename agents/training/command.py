"""The training command: plan one run, train it, and say how it ended."""

import sys
from pathlib import Path

from agents.algorithms.divergence import Divergence
from agents.training.run import find_schedule, plan_run, train_run
from configs.run_config import RunConfig
from envs.game_batch import EnvironmentFailure
from runtime.command_line import FAILED
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
    if plan.action == "finished":
        cannot_grow = directory.is_packed() or find_schedule(config)
        can_grow = "" if cannot_grow else "; a larger --steps extends it"
        print(f"{directory.path}: finished, {plan.agent_steps:_} agent steps{can_grow}.")
        return 0
    stop = StopRequest() if stop is None else stop
    try:
        with stop.on_signals():
            agent_steps = train_run(directory, plan.config, stop)
    except TrainingStopped:
        assert stop.signal is not None
        print(f"{directory.path}: saved; the same command goes on from here.", flush=True)
        return SIGNAL_BASE + stop.signal
    except Divergence as error:
        print(f"{config.name}: {error}", file=sys.stderr)
        return FAILED
    except EnvironmentFailure as error:
        print(
            f"{config.name}: {error}; the same command goes on from the last checkpoint.",
            file=sys.stderr,
        )
        return FAILED
    print(f"{directory.path}: finished, {agent_steps:_} agent steps.")
    return 0
