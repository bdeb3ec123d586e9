import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import special, stats

from configs.comparison import StoppingRule, default_criteria
from experiments.comparison.statistics import simulate
from experiments.comparison.statistics.bootstrap import (
    estimate_interquartile_difference,
    estimate_interquartile_mean,
)
from experiments.comparison.statistics.curves import (
    bin_returns,
    compute_curve_band,
    final_score,
    find_steps_to_reach,
    mean_return_over_training,
    means_at,
    smooth_learning_curve,
)
from experiments.comparison.statistics.improvement import estimate_probability_of_improvement
from experiments.comparison.statistics.intervals import (
    Estimate,
    FloatArray,
    PairedDifference,
    compare_pairs,
)
from experiments.comparison.statistics.power import (
    compute_power,
    find_detectable_difference,
    find_seeds_needed,
)
from experiments.comparison.statistics.sequential import (
    SequentialDesign,
    find_least_statistic,
)
from experiments.comparison.statistics.verdicts import (
    GameScores,
    Stage,
    alpha_at_look,
    decide,
    judge_games,
    step_down,
)

ALPHA = alpha_at_look(1, 0.05, 0.8)
NAN = math.nan


@pytest.mark.parametrize(
    ("agent_steps", "returns", "expected"),
    [
        # 100 agent steps, 5 bins of 20: a game at the end of a bin belongs to it
        ([1, 20, 21, 100], [1, 3, 10, 4], [2, 10, NAN, NAN, 4]),
        ([101], [7], [NAN] * 5),
        ([], [], [NAN] * 5),
    ],
)
def test_bin_returns(agent_steps, returns, expected):
    np.testing.assert_array_equal(bin_returns(agent_steps, returns, 100, bins=5), expected)


@pytest.mark.parametrize(
    ("agent_steps", "returns", "expected"),
    [
        # 1000 agent steps, bins of 10. Empty bins repeat the one before: 50 bins of 2, 50 of 6.
        ([10, 510], [2, 6], 4.0),
        # The first game's return holds from the start: 90 bins of 5, 10 of 15.
        ([400, 901], [5, 15], 6.0),
        # Nine short games in the first tenth weigh as much as one long game in any other tenth.
        ([*range(10, 100, 10), 101], [0] * 9 + [10], 9.0),
        # Games in one bin are averaged; those after the end do not count.
        ([5, 6, 7, 1001], [1, 2, 6, 999], 3.0),
        ([1001], [3], None),
        ([], [], None),
    ],
)
def test_mean_return_over_training(agent_steps, returns, expected):
    assert mean_return_over_training(agent_steps, returns, 1000) == pytest.approx(expected)


def test_final_score_is_of_the_last_100_games():
    assert final_score([1000.0, *range(100)]) == 49.5
    assert final_score([1.0, 2.0]) == 1.5
    assert final_score([]) is None


def test_steps_to_reach_takes_the_mean_of_100_games():
    steps = np.arange(1, 301) * 10
    returns = np.repeat([0.0, 1.0], 150)
    # After game 200 the last 100 games are 50 of each kind.
    assert find_steps_to_reach(steps, returns, 0.5) == 2000
    assert find_steps_to_reach(steps, returns, 0.0) == 1000
    assert find_steps_to_reach(steps, returns, 1.01) is None
    assert find_steps_to_reach(steps[:99], np.ones(99), 0.5) is None
    assert find_steps_to_reach([], [], 0.0) is None


def test_means_at_marks_are_of_the_last_games_that_had_ended():
    """Game k, counted from 1, ends at step 10 k with the return k."""
    numbers = np.arange(1, 104)
    # Of games 1 to 100 the mean is 50.5; of 2 to 101 and of 4 to 103, one and three more.
    means = means_at([999, 1000, 1019, 10**6], 10 * numbers, numbers)
    np.testing.assert_allclose(means, [NAN, 50.5, 51.5, 53.5])
    assert np.isnan(means_at([1000], numbers[:99], numbers[:99])).all()


