"""Playing whole games at regular intervals with an agent that trains; it learns nothing by it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

from agents.evaluation.games import PlayedGame, play_games
from agents.training.callbacks import is_due
from agents.training.checkpoints import save_agent
from agents.training.tensorboard import EventFile
from agents.training.watchdog import Watchdog
from configs.protocols import load_protocol
from configs.run_config import RunConfig
from envs.games import find_game
from runtime.files import naming_write_errors
from runtime.run_directory import RunDirectory
from runtime.stop_request import StopRequest, TrainingStopped

COLUMNS = ("agent_steps", "games", "mean_return", "mean_length_frames")
# More than evaluate.py takes: it never scores the best agent on the games it was chosen by.
SEED = 2**31


@dataclass(eq=False)
class PeriodicEvaluation(BaseCallback):
    """Evaluates the agent as evaluate.py does, and keeps the one with the best mean return.

    Always the same games, each with a random generator of its own: training draws what it would
    without, and an evaluation depends on nothing but the weights. SB3's tags go to `events`.
    At every step `stop` is asked: what is stopped is evaluated by the next start. The `watchdog` is
    fed at every step, and rests while files are written.
    """

    directory: RunDirectory
    config: RunConfig
    events: EventFile
    stop: StopRequest
    watchdog: Watchdog
    evaluated_agent_steps: int = 0  # where the last evaluation was
    best_mean_return: float | None = None  # of the evaluations before
    model: Any = field(init=False)

    def __post_init__(self) -> None:
        super().__init__()

    def get_state(self) -> dict[str, Any]:
        """The arguments with which a later start goes on."""
        return {
            "evaluated_agent_steps": self.evaluated_agent_steps,
            "best_mean_return": self.best_mean_return,
        }

    def _on_rollout_start(self) -> None:
        self._evaluate_if_due(can_stop=True)

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._evaluate_if_due(can_stop=False)  # there is no later start

    def _evaluate_if_due(self, *, can_stop: bool) -> None:
        every = self.config.execution.evaluate_every_agent_steps
        if not every or not is_due(self.num_timesteps, self.evaluated_agent_steps, every):
            return
        with suppress(TrainingStopped), _keeping_generators(self.model.device):
            games = self._play(can_stop)
            self.watchdog.rest()
            self._record(games)

    def _play(self, can_stop: bool) -> list[PlayedGame]:
        def on_step(_: int) -> None:
            self.watchdog.feed()
            if can_stop and self.stop:
                raise TrainingStopped

        config, policy = self.config, self.model.policy
        game, protocol = find_game(config.run.game), load_protocol(config.run.protocol)
        count = config.execution.evaluation_games
        epsilon = getattr(config.hyperparameters, "exploration_final_eps", None)
        policy.set_training_mode(False)
        return [
            game for _, game in play_games(policy, game, protocol, count, SEED, epsilon, on_step)
        ]

    def _record(self, games: list[PlayedGame]) -> None:
        step = self.num_timesteps
        mean_return = fmean(game.raw_return for game in games)
        mean_length = fmean(game.length_frames for game in games)
        if self.best_mean_return is None or mean_return > self.best_mean_return:
            self.best_mean_return = mean_return
            save_agent(self.directory.best_path, self.config, self.model)
        path = self.directory.evaluations_path
        is_new = not path.exists()
        with naming_write_errors(path), path.open("a", encoding="utf-8", newline="\n") as file:
            if is_new:
                print(*COLUMNS, sep=",", file=file)
            print(step, len(games), mean_return, mean_length, sep=",", file=file)
        tags = {"eval/mean_reward": mean_return, "eval/mean_ep_length": mean_length}
        self.events.write_values(tags, step)
        self.evaluated_agent_steps = step


@contextmanager
def _keeping_generators(device: torch.device) -> Iterator[None]:
    """Let a user's own extractor draw from the global generators without changing what follows."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
