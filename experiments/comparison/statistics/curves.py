"""A run's finished games as one number and as a curve, and several seeds' curves as a band.

Shapes below: S seeds, B bins; float64.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments.comparison.statistics.intervals import FloatArray, t_quantile
from runtime.episodes import FINAL_GAMES, moving_means

BINS = 100  # of the training's agent steps, for the primary metric and the curves
SMOOTHING_BINS = 5  # moving average of the drawn curves


def mean_return_over_training(
    agent_steps: ArrayLike, returns: ArrayLike, total_agent_steps: int
) -> float | None:
    """The primary metric: mean raw return over the whole training, "better or faster" in one.

    The training is cut into `BINS` equal bins of agent steps. Each bin has the mean return of the
    games that ended in it; one in which none ended has that of the last bin before it, or, at the
    beginning, of the first bin with a game. The metric is the mean of all bins, so every part of
    the training weighs the same, and the many short games of an untrained agent do not outnumber
    the later ones.
    A run that stopped early counts as staying where it was.

    Args:
        agent_steps: The run's agent steps (from 1) at the end of each game; shape (games,).
        returns: Raw return of each game; shape (games,).
        total_agent_steps: The training's length; games that ended later are left out. None is
            returned if no other was finished.
    """
    bin_means = bin_returns(agent_steps, returns, total_agent_steps)
    if np.isnan(bin_means).all():
        return None
    return float(_carry_forward(bin_means).mean())


def final_score(returns: ArrayLike) -> float | None:
    """Mean return of the last `FINAL_GAMES` games (of all, if fewer); None if there are none."""
    last = np.asarray(returns, dtype=np.float64)[-FINAL_GAMES:]
    return float(last.mean()) if last.size else None


def means_at(marks: ArrayLike, agent_steps: ArrayLike, returns: ArrayLike) -> FloatArray:
    """Mean return of the last `FINAL_GAMES` games that had ended at each mark; shape of the marks.

    NaN where fewer had ended. Games as for `mean_return_over_training`, all of them.
    """
    ended = np.searchsorted(np.asarray(agent_steps), marks, side="right")
    means = np.append(moving_means(returns), np.nan)  # the last is taken where too few had ended
    return means[np.maximum(ended - FINAL_GAMES, -1)]


def find_game_to_reach(returns: ArrayLike, threshold: float) -> int | None:
    """The index of the first game with which the mean of `FINAL_GAMES` reaches a mean return.

    None if none did, or fewer than `FINAL_GAMES` games finished.
    """
    reached = np.flatnonzero(moving_means(returns) >= threshold)
    return int(reached[0]) + FINAL_GAMES - 1 if len(reached) else None


def find_steps_to_reach(agent_steps: ArrayLike, returns: ArrayLike, threshold: float) -> int | None:
    """The agent step at which `find_game_to_reach`'s game ended; games as there, in their order."""
    game = find_game_to_reach(returns, threshold)
    return None if game is None else int(np.asarray(agent_steps)[game])


def bin_returns(
    agent_steps: ArrayLike, returns: ArrayLike, total_agent_steps: int, bins: int = BINS
) -> FloatArray:
    """Mean return of the games that ended in each of `bins` equal bins of agent steps.

    Bin b holds the games with b < agent_steps * bins / total_agent_steps <= b + 1. Shape (B,); NaN
    where no game ended. Arguments as for `mean_return_over_training`.
    """
    steps = np.asarray(agent_steps, dtype=np.int64)
    values = np.asarray(returns, dtype=np.float64)
    inside = steps <= total_agent_steps
    index = (steps[inside] * bins - 1) // total_agent_steps
    counts = np.bincount(index, minlength=bins)
    sums = np.bincount(index, weights=values[inside], minlength=bins)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def bin_middles(total_agent_steps: int, bins: int = BINS) -> FloatArray:
    """The agent steps that a curve's values belong to; shape (B,)."""
    middles: FloatArray = (np.arange(bins) + 0.5) * total_agent_steps / bins
    return middles


def smooth_learning_curve(
    agent_steps: ArrayLike, returns: ArrayLike, total_agent_steps: int, bins: int = BINS
) -> FloatArray:
    """A run's curve for drawing: a centred moving average over `SMOOTHING_BINS` bin means.

    Empty bins between two with games repeat the one before; near the ends the average is over the
    bins there are. Nothing is drawn (NaN) before the first or after the last bin with a game.
    Shape (B,), at the agent steps of `bin_middles`. Arguments as for `mean_return_over_training`.
    """
    curve = bin_returns(agent_steps, returns, total_agent_steps, bins)
    drawn = np.flatnonzero(~np.isnan(curve))
    if len(drawn):
        part = slice(drawn[0], drawn[-1] + 1)
        beyond = SMOOTHING_BINS // 2
        padded = np.pad(_carry_forward(curve[part]), beyond, constant_values=np.nan)
        windows = np.lib.stride_tricks.sliding_window_view(padded, SMOOTHING_BINS)
        curve[part] = np.nanmean(windows, axis=-1)
    return curve


def _carry_forward(bin_means: FloatArray) -> FloatArray:
    known = ~np.isnan(bin_means)
    source = np.where(known, np.arange(len(bin_means)), np.argmax(known))
    filled: FloatArray = bin_means[np.maximum.accumulate(source)]
    return filled


@dataclass(frozen=True)
class CurveBand:
    """The seeds' mean curve and its pointwise t interval; every array has shape (B,)."""

    mean: FloatArray  # over the seeds that have a value in the bin; NaN without any
    low: FloatArray  # of the interval of that mean; NaN with fewer than two seeds
    high: FloatArray
    seeds: NDArray[np.int64]  # that have a value in the bin


def compute_curve_band(curves: ArrayLike) -> CurveBand:
    """Average the seeds' smoothed curves [S, B], NaN where one has no value, bin by bin.

    With the 95 % t interval of each bin's mean by itself.
    """
    values = np.ma.masked_invalid(np.asarray(curves, dtype=np.float64))
    seeds = values.count(axis=0)
    mean = values.mean(axis=0).filled(np.nan)
    error = values.std(axis=0, ddof=1).filled(np.nan) / np.sqrt(np.maximum(seeds, 1))
    half = t_quantile(0.05, np.maximum(seeds - 1, 1)) * error
    return CurveBand(mean=mean, low=mean - half, high=mean + half, seeds=seeds)
