"""The statistics of the comparison: from finished games to a verdict per game.

The primary metric is a run's mean return over the whole training. In each game the arms are paired
by seed, and the candidate's metric minus the baseline's, one difference a seed, is judged by a
paired t test against a margin declared beforehand. It assumes that the seeds are independent and
their differences about normal; skew matters more than heavy tails, and `simulate.py` measures by
how much. With one or two seeds no verdict is possible.

A verdict says where the interval of the mean difference lies: above +margin `better`, below -margin
`worse`, between them `similar`, else `undecided`. Holm's step-down correction (Holm 1979) over the
games sets the intervals' levels, once for the claims of a difference (better, worse) and once for
those of similarity:

- among the games whose true difference is within the margin (all of them, when the arms are the
  same), any `better` or `worse` has at most probability `alpha`, whatever the others are and
  however the games depend on each other;
- among the games whose true difference is beyond it, so has any `similar`;
- there, the opposite direction is controlled with it if the games are independent (Shaffer 1980).

The two corrections run side by side because a game belongs to the one group or to the other, and
`similar` verdicts buy no leniency for `better` and `worse`. A game that cannot be judged (yet)
stays in the family as if its p-value were 1: the family's size is fixed by the plan, and judging
the games one by one as they are finished adds verdicts but withdraws none, so it is no further
look. Each further arm against the baseline is a family of its own.

Shapes below: G games; `...` any leading axes (simulated families). float64.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from configs.comparison import MIN_SEEDS, Criteria
from experiments.comparison.statistics.intervals import (
    FloatArray,
    Interval,
    PairedDifference,
    compare_pairs,
    t_quantile,
)
from experiments.comparison.statistics.power import find_seeds_needed
from experiments.comparison.statistics.sequential import (
    SequentialDesign,
    find_least_statistic,
)

Verdict = Literal["better", "similar", "worse", "undecided"]
Stop = Literal["decided", "given up", "all seeds"]
VERDICTS: tuple[Verdict, ...] = ("better", "similar", "worse", "undecided")


def alpha_at_look(look: int, alpha: float, share: float) -> float:
    """The part of `alpha` spent on look number `look` at a plan that was made larger.

    A look is a report on a finished plan; adding seeds or agent steps and judging again is the
    next. Look k spends alpha * share * (1 - share)^(k - 1). However many looks there are, these sum
    to at most alpha, so that (Bonferroni over the looks) no rule for going on inflates the error.
    """
    return alpha * share * (1 - share) ** (look - 1)


def step_down(p_values: ArrayLike, alpha: float) -> tuple[NDArray[np.bool_], FloatArray]:
    """Holm's step-down test (Holm 1979): valid under any dependence between the hypotheses.

    The smallest p-value is compared with alpha / G, the next with alpha / (G - 1), and so on up to
    the first that is larger than its bound; the hypotheses before it are rejected.

    Returns:
        Which are rejected, so that `alpha` is the probability of any false rejection, and the level
        that each was compared with (the hypotheses that were not rejected: that of the step where
        the test stopped); both of shape (..., G), as `p_values` are.
    """
    values = np.asarray(p_values, dtype=np.float64)
    games = values.shape[-1]
    order = np.argsort(values, axis=-1, kind="stable")
    bounds = alpha / (games - np.arange(games))
    passed = np.logical_and.accumulate(np.take_along_axis(values, order, -1) <= bounds, axis=-1)
    stop = bounds[np.minimum(passed.sum(axis=-1, keepdims=True), games - 1)]
    rejected, levels = np.empty_like(passed), np.empty_like(values)
    np.put_along_axis(rejected, order, passed, -1)
    np.put_along_axis(levels, order, np.where(passed, bounds, stop), -1)
    return rejected, levels


def decide(
    mean: ArrayLike,
    standard_error: ArrayLike,
    margin: ArrayLike,
    seeds: ArrayLike,
    alpha: float,
    design: SequentialDesign | None = None,
) -> tuple[NDArray[Any], FloatArray]:
    """Judge the mean differences of a family of games: where does each one's interval lie?

    The p-value of a verdict is the smallest alpha at which the two-sided t interval lies where the
    verdict says, that is twice the one-sided p-value (for `similar`, of two one-sided tests).

    Args:
        mean: Mean paired difference; shape (..., G), as all that follow or broadcast to it.
        standard_error: Of the mean; where it is 0 or NaN the game is undecided.
        margin: Not negative; without one (0) no game is similar.
        seeds: Pairs; with fewer than `MIN_SEEDS` the game is undecided.
        alpha: Probability of any false better or worse per family; and of any false similar.
        design: Of the looks at each game, of which `seeds` is the one where it stopped; None if
            there is but one.

    Returns:
        Verdicts (str), and for each game the level alpha of the interval that shows its verdict;
        for undecided, the smaller of the levels the two step-down tests stopped at.
    """
    mean, error, margin, seeds = np.broadcast_arrays(mean, standard_error, margin, seeds)
    testable = (error > 0) & (seeds >= MIN_SEEDS)
    error, seeds = np.where(testable, error, 1.0), np.where(testable, seeds, MIN_SEEDS)
    freedom = seeds - 1
    from_upper, from_lower = (mean - margin) / error, (mean + margin) / error
    p_better = special.stdtr(freedom, -from_upper)
    p_worse = special.stdtr(freedom, from_lower)
    p_similar = np.maximum(special.stdtr(freedom, from_upper), special.stdtr(freedom, -from_lower))

    def p_value(one_sided: FloatArray) -> FloatArray:
        if design is not None:
            one_sided = design.correct(one_sided, seeds)
        return np.where(testable, np.minimum(2 * one_sided, 1.0), 1.0)

    differs, difference_level = step_down(p_value(np.minimum(p_better, p_worse)), alpha)
    similar, similarity_level = step_down(p_value(p_similar), alpha)
    verdicts = np.select(
        [differs & (mean > 0), differs, similar], ["better", "worse", "similar"], "undecided"
    )
    levels = np.select(
        [differs, similar],
        [difference_level, similarity_level],
        np.minimum(difference_level, similarity_level),
    )
    return verdicts, levels if design is None else design.nominal_level(levels, seeds)


@dataclass(frozen=True)
class GameScores:
    """What one game's runs scored, the arms paired by seed; the input of `judge_games`."""

    game: str
    baseline: Sequence[float | None]  # primary metric by seed; None without a finished game
    candidate: Sequence[float | None]  # of the other arm, same seeds, same order
    baseline_final: Sequence[float | None]  # final scores, likewise
    candidate_final: Sequence[float | None]
    ended: Sequence[bool]  # whether both runs of a seed have (diverged runs have)
    random_return: float | None  # mean return of a random player, if it is known
    human_return: float | None  # mean return of a human tester, likewise

    @property
    def complete(self) -> bool:
        """Whether every run planned for this game has ended."""
        return all(self.ended)

    @property
    def pairs(self) -> list[tuple[float, float]]:
        """The primary metric of both arms, of the seeds that have both."""
        return [
            (before, after)
            for before, after in zip(self.baseline, self.candidate, strict=True)
            if before is not None and after is not None
        ]

    def first(self, seeds: int) -> Self:
        """The same game as if no more seeds than these had been planned."""
        by_seed = ("baseline", "candidate", "baseline_final", "candidate_final", "ended")
        return replace(self, **{name: getattr(self, name)[:seeds] for name in by_seed})


