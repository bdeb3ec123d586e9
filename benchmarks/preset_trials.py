"""How fast variants of a preset learn, as rows of a Markdown table.

    python -m benchmarks.preset_trials VARIANT_DIR... [--zoo CURVES.csv]

Every folder holds the runs of one variant, `<Game>/<arm>/seed<k>/`, and is called what the variant
is called. A cell is the mean over the seeds that have come so far: of all games that ended in the
first so many agent steps, and of the last 100 games. A run has taken off once the mean of 100
games is three standard deviations of the first 100 returns above their mean; it has collapsed if it
ended at less than half of what it had gained.
"""

import argparse
import csv
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.comparison.statistics.curves import final_score
from runtime.command_line import OneLineParser, exit_on_user_error
from runtime.episodes import FINAL_GAMES, Episodes, moving_means, read_episodes
from runtime.run_directory import RunDirectory

TAKE_OFF_DEVIATIONS = 3
KEPT_SHARE = 0.5  # of what was gained, below which a run has collapsed
ZOO_NAME = "rl-baselines3-zoo's own agent"


def main(arguments: list[str] | None = None) -> int:
    """Print the table; returns the exit status."""
    parser = OneLineParser(
        prog="python -m benchmarks.preset_trials",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("variants", type=Path, nargs="+", help="folders of runs")
    parser.add_argument("--zoo", type=Path, help="CSV of the zoo's curves: a column per game")
    parser.add_argument(
        "--marks", type=float, nargs="+", default=[0.5, 1, 2], help="million agent steps (0.5 1 2)"
    )
    options = parser.parse_args(arguments)
    with exit_on_user_error():
        if not min(options.marks) > 0:
            raise ValueError(f"--marks must be above 0, got {min(options.marks):g}.")
        print("\n".join(format_trials(options.variants, sorted(options.marks), options.zoo)))
    return 0


def format_trials(
    variants: Sequence[Path], marks: Sequence[float], zoo: Path | None = None
) -> list[str]:
    """The lines of the table.

    Args:
        variants: Folders of runs.
        marks: Million agent steps.
        zoo: A CSV of mean returns, with the columns `million_agent_steps` and one per game.

    Raises:
        ValueError: If a folder has no runs, or a file is damaged; one line.
        FileNotFoundError: If a file is not there.
    """
    rows: dict[str, list[str]] = defaultdict(list)
    for variant in variants:
        groups = defaultdict(list)
        for path in sorted(variant.glob("*/*/seed*"), key=lambda path: (len(path.name), path.name)):
            groups[path.parts[-3], path.parts[-2]].append(RunDirectory(path))
        if not groups:
            raise ValueError(f"{variant} has no runs <Game>/<arm>/seed<k>; give another folder.")
        for (game, arm), runs in sorted(groups.items()):
            name = variant.name if arm.endswith("-cnn") else f"{variant.name}, {arm}"
            rows[game].append(f"| {game} | {name} | {' | '.join(_cells_of(runs, marks))} |")
    if zoo is not None:
        for game, cells in _read_zoo(zoo, marks).items():
            if game in rows:
                rows[game].append(f"| {game} | {ZOO_NAME} | 1 | {' | '.join(cells)} | |")
    heads = [f"first {mark:g}M" for mark in marks]
    return [
        f"| game | variant | seeds | {' | '.join(heads)} | last {FINAL_GAMES} games | took off |",
        f"|---|---|---|{'---:|' * len(heads)}---:|---|",
        *(row for game in sorted(rows) for row in rows[game]),
    ]


def _cells_of(runs: Sequence[RunDirectory], marks: Sequence[float]) -> list[str]:
    """Seeds, means at the marks, final score and fate of one variant in one game."""
    episodes = [read_episodes(run.episodes_path) for run in runs]
    trained = [_agent_steps_of(run, own) for run, own in zip(runs, episodes, strict=True)]
    cells = [", ".join(run.path.name.removeprefix("seed") for run in runs)]
    for mark in marks:
        steps = round(mark * 1e6)
        means = [
            mean_until(steps, own)
            for own, length in zip(episodes, trained, strict=True)
            if length >= steps
        ]
        cells.append(_show(means, len(runs)))
    scores = [final_score(own.returns) for own in episodes]
    at = f" (at {min(trained) / 1e6:.2g}M)" if min(trained) < marks[-1] * 1e6 else ""
    cells.append(_show([score for score in scores if score is not None], len(runs)) + at)
    fates = [describe_fate(own.returns) for own in episodes]
    off = f"{len(fates) - fates.count('no')} of {len(fates)}"
    collapsed = fates.count("collapsed")
    return [*cells, off + f", {collapsed} collapsed" * bool(collapsed)]


def mean_until(agent_steps: int, episodes: Episodes) -> float:
    """Mean return of all games that ended in the first so many agent steps; NaN if none did."""
    returns = episodes.returns[episodes.agent_steps <= agent_steps]
    return float(returns.mean()) if len(returns) else float("nan")


def describe_fate(returns: np.ndarray) -> str:
    """Whether a run took off, as `no`, `yes` or `collapsed`."""
    means = moving_means(returns)
    if not len(means):
        return "no"
    start, best = means[0], means.max()
    if best <= start + TAKE_OFF_DEVIATIONS * returns[:FINAL_GAMES].std():
        return "no"
    return "collapsed" if means[-1] - start < KEPT_SHARE * (best - start) else "yes"


def _agent_steps_of(run: RunDirectory, episodes: Episodes) -> int:
    """How far a run has come: it may have trained on after its last game."""
    status = run.read_status()
    last = int(episodes.agent_steps[-1]) if len(episodes.agent_steps) else 0
    return max(last, status.agent_steps if status else 0)


def _show(values: Sequence[float], of: int) -> str:
    """The mean over seeds, their range if there are several, and how many they are if not all."""
    if not values:
        return "-"
    text = f"{np.mean(values):.4g}"
    if len(values) > 1:
        text += f" ({min(values):.4g} to {max(values):.4g})"
    return text + f" [{len(values)} of {of}]" * (len(values) < of)


def _read_zoo(path: Path, marks: Sequence[float]) -> dict[str, list[str]]:
    """By game: the mean of the curve's points up to each mark, and its point at the last mark."""
    points = []
    with path.open(encoding="utf-8") as file:
        lines = (line for line in file if not line.startswith(("#", "mean")))
        for row in csv.DictReader(lines):
            try:
                points.append({name: float(value) for name, value in row.items()})
            except (TypeError, ValueError):
                raise ValueError(f"{path}: {row} is not a row of numbers; correct it.") from None
    if not points or "million_agent_steps" not in points[0]:
        raise ValueError(f"{path} has no column million_agent_steps; give another file.")
    cells = {}
    for game in points[0].keys() - {"million_agent_steps"}:
        until = [[p[game] for p in points if p["million_agent_steps"] <= mark] for mark in marks]
        cells[game] = [_show([float(np.mean(part))] if part else [], 1) for part in until]
        cells[game].append(f"{until[-1][-1]:.4g}" if until[-1] else "-")
    return cells


if __name__ == "__main__":
    sys.exit(main())
