"""How far the verdicts can be trusted: the comparison's statistics on data with a known truth.

    python -m experiments.comparison.statistics.simulate [--families N]

A family is a comparison of nine games. A run's learning curve rises from random play to a plateau
along a logistic function of training time. Plateau (Student t, 4 degrees of freedom) and take-off
(log-normal) vary between runs; part of that variation belongs to the seed and is common to both
arms. Now and then a run never takes off. Games differ in scale and in how much their runs vary. An
effect multiplies what the candidate gains over a random player, so that it makes the differences
skewed, too; the margin is estimated from the baseline's runs, as in a report. In one row they are
far from normal: a few of the candidate's runs alone lose most of their gain, and the others make
up for it. The verdicts are those of `verdicts.decide`, for plans of so many seeds and for plans
that go on until decided.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from configs.comparison import MIN_SEEDS, default_criteria, default_stopping_rule
from experiments.comparison.statistics.intervals import FloatArray, t_quantile
from experiments.comparison.statistics.sequential import SequentialDesign
from experiments.comparison.statistics.verdicts import alpha_at_look, decide
from runtime.command_line import OneLineParser, exit_on_user_error

SEEDS = (3, 5, 10)
UNTIL_DECIDED = ((3, 10), (3, 20), (5, 10))  # the first look, and the most seeds
EFFECTS = (0.25, 0.5, 1.0)  # of the baseline's gain, for coverage and power
GAMES = 9
COVERAGE_SAME = "coverage of the 95 % interval, same arms"
COVERAGE_EFFECTS = "coverage of the 95 % interval, arms that differ"
FALSE_DIFFERENCE = "families with a false better/worse, same arms"
FALSE_WITHOUT_MARGIN = "the same, judged without a margin"
FALSE_FAILURES = (
    "families with a false better/worse, the candidate alone fails in a fifth of its runs"
)
MIXED = "a third each of the games 0%, 50%, 100% more"
FALSE_AT_MARGIN = "families with any verdict, all games at the margin"
_PLATEAU = np.geomspace(20, 30_000, GAMES)  # raw return above random play, by game
_PLATEAU_SPREAD = np.linspace(0.1, 0.3, GAMES)  # between runs, of the plateau
_TAKE_OFF_SPREAD = np.linspace(0.5, 0.1, GAMES)  # between runs, of the logarithm of the take-off
_TAKE_OFF = 0.3  # median share of the training before the steepest point
_MOST_FAMILIES = 100_000  # 144 MB for each array of 9 games and 20 seeds
_RISE = 0.08  # share of the training that the logistic curve's scale takes
_SHARED = 0.4  # share of the variance between runs that belongs to the seed
_STUCK = np.linspace(0.0, 0.1, GAMES)  # share of the runs that never take off, in either arm
_FAILURES, _KEPT = 0.2, 0.2  # share of the candidate's runs that fail alone, and what they keep
_NOISE = 0.01  # of the plateau: what finitely many games leave in a run's mean
_TIMES = (np.arange(25) + 0.5) / 25  # shares of the training at which a curve is taken


def simulate_gains(
    rng: np.random.Generator, families: int, seeds: int
) -> tuple[FloatArray, FloatArray]:
    """Draw the primary metric of every run, less random play, without any effect.

    Returns:
        The baseline's and the candidate's runs, paired by the last axis; each of shape (families,
        games, seeds).
    """
    shape = (2, families, GAMES, seeds)
    own, common = np.sqrt(1 - _SHARED), np.sqrt(_SHARED)
    heavy = own * rng.standard_t(4, shape) + common * rng.standard_t(4, shape[1:])
    heavy /= np.sqrt(2)
    normal = own * rng.standard_normal(shape) + common * rng.standard_normal(shape[1:])
    plateau = _PLATEAU[:, None] * (1 + _PLATEAU_SPREAD[:, None] * heavy)
    take_off = _TAKE_OFF * np.exp(_TAKE_OFF_SPREAD[:, None] * normal)
    noise = _PLATEAU[:, None] * _NOISE * rng.standard_normal(shape)
    takes_off = rng.random(shape) >= _STUCK[:, None]
    gains = takes_off * plateau * _mean_of_curve(take_off) + noise
    return gains[0], gains[1]


def compute_expected_gain() -> FloatArray:
    """The expectation of every value that `simulate_gains` draws; shape (G,)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    take_off = _TAKE_OFF * np.exp(_TAKE_OFF_SPREAD[:, None] * nodes)
    curve = _mean_of_curve(take_off) @ weights / weights.sum()
    expected: FloatArray = (1 - _STUCK) * _PLATEAU * curve
    return expected


