"""The probability of improvement (Agarwal et al. 2021, section 4.3), with an interval."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from experiments.comparison.statistics.intervals import Estimate


def estimate_probability_of_improvement(games: Sequence[ArrayLike]) -> Estimate:
    """Probability that a run of the candidate beats one of the baseline in a game drawn at random.

    Over all pairs of a candidate's and a baseline's run in a game, a tie counting half, averaged
    over the games.

    Its interval is that of as many independent comparisons as the candidate has runs (Clopper &
    Pearson 1934): so many can be made without using a run twice. Using all pairs, and games whose
    probabilities differ, leave less to chance than that (Hoeffding 1956), so it covers the true
    probability in at least 95 % of comparisons, most often in more. A bootstrap would have no width
    where every pair of runs goes the same way, and too little near there.

    `games` are, for each game, its seeds' pairs, the baseline's score first; shapes (S_g, 2).
    """
    wins = []
    for game in games:
        baseline, candidate = np.asarray(game, dtype=np.float64).T
        wins.append(((np.sign(candidate[:, None] - baseline) + 1) / 2).mean())
    won, runs = float(np.mean(wins)), sum(map(len, map(np.asarray, games)))
    low = special.betaincinv(runs * won, runs * (1 - won) + 1, 0.025) if won > 0 else 0.0
    high = special.betaincinv(runs * won + 1, runs * (1 - won), 0.975) if won < 1 else 1.0
    return Estimate(won, (float(low), float(high)))
