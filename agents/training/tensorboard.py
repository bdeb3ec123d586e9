"""What TensorBoard shows of a training, in place of SB3's own writer (see `event_files`)."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.logger import HParam, Image, KVWriter
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard.summary import custom_scalars, hparams, image, scalar, text

from runtime.event_files import FILE_VERSION, name_event_file, write_events
from runtime.files import naming_write_errors

GAME_CHARTS = {"Every run": "return"}  # of the page "Custom Scalars", in every run: title and tag


class EventFile(KVWriter):
    """One start's rows, in the format of SB3's `TensorBoardOutputFormat`.

    It begins at `first_step`: what an open page has from there on is out of date.

    Raises:
        FileWriteError: As every method does, if the disk is full, and the like.
    """

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        self.path = name_event_file(folder)
        with naming_write_errors(self.path):
            self._file = self.path.open("ab")
        start = SessionLog(status=SessionLog.START)
        now = time.time()
        self._write_events([FILE_VERSION, Event(wall_time=now, step=first_step, session_log=start)])

    def write(
        self, key_values: Mapping[str, Any], key_excluded: Mapping[str, Any], step: int = 0
    ) -> None:
        """Write one row: numbers, texts, images and a run's hyper-parameters, by tag."""
        now = time.time()
        self._write_events(
            Event(wall_time=now, step=step, summary=summary)
            for tag, value in sorted(key_values.items())
            if "tensorboard" not in key_excluded[tag]
            for summary in _summarize(tag, value)
        )

    def write_values(self, values: Mapping[str, Any], step: int) -> None:
        """Write what is shown of one step beside the rows."""
        self.write(values, dict.fromkeys(values, ()), step)

    def close(self) -> None:
        """Close the file."""
        with naming_write_errors(self.path):
            self._file.close()

    def _write_events(self, events: Iterable[Event]) -> None:
        with naming_write_errors(self.path):
            write_events(self._file, events)
            self._file.flush()


def lay_out_charts(charts: Mapping[str, str], games: Sequence[str]) -> Summary:
    """The layout of the page "Custom Scalars", which merges those of all runs by their titles.

    `charts` has a tag by its title; each game has a chart below each title, with a line for every
    run that has the tag `<tag>/<game>`.
    """
    layout = {
        title: {game: ["Multiline", [f"^{tag}/{game}$"]] for game in games}
        for title, tag in charts.items()
    }
    return custom_scalars(layout)  # type: ignore[no-untyped-call]


def tile_maps(maps: Tensor) -> np.ndarray[Any, Any]:
    """Lay maps out as one picture.

    Args:
        maps: [C, H, W].

    Returns:
        uint8 [rows, columns]: each map scaled by the largest magnitude of all of them, zero at
        mid-grey, on a grid with one-pixel gaps.
    """
    values = maps.detach().float().cpu().numpy()
    count, height, width = values.shape
    columns = math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    shades = np.round(127.5 + 127.5 * values / max(np.abs(values).max(), 1e-12))
    tiles = np.pad(shades.astype(np.uint8), [(0, rows * columns - count), (0, 1), (0, 1)])
    tiles = tiles.reshape(rows, columns, height + 1, width + 1).swapaxes(1, 2)
    return tiles.reshape(rows * (height + 1), -1)[:-1, :-1]


def _summarize(tag: str, value: Any) -> list[Summary]:
    if isinstance(value, Summary):
        return [value]
    if isinstance(value, str):
        return [text(tag, value)]  # type: ignore[no-untyped-call]
    if isinstance(value, HParam):
        return list(hparams(value.hparam_dict, value.metric_dict))  # type: ignore[no-untyped-call]
    if isinstance(value, Image):
        picture = image(tag, value.image, dataformats=value.dataformats)  # type: ignore[no-untyped-call]
        return [picture]
    if isinstance(value, int | float | np.number):
        return [scalar(tag, value)]  # type: ignore[no-untyped-call]
    raise TypeError(f"{tag}: no way to show a {type(value).__name__}")