def simulate_comparisons(families: int, seeds: int, rng: np.random.Generator) -> dict[str, float]:
    """Judge `families` simulated comparisons with `seeds` pairs per game.

    Rates in [0, 1] by what they are of: a row of the table each. "At the margin" every difference
    is as large as its margin; without a margin is the hardest case.
    """
    gains = simulate_gains(rng, families, seeds)
    fraction = default_criteria().margin_fraction
    same, covered_same = _judge(*gains, effect=0, margin_fraction=fraction)
    no_margin, _ = _judge(*gains, effect=0, margin_fraction=0)
    at_margin, _ = _judge(*gains, effect=fraction, margin_fraction=fraction)
    failing, _ = _judge(gains[0], fail_alone(gains[1], rng), effect=0, margin_fraction=fraction)
    effects = [_judge(*gains, effect=effect, margin_fraction=fraction) for effect in EFFECTS]
    return {
        COVERAGE_SAME: float(covered_same.mean()),
        COVERAGE_EFFECTS: float(np.mean([covered for _, covered in effects])),
        FALSE_DIFFERENCE: _any_game(same, "better", "worse"),
        FALSE_WITHOUT_MARGIN: _any_game(no_margin, "better", "worse"),
        FALSE_AT_MARGIN: _any_game(at_margin, "better", "similar", "worse"),
        FALSE_FAILURES: _any_game(failing, "better", "worse"),
        "games similar, same arms": float((same == "similar").mean()),
    } | {
        f"games better, candidate gains {effect:.0%} more": float((verdicts == "better").mean())
        for effect, (verdicts, _) in zip(EFFECTS, effects, strict=True)
    }


