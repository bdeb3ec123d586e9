"""From the runs on the disk to every number of the report, as typed rows."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

from configs.comparison import MIN_SEEDS
from configs.protocols import load_protocol
from configs.run_config import parse_arm
from envs.games import find_game
from experiments.comparison.report.network_cost import compute_network_cost, find_weight_shares
from experiments.comparison.report.position_use import VARIANTS, Variant, read_ablation
from experiments.comparison.report.records import ENDED, Comparison, Episodes, RunRecord
from experiments.comparison.statistics.bootstrap import (
    Estimate,
    estimate_interquartile_mean,
    estimate_probability_of_improvement,
)
from experiments.comparison.statistics.curves import (
    final_score,
    find_steps_to_reach,
    mean_return_over_training,
)
from experiments.comparison.statistics.intervals import Interval
from experiments.comparison.statistics.verdicts import (
    VERDICTS,
    GameScores,
    GameVerdict,
    judge_games,
)

FORMAT_VERSION = 1
_SEED = 0  # of every bootstrap
_CIRCUMSTANCES = ("commit", "python", "platform", "processor", "cores", "device", "threads")
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class PlanRow:
    """What was planned; `declared` says whether before the runs."""

    declared: bool
    games: tuple[str, ...]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    total_agent_steps: int
    look: int
    earlier_looks_at_seeds: tuple[int, ...]
    criteria: dict[str, Any]


@dataclass(frozen=True)
class ArmScores:
    """One game and arm: a value per planned seed, None where a run has not ended or played none."""

    mean_return_over_training: list[float | None]
    final_score: list[float | None]
    final_human_normalised: list[float | None]
    mean_final_score: float | None
    agent_steps_to_baselines_final_score: list[int | None]
    games_played: list[int | None]

    @property
    def mean_over_seeds(self) -> float | None:
        """Of the mean return over the whole training."""
        return _mean(self.mean_return_over_training)


@dataclass(frozen=True)
class GameRow:
    """The verdict on one game; see `GameVerdict`. In raw return, but for the level and the last."""

    game: str
    verdict: str
    label: str
    pairs: int
    mean_difference: float | None
    standard_deviation: float | None
    interval_95: Interval
    margin: float | None
    judged_level: float | None
    judged_interval: Interval
    more_seeds: int | None
    probability_of_improvement: Estimate | None


@dataclass(frozen=True)
class ArmsCompared:
    """An arm against the baseline: a family of verdicts."""

    baseline: str
    candidate: str
    games: list[GameRow]
    count: dict[str, int]  # of the games, by verdict
    complete_games: list[str]
    probability_of_improvement: Estimate | None  # over the complete games


@dataclass(frozen=True)
class ScoresOverGames:
    """Interquartile means of the final human-normalised scores by arm, over the complete games."""

    complete_games: list[str]
    interquartile_mean: dict[str, Estimate | None]


@dataclass(frozen=True)
class CostRow:
    """What an arm's network and its ended runs took; see `NetworkCost`."""

    arm: str
    parameters: int
    multiply_adds: int
    multiply_adds_per_update: int
    runs: int
    hours: float
    median_agent_steps_per_second: float | None


@dataclass(frozen=True)
class PositionUseRow:
    """An arm that knows the position, in one game: what it weighs, and what taking it costs."""

    game: str
    arm: str
    runs: int
    weight_share: dict[str, float | None]  # by convolution, mean over the runs
    ablated_runs: int
    ablated_games: int
    ablated_scores: dict[Variant, float | None]


