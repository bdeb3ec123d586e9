"""The figures of the report and of experiments/plot.py, whose bytes depend on the runs alone.

Bands and intervals are drawn from `MIN_SEEDS` seeds on: that of two would fill its panel.
"""

import io
import textwrap
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import matplotlib.style
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from configs.comparison import MIN_SEEDS
from envs.games import find_game
from experiments.comparison.report.analysis import Analysis, ArmsCompared
from experiments.comparison.report.records import Comparison, RunRecord
from experiments.comparison.statistics.curves import (
    BINS,
    bin_middles,
    compute_curve_band,
    smooth_learning_curve,
)
from experiments.comparison.statistics.intervals import FloatArray

_BASELINE_COLOUR = "#4d4d4d"
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Wong 2011
_LINES = ("-", "-", "--", "-.", ":")
_DOTS = (0, (1, 3))
_PANELS_ACROSS = 3
_LETTERS_ACROSS = 48  # a panel


@dataclass(frozen=True, eq=False)
class Panel:
    """The learning curves of one game; B bins of agent steps, S seeds."""

    title: str
    total_agent_steps: int  # where the axis ends
    curves: Sequence[FloatArray]  # of every line, (S, B); NaN where a run has no value
    random_return: float | None


def draw_figures(comparison: Comparison, analysis: Analysis) -> dict[str, bytes]:
    """Draw the figures; PNG by name."""
    plan = comparison.plan
    labels = {
        row.game: "\n" + textwrap.fill(f"{compared.candidate}: {row.label}", _LETTERS_ACROSS)
        for compared in analysis.comparisons[:1]
        for row in compared.games
    }
    panels = [
        Panel(
            game + labels.get(game, ""),
            plan.total_agent_steps,
            [
                smooth_curves(comparison.started_runs(game, arm), plan.total_agent_steps)
                for arm in plan.arms
            ],
            find_game(game).random_return,
        )
        for game in plan.games
    ]
    with figure_style():
        figures = {"learning-curves": draw_curves(panels, plan.arms)}
        for compared in analysis.comparisons:
            figure = _draw_differences(compared, plan.criteria.margin_fraction)
            if figure is not None:
                figures[f"differences-{compared.candidate}"] = figure
        return {name: to_bytes(figure, "png") for name, figure in figures.items()}


def figure_style() -> AbstractContextManager[None]:
    """What every figure is drawn and saved in."""
    style = {"font.size": 9, "axes.titlesize": 8, "figure.labelsize": 9, "savefig.dpi": 110}
    style["text.parse_math"] = False  # in the name of an arm a dollar is a dollar
    context: AbstractContextManager[None] = mpl.style.context(["default", style])
    return context


def smooth_curves(
    runs: Iterable[RunRecord], total_agent_steps: int, bins: int = BINS
) -> FloatArray:
    """The runs' smoothed curves; shape (S, B)."""
    return np.array(
        [
            smooth_learning_curve(
                run.episodes.agent_steps, run.episodes.returns, total_agent_steps, bins
            )
            for run in runs
        ]
    ).reshape(-1, bins)


def draw_curves(panels: Sequence[Panel], names: Sequence[str]) -> Figure:
    """Return against agent steps, a panel per game, whose curves are in the order of `names`.

    The first is drawn as the baseline.
    """
    across = min(_PANELS_ACROSS, len(panels))
    down = -(-len(panels) // across)
    width, height = (5.6, 3.4) if len(panels) == 1 else (3.4, 2.5)
    figure = Figure(figsize=(width * across + 0.4, height * down + 0.7), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    has_band = False
    for axes, panel in zip(grid.flat, panels, strict=False):
        for place, curves in enumerate(panel.curves):
            has_band |= _plot_line(axes, panel.total_agent_steps, curves, place)
        shown = np.concatenate([curves.ravel() for curves in panel.curves])
        _limit_to_curves(axes, shown, panel.random_return)
        if panel.random_return is not None:
            axes.axhline(panel.random_return, color="black", lw=0.8, ls=_DOTS, zorder=1)
        axes.set(title=panel.title, xlim=(0, panel.total_agent_steps))
        axes.grid(alpha=0.25)
        axes.xaxis.set_major_formatter(mpl.ticker.EngFormatter(sep=""))
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(5))
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    figure.supxlabel("agent steps")
    figure.supylabel("return")
    handles: list[Any] = [
        Line2D([], [], **_line_of(place), lw=2, label=textwrap.fill(name, _LETTERS_ACROSS))
        for place, name in enumerate(names)
    ]
    if has_band:
        handles.append(Patch(fc="#bbbbbb", label="95 % band of the mean"))
    handles.append(Line2D([], [], color="black", lw=0.8, ls=_DOTS, label="random play"))
    widest = min(max(map(len, names)), _LETTERS_ACROSS)
    columns = max(int(figure.get_figwidth() / (0.6 + 0.07 * widest)), 1)
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=min(columns, len(handles)),
        frameon=False,
    )
    return figure


