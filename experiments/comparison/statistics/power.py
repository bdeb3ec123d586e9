"""How many seeds a verdict takes, and the smallest difference that a plan could tell."""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from configs.comparison import MIN_SEEDS, Criteria
from experiments.comparison.statistics.intervals import FloatArray, t_quantile

_LARGEST_NONCENTRALITY = 1e6  # beyond it scipy gives NaN; what is told by then is told


def find_seeds_needed(
    mean: float, standard_deviation: float, margin: float, alpha: float, criteria: Criteria
) -> int | None:
    """The fewest seeds that give a verdict with probability `criteria.power`, by the noncentral t.

    A difference beyond the margin aims at better or worse, one within it at similar (both of whose
    one-sided tests must reject: the sum of their powers less 1, a lower bound).

    Mean and standard deviation (above 0) are the true ones of the paired differences, `alpha` the
    level of the two-sided interval that the verdict is read off. None if even `criteria.max_seeds`
    are too few.
    """
    seeds = np.arange(MIN_SEEDS, criteria.max_seeds + 1)
    scale = np.sqrt(seeds) / standard_deviation
    distance = abs(mean) - margin
    reached = compute_power(abs(distance) * scale, seeds - 1, alpha)
    if distance <= 0:
        reached = reached + compute_power((margin + abs(mean)) * scale, seeds - 1, alpha) - 1
    enough = np.flatnonzero(reached >= criteria.power)
    return int(seeds[enough[0]]) if len(enough) else None


def find_detectable_difference(seeds: int, alpha: float, power: float) -> float | None:
    """The smallest mean difference beyond the margin that a plan tells from it.

    In standard deviations of the paired differences; None with fewer than `MIN_SEEDS` seeds. For a
    plan of G games before any data, `alpha` is `alpha_at_look(1, ...) / G`: what the smallest of
    Holm's steps allows.
    """
    if seeds < MIN_SEEDS:
        return None
    quantile = t_quantile(alpha, seeds - 1)
    return float(special.nctdtrinc(seeds - 1, 1 - power, quantile) / math.sqrt(seeds))


def compute_power(noncentrality: ArrayLike, freedom: ArrayLike, alpha: float) -> FloatArray:
    """Probability that the two-sided t interval of level 1 - alpha lies above a point.

    The upper tail of the noncentral t distribution.

    Args:
        noncentrality: (true mean - point) / true standard error, not negative.
        freedom: Degrees of freedom, seeds - 1.
        alpha: Of the two-sided interval, so alpha / 2 on this side.
    """
    delta = np.minimum(noncentrality, _LARGEST_NONCENTRALITY)
    power: FloatArray = 1 - special.nctdtr(freedom, delta, t_quantile(alpha, freedom))
    return power
