"""What a run leaves behind while it trains, each by a callback: games, rows, checkpoints."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HParam, Image
from torch import nn

from agents.training.checkpoints import save_checkpoint
from agents.training.tensorboard import GAME_CHARTS, EventFile, lay_out_charts, tile_maps
from agents.training.watchdog import Watchdog
from configs.run_config import CONVOLUTIONS, RunConfig
from envs.atari_vec_env import AtariVecEnv
from policies.extractors import NatureCoordCNN, count_live_filters
from runtime.episodes import EPISODE_COLUMNS, FINAL_GAMES
from runtime.files import naming_write_errors
from runtime.run_directory import RunDirectory, State
from runtime.stop_request import StopRequest, TrainingStopped

IMAGES_EVERY_AGENT_STEPS = 250_000
MOST_GAMES_SHOWN = 10_000  # one by one, of up to a million of a run that is not extended


class EpisodeLog(BaseCallback):
    """Writes a row of episodes.csv for every finished game, and knows the last of them.

    From before it has the wall-clock `seconds` of training, and the `last_games`: their returns,
    and their lengths in frames.
    """

    def __init__(
        self, path: Path, seconds: float = 0.0, last_games: Iterable[Sequence[float]] = ()
    ) -> None:
        super().__init__()
        self._path = path
        self._began = time.monotonic() - seconds
        self._last_games = deque(last_games, maxlen=FINAL_GAMES)
        is_new = not path.exists()
        with naming_write_errors(path):
            self._file = path.open("a", encoding="utf-8", newline="\n")
        if is_new:
            self._write(EPISODE_COLUMNS)

    @property
    def means(self) -> list[float] | None:
        """Return and length in frames, of the last games; None before the first has ended."""
        return np.mean(self._last_games, axis=0).tolist() if self._last_games else None

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def get_state(self) -> dict[str, Any]:
        """The arguments with which a later start goes on; JSON values."""
        self.flush()
        return {"seconds": self._seconds, "last_games": list(self._last_games)}

    def flush(self) -> None:
        """Hand all rows to the system."""
        with naming_write_errors(self._path):
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        with naming_write_errors(self._path):
            self._file.close()

    def _on_step(self) -> bool:
        for environment, info in enumerate(self.locals["infos"]):
            episode = info.get("episode")
            if episode is not None:
                self._last_games.append((episode["r"], episode["l"]))
                self._write(
                    (
                        self.num_timesteps,
                        environment,
                        episode["r"],
                        episode["l"],
                        episode["agent_steps"],
                        int(episode["time_limit"]),
                        f"{self._seconds:.3f}",
                    )
                )
        return True

    def _write(self, row: Sequence[Any]) -> None:
        with naming_write_errors(self._path):
            print(*row, sep=",", file=self._file)


@dataclass(eq=False)
class TensorBoardRows(BaseCallback):
    """Logs a row of SB3's tags, and of the convolutions, at regular intervals.

    The rows go to `events` by the agent's logger, and what is shown beside them at once. `episodes`
    is called before this one; its rows reach the disk with these.
    """

    config: RunConfig
    episodes: EpisodeLog
    events: EventFile
    logged_agent_steps: int = 0  # where the last row was logged
    shown_agent_steps: int = 0  # where the last game was shown
    model: Any = field(init=False)

    def __post_init__(self) -> None:
        super().__init__()

    def get_state(self) -> dict[str, Any]:
        """The arguments with which a later start goes on."""
        return {
            "logged_agent_steps": self.logged_agent_steps,
            "shown_agent_steps": self.shown_agent_steps,
        }

    def _on_training_start(self) -> None:
        self._rate_from = time.monotonic(), self.num_timesteps
        if self.num_timesteps == 0:
            config = self.config
            asked = config.run.model_dump() | config.hyperparameters.model_dump()
            values = {
                "config": f"```json\n{config.to_json()}```",
                "hparams": HParam(asked | {"arm": config.arm}, {"rollout/ep_rew_mean": 0.0}),
                "layout": lay_out_charts(GAME_CHARTS, [config.run.game]),
            }
            # Of the convolutions at their start: what all later values are seen against.
            self.events.write_values(values | self._describe_layers(), 0)

    def _on_rollout_start(self) -> None:
        every = self.config.execution.log_every_agent_steps
        if is_due(self.num_timesteps, self.logged_agent_steps, every):
            self._log()

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self._show_game(info["episode"]["r"])
        return True

    def _on_training_end(self) -> None:
        if self.num_timesteps > self.logged_agent_steps:
            self._log()

    def _show_game(self, game_return: float) -> None:
        """Show one of the games that ended in each of the run's `MOST_GAMES_SHOWN` parts."""
        every = -(-self.config.run.total_agent_steps // MOST_GAMES_SHOWN)
        if is_due(self.num_timesteps, self.shown_agent_steps, every):
            tag = f"return_per_game/{self.config.run.game}"
            self.events.write_values({tag: game_return}, self.num_timesteps)
            self.shown_agent_steps = self.num_timesteps

    def _log(self) -> None:
        step, record = self.num_timesteps, self.logger.record
        if (means := self.episodes.means) is not None:
            mean_return, mean_length = means
            record("rollout/ep_rew_mean", mean_return)
            record("rollout/ep_len_mean", mean_length)  # in frames
            record(f"return/{self.config.run.game}", mean_return)
        now = time.monotonic()
        since, from_step = self._rate_from
        record("time/fps", int((step - from_step) / max(now - since, 1e-9)))
        self._rate_from = now, step
        for tag, value in self._describe_layers().items():
            record(tag, value)
        self.logged_agent_steps = step
        self.logger.dump(step)
        self.episodes.flush()

    def _describe_layers(self) -> dict[str, Any]:
        """By tag, of each convolution: live filters, position's share, now and then its map."""
        policy: Any = self.model.policy
        extractor = getattr(policy, "q_net", policy).features_extractor
        values: dict[str, Any] = {}
        if not isinstance(extractor, NatureCoordCNN) or not has_usual_layers(extractor):
            return values
        if type(extractor) is NatureCoordCNN:  # a pass may change what a subclass learns
            images = policy.obs_to_tensor(self.model._last_obs)[0].float() / 255
            for index, count in enumerate(count_live_filters(extractor, images)):
                values[f"train/live_filters_layer{index}"] = float(count)
        logged = self.logged_agent_steps
        show_maps = not logged or is_due(self.num_timesteps, logged, IMAGES_EVERY_AGENT_STEPS)
        sizes = extractor.input_sizes()
        for index, layer in extractor.position_layers().items():
            values[f"train/coordinate_weight_share_layer{index}"] = layer.coordinate_weight_share()
            if show_maps:
                image = tile_maps(layer.coordinate_map(*sizes[index]))
                values[f"train/coordinate_map_layer{index}"] = Image(image, "HW")
        return values


def has_usual_layers(extractor: NatureCoordCNN) -> bool:
    """Whether a subclass has left the convolutions where they are."""
    return all(isinstance(extractor.cnn[2 * index], nn.Conv2d) for index in range(CONVOLUTIONS))


def is_due(agent_steps: int, last_agent_steps: int, every: int) -> bool:
    """Whether a multiple of `every` agent steps was passed since the last time."""
    return agent_steps // every > last_agent_steps // every


class WatchdogFeeder(BaseCallback):
    """Tells a watchdog of every step of the environments, and of the learning between them.

    Called last, so that no step is waited for while the others write files.
    """

    def __init__(self, watchdog: Watchdog) -> None:
        super().__init__()
        self._watchdog = watchdog

    def _on_rollout_start(self) -> None:
        self._watchdog.feed()

    def _on_step(self) -> bool:
        self._watchdog.feed()
        return True

    def _on_rollout_end(self) -> None:
        self._watchdog.rest()  # learning takes as long as it takes


@dataclass(eq=False)
class Checkpoints(BaseCallback):
    """Saves a checkpoint at regular intervals and at the end, and stops when asked to.

    Everything here happens between two updates. Called after those whose rows are saved with it;
    `logs` gives their states by their names. The newest checkpoint is of `saved_agent_steps`.
    """

    directory: RunDirectory
    config: RunConfig
    env: AtariVecEnv
    logs: Mapping[str, Callable[[], dict[str, Any]]]
    stop: StopRequest
    saved_agent_steps: int
    model: Any = field(init=False)

    def __post_init__(self) -> None:
        super().__init__()

    def _on_rollout_start(self) -> None:
        stop = bool(self.stop)
        unsaved = self.num_timesteps - self.saved_agent_steps
        due = unsaved >= self.config.execution.checkpoint_every_agent_steps
        if due or (stop and unsaved):
            self._save()
        if stop:
            raise TrainingStopped

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._save()

    def _save(self) -> None:
        logs = {name: get_state() for name, get_state in self.logs.items()}
        save_checkpoint(self.directory, self.config, self.model, self.env, logs)
        self.saved_agent_steps = self.num_timesteps
        # So that a run whose checkpoints were deleted can be told from one that never had any.
        self.record("running")

    def record(self, state: State, message: str = "") -> None:
        """Write down how the run is doing; what it has learned is that of the newest checkpoint."""
        self.directory.write_status(state, self.saved_agent_steps, message)