def test_smoothed_curve_averages_five_bins_and_fewer_at_the_ends():
    # Bins of 10; none ended in the first, the fifth repeats the fourth, nothing after the sixth.
    curve = smooth_learning_curve([15, 25, 35, 55], [0, 10, 20, 60], 80, bins=8)
    # filled: -, 0, 10, 20, 20, 60, -, -
    np.testing.assert_allclose(curve, [NAN, 10, 12.5, 22, 27.5, 100 / 3, NAN, NAN])
    assert np.isnan(smooth_learning_curve([], [], 80)).all()


def test_curve_band_by_hand():
    band = compute_curve_band([[1, 5, NAN, NAN], [2, NAN, NAN, 4], [3, 7, NAN, NAN]])
    np.testing.assert_array_equal(band.seeds, [3, 2, 0, 1])
    np.testing.assert_array_equal(band.mean, [2, 6, NAN, 4])
    # t(0.975) is 4.302653 with 2 and 12.706205 with 1 degree of freedom.
    half = np.array([4.302653 / math.sqrt(3), 12.706205, NAN, NAN])
    np.testing.assert_allclose(band.high - band.mean, half, rtol=1e-6)
    np.testing.assert_allclose(band.mean - band.low, half, rtol=1e-6)


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_paired_interval_equals_scipy(seeds):
    rng = np.random.default_rng(seeds)
    baseline, candidate = rng.normal(size=(2, seeds))
    expected = stats.ttest_rel(candidate, baseline).confidence_interval(0.95)
    result = compare_pairs([*zip(baseline, candidate, strict=True)])
    assert result.interval_95 == pytest.approx((expected.low, expected.high))


def test_paired_differences_by_hand():
    result = compare_pairs([(10, 11), (20, 22), (30, 33)])
    assert (result.pairs, result.mean_difference, result.standard_deviation) == (3, 2.0, 1.0)
    assert compare_pairs([]) == PairedDifference(0, None, None, None)
    assert compare_pairs([(1.0, 3.0)]) == PairedDifference(1, 2.0, None, None)
    assert compare_pairs([(0.0, 0.0)] * 2) == PairedDifference(2, 0.0, 0.0, None)
    # 0.1 added to each, which differs in the last bits
    result = compare_pairs([(0.1, 0.2), (0.2, 0.1 + 0.2), (0.7, 0.8)])
    assert (result.standard_deviation, result.interval_95) == (0.0, None)


def test_looks_spend_no_more_than_alpha():
    spent = [alpha_at_look(look, 0.05, 0.8) for look in range(1, 50)]
    assert spent[:3] == pytest.approx([0.04, 0.008, 0.0016])
    assert sum(spent) <= 0.05 + 1e-15


def test_step_down_by_hand():
    # Bounds 0.0125, 0.01667, 0.025, 0.05: 0.01 and 0.016 pass, 0.03 stops; 0.04 is not reached.
    rejected, levels = step_down([0.03, 0.01, 0.04, 0.016], 0.05)
    assert rejected.tolist() == [False, True, False, True]
    assert levels == pytest.approx([0.05 / 2, 0.05 / 4, 0.05 / 2, 0.05 / 3])


def _verdicts_by_scipy(differences: FloatArray, margins: FloatArray, alpha: float) -> list[str]:
    """The same family judged with scipy's t tests and Holm's procedure as nested loops."""

    def p(sample: FloatArray, point: float, alternative: str) -> float:
        return float(stats.ttest_1samp(sample, point, alternative=alternative).pvalue)

    difference, similarity, directions = [], [], []
    for sample, margin in zip(differences, margins, strict=True):
        better, worse = p(sample, margin, "greater"), p(sample, -margin, "less")
        directions.append("better" if better < worse else "worse")
        difference.append(2 * min(better, worse))
        similarity.append(2 * max(p(sample, margin, "less"), p(sample, -margin, "greater")))
    verdicts = ["undecided"] * len(differences)
    for p_values, names in ((difference, directions), (similarity, ["similar"] * len(margins))):
        for step, game in enumerate(sorted(range(len(margins)), key=p_values.__getitem__)):
            if p_values[game] > alpha / (len(margins) - step):
                break
            verdicts[game] = names[game]
    return verdicts


