"""How many seeds a verdict takes, and the smallest difference that a plan could tell."""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from configs.comparison import MIN_SEEDS, Criteria
from experiments.comparison.statistics.intervals import FloatArray, t_quantile


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
    freedom = seeds - 1
    noncentrality = optimize.brentq(
        lambda delta: float(compute_power(delta, freedom, alpha)) - power,
        0.0,
        3 * float(t_quantile(alpha, freedom)) + 10,
    )
    return float(noncentrality / math.sqrt(seeds))


def compute_power(noncentrality: ArrayLike, freedom: ArrayLike, alpha: float) -> FloatArray:
    """Probability that the two-sided t interval of level 1 - alpha lies above a point.

    The upper tail of the noncentral t distribution, as the mean over the chi-square distribution of
    the estimated variance (scipy's own gives NaN for some noncentralities from about 36 on).

    Args:
        noncentrality: (true mean - point) / true standard error, not negative.
        freedom: Degrees of freedom, seeds - 1.
        alpha: Of the two-sided interval, so alpha / 2 on this side.
    """
    delta, degrees = np.asarray(noncentrality)[..., None], np.asarray(freedom)[..., None]
    nodes, weights = np.polynomial.legendre.leggauss(100)
    variance_ratio = special.chdtri(degrees, (1 - nodes) / 2) / degrees
    above = special.ndtr(delta - t_quantile(alpha, degrees) * np.sqrt(variance_ratio))
    power: FloatArray = above @ weights / 2
    return power
