"""The directory one run lives in: what is in it, who may write to it, and how far it has come.

A run's path follows from its config, so the same command finds the same run again:

    config.json        what was asked (configs/run_config.py)
    status.json        how far it has come
    provenance.json    versions, commit, device, threads, command: one entry per start
    episodes.csv       one row per finished game
    events.out.*       TensorBoard
    checkpoints/       the last two, from which it goes on
    replay/            DQN's replay buffer, while unfinished
    final.zip          the trained agent, an SB3 model
    evaluation/        returns.json and videos, by evaluate.py

A packed run (`python -m experiments.comparison.archive`) has only what a report needs:

    packed.json        the JSON files above, by name
    episodes.csv.xz    the finished games
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from configs.run_config import RunConfig
from configs.settings import Settings
from runtime.files import read_json, remove_stale_temporaries, write_json

State = Literal["running", "interrupted", "finished", "diverged", "failed"]
Status = TypeVar("Status", bound=Settings)


class RunStatus(Settings):
    """How far a run has come.

    Attributes:
        state: What it is doing, or how it ended.
        agent_steps: Agent steps trained and saved.
        message: Why it diverged or failed; empty otherwise.
    """

    state: State
    agent_steps: Annotated[int, Field(ge=0)]
    message: str = ""


@dataclass(frozen=True)
class RunDirectory:
    """The paths of one run, and what is known without opening its model files."""

    path: Path

    @property
    def config_path(self) -> Path:
        """What was asked."""
        return self.path / "config.json"

    @property
    def status_path(self) -> Path:
        """How far it has come."""
        return self.path / "status.json"

    @property
    def provenance_path(self) -> Path:
        """What it ran on."""
        return self.path / "provenance.json"

    @property
    def episodes_path(self) -> Path:
        """One row per finished game."""
        return self.path / "episodes.csv"

    @property
    def packed_path(self) -> Path:
        """The JSON files of a packed run."""
        return self.path / "packed.json"

    @property
    def checkpoints_path(self) -> Path:
        """The folder of the last two checkpoints."""
        return self.path / "checkpoints"

    @property
    def replay_path(self) -> Path:
        """The folder of DQN's replay buffer."""
        return self.path / "replay"

    @property
    def final_path(self) -> Path:
        """The trained agent."""
        return self.path / "final.zip"

    @property
    def evaluation_path(self) -> Path:
        """The folder evaluate.py writes to."""
        return self.path / "evaluation"

    def exists(self) -> bool:
        """Whether a run was ever started here, or was packed.

        Raises:
            ValueError: If nothing could be here.
        """
        try:
            return self.config_path.exists() or self.packed_path.exists()
        except OSError as error:
            raise ValueError(
                f"cannot use {self.path} ({error.strerror}); choose another --runs folder."
            ) from None

    def is_packed(self) -> bool:
        """Whether all that is left of a run is what a report needs."""
        return self.packed_path.exists() and not self.config_path.exists()

    def read_json(self, name: str) -> Any:
        """The content of one of the JSON files, packed or not.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is damaged.
        """
        path = self.path / name
        if not self.is_packed():
            return read_json(path)
        values = read_json(self.packed_path)
        if not isinstance(values, dict):
            raise ValueError(f"{self.packed_path}: not a packed run; restore the file.")
        if name not in values:
            raise FileNotFoundError(f"{self.packed_path} has no {name}; restore the file.")
        return values[name]

    def read_config(self) -> RunConfig:
        """What was asked.

        Raises:
            FileNotFoundError: If no run was ever started here.
            ValueError: If the file is damaged.
        """
        return RunConfig.from_mapping(self.read_json("config.json"), str(self.config_path))

    def read_status(self) -> RunStatus | None:
        """How far the run has come; None if it was never started.

        Raises:
            ValueError: If the file is damaged.
        """
        return self._read_status_as(RunStatus)

    def _read_status_as(self, kind: type[Status]) -> Status | None:
        try:
            values = self.read_json("status.json")
        except FileNotFoundError:
            return None
        if not isinstance(values, dict):
            raise ValueError(f"{self.status_path}: not a status; delete the file and run again.")
        return kind.parse(values, str(self.status_path))

    def write_status(self, state: State, agent_steps: int, message: str = "") -> None:
        """Record how far the run has come."""
        write_json(
            self.status_path,
            RunStatus(state=state, agent_steps=agent_steps, message=message).model_dump(),
        )

    def record_start(self, provenance: dict[str, Any]) -> None:
        """Append one start's circumstances to `provenance.json`."""
        starts: list[Any] = []
        if self.provenance_path.exists():
            values = read_json(self.provenance_path)
            if isinstance(values, dict) and isinstance(values.get("starts"), list):
                starts = values["starts"]
        write_json(self.provenance_path, {"starts": [*starts, provenance]})

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold this directory for one process; the system frees it when the process dies.

        Raises:
            ValueError: If another process holds it, or the path cannot be a directory, or the file
                system has no locks.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ValueError(
                f"cannot write to {self.path} ({error.strerror}); choose another --runs folder."
            ) from None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"{self.path} is being written by another process; wait for it or stop it."
                ) from None
            except OSError as error:  # as on Lustre without -o flock: two writers would be possible
                raise ValueError(
                    f"{self.path} is on a file system without locks ({error.strerror}); choose a "
                    "--runs folder on another, such as a local disk."
                ) from None
            remove_stale_temporaries(self.path)
            yield
        finally:
            os.close(descriptor)


def check_folder(path: Path) -> None:
    """Refuse a folder that nothing could be written to, before the long way to trying.

    Raises:
        ValueError: If something is in its way; one line.
    """
    try:
        there = next(folder for folder in (path, *path.parents) if folder.exists())
    except OSError as error:
        raise ValueError(
            f"cannot use {path} ({error.strerror}); choose another --runs folder."
        ) from None
    if not there.is_dir():
        fault = errno.EEXIST if there == path else errno.ENOTDIR
    elif there != path and not os.access(there, os.W_OK | os.X_OK):
        fault = errno.EACCES
    else:
        return
    raise ValueError(
        f"cannot write to {path} ({os.strerror(fault)}); choose another --runs folder."
    )