def _random_families(count: int) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Differences of 4 games with 6 seeds, their means and standard errors, and the margins."""
    rng = np.random.default_rng(7)
    truth = rng.choice([-4.0, -1.0, 0.0, 0.2, 1.0, 4.0], size=(count, 4, 1))
    spread = rng.choice([0.1, 0.3, 1.0], size=(count, 4, 1))
    differences = truth + spread * rng.normal(size=(count, 4, 6))
    error = differences.std(-1, ddof=1) / math.sqrt(6)
    return differences, differences.mean(-1), error, np.array([1.0, 1.0, 0.5, 0.0])


def test_verdicts_equal_an_independent_implementation():
    differences, mean, error, margins = _random_families(100)
    verdicts, _ = decide(mean, error, margins, 6, 0.05)
    assert verdicts.tolist() == [_verdicts_by_scipy(f, margins, 0.05) for f in differences]
    assert {"better", "worse", "similar", "undecided"} == set(verdicts.ravel())


def test_each_verdict_is_where_its_interval_lies():
    _, mean, error, margins = _random_families(300)
    verdicts, levels = decide(mean, error, margins, 6, 0.05)
    half = stats.t.ppf(1 - levels / 2, 5) * error
    low, high = mean - half, mean + half
    expected = np.select(
        [low > margins, high < -margins, (low > -margins) & (high < margins)],
        ["better", "worse", "similar"],
        "undecided",
    )
    assert verdicts.tolist() == expected.tolist()


def test_finishing_another_game_withdraws_no_verdict():
    _, mean, error, margins = _random_families(300)
    all_verdicts, _ = decide(mean, error, margins, 6, 0.05)
    error[:, 0] = NAN
    verdicts, _ = decide(mean, error, margins, 6, 0.05)
    assert (verdicts[:, 0] == "undecided").all()
    decided = verdicts != "undecided"
    assert (all_verdicts[decided] == verdicts[decided]).all()
    assert (all_verdicts[:, 1:] != verdicts[:, 1:]).any()


BETTER = [19.0, 20.0, 21.0]


def _game(differences: list[float], *, name: str = "Pong", **changes: Any) -> GameScores:
    """A game in which the baseline gained about 100 over random play, so with a margin of 5."""
    baseline = [100.0 + 3 * seed for seed in range(len(differences))]
    baseline = [value - sum(baseline) / len(baseline) + 100 for value in baseline]
    candidate = [before + more for before, more in zip(baseline, differences, strict=True)]
    scores = GameScores(
        game=name,
        baseline=baseline,
        candidate=candidate,
        baseline_final=baseline,
        candidate_final=candidate,
        ended=[True] * len(differences),
        random_return=0.0,
        human_return=1000.0,
    )
    return replace(scores, **changes)


@pytest.mark.parametrize(
    ("differences", "changes", "label"),
    [
        (BETTER, {}, "better"),
        ([-19.0, -20.0, -21.0], {}, "worse"),
        ([-0.5, 0.0, 0.5], {}, "similar"),
        (BETTER, {"ended": [True, True, False]}, "no verdict yet"),
        ([19.0, 20.0], {}, "undecided (needs 3 seeds)"),
        ([19.0], {}, "undecided (needs 3 seeds)"),
        (BETTER, {"candidate": [None, 120.0, 121.0]}, "undecided (no finished game)"),
        (
            BETTER,
            {"candidate": [None] * 3, "candidate_final": [None] * 3},
            "undecided (no finished game)",
        ),
        ([20.0, 20.0, 20.0], {}, "undecided (no variation between seeds)"),
        (
            BETTER,
            {"baseline_final": [-1.0, 0.0, 1.0], "candidate_final": [0.0, 10.0, 20.0]},
            "undecided (not learned)",
        ),
        # One arm that learned is enough; it takes 5 more than random play.
        (
            BETTER,
            {"baseline_final": [-1.0, 0.0, 1.0], "candidate_final": [7.8, 8.0, 8.2]},
            "better",
        ),
        (BETTER, {"human_return": None}, "undecided (no random and human scores)"),
        (BETTER, {"random_return": None}, "undecided (no random and human scores)"),
        # Beyond the margin by 0.74 standard deviations: (2.65 + 0.84)^2 / 0.74^2 is 22 by normal
        # quantiles at the next look's 0.8 %, 26 by t.
        ([0.0, 20.0, 45.0], {}, "undecided (about 23 more seeds)"),
        ([3.0, 5.0, 7.001], {}, "undecided (it would take more than 200 seeds)"),
    ],
)
def test_verdict_labels(differences, changes: dict[str, Any], label):
    (result,) = judge_games([_game(differences, **changes)], default_criteria(), ALPHA)
    assert result.label == label
    assert (result.judged_interval is None) == (
        result.verdict == "undecided" and "more" not in label
    )


def test_margin_and_judged_interval_by_hand():
    (result,) = judge_games([_game(BETTER)], default_criteria(), ALPHA)
    assert result.margin == pytest.approx(5.0)
    assert result.judged_level == pytest.approx(0.04)
    half = stats.t.ppf(0.98, 2) / math.sqrt(3)
    assert result.judged_interval == pytest.approx((20 - half, 20 + half))
    half = 4.302653 / math.sqrt(3)
    assert result.interval_95 == pytest.approx((20 - half, 20 + half))


def test_margin_is_never_negative():
    game = _game(BETTER, random_return=500.0, candidate_final=[900.0, 901.0, 902.0])
    (result,) = judge_games([game], default_criteria(), ALPHA)
    assert (result.margin, result.verdict) == (0.0, "better")


def test_every_game_of_the_plan_counts_and_so_does_every_look():
    good = _game([15.0, 20.0, 25.0])
    waiting = [_game([0.0] * 3, name=str(i), ended=[False] * 3) for i in range(8)]
    alone, *_ = judge_games([good], default_criteria(), ALPHA)
    among_nine, *_ = judge_games([good, *waiting], default_criteria(), ALPHA)
    second_look, *_ = judge_games([good], default_criteria(), 0.008)
    verdicts = [result.verdict for result in (alone, among_nine, second_look)]
    assert verdicts == ["better", "undecided", "undecided"]
    assert among_nine.judged_level == pytest.approx(0.04 / 9)
    assert second_look.judged_level == pytest.approx(0.008)


@pytest.mark.parametrize("freedom", [2, 4, 9, 30])
def test_power_is_the_noncentral_t(freedom):
    noncentrality = np.linspace(0, 30, 31)
    expected = stats.nct.sf(stats.t.ppf(0.99, freedom), freedom, noncentrality)
    power = compute_power(noncentrality, freedom, 0.02)
    np.testing.assert_allclose(power, expected, atol=1e-4)


def test_power_stays_one_where_scipys_noncentral_t_is_nan():
    noncentrality = np.linspace(30, 100, 701)
    assert np.isnan(special.nctdtr(99, noncentrality, stats.t.ppf(0.98, 99))).any()
    assert (compute_power(noncentrality, 99, 0.04) > 1 - 1e-9).all()


def test_detectable_difference_by_simulation_and_known_value():
    # The usual table: 2.0 standard deviations need 4.2 pairs, 1.0 need 9.94 (two-sided 5 %, 80 %).
    assert find_detectable_difference(10, 0.05, 0.8) == pytest.approx(1.0, abs=0.01)
    difference = find_detectable_difference(5, 0.01, 0.8)
    assert difference is not None
    samples = difference + np.random.default_rng(0).normal(size=(40_000, 5))
    half = stats.t.ppf(0.995, 4) * samples.std(-1, ddof=1) / math.sqrt(5)
    assert (samples.mean(-1) - half > 0).mean() == pytest.approx(0.8, abs=0.01)
    assert find_detectable_difference(2, 0.05, 0.8) is None


@pytest.mark.parametrize("mean", [4.0, -4.0, 0.0, 0.5])
def test_seeds_needed_reach_the_power_in_a_simulation(mean):
    needed = find_seeds_needed(mean, 2.0, 1.5, 0.05, default_criteria())  # a power of 80 %
    assert needed is not None
    rates = []
    for seeds in (needed, needed - 1):
        samples = mean + 2.0 * np.random.default_rng(1).normal(size=(20_000, seeds))
        half = stats.t.ppf(0.975, seeds - 1) * samples.std(-1, ddof=1) / math.sqrt(seeds)
        beyond = abs(samples.mean(-1)) - 1.5
        rates.append((beyond > half if abs(mean) > 1.5 else -beyond > half).mean())
    assert rates[0] >= 0.79
    assert rates[1] < 0.81
    for lost in (1.0, 0.0):  # at the margin
        assert find_seeds_needed(lost, 1.0, lost, 0.05, default_criteria()) is None


def test_interquartile_mean_by_hand():
    rng = np.random.default_rng(0)
    # 8 scores: the two smallest and the two largest are left out.
    by_hand = estimate_interquartile_mean([[1, 100, 3, 4], [5, 6, 7, -50]], rng)
    assert by_hand.value == (3 + 4 + 5 + 6) / 4


@pytest.mark.parametrize(
    ("games", "seeds", "lowest", "highest"), [(1, 3, 0.7, 0.8), (2, 3, 0.85, 0.95), (2, 5, 0.93, 1)]
)
def test_how_often_the_interval_covers_the_interquartile_mean(games, seeds, lowest, highest):
    """Of normal scores with mean 0: with one game's 3 seeds at most 1 - 2 / 2^3."""
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(300):
        interval = estimate_interquartile_mean(
            list(rng.normal(size=(games, seeds))), rng
        ).interval_95
        assert interval is not None
        hits.append(interval[0] <= 0 <= interval[1])
    assert lowest <= np.mean(hits) <= highest


