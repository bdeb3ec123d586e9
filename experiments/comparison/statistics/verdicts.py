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

Shapes below: G games, S seeds, B bins; `...` any leading axes (simulated families). float64.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from configs.settings import Bounds

FloatArray = NDArray[np.float64]
Verdict = Literal["better", "similar", "worse", "undecided"]

BINS = 100  # of the training's agent steps, for the primary metric and the curves
SMOOTHING_BINS = 5  # moving average of the drawn curves
FINAL_GAMES = 100  # the last games that make the final score
MIN_SEEDS = 3  # fewer allow no verdict
RESAMPLES = 10_000  # of a bootstrap


@dataclass(frozen=True, kw_only=True)
class Criteria:
    """What the verdicts are judged by; declared in the plan, before any run.

    Attributes:
        alpha: Probability of any false better or worse in a family of games, over all looks; and of
            any false similar.
        margin_fraction: The margin, as a share of what the baseline gained over a random player.
        learned_fraction: An arm has learned when its final score is above random play by this share
            of the distance from random play to the human (covers the error of the tabulated score).
        look_share: Share of what is left of `alpha` that each look spends.
        power: Probability of a verdict that "more seeds" aims at.
        max_seeds: More seeds than these are never suggested.
    """

    alpha: Annotated[float, Bounds(above=0, maximum=0.5)] = 0.05
    margin_fraction: Annotated[float, Bounds(0, 1)] = 0.05
    learned_fraction: Annotated[float, Bounds(0, 1)] = 0.005
    look_share: Annotated[float, Bounds(above=0, below=1)] = 0.8
    power: Annotated[float, Bounds(0.5, below=1)] = 0.8
    max_seeds: Annotated[int, Bounds(MIN_SEEDS, 10_000)] = 200


# --- one run --------------------------------------------------------------------------------------


def mean_return_over_training(
    agent_steps: ArrayLike, returns: ArrayLike, total_agent_steps: int
) -> float | None:
    """The primary metric: mean raw return over the whole training, "better or faster" in one.

    The training is cut into `BINS` equal bins of agent steps. Each bin has the mean return of the
    games that ended in it; one in which none ended has that of the last bin before it, or, at the
    beginning, of the first bin with a game. The metric is the mean of all bins, so every agent step
    weighs the same, and the many short games of an untrained agent do not outnumber the later ones.
    A run that stopped early counts as staying where it was.

    Args:
        agent_steps: The run's agent steps (from 1) at the end of each game; shape (games,).
        returns: Raw return of each game; shape (games,).
        total_agent_steps: The training's length; games that ended later are left out.

    Returns:
        The metric, or None if no game was finished.

    Raises:
        ValueError: If the two differ in length or hold an impossible value.
    """
    bin_means = bin_returns(agent_steps, returns, total_agent_steps)
    if np.isnan(bin_means).all():
        return None
    return float(_carry_forward(bin_means).mean())


def final_score(returns: ArrayLike) -> float | None:
    """Mean return of the last `FINAL_GAMES` games (of all, if fewer); None if there are none."""
    last = np.asarray(returns, dtype=np.float64)[-FINAL_GAMES:]
    return float(last.mean()) if last.size else None


def find_steps_to_reach(agent_steps: ArrayLike, returns: ArrayLike, threshold: float) -> int | None:
    """The first agent step at which the mean of the last `FINAL_GAMES` games reaches `threshold`.

    Args:
        agent_steps: Agent steps at the end of each game, in order; shape (games,).
        returns: Raw return of each game; shape (games,).
        threshold: A mean return, such as the baseline's final score.

    Returns:
        Agent steps, or None if it was never reached or fewer than `FINAL_GAMES` games finished.
    """
    steps, values = _check_games(agent_steps, returns)
    if len(values) < FINAL_GAMES:
        return None
    means = np.lib.stride_tricks.sliding_window_view(values, FINAL_GAMES).mean(axis=-1)
    reached = np.flatnonzero(means >= threshold)
    return int(steps[reached[0] + FINAL_GAMES - 1]) if len(reached) else None


