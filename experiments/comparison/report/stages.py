"""How far the games of a plan have come that goes on until each is decided, read off their runs.

A game's stage follows from the ended runs alone: whoever asks, before, during or after training,
gets the same answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from configs.run_config import RunConfig
from envs.games import find_game
from experiments.comparison.plan import ComparisonPlan
from experiments.comparison.report.records import (
    Comparison,
    Key,
    LeftOutRun,
    RunRecord,
    has_ended,
    read_run,
)
from experiments.comparison.statistics.verdicts import GameScores, Stage, find_stage
from runtime.run_directory import RunDirectory

Stages = Mapping[tuple[str, str], Stage]  # by game and candidate


def find_stages(plan: ComparisonPlan, ended: Mapping[Key, RunRecord]) -> Stages:
    """The stage of every game and candidate, by the runs that have ended."""
    assert plan.design is not None
    stages = {}
    for game in plan.games:
        baseline, *candidates = (
            [ended.get((game, arm, seed)) for seed in plan.seeds] for arm in plan.arms
        )
        for arm, candidate in zip(plan.arms[1:], candidates, strict=True):
            pairs = pair_arms(game, baseline, candidate)
            stages[game, arm] = find_stage(
                pairs, plan.criteria, plan.design, plan.alpha / len(plan.games)
            )
    return stages


def pair_arms(
    game: str, baseline: Sequence[RunRecord | None], candidate: Sequence[RunRecord | None]
) -> GameScores:
    """Both arms by seed, None where a run has not ended; seeds that one alone has are left out."""
    pairs = list(zip(baseline, candidate, strict=False))
    before, after = (
        [(None, None) if run is None else run.score for run in runs]
        for runs in ([one for one, _ in pairs], [other for _, other in pairs])
    )
    return GameScores(
        game=game,
        baseline=[metric for metric, _ in before],
        candidate=[metric for metric, _ in after],
        baseline_final=[final for _, final in before],
        candidate_final=[final for _, final in after],
        ended=[None not in pair for pair in pairs],
        random_return=find_game(game).random_return,
        human_return=find_game(game).human_return,
    )


def count_seeds(
    plan: ComparisonPlan, stages: Stages, *, at_most: bool = False
) -> dict[tuple[str, str], int]:
    """How many seeds each game and arm needs as far as is known; or may need, at most.

    The baseline needs what the candidate needs that needs most.
    """
    counts = {
        key: len(plan.seeds) if at_most and stage.stop is None else stage.seeds
        for key, stage in stages.items()
    }
    for game in plan.games:
        counts[game, plan.arms[0]] = max(counts[game, arm] for arm in plan.arms[1:])
    return counts


def leave_out_unneeded(comparison: Comparison) -> Comparison:
    """The comparison without the runs, planned or there, of seeds that its games do not need."""
    plan = comparison.plan
    if plan.design is None:
        return comparison
    ended = {key: run for key, run in comparison.runs.items() if run.has_ended}
    counts = count_seeds(plan, find_stages(plan, ended))
    runs, left_out = {}, list(comparison.left_out)
    for (game, arm, seed), run in comparison.runs.items():
        if seed in plan.seeds[: counts[game, arm]]:
            runs[game, arm, seed] = run
        else:
            left_out.append(LeftOutRun(run.config.name, "of a seed that the game did not need"))
    return replace(comparison, runs=runs, left_out=sorted(left_out), seeds_needed=counts)


class StageWatch:
    """The stages while runs are being trained."""

    def __init__(self, plan: ComparisonPlan, runs: Path) -> None:
        """Read what is there.

        Raises:
            OSError, ValueError: If a run is damaged, or its games are missing; one line.
        """
        self._plan, self._runs = plan, runs
        self._ended: dict[Key, RunRecord] = {}
        self._stages: Stages = {}
        self.look(plan.runs())

    def look(self, configs: list[RunConfig]) -> list[str]:
        """Take note of those of some runs that have ended; returns a line per game that stopped."""
        for config in configs:
            directory = RunDirectory(self._runs / config.name)
            if has_ended(directory, config):
                run = read_run(directory)
                self._ended[run.key] = run
        before, self._stages = self._stages, find_stages(self._plan, self._ended)
        self._due = count_seeds(self._plan, self._stages)
        self._at_most = count_seeds(self._plan, self._stages, at_most=True)
        return [
            f"{game}, {arm}: {stage.stop} after {stage.seeds} seeds."
            for (game, arm), stage in self._stages.items()
            if stage.stop is not None and before.get((game, arm), stage).stop is None
        ]

    def is_due(self, config: RunConfig) -> bool:
        """Whether a run is needed, as far as is known."""
        return self._is_within(config, self._due)

    def may_be_needed(self, config: RunConfig) -> bool:
        """Whether a run is needed, or could yet be."""
        return self._is_within(config, self._at_most)

    def _is_within(self, config: RunConfig, counts: Mapping[tuple[str, str], int]) -> bool:
        number = self._plan.seeds.index(config.run.seed)
        return number < counts[config.run.game, config.arm]
