"""Training runs of a second or two, for tests of what surrounds them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from agents.training.run import plan_run, train_run
from configs.run_config import RunConfig, make_config
from runtime.run_directory import RunDirectory
from runtime.stop_request import StopRequest

SETTINGS: dict[str, Any] = {
    "total_agent_steps": 300,
    "n_envs": 2,
    "threads": 1,
    "device": "cpu",
    "learning_rate_schedule": "constant",  # so that a run can be made longer
    "log_every_agent_steps": 20,
    "checkpoint_every_agent_steps": 60,
}
DQN_SETTINGS: dict[str, Any] = {
    "buffer_size": 120,
    "learning_starts": 40,
    "batch_size": 4,
    "train_freq": 2,
    "target_update_interval": 40,
    "exploration_fraction": 0.6,
}


def short_config(algo: str = "a2c", **overrides: Any) -> RunConfig:
    """Of 300 agent steps, with a checkpoint every 60."""
    special = DQN_SETTINGS if algo == "dqn" else {}
    return make_config("Breakout", algo, SETTINGS | special | overrides)


def command_line(config: RunConfig, runs: Path) -> list[str]:
    """The arguments of train.py that ask for a `short_config`."""
    common = SETTINGS | (DQN_SETTINGS if config.run.algo == "dqn" else {})
    sections = (config.run, config.network, config.hyperparameters, config.execution)
    values = {
        name: next(getattr(part, name) for part in sections if hasattr(part, name))
        for name in common
    }
    settings = [f"--set={name}={value}" for name, value in values.items()]
    return ["--game=Breakout", f"--algo={config.run.algo}", f"--runs={runs}", *settings]


class Interruption(StopRequest):
    """Asks to stop, or does something else, when it is asked after a number of updates."""

    def __init__(self, updates: float, act: Callable[[], bool] = lambda: True) -> None:
        super().__init__()
        self._left = updates
        self._act = act

    def __bool__(self) -> bool:
        self._left -= 1
        return self._left == -1 and self._act()


def never() -> Interruption:
    return Interruption(float("inf"))


def train(runs: Path, config: RunConfig, stop: StopRequest | None = None) -> RunDirectory:
    """Train a run as `train.py` would, in this process."""
    directory = RunDirectory(runs / config.name)
    train_run(directory, plan_run(directory, config).config, never() if stop is None else stop)
    return directory