def _line_of(place: int) -> dict[str, Any]:
    """The colour and style of an arm's lines, by its place in the plan."""
    colour = _BASELINE_COLOUR if place == 0 else _COLOURS[(place - 1) % len(_COLOURS)]
    return {"color": colour, "ls": _LINES[min(place, len(_LINES) - 1)]}


def _plot_line(axes: Axes, total_agent_steps: int, curves: FloatArray, place: int) -> bool:
    """Draw the seeds, their mean and its band; returns whether there is one."""
    if not len(curves):
        return False
    steps, line = bin_middles(total_agent_steps, curves.shape[1]), _line_of(place)
    for curve in curves:
        axes.plot(steps, curve, color=line["color"], lw=0.6, alpha=0.5, zorder=2)
    band = compute_curve_band(curves)
    ends = np.where(band.seeds >= MIN_SEEDS, (band.low, band.high), np.nan)
    axes.fill_between(steps, *ends, color=line["color"], alpha=0.18, lw=0, zorder=1)
    marker = "o" if np.isfinite(band.mean).sum() == 1 else ""  # of one point there is no line
    axes.plot(steps, band.mean, **line, lw=1.8, marker=marker, ms=4, zorder=3)
    return bool(np.isfinite(ends).any())


def _limit_to_curves(axes: Axes, curves: FloatArray, random_return: float | None) -> None:
    """Keep the band of few seeds, which can be very wide, from making all else small."""
    shown = [*curves[~np.isnan(curves)], *([] if random_return is None else [random_return])]
    if shown:
        room = 0.15 * (max(shown) - min(shown)) or 1.0
        axes.set_ylim(min(shown) - room, max(shown) + room)


def _draw_differences(compared: ArmsCompared, fraction: float) -> Figure | None:
    """The paired differences of the primary metric, in shares of what the baseline gained.

    `fraction` is the margin, in that share.
    """
    rows = [
        (game, game.mean_difference, 100 * fraction / game.margin)
        for game in reversed(compared.games)
        if game.margin and game.mean_difference is not None
    ]
    if not rows:
        return None
    figure = Figure(figsize=(7.2, 1.7 + 0.38 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(-100 * fraction, 100 * fraction, color="#e8e8e8", zorder=0)
    axes.axvline(0, color="black", lw=0.8, zorder=1)
    for height, (game, mean, scale) in enumerate(rows):
        for interval, width in ((game.judged_interval, 1.0), (game.interval_95, 3.2)):
            if interval is not None and game.pairs >= MIN_SEEDS:
                ends = [scale * end for end in interval]
                axes.plot(ends, [height, height], color=_COLOURS[0], lw=width, zorder=2)
        fill = "white" if game.obstacle == "incomplete" else "black"
        axes.plot(scale * mean, height, "o", color="black", mfc=fill, ms=5, zorder=3)
    axes.set_yticks(range(len(rows)), [f"{game.game} ({game.pairs})" for game, _, _ in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    label = (
        f"{compared.candidate} minus {compared.baseline}, mean return over training, "
        f"in % of what {compared.baseline} gained over random play"
    )
    axes.set_xlabel(textwrap.fill(label, 2 * _LETTERS_ACROSS))
    names = [compared.baseline, compared.candidate]
    if sum(map(len, names)) > _LETTERS_ACROSS:
        names = ["the baseline", "the candidate"]
    axes.set_title(f"\N{LEFTWARDS ARROW} {names[0]} is better", loc="left")
    axes.set_title(f"{names[1]} is better \N{RIGHTWARDS ARROW}", loc="right")
    axes.grid(axis="x", alpha=0.25)
    point: dict[str, Any] = {"color": "black", "marker": "o", "ms": 5, "ls": ""}
    handles: list[Any] = [
        Line2D([], [], **point, label="mean (number of pairs)"),
        Line2D([], [], color=_COLOURS[0], lw=3.2, label="95 % interval"),
        Line2D([], [], color=_COLOURS[0], lw=1, label="interval of the verdict"),
        Patch(fc="#e8e8e8", label=f"margin ({100 * fraction:g} %)"),
    ]
    if any(game.obstacle == "incomplete" for game, _, _ in rows):
        handles.insert(1, Line2D([], [], **point, mfc="white", label="the same, no verdict yet"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def to_bytes(figure: Figure, kind: Literal["png", "pdf"]) -> bytes:
    """The figure's file, without the time and the versions of its making."""
    buffer = io.BytesIO()
    unstable = "Software" if kind == "png" else "CreationDate"
    figure.savefig(buffer, format=kind, metadata={unstable: None})
    return buffer.getvalue()
