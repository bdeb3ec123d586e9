"""The directory of one cell, what is read from it, and the network that is in it.

config.json        what was asked
status.json        how far it has come
provenance.json    versions, commit, device, threads, command: one entry per start
result.json        the figures, once finished
weights.pth        the trained network's state dict
checkpoint.pth     from which it goes on
events.out.*       TensorBoard
"""

import io
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard

import torch
from torch import nn

from configs.settings import Bounds
from experiments.coordinates.config import CellConfig, load_config
from experiments.coordinates.table import headline_of
from experiments.coordinates.tasks import make_network
from runtime.files import read_bytes, read_json, write_atomically, write_json
from runtime.run_directory import RunDirectory

_MAX_BYTES = 1 << 30

State = Literal["running", "interrupted", "finished", "diverged"]


@dataclass(frozen=True)
class CellStatus:
    """How far a cell has come.

    Attributes:
        state: What it is doing, or how it ended.
        steps: Optimiser steps trained and saved.
        seconds: Training time, evaluations during training included, over all starts.
        message: Why it diverged; empty otherwise.
    """

    state: State
    steps: Annotated[int, Bounds(0)]
    seconds: Annotated[float, Bounds(0)]
    message: str = ""


@dataclass(frozen=True)
class CellDirectory(RunDirectory):
    """The paths of one cell; its lock and its provenance are those of every run."""

    @property
    def result_path(self) -> Path:
        """The figures of the trained network."""
        return self.path / "result.json"

    @property
    def weights_path(self) -> Path:
        """The trained network."""
        return self.path / "weights.pth"

    @property
    def checkpoint_path(self) -> Path:
        """From which training goes on."""
        return self.path / "checkpoint.pth"

    def read_cell_status(self) -> CellStatus | None:
        """How far the cell has come; None if it was never started.

        Raises:
            ValueError: If the file is damaged.
        """
        return self._read_status_as(CellStatus)

    def write_cell_status(self, status: CellStatus) -> None:
        """Record how far the cell has come."""
        write_json(self.status_path, asdict(status))

    def read_result(self) -> dict[str, Any]:
        """The figures of a finished cell.

        Raises:
            FileNotFoundError: If it has not finished.
            ValueError: If the file is damaged.
        """
        result = read_json(self.result_path)
        if not _is_result(result):
            raise ValueError(f"{self.result_path}: not a result; delete {self.path}.")
        return result

    def is_finished(self) -> bool:
        """Whether the cell has its figures and its weights."""
        status = self.read_cell_status() if self.exists() else None
        return (
            status is not None
            and status.state == "finished"
            and self.result_path.exists()
            and self.weights_path.exists()
        )

    def load_network(self) -> tuple[CellConfig, nn.Module]:
        """The config of a finished cell and its trained network, on the CPU and not training.

        Raises:
            FileNotFoundError: If it has not finished.
            ValueError: If a file is damaged.
        """
        config = load_config(self.config_path)
        network = make_network(config)
        restore_state(network, load_tensors(self.weights_path), self.weights_path)
        return config, network.eval()


def _is_result(values: Any) -> TypeGuard[dict[str, Any]]:
    """Tell whether values have what the table and the pictures read."""
    try:
        figure = headline_of(values)
        numbers = [values[key] for key in ("parameters", "steps", "seconds")]
        numbers += [values[f"{part}_{figure}"] for part in ("train", "test")]
        for row in values["curve"]:
            numbers += [
                row[key] for key in ("steps", "seconds", f"train_{figure}", f"test_{figure}")
            ]
        if values["seconds_to_perfect"] is not None:
            numbers.append(values["seconds_to_perfect"])
    except (KeyError, TypeError):
        return False
    has_names: bool = values.keys() >= {"split", "model", "seed", "stopped"}
    return has_names and all(type(number) in (int, float) for number in numbers)


def save_tensors(path: Path, values: Any) -> None:
    """Write what `load_tensors` reads: state dicts, numbers, text, lists and dicts of them."""
    buffer = io.BytesIO()
    torch.save(values, buffer)
    write_atomically(path, buffer.getvalue())


def load_tensors(path: Path) -> dict[str, Any]:
    """Read a file of `save_tensors` without running what may be in it.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged or holds anything else; one line.
    """
    data = read_bytes(path, max_bytes=_MAX_BYTES)
    try:
        values = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError):
        values = None
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged; delete {path.parent} and run again.")
    return values


def restore_state(target: nn.Module | torch.optim.Optimizer, state: Any, path: Path) -> None:
    """Load a state dict that came from a file.

    Raises:
        ValueError: If it is not one of this network or optimiser; one line.
    """
    try:
        target.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{path} does not fit the network of its config.json; delete {path.parent} and run "
            "again."
        ) from None
