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

    Its interval is that of as many independent comparisons as can be made without using a run
    twice, those of the game with the fewest seeds for each game (Clopper & Pearson 1934). For these
    it holds though the games' probabilities differ (Hoeffding 1956); with all pairs in their place
    it covers the truth in more than 95 % of simulated comparisons. A bootstrap would have no width
    where every pair of runs goes the same way, and too little near there.

    `games` are, for each game, its seeds' pairs, the baseline's score first; shapes (S_g, 2).
    """
    pairs = [np.asarray(game, dtype=np.float64) for game in games]
    wins = [((np.sign(game[:, None, 1] - game[None, :, 0]) + 1) / 2).mean() for game in pairs]
    won, runs = float(np.mean(wins)), len(pairs) * min(map(len, pairs))
    low = special.betaincinv(runs * won, runs * (1 - won) + 1, 0.025) if won > 0 else 0.0
    high = special.betaincinv(runs * won + 1, runs * (1 - won), 0.975) if won < 1 else 1.0
    return Estimate(won, (float(low), float(high)))
