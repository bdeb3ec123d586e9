"""TensorBoard's event files, written by the thread that asks for it.

TensorBoard's own writers leave it to a thread, which on a full disk prints a traceback and ends.
"""

import io
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

FILE_VERSION = Event(file_version="brain.Event:2")  # the first event of a file


def name_event_file(folder: Path, suffix: str = "") -> Path:
    """The path of a new event file; TensorBoard shows all that a folder has."""
    return folder / f"events.out.tfevents.{int(time.time()):010d}.{os.getpid()}{suffix}"


def write_events(file: IO[bytes], events: Iterable[Event]) -> None:
    """Append events to an event file; the same events are the same bytes."""
    records = RecordWriter(file)
    for event in events:
        records.write(event.SerializeToString(deterministic=True))


def pack_events(events: Iterable[Event]) -> bytes:
    """A whole event file of these events."""
    buffer = io.BytesIO()
    write_events(buffer, [FILE_VERSION, *events])
    return buffer.getvalue()


def make_image(tag: str, png: bytes) -> Summary:
    """A picture as TensorBoard shows it."""
    height, width = (int.from_bytes(png[start : start + 4]) for start in (20, 16))
    image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=png)
    return Summary(value=[Summary.Value(tag=tag, image=image)])
