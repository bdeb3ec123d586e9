"""t intervals, and the paired differences of two arms that they are put around."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

FloatArray = NDArray[np.float64]
Interval = tuple[float, float] | None  # None where there is none


@dataclass(frozen=True)
class PairedDifference:
    """Candidate minus baseline, one difference per seed."""

    seeds: int
    mean: float
    standard_deviation: float | None  # of the differences; None with one pair
    interval: Interval  # paired t; none with one pair, or if the differences do not vary

    @property
    def standard_error(self) -> float:
        """Of the mean; 0 without variation, or with one pair."""
        return (self.standard_deviation or 0.0) / math.sqrt(self.seeds)


def compare_pairs(
    baseline: ArrayLike, candidate: ArrayLike, confidence: float = 0.95
) -> PairedDifference:
    """Summarise the paired differences of one game.

    Args:
        baseline: A value per seed; shape (S,).
        candidate: The value of the same seeds, in the same order; shape (S,).
        confidence: Of the interval, which is not corrected for other games.

    Raises:
        ValueError: If the two do not pair up, are empty or not finite.
    """
    before, after = np.asarray(baseline, dtype=np.float64), np.asarray(candidate, dtype=np.float64)
    if before.shape != after.shape or before.ndim != 1 or not before.size:
        raise ValueError(
            f"`baseline` and `candidate` must have one value per seed, got shapes "
            f"{before.shape} and {after.shape}."
        )
    differences = after - before
    if not np.isfinite(differences).all():
        raise ValueError("`baseline` and `candidate` must be finite.")
    seeds, mean = len(differences), float(differences.mean())
    if seeds == 1:
        return PairedDifference(1, mean, None, None)
    deviation = float(differences.std(ddof=1))
    if deviation <= 1e-12 * max(np.abs(before).max(), np.abs(after).max()):  # rounding alone
        return PairedDifference(seeds, mean, 0.0, None)
    half = float(t_quantile(1 - confidence, seeds - 1)) * deviation / math.sqrt(seeds)
    return PairedDifference(seeds, mean, deviation, (mean - half, mean + half))


def t_quantile(alpha: ArrayLike, freedom: ArrayLike) -> FloatArray:
    """Half-width, in standard errors, of a two-sided t interval of level 1 - alpha."""
    quantile: FloatArray = special.stdtrit(freedom, 1 - np.asarray(alpha) / 2)
    return quantile