def bin_returns(
    agent_steps: ArrayLike, returns: ArrayLike, total_agent_steps: int, bins: int = BINS
) -> FloatArray:
    """Mean return of the games that ended in each of `bins` equal bins of agent steps.

    Bin b holds the games with b < agent_steps * bins / total_agent_steps <= b + 1.

    Returns:
        Shape (B,); NaN where no game ended.

    Raises:
        ValueError: As for `mean_return_over_training`.
    """
    if total_agent_steps < 1:
        raise ValueError(f"`total_agent_steps` must be at least 1, got {total_agent_steps}.")
    steps, values = _check_games(agent_steps, returns)
    inside = steps <= total_agent_steps
    index = (steps[inside] * bins - 1) // total_agent_steps
    counts = np.bincount(index, minlength=bins)
    sums = np.bincount(index, weights=values[inside], minlength=bins)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def smooth_learning_curve(
    agent_steps: ArrayLike, returns: ArrayLike, total_agent_steps: int, bins: int = BINS
) -> FloatArray:
    """A run's curve for drawing: a centred moving average over `SMOOTHING_BINS` bin means.

    Empty bins between two with games repeat the one before; near the ends the average is over the
    bins there are. Nothing is drawn before the first or after the last bin with a game.

    Returns:
        Shape (B,), bin b's value belonging to agent step (b + 1/2) * total_agent_steps / B; NaN
        where nothing is drawn.

    Raises:
        ValueError: As for `mean_return_over_training`.
    """
    curve = bin_returns(agent_steps, returns, total_agent_steps, bins)
    drawn = np.flatnonzero(~np.isnan(curve))
    if len(drawn):
        part = slice(drawn[0], drawn[-1] + 1)
        means = _carry_forward(curve[part])
        reach = SMOOTHING_BINS // 2
        windows = [slice(max(i - reach, 0), i + reach + 1) for i in range(len(means))]
        curve[part] = [means[window].mean() for window in windows]
    return curve


def _check_games(
    agent_steps: ArrayLike, returns: ArrayLike
) -> tuple[NDArray[np.int64], FloatArray]:
    steps = np.asarray(agent_steps, dtype=np.int64)
    values = np.asarray(returns, dtype=np.float64)
    if steps.shape != values.shape or steps.ndim != 1:
        raise ValueError(
            f"`agent_steps` and `returns` must have one entry per game, got shapes "
            f"{steps.shape} and {values.shape}."
        )
    if len(steps) and steps.min() < 1:
        raise ValueError(f"`agent_steps` must be at least 1, got {steps.min()}.")
    if not np.isfinite(values).all():
        raise ValueError(f"`returns` must be finite, got {values[~np.isfinite(values)][0]}.")
    return steps, values


def _carry_forward(bin_means: FloatArray) -> FloatArray:
    known = ~np.isnan(bin_means)
    source = np.where(known, np.arange(len(bin_means)), np.argmax(known))
    filled: FloatArray = bin_means[np.maximum.accumulate(source)]
    return filled


# --- several seeds --------------------------------------------------------------------------------


@dataclass(frozen=True)
class CurveBand:
    """The seeds' mean curve and its pointwise t interval; every array has shape (B,).

    Attributes:
        mean: Mean over the seeds that have a value in the bin; NaN without any.
        low: Lower end of the interval of that mean; NaN with fewer than two seeds.
        high: Upper end, likewise.
        seeds: How many seeds have a value in the bin.
    """

    mean: FloatArray
    low: FloatArray
    high: FloatArray
    seeds: NDArray[np.int64]


