"""When a game needs no further seed: group-sequential t tests, and when to give up.

A plan that goes on "until decided" looks at each game after every seed, from the first look (the
third seed, unless declared otherwise) to the N-th. Looking often raises the probability that some
look misleads, so each look has a nominal level of its own: after k seeds c * (k / N)^exponent, as
O'Brien & Fleming 1979 and Wang & Tsiatis 1987 let bounds fall with information. The constant c
makes the probability that *any* look of a true hypothesis falls below its level what was asked for.
Under the t test's assumption (independent, normal differences) the sequence of t statistics of a
true hypothesis has one known distribution, whatever mean and variance (Jennison & Turnbull 1991);
it is drawn here, with a fixed seed. That turns the p-value of the look at which a game stopped into
a sequential one (Liu & Anderson 2008), valid wherever a game stops, so that Holm's correction over
the games applies to sequential p-values as it does to plain ones (Tamhane et al. 2021). A game
stops by its own runs alone, at the first of Holm's steps (alpha / games); the correction then
decides on all of them, each as it stopped.

A game also stops when it could hardly be decided any more: when its predictive probability of a
verdict at N seeds has fallen below `futility`, given what it has shown, with no prior knowledge of
mean and variance (Spiegelhalter, Freedman & Blackburn 1986). The bounds take no notice of that
rule, so giving up can only lower the error rates (it is "non-binding").

- O'Brien & Fleming 1979, Biometrics 35; Wang & Tsiatis 1987, Biometrics 43.
- Jennison & Turnbull 1991, "Exact calculations for sequential t, chi-squared and F tests",
  Biometrika 78; 2000, "Group Sequential Methods with Applications to Clinical Trials".
- Liu & Anderson 2008, "On adaptive extensions of group sequential trials", JASA 103.
- Tamhane et al. 2021, "Group sequential Holm and Hochberg procedures", Statistics in Medicine 40.
- Spiegelhalter et al. 1986, "Monitoring clinical trials: conditional or predictive power?",
  Controlled Clinical Trials 7.

AdaStop (Mathieu et al. 2023, arXiv 2306.10882) is the same idea with permutation tests; those of n
paired differences know no p-value below 2^(1-n), too coarse for nine games and few seeds.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from configs.comparison import StoppingRule
from experiments.comparison.statistics.intervals import FloatArray, t_quantile

_PATHS = 200_000  # of t statistics; each counts twice, as it is and with its sign changed
_CHUNK = 10_000  # paths at a time, to bound memory
_DRAWS = 20_000  # of what the seeds to come may show


@dataclass(frozen=True)
class SequentialDesign:
    """The looks at a game: after every seed from `rule.first_look` to `most_seeds`."""

    most_seeds: int
    rule: StoppingRule

    def correct(self, p_value: ArrayLike, seeds: ArrayLike) -> FloatArray:
        """The sequential p-value of a one-sided test that stopped after `seeds` seeds.

        How likely is it under the hypothesis that any look, p-value over share, is as small? Never
        below 1 / (number of drawn paths + 1), as every p-value that was drawn.
        """
        smallest = _draw_smallest(self)
        found = np.asarray(p_value) / self.share(seeds)
        as_small = np.searchsorted(smallest, found, side="right")
        corrected: FloatArray = (as_small + 1) / (len(smallest) + 1)
        return corrected

    def nominal_level(self, alpha: ArrayLike, seeds: ArrayLike) -> FloatArray:
        """The level of the plain two-sided t interval that shows a corrected one of level alpha."""
        smallest = _draw_smallest(self)
        allowed = np.floor(np.asarray(alpha) / 2 * (len(smallest) + 1)).astype(np.int64)
        level: FloatArray = 2 * smallest[np.maximum(allowed, 1) - 1] * self.share(seeds)
        return level

    def is_futile(
        self, mean: ArrayLike, error: ArrayLike, margin: ArrayLike, seeds: int, alpha: float
    ) -> NDArray[np.bool_]:
        """Whether a verdict at `most_seeds` has become improbable; arguments as for `decide`.

        But `alpha`, which is of each game by itself, and `seeds`, of all of them, fewer than
        `most_seeds`. For `similar` both of its one-sided tests must be possible; that they go
        together is not asked, so that a game rather goes on.
        """
        level = float(self.nominal_level(alpha, self.most_seeds)) / 2
        least = find_least_statistic(self, seeds, level)
        above_upper, above_lower = np.subtract(mean, margin) / error, np.add(mean, margin) / error
        differs = (above_upper >= least) | (-above_lower >= least)
        similar = (-above_upper >= least) & (above_lower >= least)
        futile: NDArray[np.bool_] = ~(differs | similar)
        return futile

    def share(self, seeds: ArrayLike) -> FloatArray:
        """How the level of a look after `seeds` seeds compares with that of the last."""
        share: FloatArray = (np.asarray(seeds) / self.most_seeds) ** self.rule.level_exponent
        return share


@cache
def _draw_smallest(design: SequentialDesign) -> FloatArray:
    """What the smallest one-sided p-value over share of all looks is when the mean is 0; sorted."""
    rng, first, found = np.random.default_rng(0), design.rule.first_look, []
    seeds = np.arange(first, design.most_seeds + 1)
    share = design.share(seeds)
    for _ in range(_PATHS // _CHUNK):
        values = rng.standard_normal((_CHUNK, design.most_seeds))
        sums, squares = (part.cumsum(axis=-1)[:, first - 1 :] for part in (values, values**2))
        variance = (squares - sums**2 / seeds) / (seeds - 1)
        p_value = special.stdtr(seeds - 1, -sums / np.sqrt(seeds * variance))
        found += [(p_value / share).min(axis=-1), ((1 - p_value) / share).min(axis=-1)]
    return np.sort(np.concatenate(found))


@cache
def find_least_statistic(design: SequentialDesign, seeds: int, level: float) -> float:
    """The t statistic after `seeds` seeds below which a one-sided test is given up.

    With a smaller one the t test of that level at `most_seeds` rejects with a predictive
    probability below `futility`. What is to come is drawn from its predictive distribution under
    the prior 1 / variance. With the standard deviation so far as the unit and
    t = mean * sqrt(seeds), the test at the end rejects if

        mean + (more / most) * shift >= quantile * sqrt(squares / ((most - 1) * most)),

    where `shift` is how far the coming seeds' mean is from this one and `squares` the sum of all
    squared deviations at the end. Neither depends on the mean, so each draw gives the least one.
    """
    rng, most_seeds = np.random.default_rng(0), design.most_seeds
    more = most_seeds - seeds
    sigma = np.sqrt((seeds - 1) / rng.chisquare(seeds - 1, _DRAWS))
    shift = sigma * np.sqrt(1 / seeds + 1 / more) * rng.standard_normal(_DRAWS)
    squares = seeds - 1 + seeds * more / most_seeds * shift**2
    if more > 1:
        squares += sigma**2 * rng.chisquare(more - 1, _DRAWS)
    quantile = t_quantile(2 * level, most_seeds - 1)
    least = quantile * np.sqrt(squares / ((most_seeds - 1) * most_seeds))
    least -= more / most_seeds * shift
    return float(np.quantile(np.sqrt(seeds) * least, design.rule.futility))
