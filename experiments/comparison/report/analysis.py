"""From the runs on the disk to every number of the report, as typed rows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from configs.comparison import MIN_SEEDS
from configs.protocols import load_protocol
from envs.games import find_game
from experiments.comparison.plan import ComparisonPlan
from experiments.comparison.report.network_cost import (
    NetworkCost,
    compute_network_cost,
    read_network_cost,
)
from experiments.comparison.report.pairs import (
    MachineRow,
    PairRow,
    compare_by_machine,
    list_pairs,
)
from experiments.comparison.report.position_use import (
    VARIANTS,
    Variant,
    find_weight_shares,
    read_ablation,
)
from experiments.comparison.report.records import Comparison, LeftOutRun, RunRecord
from experiments.comparison.report.stages import pair_arms
from experiments.comparison.statistics.bootstrap import (
    estimate_interquartile_difference,
    estimate_interquartile_mean,
)
from experiments.comparison.statistics.curves import find_steps_to_reach
from experiments.comparison.statistics.improvement import estimate_probability_of_improvement
from experiments.comparison.statistics.intervals import Estimate
from experiments.comparison.statistics.verdicts import (
    VERDICTS,
    GameScores,
    GameVerdict,
    judge_games,
)

FORMAT_VERSION = 1
_SEED = 0  # of every bootstrap
_CIRCUMSTANCES = ("commit", "python", "platform", "cores", "device", "threads")


@dataclass(frozen=True)
class TimeToScore:
    """When the mean of a run's last 100 games first reached a score; a value per planned seed."""

    score: float | None  # None as long as the baseline has not earned it
    agent_steps: list[int | None]  # None where it was not reached, or the run has not ended


@dataclass(frozen=True)
class ArmScores:
    """One game and arm: a value per planned seed, None where a run has not ended or played none."""

    mean_return_over_training: list[float | None]
    final_score: list[float | None]
    final_human_normalised: list[float | None]
    mean_final_score: float | None
    to_half_the_baselines_gain: TimeToScore
    to_the_baselines_final_score: TimeToScore
    games_played: list[int | None]

    @property
    def mean_over_seeds(self) -> float | None:
        """Of the mean return over the whole training."""
        return _mean(self.mean_return_over_training)


@dataclass(frozen=True)
class GameRow(GameVerdict):
    """The verdict on one game, and how often a candidate's run beats one of the baseline.

    The mean returns over the training are those of the seeds that the two arms share. The
    detectable difference is the smallest one that all seeds of the plan tell as better or worse.
    """

    baseline_return: float | None = None
    candidate_return: float | None = None
    detectable_difference: float | None = None  # in raw return, of either sign
    probability_of_improvement: Estimate | None = None


@dataclass(frozen=True)
class ArmsCompared:
    """An arm against the baseline: a family of verdicts."""

    baseline: str
    candidate: str
    games: list[GameRow]
    pairs: list[PairRow]
    machines: list[MachineRow]  # empty where one machine trained all pairs
    count: dict[str, int]  # of the complete games, by verdict
    is_complete: bool  # whether all games are, with a score of every run
    probability_of_improvement: Estimate | None  # over all games, of the same seeds in each


@dataclass(frozen=True)
class ScoresOverGames:
    """Interquartile means of the final human-normalised scores of all games, by arm.

    Of the games whose human score is known, and of the same seeds in each (see `_common_seeds`).
    Empty as long as a game is not complete, and for fewer than two games or `MIN_SEEDS` seeds.
    """

    games: list[str]
    seeds: list[int]
    interquartile_mean: dict[str, Estimate]
    difference: dict[str, Estimate]  # from the baseline's, by candidate


@dataclass(frozen=True)
class CostRow(NetworkCost):
    """What an arm's network and its ended runs took."""

    arm: str
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
    ablated_games: int  # of each variant
    ablated_scores: dict[Variant, float | None]  # mean over the runs of the mean of their games
    ablated_standard_errors: dict[Variant, float | None]  # of these, by the games that were drawn


@dataclass(frozen=True)
class RunRow:
    """How far a planned run has come."""

    run: str
    state: str
    agent_steps: int = 0
    message: str = ""


@dataclass(frozen=True)
class Analysis:
    """Everything the report says; as JSON it is `report.json`."""

    plan: dict[str, Any]  # what was planned; `declared` says whether before the runs
    games: dict[str, dict[str, ArmScores]]
    comparisons: list[ArmsCompared]
    scores_over_games: ScoresOverGames
    cost: list[CostRow]
    coordinate_use: list[PositionUseRow]
    settings: dict[str, Any]  # of all runs, or "by arm", and what their starts say of the machine
    runs: list[RunRow]  # in the order of the plan
    left_out: list[LeftOutRun]
    format_version: int = FORMAT_VERSION