def compute_curve_band(curves: ArrayLike, confidence: float = 0.95) -> CurveBand:
    """Average curves over seeds, bin by bin, with the t interval of each mean.

    Args:
        curves: One smoothed curve per seed, NaN where it has no value; shape (S, B).
        confidence: Of the interval in each bin by itself.
    """
    values = np.asarray(curves, dtype=np.float64)
    known = ~np.isnan(values)
    seeds = known.sum(axis=0)
    mean = np.where(
        seeds > 0, np.where(known, values, 0.0).sum(axis=0) / np.maximum(seeds, 1), np.nan
    )
    squares = np.where(known, (values - mean) ** 2, 0.0).sum(axis=0)
    freedom = np.maximum(seeds - 1, 1)
    error = np.sqrt(squares / freedom / np.maximum(seeds, 1))
    half = np.where(seeds > 1, t_quantile(1 - confidence, freedom) * error, np.nan)
    return CurveBand(mean=mean, low=mean - half, high=mean + half, seeds=seeds)


@dataclass(frozen=True)
class PairedDifference:
    """Candidate minus baseline, one difference per seed.

    Attributes:
        seeds: Pairs.
        mean: Mean difference.
        standard_deviation: Of the differences; None with one pair.
        low: Lower end of the paired t interval, at 95 % unless asked otherwise and not corrected
            for other games; None with one pair, or if the differences do not vary.
        high: Upper end, likewise.
    """

    seeds: int
    mean: float
    standard_deviation: float | None
    low: float | None
    high: float | None


def compare_pairs(
    baseline: ArrayLike, candidate: ArrayLike, confidence: float = 0.95
) -> PairedDifference:
    """Summarise the paired differences of one game.

    Args:
        baseline: A value per seed; shape (S,).
        candidate: The value of the same seeds, in the same order; shape (S,).
        confidence: Of the interval.

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
        return PairedDifference(1, mean, None, None, None)
    deviation = float(differences.std(ddof=1))
    if deviation <= 1e-12 * max(np.abs(before).max(), np.abs(after).max()):  # rounding alone
        return PairedDifference(seeds, mean, 0.0, None, None)
    half = float(t_quantile(1 - confidence, seeds - 1)) * deviation / math.sqrt(seeds)
    return PairedDifference(seeds, mean, deviation, mean - half, mean + half)


def t_quantile(alpha: ArrayLike, freedom: ArrayLike) -> FloatArray:
    """Half-width, in standard errors, of a two-sided t interval of level 1 - alpha."""
    quantile: FloatArray = special.stdtrit(freedom, 1 - np.asarray(alpha) / 2)
    return quantile


# --- verdicts -------------------------------------------------------------------------------------


def alpha_at_look(look: int, alpha: float, share: float) -> float:
    """The part of `alpha` spent on look number `look` at a plan whose seeds were added to.

    A look is a report on a finished plan; adding seeds to the plan and judging again is the next.
    Look k spends alpha * share * (1 - share)^(k - 1). However many looks there are, these sum to at
    most alpha, so that (Bonferroni over the looks) no rule for going on inflates the error.

    Raises:
        ValueError: If `look` is less than 1.
    """
    if look < 1:
        raise ValueError(f"`look` must be at least 1, got {look}.")
    return alpha * share * (1 - share) ** (look - 1)


def step_down(p_values: ArrayLike, alpha: float) -> tuple[NDArray[np.bool_], FloatArray]:
    """Holm's step-down test (Holm 1979): valid under any dependence between the hypotheses.

    The smallest p-value is compared with alpha / G, the next with alpha / (G - 1), and so on up to
    the first that is larger than its bound; the hypotheses before it are rejected.

    Args:
        p_values: Shape (..., G), range [0, 1].
        alpha: Probability of any false rejection.

    Returns:
        Which are rejected, and the level that each was compared with (the hypotheses that were not
        rejected: that of the step where the test stopped); both of shape (..., G).
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
    mean: ArrayLike, standard_error: ArrayLike, margin: ArrayLike, seeds: ArrayLike, alpha: float
) -> tuple[NDArray[Any], FloatArray]:
    """Judge the mean differences of a family of games: where does each one's interval lie?

    The p-value of a verdict is the smallest alpha at which the two-sided t interval lies where the
    verdict says, that is twice the one-sided p-value (for `similar`, of two one-sided tests).

    Args:
        mean: Mean paired difference; shape (..., G), as all that follow or broadcast to it.
        standard_error: Of the mean; where it is 0 or NaN the game is undecided.
        margin: Not negative; without one (0) no game is similar.
        seeds: Pairs; with fewer than `MIN_SEEDS` the game is undecided.
        alpha: Probability of a false verdict per family.

    Returns:
        Verdicts (str), and for each game the level alpha of the interval that shows its verdict: it
        lies beyond the margin for better and worse, within for similar, and neither for undecided
        (at the smaller of the levels the two step-down tests stopped at). Both of shape (..., G).
    """
    mean, error, margin, seeds = np.broadcast_arrays(mean, standard_error, margin, seeds)
    testable = (error > 0) & (seeds >= MIN_SEEDS)
    error, freedom = np.where(testable, error, 1.0), np.where(testable, seeds - 1, 1)
    from_upper, from_lower = (mean - margin) / error, (mean + margin) / error
    p_better = special.stdtr(freedom, -from_upper)
    p_worse = special.stdtr(freedom, from_lower)
    p_similar = np.maximum(special.stdtr(freedom, from_upper), special.stdtr(freedom, -from_lower))

    def p_value(one_sided: FloatArray) -> FloatArray:
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
    return verdicts, levels


