"""The report's figures, as PNG bytes that depend on the runs alone.

Bands and intervals are drawn from `MIN_SEEDS` seeds on: that of two would fill its panel.
"""

import io
from typing import Any

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
from experiments.comparison.report.records import Comparison
from experiments.comparison.statistics.curves import BINS, compute_curve_band, smooth_learning_curve
from experiments.comparison.statistics.intervals import FloatArray

_BASELINE_COLOUR = "#4d4d4d"
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Wong 2011
_LINES = ("-", "-", "--", "-.", ":")
_PANELS_ACROSS = 3


def draw_figures(comparison: Comparison, analysis: Analysis) -> dict[str, bytes]:
    """Draw the figures; PNG by name."""
    style = {"font.size": 9, "axes.titlesize": 8, "figure.labelsize": 9, "savefig.dpi": 110}
    with mpl.style.context(["default", style]):
        figures = {"learning-curves": _draw_curves(comparison, analysis)}
        for compared in analysis.comparisons:
            figure = _draw_differences(compared, comparison.plan.criteria.margin_fraction)
            if figure is not None:
                figures[f"differences-{compared.candidate}"] = figure
        return {name: _to_png(figure) for name, figure in figures.items()}


def smooth_curves(comparison: Comparison, game: str, arm: str) -> FloatArray:
    """The smoothed curves of all started runs of a game and arm; shape (S, B)."""
    return np.array(
        [
            smooth_learning_curve(
                run.episodes.agent_steps, run.episodes.returns, comparison.plan.total_agent_steps
            )
            for seed in comparison.plan.seeds
            if (run := comparison.runs.get((game, arm, seed))) is not None
        ]
    ).reshape(-1, BINS)


def bin_middles(total_agent_steps: int) -> FloatArray:
    """The agent steps that the curves' values belong to; shape (B,)."""
    middles: FloatArray = (np.arange(BINS) + 0.5) * total_agent_steps / BINS
    return middles


def _line_of(place: int) -> dict[str, Any]:
    """The colour and style of an arm's lines, by its place in the plan."""
    colour = _BASELINE_COLOUR if place == 0 else _COLOURS[(place - 1) % len(_COLOURS)]
    return {"color": colour, "ls": _LINES[min(place, len(_LINES) - 1)]}


def _draw_curves(comparison: Comparison, analysis: Analysis) -> Figure:
    """Return against agent steps, one panel per game."""
    plan = comparison.plan
    across = min(_PANELS_ACROSS, len(plan.games))
    down = -(-len(plan.games) // across)
    figure = Figure(figsize=(3.4 * across + 0.4, 2.5 * down + 0.7), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharex=True)
    labels = {
        row.game: f"\n{compared.candidate}: {row.label}"
        for compared in analysis.comparisons[:1]
        for row in compared.games
    }
    steps = bin_middles(plan.total_agent_steps)
    for axes, game in zip(grid.flat, plan.games, strict=False):
        curves = [smooth_curves(comparison, game, arm) for arm in plan.arms]
        for place, of_arm in enumerate(curves):
            _plot_arm(axes, steps, of_arm, place)
        random_return = find_game(game).random_return
        _limit_to_curves(axes, np.concatenate(curves), random_return)
        if random_return is not None:
            axes.axhline(random_return, color="black", lw=0.8, ls=(0, (1, 3)), zorder=1)
        axes.set(title=game + labels.get(game, ""), xlim=(0, plan.total_agent_steps))
        axes.grid(alpha=0.25)
        axes.xaxis.set_major_formatter(mpl.ticker.EngFormatter(sep=""))
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(5))
        axes.tick_params(labelbottom=True)
    for axes in grid.flat[len(plan.games) :]:
        axes.set_axis_off()
    figure.supxlabel("agent steps")
    figure.supylabel("return")
    handles: list[Any] = [
        Line2D([], [], **_line_of(place), lw=2, label=arm) for place, arm in enumerate(plan.arms)
    ]
    handles.append(Patch(fc="#bbbbbb", label="95 % band of the mean"))
    handles.append(Line2D([], [], color="black", lw=0.8, ls=(0, (1, 3)), label="random play"))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    return figure


def _plot_arm(axes: Axes, steps: FloatArray, curves: FloatArray, place: int) -> None:
    if not len(curves):
        return
    line = _line_of(place)
    for curve in curves:
        axes.plot(steps, curve, color=line["color"], lw=0.6, alpha=0.5, zorder=2)
    band = compute_curve_band(curves)
    ends = np.where(band.seeds >= MIN_SEEDS, (band.low, band.high), np.nan)
    axes.fill_between(steps, *ends, color=line["color"], alpha=0.18, lw=0, zorder=1)
    axes.plot(steps, band.mean, **line, lw=1.8, zorder=3)


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
        (game, game.mean_difference, fraction / game.margin)
        for game in reversed(compared.games)
        if game.margin and game.mean_difference is not None
    ]
    if not rows:
        return None
    figure = Figure(figsize=(7.2, 1.5 + 0.38 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(-100 * fraction, 100 * fraction, color="#e8e8e8", zorder=0)
    axes.axvline(0, color="black", lw=0.8, zorder=1)
    for height, (game, mean, scale) in enumerate(rows):
        for interval, width in ((game.judged_interval, 1.0), (game.interval_95, 3.2)):
            if interval is not None and game.pairs >= MIN_SEEDS:
                ends = [100 * scale * end for end in interval]
                axes.plot(ends, [height, height], color=_COLOURS[0], lw=width, zorder=2)
        axes.plot(100 * scale * mean, height, "o", color="black", ms=4, zorder=3)
    axes.set_yticks(range(len(rows)), [game.game for game, _, _ in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(
        f"{compared.candidate} minus {compared.baseline}, mean return over training, "
        f"in % of what {compared.baseline} gained over random play"
    )
    axes.grid(axis="x", alpha=0.25)
    handles: list[Any] = [
        Line2D([], [], color=_COLOURS[0], lw=3.2, label="95 % interval"),
        Line2D([], [], color=_COLOURS[0], lw=1, label="interval that was judged (corrected)"),
        Patch(fc="#e8e8e8", label=f"margin ({fraction:.0%})"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _to_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
