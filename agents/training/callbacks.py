"""What a run leaves behind while it trains: episodes, TensorBoard rows, checkpoints, progress."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, TextIO

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HParam, Image, Logger

from agents.training.progress import Progress
from agents.training.tensorboard import EventFile
from configs.run_config import RunConfig
from configs.settings import Bounds, as_mapping, build
from policies.extractors import NatureCoordCNN
from runtime.files import naming_write_errors
from runtime.run_directory import RunDirectory

EPISODE_COLUMNS = (
    "agent_steps",  # of the run, when the game ended
    "environment",
    "return",  # raw, of the whole game
    "length_frames",
    "length_agent_steps",
    "time_limit",  # 1 if the frame limit ended the game
    "seconds",  # of training so far
)
IMAGES_EVERY_AGENT_STEPS = 250_000
LOG_PATTERNS = ("episodes.csv", "events.out.tfevents.*")  # files that grow by appending


class TrainingStopped(Exception):
    """Training was asked to stop, and has saved a checkpoint."""


@dataclass(frozen=True)
class _SavedCounters:
    seconds: Annotated[float, Bounds(0)]
    logged_agent_steps: Annotated[int, Bounds(0)]
    imaged_agent_steps: Annotated[int, Bounds(-1)]


class RunRecorder(BaseCallback):
    """Records a run; everything it does between two updates leaves the run resumable.

    Args:
        config: The run's config.
        directory: The run's directory.
        progress: What the user watches.
        save: Writes a checkpoint; given this recorder's state.
        stop_requested: Whether to stop at the next update.
        on_environment_step: Called at every step of the environments.
    """

    model: Any

    def __init__(
        self,
        config: RunConfig,
        directory: RunDirectory,
        progress: Progress,
        save: Callable[[dict[str, Any]], None],
        stop_requested: Callable[[], bool],
        on_environment_step: Callable[[], None],
    ) -> None:
        super().__init__()
        self._config = config
        self._directory = directory
        self._progress = progress
        self._save = save
        self._stop_requested = stop_requested
        self._on_environment_step = on_environment_step
        self._started = time.monotonic()
        self._seconds_before = 0.0
        self._logged_agent_steps = 0
        self.saved_agent_steps = 0
        self._imaged_agent_steps = -1
        self._rate_from = (self._started, 0)
        self._episodes_file: TextIO | None = None
        self._logger: Logger | None = None

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of training so far, over all starts."""
        return self._seconds_before + time.monotonic() - self._started

    def get_state(self) -> dict[str, Any]:
        """What `set_state` goes on from; JSON values only."""
        self._flush()
        return {
            "seconds": self.seconds,
            "logged_agent_steps": self._logged_agent_steps,
            "imaged_agent_steps": self._imaged_agent_steps,
            "file_sizes": {
                path.name: path.stat().st_size for path in log_files(self._directory.path)
            },
        }

    def set_state(self, state: dict[str, Any], agent_steps: int) -> None:
        """Go on from a saved state: the logs are cut to where they were.

        Raises:
            ValueError: If the state or a log is damaged.
        """
        counters = {name: value for name, value in state.items() if name != "file_sizes"}
        saved = build(_SavedCounters, counters, "saved logs")
        cut_logs(self._directory.path, state.get("file_sizes"))
        self._seconds_before = saved.seconds
        self._logged_agent_steps = saved.logged_agent_steps
        self._imaged_agent_steps = saved.imaged_agent_steps
        self.saved_agent_steps = agent_steps
        self._rate_from = (self._started, agent_steps)

    def open(self) -> Logger:
        """Open the run's logs for appending; returns the logger to give to the agent."""
        path = self._directory.episodes_path
        is_new = not path.exists()
        with naming_write_errors(path):
            self._episodes_file = path.open("a", encoding="utf-8", newline="\n")
        if is_new:
            self._write_episode(EPISODE_COLUMNS)
        folder = self._directory.path
        self._logger = Logger(str(folder), output_formats=[EventFile(folder)])
        return self._logger

    def close(self) -> None:
        """Close the run's logs."""
        try:
            if self._episodes_file is not None:
                with naming_write_errors(self._directory.episodes_path):
                    self._episodes_file.close()
        finally:
            if self._logger is not None:
                self._logger.close()

    def _on_training_start(self) -> None:
        if self.num_timesteps == 0:
            self.logger.record(
                "hparams", HParam(_hyperparameters(self._config), {"rollout/ep_rew_mean": 0.0})
            )
            self.logger.dump(0)

    def _on_rollout_start(self) -> None:
        """Between two updates."""
        step = self.num_timesteps
        log_every = self._config.execution.log_every_agent_steps
        if step // log_every > self._logged_agent_steps // log_every:
            self._log()
        stop = self._stop_requested()
        due = step - self.saved_agent_steps >= self._config.execution.checkpoint_every_agent_steps
        if due or (stop and step > self.saved_agent_steps):
            self.save()
        if stop:
            raise TrainingStopped

    def _on_step(self) -> bool:
        self._on_environment_step()
        step = self.num_timesteps
        for environment, info in enumerate(self.locals["infos"]):
            episode = info.get("episode")
            if episode is not None:
                self._write_episode(
                    (
                        step,
                        environment,
                        episode["r"],
                        episode["l"],
                        episode["agent_steps"],
                        int(episode["time_limit"]),
                        f"{self.seconds:.3f}",
                    )
                )
        self._progress.update(step, self._mean_return())
        return True

    def _on_training_end(self) -> None:
        if self.num_timesteps > self._logged_agent_steps:
            self._log()
        self.save()

    def save(self) -> None:
        """Write a checkpoint now."""
        self._save(self.get_state())
        self.saved_agent_steps = self.num_timesteps

    def _mean_return(self) -> float | None:
        returns = [info["r"] for info in self.model.ep_info_buffer]
        return float(np.mean(returns)) if returns else None

    def _log(self) -> None:
        step = self.num_timesteps
        record = self.logger.record
        mean_return = self._mean_return()
        if mean_return is not None:
            mean_length = float(np.mean([info["l"] for info in self.model.ep_info_buffer]))
            record("rollout/ep_rew_mean", mean_return)
            record("rollout/ep_len_mean", mean_length)
            record(f"return/{self._config.run.game}", mean_return)
            record(f"length_frames/{self._config.run.game}", mean_length)
        now = time.monotonic()
        since, from_step = self._rate_from
        record("time/fps", int((step - from_step) / max(now - since, 1e-9)))
        self._rate_from = (now, step)
        self._record_coordinate_use(step)
        self._logged_agent_steps = step
        self.logger.dump(step)
        self._flush_episodes()

    def _record_coordinate_use(self, step: int) -> None:
        extractor = self._extractor()
        show_maps = self._imaged_agent_steps < 0 or (
            step // IMAGES_EVERY_AGENT_STEPS > self._imaged_agent_steps // IMAGES_EVERY_AGENT_STEPS
        )
        sizes = extractor.input_sizes()
        for index, layer in extractor.position_layers().items():
            share = layer.coordinate_weight_share()
            self.logger.record(f"coordinates/weight_share_layer{index}", share)
            if show_maps:
                image = tile_maps(layer.coordinate_map(*sizes[index]))
                self.logger.record(f"coordinates/map_layer{index}", Image(image, "HW"))
                self._imaged_agent_steps = step

    def _extractor(self) -> NatureCoordCNN:
        policy = self.model.policy
        extractor = getattr(policy, "features_extractor", None) or policy.q_net.features_extractor
        assert isinstance(extractor, NatureCoordCNN)
        return extractor

    def _flush(self) -> None:
        """Put all that was logged on the disk."""
        self._flush_episodes()
        for path in log_files(self._directory.path):
            with naming_write_errors(path), path.open("rb") as file:
                os.fsync(file.fileno())

    def _write_episode(self, row: tuple[Any, ...]) -> None:
        assert self._episodes_file is not None
        with naming_write_errors(self._directory.episodes_path):
            print(*row, sep=",", file=self._episodes_file)

    def _flush_episodes(self) -> None:
        assert self._episodes_file is not None
        with naming_write_errors(self._directory.episodes_path):
            self._episodes_file.flush()


