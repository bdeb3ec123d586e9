"""Learning curves of any runs: `python -m experiments.plot RUNS... [--out FILE]`.

A panel per game and a line per arm of each runs folder, with the report's smoothing, mean and band.
Unfinished runs are drawn as far as they came, packed ones like all others. How every run did in the
course of its training is printed as a table.
"""

import csv
import io
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np

from configs.comparison import MIN_SEEDS
from configs.run_config import BASELINE, Steps, experiment_differences
from configs.settings import Flag, Settings, flags_of, show
from envs.games import find_game
from experiments.comparison.report.figures import (
    Panel,
    draw_curves,
    figure_style,
    smooth_curves,
    to_bytes,
)
from experiments.comparison.report.records import RunRecord, find_runs, read_runs
from experiments.comparison.statistics.curves import (
    BINS,
    bin_middles,
    compute_curve_band,
    final_score,
    means_at,
)
from runtime.command_line import (
    OneLineParser,
    add_flags,
    align_columns,
    exit_on_user_error,
    format_steps,
    parse_path,
    print_result,
    read_flags,
)
from runtime.episodes import FINAL_GAMES
from runtime.files import check_replaceable, whole_path, write_atomically
from runtime.run_directory import RunDirectory

# What the files of each kind begin with: one that begins otherwise is not overwritten.
_BEGINNINGS = {".png": b"\x89PNG", ".pdf": b"%PDF-", ".csv": b"game,line,agent_steps,"}
_CSV_COLUMNS = ("game", "line", "agent_steps", "mean", "low", "high", "seeds")
_WHERE_RUNS_ARE = (".", "seed*", "*/seed*", "*/*/seed*")  # below a run, an arm, a game, a folder
_GAMES_PER_BIN = 5
_FEWEST_BINS = 5
_MOST_MARKS = 1000