@dataclass(frozen=True)
class RunRow:
    """How far a planned run has come."""

    run: str
    state: str
    agent_steps: int = 0
    starts: int = 0
    games_played: int = 0
    message: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing left to do: a diverged run has ended, too."""
        return self.state in ENDED


@dataclass(frozen=True)
class LeftOutRow:
    """A run below the same folder that is not part of the comparison."""

    run: str
    reason: str


@dataclass(frozen=True)
class Analysis:
    """Everything the report says; as JSON it is `report.json`."""

    plan: PlanRow
    games: dict[str, dict[str, ArmScores]]
    comparisons: list[ArmsCompared]
    scores_over_games: ScoresOverGames
    cost: list[CostRow]
    coordinate_use: list[PositionUseRow]
    settings: dict[str, Any]  # that all runs share, and what their starts say of the machine
    runs: list[RunRow]  # in the order of the plan
    left_out: list[LeftOutRow]
    format_version: int = FORMAT_VERSION


def analyse(comparison: Comparison) -> Analysis:
    """Everything the report says; the same for the same runs."""
    plan = comparison.plan
    scores = {
        game: {arm: _score_arm(comparison, game, arm) for arm in plan.arms} for game in plan.games
    }
    return Analysis(
        plan=PlanRow(
            declared=comparison.is_declared,
            games=plan.games,
            arms=plan.arms,
            seeds=plan.seeds,
            total_agent_steps=plan.total_agent_steps,
            look=plan.look,
            earlier_looks_at_seeds=plan.looks,
            criteria=plan.criteria.model_dump(),
        ),
        games=scores,
        comparisons=[_compare_arms(comparison, scores, candidate) for candidate in plan.arms[1:]],
        scores_over_games=_summarise_arms(comparison, scores),
        cost=[_describe_cost(comparison, arm) for arm in plan.arms],
        coordinate_use=_describe_position_use(comparison),
        settings=_describe_settings(comparison),
        runs=_list_runs(comparison),
        left_out=[LeftOutRow(name, reason) for name, reason in comparison.left_out],
    )


# --- scores and verdicts --------------------------------------------------------------------------


def _score_arm(comparison: Comparison, game: str, arm: str) -> ArmScores:
    plan = comparison.plan
    runs = [_ended(comparison, game, arm, seed) for seed in plan.seeds]
    baseline = [_ended(comparison, game, plan.arms[0], seed) for seed in plan.seeds]
    threshold = _mean(final_score(run.episodes.returns) for run in baseline if run is not None)

    def of_each(function: Callable[[Episodes], _Value | None]) -> list[_Value | None]:
        return [None if run is None else function(run.episodes) for run in runs]

    def measure(episodes: Episodes) -> float | None:
        steps, returns = episodes.agent_steps, episodes.returns
        return mean_return_over_training(steps, returns, plan.total_agent_steps)

    def find_steps(episodes: Episodes) -> int | None:
        if threshold is None:
            return None
        return find_steps_to_reach(episodes.agent_steps, episodes.returns, threshold)

    def normalise(score: float | None) -> float | None:
        return None if score is None else find_game(game).human_normalised_score(score)

    finals = of_each(lambda episodes: final_score(episodes.returns))
    return ArmScores(
        mean_return_over_training=of_each(measure),
        final_score=finals,
        final_human_normalised=list(map(normalise, finals)),
        mean_final_score=_mean(finals),
        agent_steps_to_baselines_final_score=of_each(find_steps),
        games_played=of_each(lambda episodes: len(episodes.returns)),
    )


def _compare_arms(
    comparison: Comparison, scores: dict[str, dict[str, ArmScores]], candidate: str
) -> ArmsCompared:
    plan, baseline = comparison.plan, comparison.plan.arms[0]
    complete = {game: comparison.is_complete(game, (baseline, candidate)) for game in plan.games}
    verdicts = judge_games(
        [
            GameScores(
                game=game,
                baseline=arms[baseline].mean_return_over_training,
                candidate=arms[candidate].mean_return_over_training,
                baseline_final=arms[baseline].final_score,
                candidate_final=arms[candidate].final_score,
                complete=complete[game],
                random_return=find_game(game).random_return,
                human_return=find_game(game).human_return,
            )
            for game, arms in scores.items()
        ],
        plan.criteria,
        plan.look,
    )
    pairs = {game: _pairs(arms[baseline], arms[candidate]) for game, arms in scores.items()}
    complete_games = [game for game in plan.games if complete[game] and pairs[game]]
    return ArmsCompared(
        baseline=baseline,
        candidate=candidate,
        games=[_describe_verdict(verdict, pairs[verdict.game]) for verdict in verdicts],
        count={name: sum(v.verdict == name for v in verdicts) for name in VERDICTS},
        complete_games=complete_games,
        probability_of_improvement=_improvement([pairs[game] for game in complete_games]),
    )


def _describe_verdict(verdict: GameVerdict, pairs: list[tuple[float, float]]) -> GameRow:
    difference = verdict.difference
    return GameRow(
        game=verdict.game,
        verdict=verdict.verdict,
        label=verdict.label,
        pairs=len(pairs),
        mean_difference=None if difference is None else difference.mean,
        standard_deviation=None if difference is None else difference.standard_deviation,
        interval_95=None if difference is None else difference.interval,
        margin=verdict.margin,
        judged_level=verdict.judged_level,
        judged_interval=verdict.judged_interval,
        more_seeds=verdict.more_seeds,
        probability_of_improvement=_improvement([pairs]),
    )


def _summarise_arms(
    comparison: Comparison, scores: dict[str, dict[str, ArmScores]]
) -> ScoresOverGames:
    normalised = {
        arm: {game: scores[game][arm].final_human_normalised for game in scores}
        for arm in comparison.plan.arms
    }
    games = [
        game
        for game in comparison.plan.games
        if comparison.is_complete(game)
        and not any(None in by_game[game] for by_game in normalised.values())
    ]

    def estimate(arm: str) -> Estimate | None:
        strata = [np.array(normalised[arm][game], dtype=np.float64) for game in games]
        rng = np.random.default_rng(_SEED)
        return estimate_interquartile_mean(strata, rng) if games else None

    return ScoresOverGames(games, {arm: estimate(arm) for arm in comparison.plan.arms})


def _pairs(baseline: ArmScores, candidate: ArmScores) -> list[tuple[float, float]]:
    """Both arms' mean returns over the training, of the seeds that have both."""
    return [
        (before, after)
        for before, after in zip(
            baseline.mean_return_over_training, candidate.mean_return_over_training, strict=True
        )
        if before is not None and after is not None
    ]


