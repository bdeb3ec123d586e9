"""The finished games of a run: what its `episodes.csv` has of each, read without trusting it."""

import csv
import lzma
import re
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime.files import read_bytes

EPISODE_COLUMNS = (
    "agent_steps",  # of the run, when the game ended
    "environment",
    "return",  # raw, of the whole game
    "length_frames",
    "length_agent_steps",
    "time_limit",  # 1 if the frame limit ended the game
    "seconds",  # of training so far
)
FINAL_GAMES = 100  # the last games, whose mean tells how good an agent is; SB3's stats_window_size
PACKED_EPISODES_NAME = "episodes.csv.xz"
# A run of 200 million agent steps, four times what the literature trains, of games of 150 each, far
# shorter than a mean of any game: 1.3 million rows of 45 bytes. A stranger's may cost no more.
_MAX_EPISODES_BYTES = 64 << 20
_MAX_XZ_MEMORY = 128 << 20  # twice what `preset=9` needs
_MAX_RETURN = 1e15  # far more than a game counts to; sums of squares stay finite
_TAIL_BYTES = 16 << 10  # enough for the last 100 games
_STEPS, _RETURN, _SECONDS = map(EPISODE_COLUMNS.index, ("agent_steps", "return", "seconds"))


@dataclass(frozen=True, eq=False)
class Episodes:
    """A run's finished games, in order; every array has shape (games,)."""

    agent_steps: NDArray[np.int64]  # of the run, at the end of each game
    returns: NDArray[np.float64]  # raw
    seconds: NDArray[np.float64]  # of training so far, at the end of each game


def read_episodes(path: Path) -> Episodes:
    """Read an `episodes.csv`, or what it was packed into; no games if neither is there.

    A last row that is still being written is left out.

    Raises:
        ValueError: If it is damaged; one line.
    """
    return parse_episodes(read_episodes_text(path), path)


def parse_episodes(text: str, path: Path) -> Episodes:
    """The games of an `episodes.csv` with this text; raises as `read_episodes`, naming the path."""
    header = ",".join(EPISODE_COLUMNS) + "\n"
    # One by one: a list of all lines would take many times their memory.
    lines = (line[0] for line in re.finditer(".*\n", text[: text.rfind("\n") + 1]))
    if next(lines, header) != header:
        raise ValueError(f"{path}: its columns are not those of this release; restore the file.")
    return _parse_rows(lines, path)


def read_episodes_text(path: Path) -> str:
    """The text of `episodes.csv`, packed or not; empty without either, ValueError if damaged."""
    packed = path.with_name(PACKED_EPISODES_NAME)
    path = path if path.exists() else packed
    if not path.exists():
        return ""
    data = read_bytes(path, max_bytes=_MAX_EPISODES_BYTES)
    try:
        if path == packed:
            xz = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_XZ_MEMORY)
            data = xz.decompress(data, _MAX_EPISODES_BYTES)
            if not xz.eof or xz.unused_data:
                raise lzma.LZMAError
        return data.decode("ascii")
    except (UnicodeDecodeError, lzma.LZMAError):
        raise ValueError(f"{path}: not a table of games; restore the file.") from None


def read_last_episodes(path: Path) -> Episodes:
    """The last games of a file that may be growing at this moment; OSError, ValueError as above."""
    with path.open("rb") as file:
        start = max(file.seek(0, 2) - _TAIL_BYTES, 0)
        file.seek(start)
        lines = file.read().decode("ascii").split("\n")[1:-1]  # the first: header or cut
    return _parse_rows(lines, path)


def _parse_rows(lines: Iterable[str], path: Path) -> Episodes:
    columns = array("q"), array("d"), array("d")
    try:
        for row in csv.reader(lines, strict=True):
            columns[0].append(int(row[_STEPS]))
            columns[1].append(float(row[_RETURN]))
            columns[2].append(float(row[_SECONDS]))
        steps, returns, seconds = map(np.array, columns)
        is_sound = (np.diff(steps, prepend=1) >= 0) & (np.abs(returns) < _MAX_RETURN)
        if (is_sound & np.isfinite(seconds)).all():
            return Episodes(steps, returns, seconds)
    except (ValueError, IndexError, OverflowError, csv.Error):
        pass
    raise ValueError(f"{path}: not a table of games; restore the file.")


def moving_means(returns: ArrayLike, games: int = FINAL_GAMES) -> NDArray[np.float64]:
    """Mean return of each game and those before it that make up `games`.

    From [all] to [all - `games` + 1]; empty if there are fewer games.
    """
    values = np.asarray(returns, dtype=np.float64)
    if len(values) < games:
        return np.empty(0)
    windows = np.lib.stride_tricks.sliding_window_view(values, games)
    means: NDArray[np.float64] = windows.mean(axis=-1)
    return means