def analyse(comparison: Comparison) -> Analysis:
    """Everything the report says; the same for the same runs."""
    plan = comparison.plan
    scores = {
        game: {arm: _score_arm(comparison, game, arm) for arm in plan.arms} for game in plan.games
    }
    return Analysis(
        plan={
            **plan.model_dump(
                include={"games", "arms", "extractors", "seeds", "criteria", "stopping"}
            ),
            "declared": comparison.is_declared,
            "total_agent_steps": plan.total_agent_steps,
            "look": plan.look,
            "alpha": plan.alpha,
            "detectable_beyond_margin": plan.detectable_beyond_margin,  # in standard deviations
            "earlier_looks_at_seeds": plan.looks,
        },
        games=scores,
        comparisons=[_compare_arms(comparison, candidate) for candidate in plan.arms[1:]],
        scores_over_games=_summarise_arms(comparison, scores),
        cost=[_describe_cost(comparison, arm) for arm in plan.arms],
        coordinate_use=[
            _describe_use(game, arm, [run for run in comparison.ended_runs(game, arm) if run])
            for arm in plan.arms
            if plan.network_of(arm).coord_layers
            for game in plan.games
        ],
        settings=_describe_settings(comparison),
        runs=_list_runs(comparison),
        left_out=comparison.left_out,
    )


# --- scores and verdicts --------------------------------------------------------------------------


def _score_arm(comparison: Comparison, game: str, arm: str) -> ArmScores:
    baseline, runs = (comparison.ended_runs(game, name) for name in (comparison.plan.arms[0], arm))
    final_score = _mean(run.score[1] for run in baseline if run is not None)
    scores = [(None, None) if run is None else run.score for run in runs]
    finals = [final for _, final in scores]
    normalise = find_game(game).human_normalised_score
    return ArmScores(
        mean_return_over_training=[metric for metric, _ in scores],
        final_score=finals,
        final_human_normalised=[None if final is None else normalise(final) for final in finals],
        mean_final_score=_mean(finals),
        to_half_the_baselines_gain=_time_to_score(
            _find_half_way(find_game(game).random_return, final_score), runs
        ),
        to_the_baselines_final_score=_time_to_score(final_score, runs),
        games_played=[None if run is None else len(run.episodes.returns) for run in runs],
    )


def _find_half_way(random_return: float | None, final_score: float | None) -> float | None:
    """The score half-way from random play to a final one; None if that is no better."""
    if random_return is None or final_score is None or final_score <= random_return:
        return None
    return (random_return + final_score) / 2


def _time_to_score(score: float | None, runs: Sequence[RunRecord | None]) -> TimeToScore:
    return TimeToScore(
        score,
        [
            None
            if run is None or score is None
            else find_steps_to_reach(run.episodes.agent_steps, run.episodes.returns, score)
            for run in runs
        ],
    )


def _compare_arms(comparison: Comparison, candidate: str) -> ArmsCompared:
    plan, baseline = comparison.plan, comparison.plan.arms[0]
    games = [
        pair_arms(game, *(comparison.ended_runs(game, arm) for arm in (baseline, candidate)))
        for game in plan.games
    ]
    common = [game.first(_common_seeds(plan)) for game in games]
    verdicts = judge_games(games, plan.criteria, plan.alpha, plan.design)
    beyond_margin = plan.detectable_beyond_margin
    is_complete = all(game.complete and len(game.pairs) == len(game.ended) for game in games)
    pairs = list_pairs(comparison, candidate)
    return ArmsCompared(
        baseline=baseline,
        candidate=candidate,
        games=[
            GameRow(
                **vars(verdict),
                baseline_return=_mean(before for before, _ in game.pairs),
                candidate_return=_mean(after for _, after in game.pairs),
                detectable_difference=_find_detectable_difference(verdict, beyond_margin),
                probability_of_improvement=_improvement([game]),
            )
            for game, verdict in zip(games, verdicts, strict=True)
        ],
        pairs=pairs,
        machines=compare_by_machine(pairs),
        count={
            name: sum(
                v.verdict == name and g.complete for v, g in zip(verdicts, games, strict=True)
            )
            for name in VERDICTS
        },
        is_complete=is_complete,
        probability_of_improvement=_improvement(common) if is_complete else None,
    )


def _summarise_arms(
    comparison: Comparison, scores: dict[str, dict[str, ArmScores]]
) -> ScoresOverGames:
    plan, count = comparison.plan, _common_seeds(comparison.plan)
    known = [game for game in plan.games if find_game(game).human_normalised_score(0) is not None]
    is_complete = not any(
        None in arm.final_score for by_arm in scores.values() for arm in by_arm.values()
    )
    # The bootstrap's interval covers too little with the seeds of one game.
    if len(known) < 2 or count < MIN_SEEDS or not is_complete:
        return ScoresOverGames([], [], {}, {})
    by_arm = {
        arm: [scores[game][arm].final_human_normalised[:count] for game in known]
        for arm in plan.arms
    }
    baseline = by_arm[plan.arms[0]]
    return ScoresOverGames(
        games=known,
        seeds=list(plan.seeds[:count]),
        interquartile_mean={
            arm: estimate_interquartile_mean(
                list(map(np.array, games)), np.random.default_rng(_SEED)
            )
            for arm, games in by_arm.items()
        },
        difference={
            arm: estimate_interquartile_difference(
                [np.array(pair).T for pair in zip(baseline, by_arm[arm], strict=True)],
                np.random.default_rng(_SEED),
            )
            for arm in plan.arms[1:]
        },
    )