@dataclass(frozen=True)
class Stage:
    """How far a game has come that goes on until it is decided."""

    seeds: int  # that it needs, or that its verdict is of
    stop: Stop | None  # why it needs no more; None: it goes on


@dataclass(frozen=True)
class GameVerdict(PairedDifference):
    """The verdict on one game's difference in the primary metric: where its own interval lies.

    In raw return, but for the level.
    """

    game: str
    verdict: Verdict
    label: str  # the verdict as tables show it: "better", "undecided (not learned)"
    margin: float | None  # None where it cannot be told
    judged_level: float | None = None  # alpha of the interval that the verdict was read off
    judged_interval: Interval = None
    obstacle: str | None = None  # what in the game itself keeps it from being decided
    stage: Stage | None = None  # None where the number of seeds was fixed beforehand

    @property
    def is_open(self) -> bool:
        """Whether nothing in the game itself keeps it from being decided."""
        return self.obstacle is None


def judge_games(
    games: Sequence[GameScores],
    criteria: Criteria,
    alpha: float,
    design: SequentialDesign | None = None,
) -> tuple[GameVerdict, ...]:
    """Give each game of a family its verdict.

    The margin is `margin_fraction` of the baseline's mean gain over a random player, 0 if it gained
    nothing; it is estimated from the same runs and then taken as known. Whether an arm has learned
    is a one-sided t test of its final scores, at half of `criteria.alpha` for each of the two arms.

    Args:
        games: Every game of the plan, so that the correction is for all of them.
        criteria: As declared in the plan.
        alpha: The probability of any false better or worse; see `alpha_at_look`.
        design: Of a plan that goes on until decided: each game is judged on the seeds after which
            it stopped, whatever others there are.
    """
    results = []
    for game in games:
        stage = None if design is None else find_stage(game, criteria, design, alpha / len(games))
        part = game.first(stage.seeds) if stage else game
        results.append(replace(_prepare(part, criteria), stage=stage))
    verdicts, levels = decide(
        mean=[result.mean_difference or 0.0 for result in results],
        standard_error=[result.standard_error if result.is_open else 0.0 for result in results],
        margin=[result.margin or 0.0 for result in results],
        seeds=[result.pairs for result in results],
        alpha=alpha,
        design=design,
    )
    return tuple(
        _complete(result, verdict, level, criteria) if result.is_open else result
        for result, verdict, level in zip(results, verdicts.tolist(), levels.tolist(), strict=True)
    )