def test_probability_of_improvement_by_hand_and_by_mann_whitney():
    rng = np.random.default_rng(0)
    # First game 3 wins and a tie of 4 pairs; second game none of 4.
    by_hand = estimate_probability_of_improvement([[(1, 2), (2, 3)], [(5, 1), (6, 2)]])
    assert by_hand.value == (3.5 / 4 + 0) / 2
    baseline, candidate = rng.integers(10, size=(2, 6))
    expected = stats.mannwhitneyu(candidate, baseline).statistic / 36
    result = estimate_probability_of_improvement([np.transpose([baseline, candidate])])
    assert result.value == pytest.approx(expected)


def test_the_probability_of_improvements_interval_is_the_binomials_of_as_many_runs():
    # Two wins of four pairs in each of two games: two of the four disjoint comparisons.
    games = [[(1.0, 0.0), (2.0, 3.0)]] * 2
    exact = stats.binomtest(2, 4).proportion_ci(0.95, "exact")
    assert estimate_probability_of_improvement(games).interval_95 == pytest.approx(exact)
    # Four seeds more of one game are no further comparison of both.
    more = [games[0], [*games[1]] * 3]
    assert estimate_probability_of_improvement(more).interval_95 == pytest.approx(exact)
    # No run of 45 beats one of the baseline's: 1 - 0.025^(1/45).
    lost = estimate_probability_of_improvement([[(1.0, 0.0)] * 5] * 9)
    assert lost.value == 0
    assert lost.interval_95 == pytest.approx((0.0, 0.0787), abs=1e-4)
    won = estimate_probability_of_improvement([[(0.0, 1.0)] * 5] * 9)
    assert won.value == 1
    assert won.interval_95 == pytest.approx((0.9213, 1.0), abs=1e-4)


