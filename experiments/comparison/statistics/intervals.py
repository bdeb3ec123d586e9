"""t intervals, and the paired differences of two arms that they are put around."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

FloatArray = NDArray[np.float64]
Interval = tuple[float, float] | None  # None where there is none


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    interval_95: Interval


@dataclass(frozen=True)
class PairedDifference:
    """Candidate minus baseline, one difference per seed."""

    pairs: int
    mean_difference: float | None  # None without a pair
    standard_deviation: float | None  # of the differences; None with one pair
    interval_95: Interval  # paired t; none with one pair, or if the differences do not vary

    @property
    def standard_error(self) -> float:
        """Of the mean; 0 without variation, or with one pair."""
        return (self.standard_deviation or 0.0) / math.sqrt(max(self.pairs, 1))


def compare_pairs(pairs: Sequence[tuple[float, float]]) -> PairedDifference:
    """Summarise one game's pairs of a baseline's and a candidate's value, one pair per seed."""
    if not pairs:
        return PairedDifference(0, None, None, None)
    values = np.array(pairs, dtype=np.float64)
    differences = values[:, 1] - values[:, 0]
    mean = float(differences.mean())
    if len(pairs) == 1:
        return PairedDifference(1, mean, None, None)
    deviation = float(differences.std(ddof=1))
    if deviation <= 1e-12 * np.abs(values).max():  # rounding alone
        return PairedDifference(len(pairs), mean, 0.0, None)
    half = float(t_quantile(0.05, len(pairs) - 1)) * deviation / math.sqrt(len(pairs))
    return PairedDifference(len(pairs), mean, deviation, (mean - half, mean + half))


def t_quantile(alpha: ArrayLike, freedom: ArrayLike) -> FloatArray:
    """Half-width, in standard errors, of a two-sided t interval of level 1 - alpha."""
    quantile: FloatArray = special.stdtrit(freedom, 1 - np.asarray(alpha) / 2)
    return quantile
