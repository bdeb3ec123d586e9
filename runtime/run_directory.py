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
    evaluations.csv    one row per evaluation during the training, if it was asked for
    best.zip           the agent with the best of them
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
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from configs.run_config import RunConfig, experiment_differences
from configs.settings import Settings
from runtime.files import exists, read_json, remove_stale_temporaries, write_json

State = Literal["running", "interrupted", "finished", "diverged", "failed"]


class RunStatus(Settings):
    """How far a run has come."""

    state: State
    agent_steps: Annotated[int, Field(ge=0)]  # trained and saved
    message: str = ""  # why it diverged or failed


class RunDirectory:
    """The paths of one run, and what is known without opening its model files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "config.json"
        self.status_path = path / "status.json"
        self.provenance_path = path / "provenance.json"
        self.episodes_path = path / "episodes.csv"
        self.checkpoints_path = path / "checkpoints"
        self.replay_path = path / "replay"
        self.final_path = path / "final.zip"
        self.evaluations_path = path / "evaluations.csv"
        self.best_path = path / "best.zip"
        self.evaluation_path = path / "evaluation"
        self.packed_path = path / "packed.json"

    def exists(self) -> bool:
        """Whether a run was ever started here, or was packed; ValueError if none could be."""
        try:
            return exists(self.config_path) or exists(self.packed_path)
        except OSError as error:
            raise _folder_fault("use", self.path, error.errno) from None

    def is_packed(self) -> bool:
        """Whether all that is left of a run is what a report needs."""
        return self.packed_path.exists() and not self.config_path.exists()

    def list_checkpoints(self) -> list[Path]:
        """Newest first; each is named after the agent steps that were trained."""
        paths = self.checkpoints_path.glob("*.zip")
        return sorted((path for path in paths if path.stem.isdecimal()), reverse=True)

    def count_saved_steps(self) -> int:
        """Agent steps of the newest checkpoint; 0 if there is none."""
        return max((int(path.stem) for path in self.list_checkpoints()), default=0)

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
        """What was asked; raises as `read_json` does."""
        return RunConfig.from_mapping(self.read_json("config.json"), str(self.config_path))

    def read_status(self) -> RunStatus | None:
        """How far the run has come; None if it was never started. Raises as `read_json` does."""
        try:
            values = self.read_json("status.json")
        except FileNotFoundError:
            return None
        if not isinstance(values, dict):
            raise ValueError(f"{self.status_path}: not a status; delete the file and run again.")
        return RunStatus.parse(values, str(self.status_path))

    def write_status(self, state: State, agent_steps: int, message: str = "") -> None:
        """Record how far the run has come."""
        status = RunStatus(state=state, agent_steps=agent_steps, message=message)
        write_json(self.status_path, status.model_dump())

    def record_start(self, provenance: dict[str, Any]) -> None:
        """Append one start's circumstances to `provenance.json`; ValueError if that is damaged."""
        starts: list[Any] = []
        if self.provenance_path.exists():
            values = read_json(self.provenance_path)
            if not isinstance(values, dict) or not isinstance(values.get("starts"), list):
                raise ValueError(
                    f"{self.provenance_path}: not a list of starts; restore the file, or delete it."
                )
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
            lock_file = (self.path / ".lock").open("ab")
        except OSError as error:
            raise _folder_fault("write to", self.path, error.errno) from None
        with lock_file:
            try:
                fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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


def find_run(config: RunConfig, runs: Path) -> RunConfig:
    """A config as the run of it is named below a folder of runs.

    Single runs were not always named after their settings: one that has a directory without them
    goes on there.

    Raises:
        OSError, ValueError: If the config there cannot be read; one line.
    """
    plain = config.replace(variant=())
    if config.variant and not RunDirectory(runs / config.name).exists():
        older = RunDirectory(runs / plain.name)
        if older.exists() and not experiment_differences(older.read_config(), plain):
            return plain
    return config


def check_folder(path: Path) -> None:
    """Refuse by a ValueError a folder that nothing could be written to, before trying for long."""
    try:
        there = next(folder for folder in (path, *path.parents) if exists(folder))
    except OSError as error:
        raise _folder_fault("use", path, error.errno) from None
    if not there.is_dir():
        fault = errno.EEXIST if there == path else errno.ENOTDIR
    elif there != path and not os.access(there, os.W_OK | os.X_OK):
        fault = errno.EACCES
    else:
        limit = os.pathconf(there, "PC_NAME_MAX")
        if len(os.fsencode(_longest_part(path.relative_to(there)))) <= limit:
            return
        fault = errno.ENAMETOOLONG
    raise _folder_fault("write to", path, fault)


def _longest_part(path: Path) -> str:
    return max(path.parts, key=lambda part: len(os.fsencode(part)), default="")


def _folder_fault(verb: str, path: Path, fault: int | None) -> ValueError:
    if fault == errno.ENAMETOOLONG:
        return ValueError(
            f"{_longest_part(path):.40}... is longer than a folder's name may be; give a shorter "
            "name, or fewer settings."
        )
    reason = os.strerror(fault or errno.EIO)
    return ValueError(f"cannot {verb} {path} ({reason}); choose another --runs folder.")