@pytest.mark.parametrize("truth", [[0.02] * 9, [0.001] * 8 + [0.3], [0.5] * 9, [0.5]])
@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_the_probability_of_improvements_interval_covers_it(truth, shared):
    rng, shift = np.random.default_rng(0), math.sqrt(2) * stats.norm.ppf(truth)
    covered = []
    for _ in range(400):
        own, common = (
            rng.standard_normal((len(truth), 5, 2)),
            rng.standard_normal((len(truth), 5, 1)),
        )
        runs = math.sqrt(1 - shared) * own + math.sqrt(shared) * common
        runs[..., 1] += shift[:, None]
        low, high = estimate_probability_of_improvement(list(runs)).interval_95 or (NAN, NAN)
        covered.append(low <= np.mean(truth) <= high)
    assert np.mean(covered) >= 0.95


def test_bootstrap_is_expanded_and_stratified():
    rng = np.random.default_rng(1)
    scores = [10 * game + rng.normal(size=5) for game in range(2)]
    result = estimate_interquartile_mean(scores, np.random.default_rng(0))
    # The same by scipy: seeds drawn within each game, percentiles at the widened tails.
    draws = np.concatenate([rng.choice(game, (10_000, 5)) for game in scores], axis=1)
    means = stats.trim_mean(draws, 0.25, axis=1)
    tail = stats.norm.sf(stats.t.ppf(0.975, 8) * math.sqrt(10 / 8))
    assert result.interval_95 == pytest.approx(np.quantile(means, [tail, 1 - tail]), abs=0.05)
    assert result == estimate_interquartile_mean(scores, np.random.default_rng(0))
    assert result != estimate_interquartile_mean(scores, np.random.default_rng(1))


