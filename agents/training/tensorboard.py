"""TensorBoard's event files, written by the thread that asks for it.

SB3's own writer leaves this to a thread of TensorBoard's, which on a full disk prints a traceback
and ends, while training goes on.
"""

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.logger import HParam, Image, KVWriter
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import hparams, image, scalar

from runtime.files import naming_write_errors


class EventFile(KVWriter):
    """One start's rows, in the format of SB3's `TensorBoardOutputFormat`.

    Args:
        folder: Where the file is made.

    Raises:
        FileWriteError: As every method does, if the disk is full, and the like.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"events.out.tfevents.{int(time.time()):010d}.{os.getpid()}"
        with naming_write_errors(self.path):
            self._file = self.path.open("ab")
        self._records = RecordWriter(self._file)
        self._write_events([Event(wall_time=time.time(), file_version="brain.Event:2")])

    def write(
        self, key_values: Mapping[str, Any], key_excluded: Mapping[str, Any], step: int = 0
    ) -> None:
        """Write one row: numbers, images and a run's hyper-parameters, by tag."""
        now = time.time()
        self._write_events(
            Event(wall_time=now, step=step, summary=summary)
            for tag, value in sorted(key_values.items())
            if "tensorboard" not in key_excluded[tag]
            for summary in _summarize(tag, value)
        )

    def close(self) -> None:
        """Close the file."""
        with naming_write_errors(self.path):
            self._file.close()

    def _write_events(self, events: Iterator[Event] | list[Event]) -> None:
        with naming_write_errors(self.path):
            for event in events:
                self._records.write(event.SerializeToString())
            self._file.flush()


def _summarize(tag: str, value: Any) -> list[Summary]:
    if isinstance(value, HParam):
        return list(hparams(value.hparam_dict, value.metric_dict))  # type: ignore[no-untyped-call]
    if isinstance(value, Image):
        picture = image(tag, value.image, dataformats=value.dataformats)  # type: ignore[no-untyped-call]
        return [picture]
    if isinstance(value, int | float | np.number):
        return [scalar(tag, value)]  # type: ignore[no-untyped-call]
    raise TypeError(f"{tag}: no way to show a {type(value).__name__}")
