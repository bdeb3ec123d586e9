"""Files of finished games, for tests of what reads them."""

from collections.abc import Sequence
from pathlib import Path

from runtime.episodes import EPISODE_COLUMNS


def write_games(path: Path, returns: Sequence[float], steps_per_game: int = 1_000) -> None:
    """Write an episodes.csv into a folder: game k, from 1, ends after 6 k seconds."""
    path.mkdir(parents=True)
    rows = [
        f"{k * steps_per_game},0,{value},400,100,0,{6 * k:.3f}"
        for k, value in enumerate(returns, 1)
    ]
    (path / "episodes.csv").write_text("\n".join([",".join(EPISODE_COLUMNS), *rows, ""]))