def test_interquartile_difference_is_that_of_the_means_and_draws_seeds_in_pairs():
    rng = np.random.default_rng(0)
    pairs = [[(1, 2), (100, 300), (3, 4), (4, 5)], [(5, 6), (6, 7), (7, 8), (-50, -60)]]
    # The middle four: 3, 4, 5, 6 and 4, 5, 6, 7.
    assert estimate_interquartile_difference(pairs, rng).value == pytest.approx(1)
    # A difference that is the same in every pair is so in every resample, however they vary.
    shifted = [[(value, value + 2.0) for value in game] for game in ([1, 5, 9], [2, 4, 40])]
    assert estimate_interquartile_difference(shifted, rng) == Estimate(2.0, None)


def test_failures_of_one_arm_keep_its_mean():
    rng = np.random.default_rng(0)
    changed = simulate.fail_alone(np.ones(100_000), rng)
    assert set(np.round(np.unique(changed), 6)) == {0.2, 1.2}
    assert changed.mean() == pytest.approx(1, abs=0.01)


def test_no_interval_where_resampling_changes_nothing():
    rng = np.random.default_rng(0)
    assert estimate_interquartile_mean([[1.0], [3.0]], rng) == Estimate(2.0, None)


@pytest.mark.parametrize("seeds", simulate.SEEDS)
def test_error_rates_on_simulated_comparisons(seeds):
    rates = simulate.simulate_comparisons(1500, seeds, np.random.default_rng(0))
    # Without Holm's correction more than a fifth of the families has a false verdict, and with
    # normal instead of t quantiles the coverage is 84 %, 90 % and 92.6 % with 3, 5 and 10 seeds.
    assert rates[simulate.FALSE_DIFFERENCE] <= 0.05
    assert rates[simulate.FALSE_WITHOUT_MARGIN] <= 0.05
    assert rates[simulate.FALSE_AT_MARGIN] <= 0.05
    for coverage in (simulate.COVERAGE_SAME, simulate.COVERAGE_EFFECTS):
        assert 0.93 <= rates[coverage] < 0.985
    better = [rate for name, rate in rates.items() if name.startswith("games better")]
    assert better[0] < better[1] < better[2]


def test_simulated_gains_have_the_expected_mean_and_correlate_by_seed():
    baseline, candidate = simulate.simulate_gains(np.random.default_rng(0), 20_000, 2)
    expected = simulate.compute_expected_gain()
    for arm in (baseline, candidate):
        np.testing.assert_allclose(arm.mean(axis=(0, 2)), expected, rtol=0.01)
    for game in range(simulate.GAMES):
        correlation = np.corrcoef(baseline[:, game].ravel(), candidate[:, game].ravel())[0, 1]
        assert 0.1 < correlation < 0.6


def test_simulation_prints_the_same_table_each_time(capsys):
    assert simulate.main(["--families", "5"]) == 0
    table = capsys.readouterr().out
    assert table.startswith("| | 3 seeds | 5 seeds | 10 seeds |\n|---|---:|---:|---:|\n")
    assert "5 families of 9 games" in table
    assert simulate.main(["--families", "5"]) == 0
    assert capsys.readouterr().out == table


@pytest.mark.parametrize(
    ("families", "message"),
    [
        ("0", "error: --families must be 1 to 100000, got 0."),
        ("1000000000000", "error: --families must be 1 to 100000, got 1000000000000."),
        ("many", "invalid int value: 'many'"),
    ],
)
def test_simulation_names_wrong_options_in_one_line(families, message, refuse):
    assert message in refuse(simulate.main, ["--families", families])


