"""What a run leaves behind while it trains, each by a callback: games, rows, checkpoints."""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HParam, Image

from agents.training.checkpoints import save_checkpoint
from agents.training.tensorboard import tile_maps
from configs.run_config import RunConfig
from envs.atari_vec_env import AtariVecEnv
from policies.extractors import NatureCoordCNN
from runtime.files import naming_write_errors
from runtime.run_directory import RunDirectory
from runtime.stop_request import StopRequest, TrainingStopped

EPISODE_COLUMNS = (
    "agent_steps",  # of the run, when the game ended
    "environment",
    "return",  # raw, of the whole game
    "length_frames",
    "length_agent_steps",
    "time_limit",  # 1 if the frame limit ended the game
    "seconds",  # of training so far
)
GAMES_PER_MEAN = 100  # as SB3's `stats_window_size`
IMAGES_EVERY_AGENT_STEPS = 250_000


class EpisodeLog(BaseCallback):
    """Writes a row of episodes.csv for every finished game, and knows the last of them.

    Args:
        path: The file, which is opened for appending.
        seconds: Wall-clock seconds that were trained before.
        last_games: Returns, and lengths in frames, of the games finished before.
    """

    def __init__(
        self, path: Path, seconds: float = 0.0, last_games: Iterable[Sequence[float]] = ()
    ) -> None:
        super().__init__()
        self._path = path
        self._began = time.monotonic() - seconds
        self._last_games = deque(last_games, maxlen=GAMES_PER_MEAN)
        self._update_means()
        is_new = not path.exists()
        with naming_write_errors(path):
            self._file = path.open("a", encoding="utf-8", newline="\n")
        if is_new:
            self._write(EPISODE_COLUMNS)

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def get_state(self) -> dict[str, Any]:
        """The arguments with which a later start goes on."""
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
                self._update_means()
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

    def _update_means(self) -> None:
        #: Return and length in frames, of the last games; None before the first has ended.
        self.means = np.mean(self._last_games, axis=0).tolist() if self._last_games else None

    def _write(self, row: Sequence[Any]) -> None:
        with naming_write_errors(self._path):
            print(*row, sep=",", file=self._file)


class TensorBoardRows(BaseCallback):
    """Logs a row of SB3's tags, and of how position is used, at regular intervals.

    Args:
        config: The run's config.
        episodes: Called before this one; its rows reach the disk with these.
        logged_agent_steps: Where the last row was logged; 0 if none was.
    """

    model: Any

    def __init__(self, config: RunConfig, episodes: EpisodeLog, logged_agent_steps: int) -> None:
        super().__init__()
        self._config = config
        self._episodes = episodes
        self.logged_agent_steps = logged_agent_steps

    def _on_training_start(self) -> None:
        self._rate_from = time.monotonic(), self.num_timesteps
        if self.num_timesteps == 0:
            config = self._config
            asked = config.run.model_dump() | config.hyperparameters.model_dump()
            self.logger.record(
                "hparams", HParam(asked | {"arm": config.arm}, {"rollout/ep_rew_mean": 0.0})
            )
            self.logger.dump(0)

    def _on_rollout_start(self) -> None:
        every = self._config.execution.log_every_agent_steps
        if self.num_timesteps // every > self.logged_agent_steps // every:
            self._log()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        if self.num_timesteps > self.logged_agent_steps:
            self._log()

    def _log(self) -> None:
        step, record = self.num_timesteps, self.logger.record
        if self._episodes.means is not None:
            mean_return, mean_length = self._episodes.means
            record("rollout/ep_rew_mean", mean_return)
            record("rollout/ep_len_mean", mean_length)
            record(f"return/{self._config.run.game}", mean_return)
            record(f"length_frames/{self._config.run.game}", mean_length)
        now = time.monotonic()
        since, from_step = self._rate_from
        record("time/fps", int((step - from_step) / max(now - since, 1e-9)))
        self._rate_from = now, step
        self._record_coordinate_use()
        self.logged_agent_steps = step
        self.logger.dump(step)
        self._episodes.flush()

    def _record_coordinate_use(self) -> None:
        policy = self.model.policy
        extractor = getattr(policy, "features_extractor", None) or policy.q_net.features_extractor
        if not isinstance(extractor, NatureCoordCNN):
            return
        step, logged = self.num_timesteps, self.logged_agent_steps
        show_maps = (
            not logged or step // IMAGES_EVERY_AGENT_STEPS > logged // IMAGES_EVERY_AGENT_STEPS
        )
        sizes = extractor.input_sizes()
        for index, layer in extractor.position_layers().items():
            share = layer.coordinate_weight_share()
            self.logger.record(f"coordinates/weight_share_layer{index}", share)
            if show_maps:
                image = tile_maps(layer.coordinate_map(*sizes[index]))
                self.logger.record(f"coordinates/map_layer{index}", Image(image, "HW"))


class Checkpoints(BaseCallback):
    """Saves a checkpoint at regular intervals and at the end, and stops when asked to.

    Everything here happens between two updates. Called last: what the others logged is saved too.
    `saved_agent_steps` is where the newest checkpoint was saved.
    """

    model: Any

    def __init__(
        self,
        directory: RunDirectory,
        config: RunConfig,
        env: AtariVecEnv,
        episodes: EpisodeLog,
        rows: TensorBoardRows,
        stop: StopRequest,
        saved_agent_steps: int,
    ) -> None:
        super().__init__()
        self._directory = directory
        self._config = config
        self._env = env
        self._episodes = episodes
        self._rows = rows
        self._stop = stop
        self.saved_agent_steps = saved_agent_steps

    def _on_rollout_start(self) -> None:
        stop = bool(self._stop)
        unsaved = self.num_timesteps - self.saved_agent_steps
        due = unsaved >= self._config.execution.checkpoint_every_agent_steps
        if due or (stop and unsaved):
            self._save()
        if stop:
            raise TrainingStopped

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._save()

    def _save(self) -> None:
        logs = {
            "episodes": self._episodes.get_state(),
            "rows": {"logged_agent_steps": self._rows.logged_agent_steps},
        }
        save_checkpoint(self._directory, self._config, self.model, self._env, logs)
        self.saved_agent_steps = self.num_timesteps
        # So that a run whose checkpoints were deleted can be told from one that never had any.
        self._directory.write_status("running", self.saved_agent_steps)