@dataclass(frozen=True)
class GameScores:
    """What one game's runs scored, the arms paired by seed; the input of `judge_games`.

    Attributes:
        game: Its name.
        baseline: Primary metric of the plain network, one per seed; None without a finished game.
        candidate: The same of the other arm, same seeds, same order.
        baseline_final: Final scores of the plain network, likewise.
        candidate_final: Final scores of the other arm, likewise.
        complete: Every run planned for this game has ended (diverged runs have).
        random_return: Mean return of a random player; None where there is no such figure.
        human_return: Mean return of a human tester; None where there is no such figure.
    """

    game: str
    baseline: Sequence[float | None]
    candidate: Sequence[float | None]
    baseline_final: Sequence[float | None]
    candidate_final: Sequence[float | None]
    complete: bool
    random_return: float | None
    human_return: float | None

    def __post_init__(self) -> None:
        arms = (self.baseline, self.candidate, self.baseline_final, self.candidate_final)
        if len({len(arm) for arm in arms}) > 1:
            raise ValueError(
                f"{self.game}: both arms must have a score (or None) for every seed, got "
                f"{', '.join(str(len(arm)) for arm in arms)} of them."
            )


@dataclass(frozen=True)
class GameVerdict:
    """The verdict on one game.

    Attributes:
        game: Its name.
        verdict: Where the judged interval lies.
        reason: Why it is undecided, for a reader; None for the other verdicts.
        difference: Paired differences of the primary metric, with the uncorrected 95 % interval;
            None without a pair of scores.
        margin: In raw return; None where it cannot be told.
        judged_level: Alpha of the interval that the verdict was read off; None if none was.
        judged_low: Lower end of that interval.
        judged_high: Upper end.
        more_seeds: How many more seeds would give a verdict with probability `Criteria.power` if
            the observed difference and spread are the true ones; None if not asked or too many.
    """

    game: str
    verdict: Verdict
    reason: str | None
    difference: PairedDifference | None
    margin: float | None
    judged_level: float | None = None
    judged_low: float | None = None
    judged_high: float | None = None
    more_seeds: int | None = None

    @property
    def label(self) -> str:
        """The verdict as tables show it: "better", "undecided (not learned)"."""
        return self.verdict if self.reason is None else f"{self.verdict} ({self.reason})"


