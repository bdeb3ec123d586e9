"""Every pair of runs, and the differences of those that one kind of machine trained."""

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.comparison.report.records import Comparison
from experiments.comparison.statistics.intervals import PairedDifference, compare_pairs


@dataclass(frozen=True)
class PairRow:
    """Both arms' runs of one seed, when both have ended with a score."""

    game: str
    seed: int
    baseline_return: float  # over the training
    candidate_return: float
    difference: float
    baseline_final: float | None
    candidate_final: float | None
    baseline_machines: list[str]  # in order, each once
    candidate_machines: list[str]

    @property
    def machines(self) -> list[str]:
        """The kinds of machine that trained the two, sorted."""
        return sorted({*self.baseline_machines, *self.candidate_machines})


@dataclass(frozen=True)
class MachineRow:
    """The differences of one game, of all pairs and of those that have one machine."""

    game: str
    all_pairs: PairedDifference
    one_machine: PairedDifference  # of pairs of any one machine
    by_machine: dict[str, PairedDifference]  # of those of this one


def list_pairs(comparison: Comparison, candidate: str) -> list[PairRow]:
    """The pairs of the baseline and a candidate, game by game and seed by seed."""
    plan, rows = comparison.plan, []
    for game in plan.games:
        arms = (comparison.ended_runs(game, arm) for arm in (plan.arms[0], candidate))
        for seed, before, after in zip(plan.seeds, *arms, strict=False):
            if before is None or after is None:
                continue
            (metric, final), (other_metric, other_final) = before.score, after.score
            if metric is not None and other_metric is not None:
                rows.append(
                    PairRow(
                        game=game,
                        seed=seed,
                        baseline_return=metric,
                        candidate_return=other_metric,
                        difference=other_metric - metric,
                        baseline_final=final,
                        candidate_final=other_final,
                        baseline_machines=before.machines,
                        candidate_machines=after.machines,
                    )
                )
    return rows


def compare_by_machine(pairs: Sequence[PairRow]) -> list[MachineRow]:
    """A row for each game; none if one machine trained all pairs.

    The same seed gives other games on another kind of processor or on a GPU, which round
    differently. Arms of two machines are paired by their seed alone, and may differ by the machine.
    """
    if len({machine for row in pairs for machine in row.machines}) < 2:
        return []
    of_one_machine = [row for row in pairs if len(row.machines) == 1]
    machines = sorted({row.machines[0] for row in of_one_machine})
    rows = []
    for game in dict.fromkeys(row.game for row in pairs):
        kept = [row for row in of_one_machine if row.game == game]
        rows.append(
            MachineRow(
                game=game,
                all_pairs=_compare([row for row in pairs if row.game == game]),
                one_machine=_compare(kept),
                by_machine={
                    machine: _compare([row for row in kept if row.machines == [machine]])
                    for machine in machines
                },
            )
        )
    return rows


def _compare(pairs: Sequence[PairRow]) -> PairedDifference:
    return compare_pairs([(row.baseline_return, row.candidate_return) for row in pairs])