def find_stage(
    game: GameScores, criteria: Criteria, design: SequentialDesign, alpha: float
) -> Stage:
    """How many seeds a game needs that goes on until it is decided, by its own runs alone.

    `alpha` is that of the game by itself: that of the look over the number of games.
    """
    seeds = design.rule.first_look
    while True:
        part = game.first(seeds)
        if len(part.ended) < seeds or not part.complete:
            return Stage(seeds, None)
        result = _prepare(part, criteria)
        error = result.standard_error if result.is_open else 0.0
        mean, margin = result.mean_difference or 0.0, result.margin or 0.0
        (verdict,), _ = decide([mean], [error], [margin], [seeds], alpha, design)
        if verdict != "undecided":
            return Stage(seeds, "decided")
        if seeds == design.most_seeds:
            return Stage(seeds, "all seeds")
        if _is_futile(part, result, criteria, design, alpha):
            return Stage(seeds, "given up")
        seeds += 1


def _is_futile(
    game: GameScores,
    result: GameVerdict,
    criteria: Criteria,
    design: SequentialDesign,
    alpha: float,
) -> bool:
    """Whether a verdict by all seeds has become impossible or improbable."""
    seeds, error = result.pairs, result.standard_error
    lasting = (*game.baseline, *game.candidate, game.random_return, game.human_return)
    if None in lasting or not error:
        return True  # no further seed would change that
    least = find_least_statistic(design, seeds, criteria.alpha / 2)
    if not result.is_open and max(_compute_learning_statistics(game, criteria)) < least:
        return True
    assert result.mean_difference is not None
    assert result.margin is not None
    return bool(design.is_futile(result.mean_difference, error, result.margin, seeds, alpha))


def _prepare(game: GameScores, criteria: Criteria) -> GameVerdict:
    """All that can be said of a game by itself: no verdict yet, or why it must stay undecided."""
    difference, margin = compare_pairs(game.pairs), None
    if game.random_return is not None and game.pairs:
        gain = float(np.mean([before for before, _ in game.pairs])) - game.random_return
        margin = criteria.margin_fraction * max(gain, 0.0)
    obstacle = _find_obstacle(game, difference, criteria)
    label = "undecided" if obstacle is None else f"undecided ({obstacle})"
    if not game.complete:
        label = "no verdict yet"
    return GameVerdict(
        **vars(difference),
        game=game.game,
        verdict="undecided",
        label=label,
        margin=margin,
        obstacle=obstacle,
    )


def _complete(
    result: GameVerdict, verdict: Verdict, level: float, criteria: Criteria
) -> GameVerdict:
    """Add what the family decided, and to an undecided game how many more seeds it would take."""
    mean, deviation, margin = result.mean_difference, result.standard_deviation, result.margin
    assert mean is not None
    assert deviation is not None
    assert margin is not None
    half = float(t_quantile(level, result.pairs - 1)) * result.standard_error
    label = str(verdict)
    if verdict == "undecided" and result.stage is not None:
        seeds = result.stage.seeds
        is_given_up = result.stage.stop == "given up"
        label = f"undecided ({f'given up after {seeds}' if is_given_up else f'all {seeds}'} seeds)"
    elif verdict == "undecided":
        next_level = level * (1 - criteria.look_share)
        needed = find_seeds_needed(mean, deviation, margin, next_level, criteria)
        if needed is None:
            label = f"undecided (it would take more than {criteria.max_seeds} seeds)"
        else:
            more = max(needed - result.pairs, 1)
            label = f"undecided (about {more} more seed{'s' if more > 1 else ''})"
    return replace(
        result,
        verdict=verdict,
        label=label,
        judged_level=level,
        judged_interval=(mean - half, mean + half),
    )


def _find_obstacle(
    game: GameScores, difference: PairedDifference, criteria: Criteria
) -> str | None:
    if not game.complete:
        return "incomplete"
    if None in (*game.baseline, *game.candidate):
        return "no finished game"
    if difference.pairs < MIN_SEEDS:
        return f"needs {MIN_SEEDS} seeds"
    if game.random_return is None or game.human_return is None:
        return "no random and human scores"
    needed = t_quantile(criteria.alpha, difference.pairs - 1)
    if max(_compute_learning_statistics(game, criteria)) <= needed:
        return "not learned"
    return None if difference.standard_deviation else "no variation between seeds"


def _compute_learning_statistics(game: GameScores, criteria: Criteria) -> list[float]:
    """By how many standard errors each arm's mean final score is above what counts as learned.

    Scores without variation are above or below by infinitely many.
    """
    assert game.random_return is not None
    assert game.human_return is not None
    distance = abs(game.human_return - game.random_return)
    threshold = game.random_return + criteria.learned_fraction * distance
    statistics = []
    for scores in (game.baseline_final, game.candidate_final):
        values = np.array(scores, dtype=np.float64)
        above = float(values.mean() - threshold)
        error = float(values.std(ddof=1)) / math.sqrt(len(values))
        infinite = math.inf if above > 0 else -math.inf
        statistics.append(above / error if error else infinite)
    return statistics
