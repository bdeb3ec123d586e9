"""What a plan will take, and what it could show: told before anything is trained."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agents.training.requirements import count_needs
from configs.run_config import RunConfig
from configs.settings import load_preset
from experiments.comparison.plan import ComparisonPlan
from experiments.comparison.report.records import find_runs, read_runs
from experiments.comparison.report.stages import StageWatch
from experiments.comparison.statistics.sequential import SequentialDesign
from experiments.comparison.statistics.simulate import judge_until_decided
from runtime.command_line import format_seconds
from runtime.run_directory import RunDirectory

PROCESS_BYTES = 600_000_000  # of the program itself, in one training process
_SHOWN = 8  # runs, of the order
_COLUMNS, _INDENT = 79, 11 * " "
_EFFECTS = 0, 1, 2, 4  # standard deviations beyond the margin, for the expected runs
_FAMILIES = 300  # that are drawn for it


def describe_plan(
    plan: ComparisonPlan,
    unfinished: Sequence[RunConfig],
    runs: Path,
    jobs: int,
    watch: StageWatch | None = None,
    *,
    on_cluster: bool = False,
) -> str:
    """What `--dry-run` prints; with the stages of a plan that goes on until decided."""
    configs = [config for config in plan.runs() if watch is None or watch.may_be_needed(config)]
    at_most, total = "" if watch is None else " at most", plan.total_agent_steps
    steps, ended = total * len(configs), len(configs) - len(unfinished)
    saved = (RunDirectory(runs / config.name).count_saved_steps() for config in unfinished)
    done = total * ended + sum(min(agent_steps, total) for agent_steps in saved)
    rate, source = find_rate(plan, runs)
    own = "; networks of your own may take more" if plan.extractors else ""
    time = format_seconds((steps - done) / (rate * jobs))
    needs = count_needs(unfinished, runs, jobs, PROCESS_BYTES)
    memory = needs.available_memory
    available = "" if memory is None or on_cluster else f"; {memory / 1e9:.1f} GB available"
    baseline = f"{plan.arms[0]} is the baseline" if plan.arms[1:] else "nothing to compare it with"
    more = [f"... {len(unfinished) - _SHOWN} more"] if len(unfinished) > _SHOWN else []
    order = [*(config.name for config in unfinished[:_SHOWN]), *more] or ["all have ended"]
    lines = [
        f"games      {' '.join(plan.games)}",
        f"arms       {' '.join(plan.arms)}; {baseline}",
        f"seeds      {' '.join(map(str, plan.seeds))}{at_most}",
        f"training   {plan.template.run.algo}, protocol {plan.template.run.protocol}, "
        f"{plan.template.run.precision}, {total:_} agent steps a run",
        f"runs       {len(configs)}{at_most}, of which {ended} have ended; {jobs} at a time",
        f"steps      {steps:_} agent steps{at_most}, {done:_} of them done",
        f"time       {time}{at_most} at {rate:.0f} agent steps/s a job ({source}{own})",
        f"disk       {needs.disk / 1e9:.1f} GB at most to come; "
        f"{needs.free_disk / 1e9:.1f} GB free{own}",
        f"memory     {needs.memory / 1e9:.1f} GB{available}{own}",
        f"verdicts   {describe_power(plan)}",
        *([] if plan.design is None else [f"stopping   {describe_stopping(plan, plan.design)}"]),
    ]
    wrapped = [
        textwrap.fill(
            line,
            _COLUMNS,
            subsequent_indent=_INDENT,
            break_long_words=False,  # such as the path of the runs
            break_on_hyphens=False,
        )
        for line in lines
    ]
    return "\n".join([*wrapped, "order      " + f"\n{_INDENT}".join(order)])


def describe_power(plan: ComparisonPlan) -> str:
    """The smallest difference that the plan could tell from its margin."""
    if not plan.arms[1:]:
        return "none, of a single arm"
    criteria, smallest = plan.criteria, plan.detectable_beyond_margin
    if smallest is None:
        return "none possible with fewer than 3 seeds"
    return (
        f"with {criteria.power:.0%} probability a game is told better or worse if the arms differ "
        f"by {criteria.margin_fraction:.0%} of the baseline's gain (the margin) plus "
        f"{smallest:.2f} standard deviations of the paired differences"
    )


def describe_stopping(plan: ComparisonPlan, design: SequentialDesign) -> str:
    """The plan's error rate, and how many runs to expect of it if differences are normal."""
    criteria, games = plan.criteria, len(plan.games)
    shape = (len(plan.arms) - 1, _FAMILIES, games, design.most_seeds)  # a candidate each first
    normal, expected = np.random.default_rng(0).standard_normal(shape), []
    for effect in _EFFECTS:
        _, seeds = judge_until_decided(normal + effect, np.zeros(shape), plan.alpha, design)
        runs = seeds.sum(axis=0) + seeds.max(axis=0)  # the baseline's go on with any candidate's
        expected.append(f"{runs.mean() * games:.0f}")
    return (
        f"a game stops from {design.rule.first_look} seeds on once it is decided, or less than "
        f"{design.rule.futility:.0%} likely to be decided by {design.most_seeds}; at most "
        f"{criteria.alpha:.0%} of families have a false better or worse, and at most as many a "
        "false similar (group-sequential t tests); "
        f"expect {', '.join(expected[:-1])} or {expected[-1]} of {len(plan.runs())} runs if every "
        f"difference is {', '.join(map(str, _EFFECTS[:-1]))} or {_EFFECTS[-1]} standard deviations "
        "beyond its margin"
    )


def find_rate(plan: ComparisonPlan, runs: Path) -> tuple[float, str]:
    """Agent steps a second of one job, and where the figure is from."""
    planned, (records, _) = plan.template.run, read_runs(find_runs(runs))
    rates = [
        rate
        for record in records
        for run in [record.config.run]
        if (run.algo, run.precision) == (planned.algo, planned.precision)
        if (rate := record.agent_steps_per_second) is not None
    ]
    if rates:
        count = "1 run" if len(rates) == 1 else f"{len(rates)} runs"
        return float(np.median(rates)), f"median of {count} below {runs}"
    measured = load_preset("comparison")["agent_steps_per_second"]
    return float(
        measured[planned.algo][planned.precision]
    ), "configs/comparison.toml; nothing measured here yet"