def fail_alone(gains: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Some runs lose most of their gain, the others gain as much more as keeps the expectation."""
    more = (1 - _FAILURES * _KEPT) / (1 - _FAILURES)
    changed: FloatArray = gains * np.where(rng.random(gains.shape) < _FAILURES, _KEPT, more)
    return changed


def simulate_until_decided(
    families: int, design: SequentialDesign, rng: np.random.Generator
) -> dict[str, float]:
    """Judge `families` simulated comparisons that go on until decided.

    Rates in [0, 1], and numbers of seeds (names with "seeds"): a row of the table each. The fixed
    plan beside it has as many seeds in every game as it takes to tell the same share of all games
    better; between two numbers of seeds that is interpolated.
    """
    most_seeds = design.most_seeds
    fraction, counts = default_criteria().margin_fraction, range(MIN_SEEDS, most_seeds + 1)
    effects: dict[str, ArrayLike] = {
        f"candidate gains {effect:.0%} more": effect for effect in EFFECTS
    }
    effects[MIXED] = np.resize([0.0, 0.5, 1.0], GAMES)
    gains = simulate_gains(rng, families, most_seeds)
    same, seeds_same = _judge_until_decided(*gains, 0.0, fraction, design)
    no_margin, _ = _judge_until_decided(*gains, 0.0, 0.0, design)
    at_margin, _ = _judge_until_decided(*gains, fraction, fraction, design)
    failing, _ = _judge_until_decided(gains[0], fail_alone(gains[1], rng), 0.0, fraction, design)
    rates = {
        FALSE_DIFFERENCE: _any_game(same, "better", "worse"),
        FALSE_WITHOUT_MARGIN: _any_game(no_margin, "better", "worse"),
        FALSE_AT_MARGIN: _any_game(at_margin, "better", "similar", "worse"),
        FALSE_FAILURES: _any_game(failing, "better", "worse"),
        "same arms: seeds a game": seeds_same,
    }
    for name, effect in effects.items():
        verdicts, seeds = _judge_until_decided(*gains, effect, fraction, design)
        better, told = float((verdicts == "better").mean()), []
        for fixed in counts:
            first = [arm[..., :fixed] for arm in gains]
            verdicts, _ = _judge(*first, effect=effect, margin_fraction=fraction)
            told.append(float((verdicts == "better").mean()))
        enough = float(np.interp(better, told, counts))
        rates |= {
            f"{name}: games better": better,
            f"{name}: seeds a game": seeds,
            f"{name}: seeds of a fixed plan that tells as many": enough,
            f"{name}: runs saved": 1 - seeds / enough,
        }
    return rates


def format_table(columns: dict[str, dict[str, float]], families: int) -> str:
    """The rates by column as a Markdown table, with a line that says how precise it is."""
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for name in next(iter(columns.values())):
        unit, scale = ("", 1) if "seeds" in name else (" %", 100)
        shown = " | ".join(f"{scale * rates[name]:.1f}{unit}" for rates in columns.values())
        lines.append(f"| {name} | {shown} |")
    error = 100 * np.sqrt(0.05 * 0.95 / families)
    return "\n".join(lines) + (
        f"\n\n{families:,} families of {GAMES} games for each number of seeds, judged at the first "
        f"look. The simulation's own standard error of a 5 % rate per family: {error:.1f} %.\n"
    )


def _judge(
    baseline: FloatArray, unchanged: FloatArray, *, effect: ArrayLike, margin_fraction: float
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The verdicts, and whether each game's 95 % interval covers the true difference."""
    criteria, seeds = default_criteria(), baseline.shape[-1]
    differences = (1 + np.reshape(effect, (-1, 1))) * unchanged - baseline
    mean = differences.mean(axis=-1)
    error = differences.std(axis=-1, ddof=1) / np.sqrt(seeds)
    margin = margin_fraction * np.maximum(baseline.mean(axis=-1), 0)
    alpha = alpha_at_look(1, criteria.alpha, criteria.look_share)
    verdicts, _ = decide(mean, error, margin, seeds, alpha)
    true_difference = np.asarray(effect) * compute_expected_gain()
    return verdicts, np.abs(mean - true_difference) <= t_quantile(0.05, seeds - 1) * error


def _judge_until_decided(
    baseline: FloatArray,
    unchanged: FloatArray,
    effect: ArrayLike,
    margin_fraction: float,
    design: SequentialDesign,
) -> tuple[NDArray[Any], float]:
    """The verdicts, and the mean number of seeds a game."""
    criteria, most_seeds = default_criteria(), design.most_seeds
    alpha = alpha_at_look(1, criteria.alpha, criteria.look_share)
    differences = (1 + np.reshape(effect, (-1, 1))) * unchanged - baseline
    gains = baseline.cumsum(axis=-1) / np.arange(1, most_seeds + 1)
    margins = margin_fraction * np.maximum(gains, 0)
    verdicts, seeds = judge_until_decided(differences, margins, alpha, design)
    return verdicts, float(seeds.mean())


def judge_until_decided(
    differences: FloatArray, margins: FloatArray, alpha: float, design: SequentialDesign
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Follow the games of families until each stops, and judge them.

    Args:
        differences: Of all seeds that could be; shape (..., G, `most_seeds`).
        margins: After each number of seeds; same shape.
        alpha: Per family.
        design: Of the looks.

    Returns:
        Verdicts, and after how many seeds each game stopped; shape (..., G).
    """
    *shape, games, most_seeds = differences.shape
    counts = np.arange(1, most_seeds + 1)
    means = differences.cumsum(axis=-1) / counts
    squares = (differences**2).cumsum(axis=-1) - counts * means**2
    errors = np.sqrt(squares / np.maximum(counts - 1, 1) / counts)
    stopped = np.full((*shape, games), most_seeds)
    for seeds in reversed(range(design.rule.first_look, most_seeds)):  # the first stop remains
        mean, error, margin = (part[..., seeds - 1, None] for part in (means, errors, margins))
        alone, _ = decide(mean, error, margin, seeds, alpha / games, design)
        futile = design.is_futile(mean, error, margin, seeds, alpha / games)
        stopped[((alone != "undecided") | futile)[..., 0]] = seeds
    mean, error, margin = (
        np.take_along_axis(part, stopped[..., None] - 1, axis=-1)[..., 0]
        for part in (means, errors, margins)
    )
    verdicts, _ = decide(mean, error, margin, stopped, alpha, design)
    return verdicts, stopped


def _mean_of_curve(take_off: FloatArray) -> FloatArray:
    total = np.zeros_like(take_off)
    for time in _TIMES:
        total += special.expit((time - take_off) / _RISE)
    return total / len(_TIMES)


def _any_game(verdicts: NDArray[Any], *wanted: str) -> float:
    return float(np.isin(verdicts, wanted).any(axis=-1).mean())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the simulation from a command line; returns the exit status."""
    parser = OneLineParser(
        prog="python -m experiments.comparison.statistics.simulate",
        description=__doc__.splitlines()[0],
    )
    parser.add_argument("--families", type=int, default=2000, help="simulated comparisons (2000)")
    families = parser.parse_args(arguments).families
    with exit_on_user_error():
        if not 1 <= families <= _MOST_FAMILIES:
            raise ValueError(f"--families must be 1 to {_MOST_FAMILIES}, got {families}.")
        make_rng = np.random.default_rng
        fixed = {f"{n} seeds": simulate_comparisons(families, n, make_rng([0, n])) for n in SEEDS}
        until_decided = {}
        for first, most in UNTIL_DECIDED:
            design = SequentialDesign(most, default_stopping_rule().replace(first_look=first))
            rates = simulate_until_decided(families, design, make_rng([1, most]))
            until_decided[f"until decided, {first} to {most}"] = rates
        tables = [format_table(columns, families) for columns in (fixed, until_decided)]
        print(*tables, sep="\n", end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
