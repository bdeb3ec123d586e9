"""The directory of one cell: what is in it, and whether it answers what is asked.

A cell's files appear when its training has ended, so that one which is interrupted leaves an
earlier result as it was, and starts again.
"""

import io
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from tensorboard.compat.proto.event_pb2 import Event
from torch import nn
from torch.utils.tensorboard.summary import scalar

from experiments.coordinates.config import CellConfig, cell_differences, load_config
from experiments.coordinates.table import FIGURES
from experiments.coordinates.tasks import make_network
from runtime.event_files import name_event_file, pack_events
from runtime.files import dump_json, open_atomically, read_bytes, read_json
from runtime.provenance import hash_modules
from runtime.run_directory import RunDirectory

_MAX_BYTES = 1 << 30  # of weights.pth
IDENTITY = {"task", "split", "model", "seed"}  # of a cell, in its result
# What decides the figures of a cell, beside its config.
_SOURCE = (
    "policies/coordconv.py",
    *(f"experiments/coordinates/{name}.py" for name in ("data", "networks", "tasks", "training")),
)


class CellDirectory(RunDirectory):
    """The directory of one cell; its lock and its provenance are those of every run.

    config.json        what was asked
    provenance.json    versions, commit, device, threads, command: one entry per start
    weights.pth        the trained network's state dict
    events.out.*       TensorBoard
    result.json        the figures; written last, so where it is, the cell is finished
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.result_path = path / "result.json"
        self.weights_path = path / "weights.pth"

    def is_finished(self) -> bool:
        """Whether the cell has its figures."""
        return self.exists() and self.result_path.exists()

    def read_result(self) -> dict[str, Any]:
        """The figures of a finished cell.

        Raises:
            ValueError: If a file is damaged; one line.
        """
        config, result = load_config(self.config_path), read_json(self.result_path)
        figure = FIGURES[config.task]
        names = "steps", "seconds", f"train_{figure}", f"test_{figure}"
        try:
            numbers = [row[name] for row in (result, *result["curve"]) for name in names]
            numbers += [result["parameters"], result["seconds_to_perfect"] or 0]
            is_its_own = all(result[name] == getattr(config, name) for name in IDENTITY)
            if is_its_own and all(isinstance(number, int | float) for number in numbers):
                return dict(result)
        except (LookupError, TypeError):
            pass
        raise ValueError(f"{self.result_path} is damaged; delete {self.path} and run again.")

    def check_source(self) -> None:
        """Refuse by a ValueError a finished cell that other code has trained."""
        if self.read_result().get("source") != hash_cell_source():
            raise ValueError(
                f"{self.path} was trained by another version of this code; choose another --runs "
                "folder, or delete it."
            )

    def load_network(self) -> tuple[CellConfig, nn.Module]:
        """The config of a finished cell and its trained network, on the CPU and not training.

        Raises:
            ValueError: If a file is damaged; one line.
        """
        config = load_config(self.config_path)
        network = make_network(config)
        data = io.BytesIO(read_bytes(self.weights_path, max_bytes=_MAX_BYTES))
        try:
            network.load_state_dict(torch.load(data, map_location="cpu", weights_only=True))
        except Exception:  # of many kinds, as the damage is
            line = f"{self.weights_path} is damaged; delete {self.path} and run again."
            raise ValueError(line) from None
        return config, network.eval()

    def write(self, config: CellConfig, network: nn.Module, result: dict[str, Any]) -> None:
        """Write what came out, in place of an earlier result once all of it is on the disk.

        Raises:
            FileWriteError: If the disk is full, and the like; the earlier result is then untouched.
        """
        weights = io.BytesIO()
        torch.save(network.state_dict(), weights)
        events = name_event_file(self.path)
        outdated = set(self.path.glob("events.out.*")) - {events}
        files = {  # the last is put in its place first
            self.result_path: dump_json(result).encode(),
            events: pack_events(_curve_events(result["curve"])),
            self.weights_path: weights.getvalue(),
            self.config_path: config.to_json().encode(),
        }
        with ExitStack() as stack:
            for path, data in files.items():
                stream = stack.enter_context(open_atomically(path))
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            self.result_path.unlink(missing_ok=True)  # from here on the old one is not whole
        for path in outdated:
            path.unlink()


def hash_cell_source() -> str:
    """The version of the code that decides a cell's figures."""
    return hash_modules(*_SOURCE)


def find_result(
    directory: CellDirectory, asked: CellConfig, *, budget_is_asked: bool
) -> dict[str, Any] | None:
    """The content of `result.json` if it answers what is asked; None if the cell is to be trained.

    A budget that is not asked for is a default, which only ever makes a cell longer.

    Raises:
        ValueError: If the directory holds a finished cell of other settings, or a longer one, or
            one that other code has trained.
    """
    if not directory.is_finished():
        return None
    saved, result = load_config(directory.config_path), directory.read_result()
    if differing := cell_differences(saved, asked):
        raise ValueError(
            f"{directory.path} holds a run of other settings ({', '.join(differing)}); choose "
            "another --runs folder, or delete it."
        )
    directory.check_source()
    if asked.budget == saved.budget:
        return result
    reached = asked.is_over(result["steps"], result["seconds"])
    if reached and budget_is_asked:
        raise ValueError(
            f"{directory.path} has trained for {result['steps']:_} steps and "
            f"{result['seconds']:.1f} s, longer than the {asked.budget} asked for; ask for more."
        )
    return result if reached or result.get("stopped") == "perfect" else None


def _curve_events(curve: list[dict[str, float]]) -> list[Event]:
    """What TensorBoard shows of a cell's curve."""
    now, names = time.time(), {"loss": "train/loss", "seconds": "time/seconds"}
    events = []
    for row in curve:
        for name, value in row.items():
            if name != "steps":
                tag = names.get(name, name.replace("_", "/", 1))
                summary = scalar(tag, value)  # type: ignore[no-untyped-call]
                events.append(Event(wall_time=now, step=int(row["steps"]), summary=summary))
    return events