def judge_games(
    games: Sequence[GameScores], criteria: Criteria, look: int = 1
) -> tuple[GameVerdict, ...]:
    """Give each game of a family its verdict.

    The margin is `margin_fraction` of the baseline's mean gain over a random player, 0 if it gained
    nothing; it is estimated from the same runs and then taken as known. Whether an arm has learned
    is a one-sided t test of its final scores, at half of `criteria.alpha` for each of the two arms.

    Args:
        games: Every game of the plan, so that the correction is for all of them.
        criteria: As declared in the plan.
        look: 1 for the first judgement of a plan, one more each time seeds were added after one.

    Returns:
        A verdict per game, in the order given.

    Raises:
        ValueError: If the arms of a game do not pair up, or `look` is less than 1.
    """
    if not games:
        return ()
    alpha = alpha_at_look(look, criteria.alpha, criteria.look_share)
    differences = [_compare_scores(game) for game in games]
    margins = [_compute_margin(game, criteria) for game in games]
    obstacles = [
        _find_obstacle(game, difference, criteria)
        for game, difference in zip(games, differences, strict=True)
    ]
    verdicts, levels = decide(
        mean=[difference.mean if difference else 0.0 for difference in differences],
        standard_error=[
            math.nan if obstacle or difference is None else _standard_error(difference)
            for difference, obstacle in zip(differences, obstacles, strict=True)
        ],
        margin=[margin or 0.0 for margin in margins],
        seeds=[difference.seeds if difference else 0 for difference in differences],
        alpha=alpha,
    )
    results = []
    for game, difference, margin, obstacle, verdict, level in zip(
        games, differences, margins, obstacles, verdicts.tolist(), levels.tolist(), strict=True
    ):
        if obstacle is not None:
            result = GameVerdict(game.game, "undecided", obstacle, difference, margin)
        else:
            assert difference is not None
            assert margin is not None
            half = float(t_quantile(level, difference.seeds - 1)) * _standard_error(difference)
            reason, more_seeds = None, None
            if verdict == "undecided":
                next_level = level * (1 - criteria.look_share)
                reason, more_seeds = _suggest_seeds(difference, margin, next_level, criteria)
            result = GameVerdict(
                game.game,
                verdict,
                reason,
                difference,
                margin,
                level,
                difference.mean - half,
                difference.mean + half,
                more_seeds,
            )
        results.append(result)
    return tuple(results)


def _suggest_seeds(
    difference: PairedDifference, margin: float, alpha: float, criteria: Criteria
) -> tuple[str, int | None]:
    needed = find_seeds_needed(
        difference.mean,
        _standard_error(difference) * math.sqrt(difference.seeds),
        margin,
        alpha=alpha,
        power=criteria.power,
        max_seeds=criteria.max_seeds,
    )
    if needed is None:
        return f"it would take more than {criteria.max_seeds} seeds", None
    more = max(needed - difference.seeds, 1)
    return f"about {more} more seed{'s' if more > 1 else ''}", more


def _compare_scores(game: GameScores) -> PairedDifference | None:
    pairs = [
        (before, after)
        for before, after in zip(game.baseline, game.candidate, strict=True)
        if before is not None and after is not None
    ]
    return compare_pairs(*np.transpose(pairs)) if pairs else None


def _standard_error(difference: PairedDifference) -> float:
    return (difference.standard_deviation or 0.0) / math.sqrt(difference.seeds)


def _compute_margin(game: GameScores, criteria: Criteria) -> float | None:
    known = [score for score in game.baseline if score is not None]
    if game.random_return is None or not known:
        return None
    return criteria.margin_fraction * max(float(np.mean(known)) - game.random_return, 0.0)