class _Table(Settings):
    every: Annotated[Steps, Flag("--every", "agent steps between the table's columns")] = 1_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw and write what is asked; returns the exit status."""
    with exit_on_user_error():
        options = _parser().parse_args(arguments)
        every = _Table.parse(read_flags(options, flags_of(_Table))).every
        out = parse_path(options.out, "--out", "a file")
        check_out(out)
        lines = group_by_line(find_records([parse_path(text, "RUNS") for text in options.runs]))
        for line in find_mixtures(lines):
            print(line, file=sys.stderr)
        table, panels = format_table(lines, every), make_panels(lines)
        kind = out.suffix.lower()
        if kind == ".csv":
            write_atomically(out, _to_csv(panels, list(lines)))
        else:
            with figure_style():
                figure = draw_curves(panels, list(lines))
                write_atomically(out, to_bytes(figure, "pdf" if kind == ".pdf" else "png"))
        print_result(table)
        print(f"written: {out}")
    return 0


def check_out(path: Path) -> None:
    """Refuse an output of an unknown kind, or in the place of something else.

    Raises:
        ValueError: One line.
    """
    kind = path.suffix.lower()
    if kind not in _BEGINNINGS:
        raise ValueError(f"--out must end in .png, .pdf or .csv, got {path}.")
    check_replaceable(path, _BEGINNINGS[kind])


def find_records(paths: Iterable[Path]) -> list[RunRecord]:
    """Read the runs in folders of runs, of a game or of an arm, and run directories, once each.

    What cannot be drawn is told on stderr.

    Raises:
        FileNotFoundError: If a path is not a folder, or has no runs; one line.
        ValueError: If there is nothing to draw; one line.
    """
    directories: dict[Path, RunDirectory] = {}
    for path in paths:
        if not path.is_dir():
            raise FileNotFoundError(f"{path} is not a folder; give one with runs, such as runs.")
        found = next(filter(None, (find_runs(path, below) for below in _WHERE_RUNS_ARE)), [])
        if not found:
            raise FileNotFoundError(f"{path} has no runs; give the folder that was --runs.")
        directories |= {directory.path.resolve(): directory for directory in found}
    records, faults = read_runs(directories.values())
    idle = [run.directory.path for run in records if not len(run.episodes.returns)]
    faults += [(path, "no game has ended yet; train longer.") for path in idle]
    left_out = [f"{path}: {fault}" for path, fault in faults]
    if len(idle) == len(records):
        raise ValueError(left_out[0])
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)
    return [run for run in records if len(run.episodes.returns)]


def group_by_line(runs: Iterable[RunRecord]) -> dict[str, list[RunRecord]]:
    """The runs of each line by its name: algorithm and arm, behind their folder if there are many.

    The folders are in the order given, in each the baseline is first.
    """
    groups: dict[tuple[Path, str, bool, str], list[RunRecord]] = {}
    for run in runs:
        folder = whole_path(run.directory.path).parents[2]
        arm = run.config.arm
        groups.setdefault((folder, run.config.run.algo, arm != BASELINE, arm), []).append(run)
    folders = list(dict.fromkeys(folder for folder, *_ in groups))
    common = os.path.commonpath([folder.parent for folder in folders])
    return {
        f"{folder.relative_to(common)}: " * (len(folders) > 1) + f"{algo}-{arm}": groups[key]
        for key in sorted(groups, key=lambda key: (folders.index(key[0]), *key[1:]))
        for folder, algo, _, arm in [key]
    }


def find_mixtures(lines: dict[str, list[RunRecord]]) -> list[str]:
    """A text for each line of a game whose runs differ in more than the seed, yet are averaged."""
    texts = []
    for name, runs in lines.items():
        first: dict[str, RunRecord] = {}
        differing: dict[str, set[str]] = defaultdict(set)
        for run in runs:
            game, other = run.config.run.game, first.setdefault(run.config.run.game, run)
            found = set(experiment_differences(run.config, other.config)) - {"seed"}
            lengths = {each.config.run.total_agent_steps for each in (run, other)}
            if len(lengths) > 1 and run.config.find_schedule():
                found.add("total_agent_steps")
            if run.source != other.source:
                found.add("source version")
            differing[game] |= found
        texts += [
            f"{name}, {game}: one line for runs that differ in {', '.join(sorted(names))}; draw "
            "them from folders of their own."
            for game, names in differing.items()
            if names
        ]
    return texts


def make_panels(lines: dict[str, list[RunRecord]]) -> list[Panel]:
    """A panel for each game, up to where the longest of its runs has come."""
    everything = [run for runs in lines.values() for run in runs]
    panels = []
    for game in sorted({run.config.run.game for run in everything}):
        here = [run for run in everything if run.config.run.game == game]
        reached = max(max(run.agent_steps, int(run.episodes.agent_steps[-1])) for run in here)
        most_games = max(len(run.episodes.returns) for run in here)
        bins = int(np.clip(most_games // _GAMES_PER_BIN, _FEWEST_BINS, BINS))
        curves = [
            smooth_curves([run for run in runs if run in here], reached, bins)
            for runs in lines.values()
        ]
        panels.append(Panel(game, reached, curves, find_game(game).random_return))
    return panels


def format_table(lines: dict[str, list[RunRecord]], every: int) -> str:
    """The mean of each run's last games at every so many agent steps, and at its end.

    Raises:
        ValueError: If these are too many; one line.
    """
    runs = [(name, run) for name, of_line in lines.items() for run in of_line]
    longest = max(run.agent_steps for _, run in runs)
    if longest // every > _MOST_MARKS:
        raise ValueError(
            f"--every {every:_} is too often for a run of {longest:_} agent steps; give at least "
            f"{-(-longest // _MOST_MARKS):_}."
        )
    marks = np.arange(every, longest + 1, every)
    rows = [["game", "line", "seed", "steps", "games", *map(show, marks.tolist()), "last"]]
    for name, run in sorted(runs, key=lambda pair: (pair[1].config.run.game, pair[0])):
        asked, returns = run.config.run, run.episodes.returns
        means = means_at(marks, run.episodes.agent_steps, returns)
        means[marks > run.agent_steps] = np.nan
        head = [asked.game, name, str(asked.seed), format_steps(run.agent_steps)]
        shown = ["-" if np.isnan(mean) else f"{mean:.1f}" for mean in means]
        rows.append([*head, str(len(returns)), *shown, f"{final_score(returns):.1f}"])
    note = (
        f"Mean return of the last {FINAL_GAMES} games at so many agent steps, once they have ended;"
        "\nand at the end, of as many as there are."
    )
    return "\n".join([*align_columns(rows, left=2), note])


def _to_csv(panels: Sequence[Panel], names: Sequence[str]) -> str:
    """The lines as they are drawn: no band where too few seeds have a value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for panel in panels:
        for name, curves in zip(names, panel.curves, strict=True):
            steps = bin_middles(panel.total_agent_steps, curves.shape[1])
            band = compute_curve_band(curves)
            for step, mean, low, high, seeds in zip(
                steps, band.mean, band.low, band.high, band.seeds, strict=True
            ):
                if seeds:
                    ends = [f"{end:.6g}" if seeds >= MIN_SEEDS else "" for end in (low, high)]
                    writer.writerow([panel.title, name, round(step), f"{mean:.6g}", *ends, seeds])
    return text.getvalue()


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="python -m experiments.plot",
        description="Draw learning curves of any runs, finished or not, packed or not: a panel per "
        "game, a line per arm and runs folder, the mean over its seeds, with a 95 % band from "
        f"{MIN_SEEDS} seeds on.",
    )
    add = parser.add_argument
    add("runs", metavar="RUNS", nargs="+", help="folders of runs, or single runs' directories")
    add(
        "--out",
        default="learning-curves.png",
        metavar="FILE",
        help="what to write: .png, .pdf, or .csv for the numbers alone (learning-curves.png)",
    )
    add_flags(parser, flags_of(_Table), dict(_Table()))
    return parser


if __name__ == "__main__":
    sys.exit(main())