# --- plans that go on until decided ---------------------------------------------------------------

DESIGN = SequentialDesign(10, StoppingRule(first_look=3, level_exponent=2.0, futility=0.05))


def _draw_null(seeds: int, families: int) -> FloatArray:
    """One-sided p-values, by scipy, of the looks at normal differences without an effect."""
    values = np.random.default_rng(11).normal(3.0, 2.0, size=(families, seeds))
    looks = [stats.ttest_1samp(values[:, :n], 3.0, axis=1) for n in range(3, seeds + 1)]
    return np.stack([stats.t.sf(look.statistic, look.df) for look in looks], axis=-1)


def test_sequential_p_values_are_valid_wherever_a_game_stops():
    p_values = _draw_null(10, 20_000)
    seeds = np.arange(3, 11)
    sequential = DESIGN.correct(p_values, seeds)
    for alpha in (0.2, 0.02):
        rate = (sequential <= alpha).any(axis=-1).mean()  # the worst of all rules to stop by
        assert rate == pytest.approx(alpha, abs=4 * math.sqrt(alpha / 20_000))
    # A plain p-value is that of the last look alone.
    assert (p_values <= 0.02).any(axis=-1).mean() > 0.05


def test_levels_rise_with_the_square_of_the_seeds_and_show_the_verdict():
    levels = DESIGN.nominal_level(0.04, [3, 5, 10])
    assert levels / levels[-1] == pytest.approx([0.09, 0.25, 1.0])
    assert 0.018 < levels[-1] < 0.022  # of 0.04: looking has its price
    # At the nominal level the sequential p-value crosses alpha / 2.
    below, above = DESIGN.correct(levels / 2 * [[0.999], [1.001]], [3, 5, 10])
    assert (below <= 0.02).all()
    assert (above > 0.0199).all()


def test_a_single_look_is_the_plain_t_test():
    one_look = SequentialDesign(3, DESIGN.rule)
    assert one_look.correct(0.02, 3) == pytest.approx(0.02, rel=0.05)
    assert float(one_look.nominal_level(0.04, 3)) == pytest.approx(0.04, rel=0.05)


def test_futility_by_hand():
    # One seed of four is left, and a test of level 1/2 asks for no more than a mean above 0, that
    # is next - mean > -4 * mean. After 3 seeds (next - mean) / (sd * sqrt(4 / 3)) follows t with 2
    # degrees of freedom, which is above 2.92 with a probability of 5 %; t is mean * sqrt(3) / sd.
    design = SequentialDesign(4, StoppingRule(first_look=3, level_exponent=1.0, futility=0.05))
    quantile = stats.t.ppf(0.95, 2)  # 2.92
    expected = -quantile * math.sqrt(4 / 3) * math.sqrt(3) / 4
    assert find_least_statistic(design, 3, 0.5) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("mean", "margin", "futile"),
    [
        (10.0, 1.0, False),  # far above: it may become better
        (-10.0, 1.0, False),
        (1.0, 1.0, True),  # on the margin, with little spread: nothing would be shown
        (0.0, 100.0, False),  # between margins far away: it may become similar
        (0.0, 0.0, True),
    ],
)
def test_what_is_given_up(mean, margin, futile):
    assert bool(DESIGN.is_futile(mean, 1.0, margin, 6, 0.04 / 9)) == futile


STUCK = {"baseline_final": [-1.0, 0.0, 1.0], "candidate_final": [-1.0, 0.0, 1.0]}


