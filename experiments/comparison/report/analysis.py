"""From the runs on the disk to every figure of the report, as one JSON value."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from configs.protocols import load_protocol
from configs.settings import as_mapping
from envs.games import find_game
from experiments.comparison.arms import parse_arm
from experiments.comparison.report.network_cost import compute_network_cost, find_weight_shares
from experiments.comparison.report.position_use import VARIANTS, read_ablation
from experiments.comparison.report.records import Comparison, RunRecord
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
from experiments.comparison.statistics.power import MIN_SEEDS
from experiments.comparison.statistics.verdicts import GameScores, GameVerdict, judge_games

FORMAT_VERSION = 1
VERDICTS = ("better", "similar", "worse", "undecided")
PAPER_COUNT = {"better": 6, "similar": 2, "worse": 1, "undecided": 0}  # Liu et al. 2018
_SEED = 0  # of every bootstrap


def analyse(comparison: Comparison) -> dict[str, Any]:
    """Everything the report says; JSON values only, the same for the same runs."""
    plan = comparison.plan
    scores = {
        game: {arm: _score_arm(comparison, game, arm) for arm in plan.arms} for game in plan.games
    }
    return {
        "format_version": FORMAT_VERSION,
        "plan": {
            "declared": comparison.is_declared,
            "games": list(plan.games),
            "arms": list(plan.arms),
            "seeds": list(plan.seeds),
            "total_agent_steps": plan.total_agent_steps,
            "look": plan.look,
            "earlier_looks_at_seeds": list(plan.looks),
            "criteria": as_mapping(plan.criteria),
        },
        "games": scores,
        "comparisons": [
            _compare_arms(comparison, scores, plan.arms[0], candidate)
            for candidate in plan.arms[1:]
        ],
        "scores_over_games": _summarise_arms(comparison, scores),
        "cost": [_describe_cost(comparison, arm) for arm in plan.arms],
        "coordinate_use": _describe_coordinate_use(comparison),
        "settings": _describe_settings(comparison),
        "runs": _list_runs(comparison),
        "left_out": [{"run": name, "reason": reason} for name, reason in comparison.left_out],
    }


def can_judge(seeds: Sequence[int]) -> bool:
    """Whether so many seeds allow a verdict at all."""
    return len(seeds) >= MIN_SEEDS


# --- scores and verdicts --------------------------------------------------------------------------


def _score_arm(comparison: Comparison, game: str, arm: str) -> dict[str, Any]:
    """One game and arm: a score per planned seed, null where a run has not ended or played none."""
    seeds = comparison.plan.seeds
    total = comparison.plan.total_agent_steps
    runs = [_ended(comparison, game, arm, seed) for seed in seeds]
    baseline = [_ended(comparison, game, comparison.plan.arms[0], seed) for seed in seeds]
    finals = [final_score(run.episodes.returns) for run in runs if run is not None]
    threshold = _mean(final_score(run.episodes.returns) for run in baseline if run is not None)

    def of_each(function: Callable[[RunRecord], Any]) -> list[Any]:
        return [None if run is None else function(run) for run in runs]

    final = of_each(lambda run: final_score(run.episodes.returns))
    return {
        "mean_return_over_training": of_each(
            lambda run: mean_return_over_training(
                run.episodes.agent_steps, run.episodes.returns, total
            )
        ),
        "final_score": final,
        "final_human_normalised": [
            None if score is None else find_game(game).human_normalised_score(score)
            for score in final
        ],
        "mean_final_score": _mean(finals),
        "agent_steps_to_baselines_final_score": of_each(
            lambda run: (
                None
                if threshold is None
                else find_steps_to_reach(run.episodes.agent_steps, run.episodes.returns, threshold)
            )
        ),
        "games_played": of_each(lambda run: len(run.episodes.returns)),
    }


def _compare_arms(
    comparison: Comparison, scores: dict[str, Any], baseline: str, candidate: str
) -> dict[str, Any]:
    plan = comparison.plan
    primary, final = "mean_return_over_training", "final_score"
    verdicts = judge_games(
        [
            GameScores(
                game=game,
                baseline=scores[game][baseline][primary],
                candidate=scores[game][candidate][primary],
                baseline_final=scores[game][baseline][final],
                candidate_final=scores[game][candidate][final],
                complete=comparison.is_complete(game, (baseline, candidate)),
                random_return=find_game(game).random_return,
                human_return=find_game(game).human_return,
            )
            for game in plan.games
        ],
        plan.criteria,
        plan.look,
    )
    pairs = {game: _pairs(scores[game], baseline, candidate, primary) for game in plan.games}
    complete = [
        game
        for game in plan.games
        if comparison.is_complete(game, (baseline, candidate)) and len(pairs[game][0])
    ]
    return {
        "baseline": baseline,
        "candidate": candidate,
        "games": [
            _describe_verdict(verdict)
            | {"probability_of_improvement": _improvement([pairs[verdict.game]])}
            for verdict in verdicts
        ],
        "count": {name: sum(v.verdict == name for v in verdicts) for name in VERDICTS},
        "complete_games": complete,
        "probability_of_improvement": _improvement([pairs[game] for game in complete]),
    }


def _describe_verdict(verdict: GameVerdict) -> dict[str, Any]:
    difference = verdict.difference
    return {
        "game": verdict.game,
        "verdict": verdict.verdict,
        "label": verdict.label,
        "pairs": 0 if difference is None else difference.seeds,
        "mean_difference": None if difference is None else difference.mean,
        "standard_deviation": None if difference is None else difference.standard_deviation,
        "interval_95": None if difference is None else _interval(difference.low, difference.high),
        "margin": verdict.margin,
        "judged_level": verdict.judged_level,
        "judged_interval": _interval(verdict.judged_low, verdict.judged_high),
        "more_seeds": verdict.more_seeds,
    }


def _summarise_arms(comparison: Comparison, scores: dict[str, Any]) -> dict[str, Any]:
    """Interquartile means of the final human-normalised scores, over the complete games."""
    games = [
        game
        for game in comparison.plan.games
        if comparison.is_complete(game)
        and all(
            None not in scores[game][arm]["final_human_normalised"] for arm in comparison.plan.arms
        )
    ]
    return {
        "complete_games": games,
        "interquartile_mean": {
            arm: _estimate(
                estimate_interquartile_mean(
                    [scores[game][arm]["final_human_normalised"] for game in games],
                    np.random.default_rng(_SEED),
                )
            )
            if games
            else None
            for arm in comparison.plan.arms
        },
    }


def _pairs(
    arms: dict[str, Any], baseline: str, candidate: str, metric: str
) -> tuple[list[float], list[float]]:
    both = [
        (before, after)
        for before, after in zip(arms[baseline][metric], arms[candidate][metric], strict=True)
        if before is not None and after is not None
    ]
    return [before for before, _ in both], [after for _, after in both]


def _improvement(games: Sequence[tuple[list[float], list[float]]]) -> dict[str, Any] | None:
    if not games or not all(before for before, _ in games):
        return None
    before, after = zip(*games, strict=True)
    rng = np.random.default_rng(_SEED)
    return _estimate(estimate_probability_of_improvement(before, after, rng))


# --- what the runs cost and used ------------------------------------------------------------------


def _describe_cost(comparison: Comparison, arm: str) -> dict[str, Any]:
    runs = [run for run in comparison.runs.values() if run.key[1] == arm and run.has_ended]
    seconds = [float(run.episodes.seconds[-1]) for run in runs if len(run.episodes.seconds)]
    rates = [
        float(run.episodes.agent_steps[-1] / run.episodes.seconds[-1])
        for run in runs
        if len(run.episodes.seconds) and run.episodes.seconds[-1] > 0
    ]
    return {
        "arm": arm,
        **asdict(compute_network_cost(arm)),
        "runs": len(runs),
        "hours": sum(seconds) / 3600,
        "median_agent_steps_per_second": float(np.median(rates)) if rates else None,
    }


def _describe_coordinate_use(comparison: Comparison) -> list[dict[str, Any]]:
    """Per game and arm that knows the position: share of the weights, and what taking it costs."""
    rows = []
    for arm in comparison.plan.arms:
        if not parse_arm(arm).coord_layers:
            continue
        for game in comparison.plan.games:
            runs = [
                run
                for seed in comparison.plan.seeds
                if (run := _ended(comparison, game, arm, seed)) is not None
            ]
            found = [find_weight_shares(run.directory, run.config.network) for run in runs]
            shares = [share for share in found if share is not None]
            ablations = [ablation for run in runs if (ablation := read_ablation(run)) is not None]
            layers = sorted(shares[0]) if shares else []
            rows.append(
                {
                    "game": game,
                    "arm": arm,
                    "runs": len(shares),
                    "weight_share": {
                        str(layer): _mean(share[layer] for share in shares) for layer in layers
                    },
                    "ablated_runs": len(ablations),
                    "ablated_games": sum(len(ablation["intact"]) for ablation in ablations),
                    "ablated_scores": {
                        variant: _mean(float(np.mean(ablation[variant])) for ablation in ablations)
                        for variant in VARIANTS
                    },
                }
            )
    return rows


# --- what the runs are ----------------------------------------------------------------------------


def _describe_settings(comparison: Comparison) -> dict[str, Any]:
    template = comparison.plan.template
    starts = [start for run in comparison.runs.values() for start in run.starts]

    def seen(*path: str) -> list[str]:
        values = set()
        for start in starts:
            value: Any = start
            for name in path:
                value = value.get(name) if isinstance(value, dict) else None
            values.add(str(value))
        return sorted(values)

    packages = sorted(
        {
            name
            for start in starts
            if isinstance(start.get("packages"), dict)
            for name in start["packages"]
        }
    )
    run = as_mapping(template.run)
    for name in ("game", "seed"):
        del run[name]
    return {
        "run": run,
        "hyperparameters": as_mapping(template.hyperparameters),
        "protocol": asdict(load_protocol(template.run.protocol)),
        "source_version": comparison.plan.source,
        "commit": seen("commit"),
        "python": seen("python"),
        "packages": {name: seen("packages", name) for name in packages},
        "platform": seen("platform"),
        "processor": seen("processor"),
        "cores": seen("cores"),
        "device": seen("device"),
        "threads": seen("threads"),
    }


def _list_runs(comparison: Comparison) -> list[dict[str, Any]]:
    """Every planned run, in the order of the plan."""
    rows = []
    for config in comparison.plan.runs():
        run = comparison.runs.get((config.run.game, config.arm, config.run.seed))
        rows.append(
            {
                "run": config.name,
                "state": "not started" if run is None else run.state,
                "agent_steps": 0 if run is None else run.agent_steps,
                "starts": 0 if run is None else len(run.starts),
                "games_played": 0 if run is None else len(run.episodes.returns),
                "message": "" if run is None else run.message,
            }
        )
    return rows


def _ended(comparison: Comparison, game: str, arm: str, seed: int) -> RunRecord | None:
    run = comparison.runs.get((game, arm, seed))
    return run if run is not None and run.has_ended else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _interval(low: float | None, high: float | None) -> list[float] | None:
    return None if low is None or high is None else [low, high]


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {
        "value": estimate.value,
        "interval_95": _interval(estimate.low, estimate.high),
    }