def _find_obstacle(
    game: GameScores, difference: PairedDifference | None, criteria: Criteria
) -> str | None:
    if not game.complete:
        return "incomplete"
    if difference is None or None in (*game.baseline, *game.candidate):
        return "no finished game"
    if difference.seeds < MIN_SEEDS:
        return f"needs {MIN_SEEDS} seeds"
    if game.random_return is None or game.human_return is None:
        return "no random and human scores"
    threshold = game.random_return + criteria.learned_fraction * abs(
        game.human_return - game.random_return
    )
    finals = (game.baseline_final, game.candidate_final)
    if not any(_exceeds(arm, threshold, criteria.alpha / 2) for arm in finals):
        return "not learned"
    return None if difference.standard_deviation else "no variation between seeds"


def _exceeds(scores: Sequence[float | None], threshold: float, alpha: float) -> bool:
    """Tell by a one-sided t test of level `alpha` whether the mean of `scores` exceeds `threshold`.

    False with fewer than two scores. Scores without variation are compared as they are.
    """
    values = np.array([score for score in scores if score is not None], dtype=np.float64)
    if len(values) < 2:
        return False
    half = t_quantile(2 * alpha, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return bool(values.mean() - half > threshold)


# --- power ----------------------------------------------------------------------------------------


def find_seeds_needed(
    mean: float,
    standard_deviation: float,
    margin: float,
    *,
    alpha: float,
    power: float,
    max_seeds: int,
) -> int | None:
    """The fewest seeds that give a verdict with probability `power`, by the noncentral t.

    A difference beyond the margin aims at better or worse, one within it at similar (both of whose
    one-sided tests must reject: the sum of their powers less 1, a lower bound).

    Args:
        mean: The true mean paired difference.
        standard_deviation: Of the paired differences, above 0.
        margin: As in the verdict.
        alpha: Level of the two-sided interval that the verdict is read off.
        power: Target probability.
        max_seeds: Where to give up.

    Returns:
        Seeds in all, or None if even `max_seeds` are too few.
    """
    seeds = np.arange(MIN_SEEDS, max_seeds + 1)
    scale = np.sqrt(seeds) / standard_deviation
    distance = abs(mean) - margin
    if distance > 0:
        reached = compute_power(distance * scale, seeds - 1, alpha)
    else:
        reached = (
            compute_power(-distance * scale, seeds - 1, alpha)
            + compute_power((margin + abs(mean)) * scale, seeds - 1, alpha)
            - 1
        )
    enough = np.flatnonzero(reached >= power)
    return int(seeds[enough[0]]) if len(enough) else None


def find_detectable_difference(
    seeds: int, standard_deviation: float, *, alpha: float, power: float
) -> float | None:
    """The smallest mean difference beyond the margin that a plan tells from it.

    For a plan of G games before any data, `alpha` is `alpha_at_look(1, ...) / G`: what the smallest
    of Holm's steps allows.

    Args:
        seeds: Pairs planned.
        standard_deviation: Of the paired differences; 1 gives the answer in standard deviations.
        alpha: Level of the two-sided interval that the verdict is read off.
        power: Probability of the verdict.

    Returns:
        A difference in the unit of `standard_deviation`, or None with fewer than `MIN_SEEDS` seeds.
    """
    if seeds < MIN_SEEDS:
        return None
    freedom = seeds - 1
    noncentrality = optimize.brentq(
        lambda delta: float(compute_power(delta, freedom, alpha)) - power,
        0.0,
        3 * float(t_quantile(alpha, freedom)) + 10,
    )
    return float(noncentrality * standard_deviation / math.sqrt(seeds))


def compute_power(noncentrality: ArrayLike, freedom: ArrayLike, alpha: float) -> FloatArray:
    """Probability that the two-sided t interval of level 1 - alpha lies above a point.

    The upper tail of the noncentral t distribution, as the mean over the chi-square distribution of
    the estimated variance (scipy's own gives NaN for some arguments).

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


# --- over games and pairs of seeds ----------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A figure with its bootstrap interval; the ends are None where resampling changes nothing."""

    value: float
    low: float | None
    high: float | None


def estimate_interquartile_mean(
    scores: Sequence[ArrayLike], rng: np.random.Generator, confidence: float = 0.95
) -> Estimate:
    """Interquartile mean of all runs' scores, with a stratified bootstrap interval.

    The mean of the middle half of the scores of all games and seeds together (Agarwal et al. 2021,
    "Deep Reinforcement Learning at the Edge of the Statistical Precipice", section 4.3): a quarter,
    rounded down, is left out at each end. The bootstrap draws seeds anew within each game. With few
    seeds its plain percentiles lie too close together (measured on the data of `simulate.py` with 3
    seeds: 88 % coverage), so they are moved outwards (95.7 %): the expanded percentile interval of
    Hesterberg 2015, "What Teachers Should Know About the Bootstrap".

    Args:
        scores: For each game the (human-normalised) scores of its seeds; shapes (S_g,).
        rng: Source of the resampling.
        confidence: Of the interval.

    Raises:
        ValueError: If there are no scores.
    """
    values = _check_strata(scores)
    resampled = np.concatenate(
        [game[rng.integers(len(game), size=(RESAMPLES, len(game)))] for game in values], axis=-1
    )
    observed = _interquartile_mean(np.concatenate(values))
    return _make_estimate(observed, _interquartile_mean(resampled), values, confidence)


def estimate_probability_of_improvement(
    baseline: Sequence[ArrayLike],
    candidate: Sequence[ArrayLike],
    rng: np.random.Generator,
    confidence: float = 0.95,
) -> Estimate:
    """Probability that a run of the candidate beats one of the baseline in a game drawn at random.

    Over all pairs of a candidate's and a baseline's run in a game, a tie counting half, averaged
    over the games (Agarwal et al. 2021, section 4.3). The bootstrap draws seeds anew within each
    game, both arms' runs of a seed together; its interval is made as that of
    `estimate_interquartile_mean`.

    Args:
        baseline: For each game a score per seed; shapes (S_g,). One game gives that game's figure.
        candidate: The scores of the same seeds.
        rng: Source of the resampling.
        confidence: Of the interval.

    Raises:
        ValueError: If there are no scores, or the arms do not pair up.
    """
    before, after = _check_strata(baseline), _check_strata(candidate)
    if [len(game) for game in before] != [len(game) for game in after]:
        raise ValueError("`baseline` and `candidate` must have the same games and seeds.")
    observed, resampled = [], []
    for plain, other in zip(before, after, strict=True):
        seeds = len(plain)
        wins = (np.sign(other[:, None] - plain[None, :]) + 1) / 2
        counts = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES)
        observed.append(wins.mean())
        resampled.append(((counts @ wins) * counts).sum(axis=-1) / seeds**2)
    return _make_estimate(np.mean(observed), np.mean(resampled, axis=0), before, confidence)


def _check_strata(scores: Sequence[ArrayLike]) -> list[FloatArray]:
    values = [np.asarray(game, dtype=np.float64) for game in scores]
    if not values or any(game.ndim != 1 or not game.size for game in values):
        raise ValueError("every game must have a score; leave out those without.")
    return values


def _interquartile_mean(scores: FloatArray) -> FloatArray:
    quarter = scores.shape[-1] // 4
    ordered = np.sort(scores, axis=-1)
    mean: FloatArray = ordered[..., quarter : scores.shape[-1] - quarter].mean(axis=-1)
    return mean


def _make_estimate(
    value: Any, resampled: FloatArray, strata: list[FloatArray], confidence: float
) -> Estimate:
    if np.ptp(resampled) <= 1e-12 * np.abs(resampled).max():
        return Estimate(float(value), None, None)
    runs = sum(map(len, strata))
    freedom = runs - len(strata)
    tail = special.ndtr(-t_quantile(1 - confidence, freedom) * math.sqrt(runs / freedom))
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Estimate(float(value), float(low), float(high))