def _improvement(games: Sequence[list[tuple[float, float]]]) -> Estimate | None:
    """Nothing where too few seeds allow no verdict: a probability would be read as one."""
    if not games or min(map(len, games)) < MIN_SEEDS:
        return None
    before, after = zip(*(zip(*pairs, strict=True) for pairs in games), strict=True)
    rng = np.random.default_rng(_SEED)
    return estimate_probability_of_improvement(before, after, rng)


# --- what the runs cost and used ------------------------------------------------------------------


def _describe_cost(comparison: Comparison, arm: str) -> CostRow:
    ended = [run for run in comparison.runs.values() if run.key[1] == arm and run.has_ended]
    last = [
        (float(run.episodes.agent_steps[-1]), float(run.episodes.seconds[-1]))
        for run in ended
        if len(run.episodes.seconds)
    ]
    rates = [steps / seconds for steps, seconds in last if seconds > 0]
    return CostRow(
        arm,
        **asdict(compute_network_cost(arm)),
        runs=len(ended),
        hours=sum(seconds for _, seconds in last) / 3600,
        median_agent_steps_per_second=float(np.median(rates)) if rates else None,
    )


def _describe_position_use(comparison: Comparison) -> list[PositionUseRow]:
    plan = comparison.plan
    return [
        _describe_use(
            game,
            arm,
            [
                run
                for seed in plan.seeds
                if (run := _ended(comparison, game, arm, seed)) is not None
            ],
        )
        for arm in plan.arms
        if parse_arm(arm).coord_layers
        for game in plan.games
    ]


def _describe_use(game: str, arm: str, runs: list[RunRecord]) -> PositionUseRow:
    found = [find_weight_shares(run.directory, run.config.network) for run in runs]
    shares = [share for share in found if share is not None]
    ablations = [ablation for run in runs if (ablation := read_ablation(run)) is not None]
    return PositionUseRow(
        game=game,
        arm=arm,
        runs=len(shares),
        weight_share={
            str(layer): _mean(share[layer] for share in shares)
            for layer in (sorted(shares[0]) if shares else [])
        },
        ablated_runs=len(ablations),
        ablated_games=sum(len(ablation["intact"]) for ablation in ablations),
        ablated_scores={
            variant: _mean(float(np.mean(ablation[variant])) for ablation in ablations)
            for variant in VARIANTS
        },
    )


# --- what the runs are ----------------------------------------------------------------------------


def _describe_settings(comparison: Comparison) -> dict[str, Any]:
    template = comparison.plan.template
    starts = [start for run in comparison.runs.values() for start in run.starts]
    packages = [start.get("packages") for start in starts]
    names = sorted({name for found in packages if isinstance(found, dict) for name in found})
    return {
        "run": template.run.model_dump(exclude={"game", "seed"}),
        "hyperparameters": template.hyperparameters.model_dump(),
        "protocol": load_protocol(template.run.protocol).model_dump(),
        "source_version": comparison.plan.source,
        "packages": {name: _distinct(packages, name) for name in names},
        **{name: _distinct(starts, name) for name in _CIRCUMSTANCES},
    }


def _distinct(starts: Sequence[Any], name: str) -> list[str]:
    """What the starts say of one circumstance; "None" of those that do not."""
    return sorted({str(start.get(name) if isinstance(start, dict) else None) for start in starts})


def _list_runs(comparison: Comparison) -> list[RunRow]:
    rows = []
    for config in comparison.plan.runs():
        run = comparison.runs.get((config.run.game, config.arm, config.run.seed))
        rows.append(
            RunRow(config.name, "not started")
            if run is None
            else RunRow(
                run=config.name,
                state=run.state,
                agent_steps=run.agent_steps,
                starts=len(run.starts),
                games_played=len(run.episodes.returns),
                message=run.message,
            )
        )
    return rows


def _ended(comparison: Comparison, game: str, arm: str, seed: int) -> RunRecord | None:
    run = comparison.runs.get((game, arm, seed))
    return run if run is not None and run.has_ended else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