def _common_seeds(plan: ComparisonPlan) -> int:
    """How many seeds every game has that is complete.

    In a plan that goes on until each game is decided, how many more one has depends on what it
    showed, which would distort a figure over all games.
    """
    return plan.stopping.first_look if plan.stopping else len(plan.seeds)


def _find_detectable_difference(game: GameVerdict, beyond_margin: float | None) -> float | None:
    """Of a game with the spread of the pairs that there are; `beyond_margin` in such spreads."""
    margin, deviation = game.margin, game.standard_deviation
    if beyond_margin is None or margin is None or not deviation or game.pairs < MIN_SEEDS:
        return None
    return margin + beyond_margin * deviation


def _improvement(games: Sequence[GameScores]) -> Estimate | None:
    """Nothing where too few seeds allow no verdict: a probability would be read as one."""
    pairs = [game.pairs for game in games]
    if min(map(len, pairs)) < MIN_SEEDS:
        return None
    return estimate_probability_of_improvement(pairs)


# --- what the runs cost and used ------------------------------------------------------------------


def _describe_cost(comparison: Comparison, arm: str) -> CostRow:
    ended = [run for run in comparison.runs.values() if run.key[1] == arm and run.has_ended]
    rates = [rate for run in ended if (rate := run.agent_steps_per_second) is not None]
    seconds = [float(run.episodes.seconds[-1]) for run in ended if len(run.episodes.seconds)]
    network = comparison.plan.network_of(arm)
    starts = (start for run in ended for start in run.starts)
    cost = read_network_cost(starts) if network.extractor else compute_network_cost(network)
    return CostRow(
        **vars(cost),
        arm=arm,
        runs=len(ended),
        hours=sum(seconds) / 3600,
        median_agent_steps_per_second=float(np.median(rates)) if rates else None,
    )


def _find_shares(run: RunRecord) -> dict[int, float] | None:
    """The shares of a run's weights; a model that cannot be read has none, and stops no report."""
    try:
        return find_weight_shares(run)
    except (OSError, ValueError):
        if run.directory.is_packed():
            raise
        return None


def _describe_use(game: str, arm: str, runs: list[RunRecord]) -> PositionUseRow:
    found = [_find_shares(run) for run in runs]
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
        ablated_standard_errors={
            variant: _standard_error([ablation[variant] for ablation in ablations])
            for variant in VARIANTS
        },
    )


def _standard_error(games_of_runs: Sequence[Sequence[int]]) -> float | None:
    """Of the mean over runs of the mean of their games; None without runs, or with single games."""
    if not games_of_runs or min(map(len, games_of_runs)) < 2:
        return None
    squares = [np.var(games, ddof=1) / len(games) for games in games_of_runs]
    return float(np.sqrt(sum(squares))) / len(games_of_runs)


# --- what the runs are ----------------------------------------------------------------------------


def _describe_settings(comparison: Comparison) -> dict[str, Any]:
    plan, template = comparison.plan, comparison.plan.template
    by_arm = [plan.run_of(plan.games[0], arm, plan.seeds[0]).hyperparameters for arm in plan.arms]
    hyperparameters = {
        name: value if all(getattr(arm, name) == value for arm in by_arm) else "by arm"
        for name, value in by_arm[0].model_dump().items()
    }
    starts = [start for run in comparison.runs.values() for start in run.starts]
    packages = [start.get("packages") for start in starts]
    names = sorted({name for found in packages if isinstance(found, dict) for name in found})
    return {
        "run": template.run.model_dump(exclude={"game", "seed"}),
        "hyperparameters": hyperparameters,
        "protocol": load_protocol(template.run.protocol).model_dump(),
        "source_version": plan.source,
        "machines": sorted({name for run in comparison.runs.values() for name in run.machines}),
        "packages": {name: _distinct(packages, name) for name in names},
        **{name: _distinct(starts, name) for name in _CIRCUMSTANCES},
    }


def _distinct(starts: Sequence[Any], name: str) -> list[str]:
    """What the starts say of one circumstance; "None" of those that do not."""
    return sorted({str(start.get(name) if isinstance(start, dict) else None) for start in starts})


def _list_runs(comparison: Comparison) -> list[RunRow]:
    rows = {config.name: RunRow(config.name, "not started") for config in comparison.planned_runs()}
    for run in comparison.runs.values():
        name = run.config.name
        rows[name] = RunRow(name, run.state, run.agent_steps, run.message)
    return list(rows.values())


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
