"""The report of a folder of runs: a pure function of what is in it."""

import base64
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2

from configs.comparison import MIN_SEEDS
from experiments.comparison.report.analysis import Analysis, TimeToScore, analyse
from experiments.comparison.report.figures import draw_figures
from experiments.comparison.report.records import ENDED, gather
from experiments.comparison.report.stages import leave_out_unneeded
from experiments.comparison.report.tensorboard_pages import write_tensorboard
from experiments.comparison.statistics.curves import BINS, SMOOTHING_BINS
from experiments.comparison.statistics.intervals import Estimate, Interval, PairedDifference
from experiments.comparison.statistics.verdicts import VERDICTS, GameVerdict
from runtime.episodes import FINAL_GAMES
from runtime.files import write_atomically, write_json

FIGURE_FOLDER = "figures"
PAPER_COUNT = {"better": 6, "similar": 2, "worse": 1, "undecided": 0}  # Liu et al. 2018
_TEMPLATES = Path(__file__).parent / "templates"


def write_report(runs: Path) -> Path:
    """Write `report.md`, `.json`, `.html`, the figures and TensorBoard's pages below `runs`.

    Returns:
        The HTML page.

    Raises:
        OSError: If there are no runs, or something cannot be written; one line.
        ValueError: If a file is damaged; one line.
    """
    comparison = leave_out_unneeded(gather(runs))
    analysis = analyse(comparison)
    figures = draw_figures(comparison, analysis)
    markdown = render(analysis, figures, "markdown")
    (runs / FIGURE_FOLDER).mkdir(exist_ok=True)
    for outdated in (runs / FIGURE_FOLDER).glob("differences-*.png"):
        if outdated.stem not in figures:
            outdated.unlink()
    for name, png in figures.items():
        write_atomically(runs / FIGURE_FOLDER / f"{name}.png", png)
    write_json(runs / "report.json", asdict(analysis))
    write_atomically(runs / "report.md", markdown)
    write_atomically(runs / "report.html", render(analysis, figures, "html"))
    write_tensorboard(runs, comparison, markdown, figures)
    return runs / "report.html"


def render(analysis: Analysis, figures: Mapping[str, bytes], form: str) -> str:
    """Say what was found.

    `form` is "html" or "markdown", the name of a template. In HTML the figures, PNG by name, are
    inlined, so that the page needs no other file.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=form == "html",
        undefined=jinja2.StrictUndefined,
        extensions=["jinja2.ext.do"],
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        # As GitHub makes them, for the page in Markdown.
        "anchor": lambda title: re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-"),
        "difference": _show_difference,
        "ends": _show_ends,
        "estimate": _show_estimate,
        "interval": _show_interval,
        "judged_interval": _show_judged_interval,
        "number": _show_number,
        "of": lambda number, noun: f"{number} {noun}" + "s" * (number != 1),
        "on_one_line": lambda text: type(text)(" ".join(text.split())),
        "percent": lambda share: f"{100 * share:.1f} %",
        "reached": _show_time_to_score,
        "setting": _show_setting,
        "whole": lambda number: "-" if number is None else f"{number:,}",
    }
    text = environment.get_template("report.jinja").render(
        parts=f"{form}.jinja",
        analysis=analysis,
        figures={name: base64.b64encode(png).decode("ascii") for name, png in figures.items()},
        figure_folder=FIGURE_FOLDER,
        sections=[],
        ended=ENDED,
        verdicts=VERDICTS,
        paper_count=PAPER_COUNT,
        bins=BINS,
        smoothing_bins=SMOOTHING_BINS,
        final_games=FINAL_GAMES,
        min_seeds=MIN_SEEDS,
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _show_setting(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:,}" if isinstance(value, int) else str(value)


def _show_number(value: float | None) -> str:
    """Four significant digits, or whole numbers from a thousand on."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _show_interval(ends: Interval) -> str:
    return "-" if ends is None else f"{_show_number(ends[0])} to {_show_number(ends[1])}"


def _show_difference(difference: PairedDifference) -> str:
    """With its interval, which of two pairs would mean little."""
    text = _show_number(difference.mean_difference)
    if difference.interval_95 is None or difference.pairs < MIN_SEEDS:
        return text
    return f"{text} ({_show_interval(difference.interval_95)})"


def _show_ends(values: Sequence[float | None]) -> str:
    """The lowest and the highest of those that are known."""
    known = [value for value in values if value is not None]
    return _show_interval((min(known), max(known)) if known else None)


def _show_estimate(estimate: Estimate | None, digits: int) -> str:
    if estimate is None:
        return "-"
    text = f"{estimate.value:.{digits}f}"
    if estimate.interval_95 is None:
        return text
    low, high = estimate.interval_95
    return f"{text} ({low:.{digits}f} to {high:.{digits}f})"


def _show_time_to_score(time: TimeToScore, games_played: Sequence[int | None]) -> str:
    """The median of all runs, and how many reached the score; `games_played` of those runs."""
    ended = sum(games is not None for games in games_played)
    if not ended or time.score is None:
        return "-"
    known = [step for step in time.agent_steps if step is not None]
    median = statistics.median(known + [math.inf] * (ended - len(known)))
    shown = "-" if math.isinf(median) else f"{median:,.0f}"
    return f"{shown} ({len(known)} of {ended})"


def _show_judged_interval(game: GameVerdict) -> str:
    """With its level."""
    if game.judged_interval is None or game.judged_level is None:
        return "-"
    return f"{_show_interval(game.judged_interval)} ({100 * (1 - game.judged_level):.2f} %)"