def log_files(folder: Path) -> list[Path]:
    """The files of a run that grow by appending, in order of name."""
    return sorted(path for pattern in LOG_PATTERNS for path in folder.glob(pattern))


def cut_logs(folder: Path, sizes: Any) -> None:
    """Cut the logs of a run back to given sizes in bytes; logs without one are deleted.

    Args:
        folder: The run's directory.
        sizes: Bytes by file name, as a checkpoint has them.

    Raises:
        ValueError: If a log is missing or shorter than it was, or `sizes` is not what it should be.
    """
    if not isinstance(sizes, dict) or not all(
        _is_log(name) and type(size) is int and size >= 0 for name, size in sizes.items()
    ):
        raise ValueError("saved logs: `file_sizes` are not those of logs; use an earlier file.")
    for path in log_files(folder):
        if path.name not in sizes:
            path.unlink()
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size < size:
            raise ValueError(
                f"{path} is missing or was shortened; restore it, or delete {folder} to start "
                "again."
            )
        os.truncate(path, size)


def _is_log(name: str) -> bool:
    return "/" not in name and any(fnmatchcase(name, pattern) for pattern in LOG_PATTERNS)


def tile_maps(maps: Any) -> np.ndarray[Any, Any]:
    """Lay maps out as one picture for TensorBoard.

    Args:
        maps: [C, H, W] tensor.

    Returns:
        uint8 [rows, columns]: each map scaled by the largest magnitude of all of them, zero at
        mid-grey, on a grid with one-pixel gaps.
    """
    values = maps.detach().float().cpu().numpy()
    count, height, width = values.shape
    columns = int(np.ceil(np.sqrt(count)))
    rows = int(np.ceil(count / columns))
    scale = max(float(np.abs(values).max()), 1e-12)
    picture = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1), dtype=np.uint8)
    for index in range(count):
        top, left = index // columns * (height + 1), index % columns * (width + 1)
        shades = np.round(127.5 + 127.5 * values[index] / scale)
        picture[top : top + height, left : left + width] = shades
    return picture


def _hyperparameters(config: RunConfig) -> dict[str, bool | str | float | None]:
    settings: dict[str, bool | str | float | None] = {
        "game": config.run.game,
        "algo": config.run.algo,
        "arm": config.arm,
        "seed": config.run.seed,
        "protocol": config.run.protocol,
        "precision": config.run.precision,
    }
    return settings | as_mapping(config.hyperparameters)
