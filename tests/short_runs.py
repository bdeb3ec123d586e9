"""Training runs of a second or two, for tests of what surrounds them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import train as train_command
from agents.models.model_file import ModelFile, read_newest_checkpoint
from agents.training.run import plan_run, train_run
from configs.run_config import RunConfig, make_config
from runtime.run_directory import RunDirectory
from runtime.stop_request import StopRequest, TrainingStopped

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

    def __init__(self, updates: int, act: Callable[[], bool] = lambda: True) -> None:
        super().__init__()
        self._left = updates
        self._act = act
        self._stopped = False

    def __bool__(self) -> bool:
        self._left -= 1
        if self._left == -1:
            self._stopped = self._act()
        return self._stopped


@dataclass(frozen=True)
class ShortRun:
    """A config and the folder its run goes to."""

    runs: Path
    config: RunConfig

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory(self.runs / self.config.name)

    def train(self, stop: StopRequest | None = None) -> RunDirectory:
        """Train it as `train.py` would, in this process."""
        planned = plan_run(self.directory, self.config).config
        train_run(self.directory, planned, StopRequest() if stop is None else stop)
        return self.directory

    def stop_after(self, updates: int) -> None:
        with pytest.raises(TrainingStopped):
            self.train(Interruption(updates))

    def die_after(self, updates: int) -> None:
        """As by a signal that nobody catches."""

        def die() -> bool:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            self.train(Interruption(updates, die))

    def refuse(self) -> str:
        """The one line that training is refused with."""
        with pytest.raises((ValueError, OSError)) as error:
            self.train()
        assert "\n" not in str(error.value)
        return str(error.value)

    def command(self, capsys: Any, *more: str) -> tuple[int, str]:
        """train.py's exit status and what it wrote on stderr."""
        capsys.readouterr()
        try:
            status = train_command.main([*command_line(self.config, self.runs), *more])
        except SystemExit as stop:
            status = int(stop.code or 0)
        return status, capsys.readouterr().err

    def checkpoints(self) -> list[Path]:
        return sorted(self.directory.checkpoints_path.iterdir())

    def newest_checkpoint(self) -> ModelFile:
        """The last there is, which must be good."""
        checkpoint = read_newest_checkpoint(self.directory)
        assert checkpoint is not None
        assert checkpoint.path == self.checkpoints()[-1]
        return checkpoint


def train(runs: Path, config: RunConfig, stop: StopRequest | None = None) -> RunDirectory:
    return ShortRun(runs, config).train(stop)