@pytest.mark.parametrize(
    ("differences", "changes", "stage", "label"),
    [
        # Three games, so alpha is 0.04 / 3; after 3 of 10 seeds the level is 0.09 of about 0.008.
        ([19.99, 20.0, 20.01], {}, Stage(3, "decided"), "better"),
        ([-19.99, -20.0, -20.01], {}, Stage(3, "decided"), "worse"),
        ([-0.01, 0.0, 0.01], {}, Stage(3, "decided"), "similar"),
        (BETTER, {}, Stage(4, None), "no verdict yet"),
        ([*BETTER, 20.0, 20.0, 20.0], {}, Stage(4, "decided"), "better"),
        ([8.0, 32.0] * 5, {}, Stage(10, "decided"), "better"),
        ([4.0, 5.0, 6.0], {}, Stage(3, "given up"), "undecided (given up after 3 seeds)"),
        ([20.0, 20.0, 20.0], {}, Stage(3, "given up"), "undecided (no variation between seeds)"),
        (BETTER, STUCK, Stage(3, "given up"), "undecided (not learned)"),
        ([19.0, 20.0], {}, Stage(3, None), "no verdict yet"),
        ([], {}, Stage(3, None), "no verdict yet"),
        (
            [*[6.0, 34.0] * 4, 34.0, 6.0],
            {},
            Stage(10, "all seeds"),
            "undecided (all 10 seeds)",
        ),
    ],
)
def test_when_a_game_stops_and_as_what(differences, changes: dict[str, Any], stage, label):
    game = _game(differences, **changes)
    game = replace(game, ended=[*game.ended, False][:10])  # the next seed is planned
    others = [_game([0.0] * 3, name=str(i), ended=[False] * 3) for i in range(2)]
    result, *_ = judge_games([game, *others], default_criteria(), ALPHA, design=DESIGN)
    assert (result.stage, result.label) == (stage, label)


def test_a_later_first_look_leaves_more_of_the_level_to_each():
    rule = DESIGN.rule.replace(first_look=5)
    later = SequentialDesign(10, rule)
    levels = later.nominal_level(0.04, [5, 10])
    assert levels[0] / levels[1] == pytest.approx(0.25)
    assert (levels > DESIGN.nominal_level(0.04, [5, 10])).all()
    others = [_game([0.0] * 3, name=str(i), ended=[False] * 3) for i in range(2)]
    for pairs, stage in ((3, Stage(5, None)), (5, Stage(5, "decided"))):
        game = _game([19.9, 20.0, 20.1, 20.0, 20.1][:pairs])
        result, *_ = judge_games([game, *others], default_criteria(), ALPHA, design=later)
        assert result.stage == stage


def test_a_verdict_until_decided_is_where_its_interval_lies():
    others = [_game([0.0] * 3, name=str(i), ended=[False] * 3) for i in range(2)]
    result, *_ = judge_games(
        [_game([*BETTER, 20.0]), *others], default_criteria(), ALPHA, design=DESIGN
    )
    assert result.stage == Stage(4, "decided")
    level = float(DESIGN.nominal_level(0.04 / 3, 4))
    assert result.judged_level == pytest.approx(level)
    half = stats.t.ppf(1 - level / 2, 3) * math.sqrt(2 / 3 / 4)
    assert result.judged_interval == pytest.approx((20 - half, 20 + half))
    assert result.margin == pytest.approx(5.0)
    assert 20 - half > 5


def test_games_of_arrays_stop_where_single_games_do():
    rng = np.random.default_rng(5)
    differences = rng.normal([[[20.0]], [[5.0]], [[0.0]]], 12.0, size=(3, 8, 10))
    games = [_game(list(game)) for game in differences.reshape(-1, 10)]
    gains = np.array([game.baseline for game in games]).reshape(3, 8, 10)
    margins = 0.05 * gains.cumsum(axis=-1) / np.arange(1, 11)
    verdicts, seeds = simulate.judge_until_decided(differences, margins, 0.04, DESIGN)
    for family in range(3):
        part = games[8 * family : 8 * family + 8]
        results = judge_games(part, default_criteria(), ALPHA, design=DESIGN)
        assert [result.verdict for result in results] == verdicts[family].tolist()
        assert [result.stage and result.stage.seeds for result in results] == seeds[family].tolist()
    assert len(np.unique(seeds)) > 3


def test_error_rates_and_savings_until_decided():
    rates = simulate.simulate_until_decided(250, DESIGN, np.random.default_rng(0))
    assert rates[simulate.FALSE_DIFFERENCE] <= 0.05
    assert rates[simulate.FALSE_WITHOUT_MARGIN] <= 0.05
    assert rates[simulate.FALSE_AT_MARGIN] <= 0.05
    assert rates["same arms: seeds a game"] < 4
    assert rates[f"{simulate.MIXED}: runs saved"] > 0.2
