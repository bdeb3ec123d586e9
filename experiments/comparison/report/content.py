"""What the report says, from the figures of `analysis.py`."""

from collections.abc import Sequence
from typing import Any

from experiments.comparison.report.analysis import PAPER_COUNT, VERDICTS, can_judge
from experiments.comparison.report.page import Block, Bullets, Figure, Heading, Paragraph, Table
from experiments.comparison.statistics.curves import BINS, FINAL_GAMES, SMOOTHING_BINS
from experiments.comparison.statistics.power import MIN_SEEDS

_FINISHED = "finished"


def compose(analysis: dict[str, Any], figures: Sequence[str]) -> list[Block]:
    """The blocks of the report, its first lines the verdicts or why there are none."""
    blocks: list[Block] = [
        Heading(1, "Does giving a convolution its coordinates help an agent?"),
        *(Paragraph(line) for line in _headline(analysis)),
        Heading(2, "Learning curves"),
        Figure("learning-curves", _curve_caption(analysis)),
    ]
    for compared in analysis["comparisons"]:
        blocks += _compose_comparison(analysis, compared, figures)
    return [
        *blocks,
        *_compose_scores(analysis),
        *_compose_cost(analysis),
        *_compose_coordinate_use(analysis),
        *_compose_runs(analysis),
        *_compose_settings(analysis),
        *_compose_method(analysis),
    ]


# --- sections -------------------------------------------------------------------------------------


def _headline(analysis: dict[str, Any]) -> list[str]:
    plan = analysis["plan"]
    lines = []
    if not can_judge(plan["seeds"]):
        lines.append(
            f"**No verdict is possible:** {_count(len(plan['seeds']), 'seed')} per game and arm; "
            f"a verdict needs {MIN_SEEDS} or more."
        )
    unfinished = sum(run["state"] not in (_FINISHED, "diverged") for run in analysis["runs"])
    if unfinished:
        lines.append(
            f"**Not finished:** {unfinished} of {_count(len(analysis['runs']), 'planned run')} "
            "have not ended; their games are undecided."
        )
    for compared in analysis["comparisons"]:
        counted = ", ".join(f"{compared['count'][name]} {name}" for name in VERDICTS)
        lines.append(
            f"**{compared['candidate']} against {compared['baseline']}**, by the mean return over "
            f"the whole training: {counted}, of {_count(len(plan['games']), 'game')}. "
            + _describe_improvement(compared)
        )
    if not plan["declared"]:
        lines.append(
            "No plan was declared before these runs: games, arms and seeds are those found, and "
            "the verdicts are exploratory."
        )
    lines.append(
        f"{_count(len(plan['games']), 'game')}, arms {', '.join(plan['arms'])}, "
        f"seeds {', '.join(map(str, plan['seeds']))}, {plan['total_agent_steps']:,} agent steps "
        f"(4 frames each) a run, {analysis['settings']['run']['algo'].upper()}, protocol "
        f"{analysis['settings']['run']['protocol']}. The nine games of the default plan are those "
        "of the rl-baselines3-zoo benchmark less Enduro, not the paper's, which it names only "
        "inside a figure."
    )
    return lines


def _describe_improvement(compared: dict[str, Any]) -> str:
    estimate = compared["probability_of_improvement"]
    if estimate is None:
        return "No game is complete yet."
    return (
        f"Over {_count(len(compared['complete_games']), 'complete game')}, a run of "
        f"{compared['candidate']} beats one of {compared['baseline']} with probability "
        f"{_estimate(estimate, 2)}."
    )


def _curve_caption(analysis: dict[str, Any]) -> str:
    return (
        "Return of finished games against agent steps. Thin lines: one run each, the mean return "
        f"in {BINS} equal bins of agent steps, smoothed by a centred moving average over "
        f"{SMOOTHING_BINS} bins. Thick: mean over seeds; band: its pointwise 95 % t interval "
        "(from two seeds on). Dotted: random play. Unfinished runs are drawn as far as they came."
    )


def _compose_comparison(
    analysis: dict[str, Any], compared: dict[str, Any], figures: Sequence[str]
) -> list[Block]:
    baseline, candidate = compared["baseline"], compared["candidate"]
    arms = (baseline, candidate)
    rows = []
    for game in compared["games"]:
        scores = analysis["games"][game["game"]]
        primary = [_mean(scores[arm]["mean_return_over_training"]) for arm in arms]
        rows.append(
            [
                game["game"],
                game["label"],
                str(game["pairs"]),
                *(_number(value) for value in primary),
                _with_interval(game["mean_difference"], game["interval_95"]),
                _number(game["margin"]),
                _interval(game["judged_interval"]),
                _estimate(game["probability_of_improvement"], 2),
            ]
        )
    finals = []
    for game in compared["games"]:
        scores = analysis["games"][game["game"]]
        finals.append(
            [
                game["game"],
                *(_number(scores[arm]["mean_final_score"]) for arm in arms),
                *(
                    _reached(scores[arm]["agent_steps_to_baselines_final_score"], scores[arm])
                    for arm in arms
                ),
            ]
        )
    name = f"differences-{candidate}"
    paper: list[Block] = []
    if candidate.startswith("coordconv"):
        paper = [
            Table(
                ["", *VERDICTS],
                [
                    ["here", *(str(compared["count"][verdict]) for verdict in VERDICTS)],
                    ["Liu et al. 2018", *(str(PAPER_COUNT[verdict]) for verdict in VERDICTS)],
                ],
            ),
            Paragraph(
                "The paper states neither its games, nor seeds, nor a rule for its counts "
                "(“better or faster”, “similar”, “slightly worse”), so they are "
                "beside each other, not the same measurement."
            ),
        ]
    return [
        Heading(2, f"{candidate} against {baseline}"),
        Table(
            [
                "game",
                "verdict",
                "pairs",
                baseline,
                candidate,
                "difference (95 % interval)",
                "margin",
                "judged interval",
                "P(improvement)",
            ],
            rows,
        ),
        Paragraph(
            "Mean raw return over the whole training: every agent step weighs the same, so that "
            "learning faster and ending higher both count. Difference: candidate minus baseline of "
            "the same seed. The judged interval is the one the verdict was read off, corrected for "
            "all games of the plan and for earlier looks."
        ),
        *([Figure(name, _difference_caption(candidate, baseline))] if name in figures else []),
        *paper,
        Heading(3, "Final scores, and how soon"),
        Table(
            [
                "game",
                f"{baseline}, final",
                f"{candidate}, final",
                f"{baseline}, agent steps to its final score",
                f"{candidate}, agent steps to it",
            ],
            finals,
        ),
        Paragraph(
            f"Final score: mean return of the last {FINAL_GAMES} games of a run, averaged over "
            f"seeds. Agent steps at which the mean of the last {FINAL_GAMES} games first reached "
            f"the {baseline} arm's mean final score: median of the runs that reached it."
        ),
    ]


def _difference_caption(candidate: str, baseline: str) -> str:
    return (
        f"{candidate} minus {baseline}, mean of the paired differences. A game is better or worse "
        "if its judged interval lies beyond the margin, similar if within. Games in which the "
        "baseline gained nothing over random play have no margin and are not drawn."
    )


def _compose_scores(analysis: dict[str, Any]) -> list[Block]:
    summary = analysis["scores_over_games"]
    if not summary["complete_games"]:
        return []
    return [
        Heading(2, "Over all games"),
        Table(
            ["arm", "interquartile mean of final human-normalised scores"],
            [
                [arm, _estimate(estimate, 3)]
                for arm, estimate in summary["interquartile_mean"].items()
            ],
        ),
        Paragraph(
            f"Over {_count(len(summary['complete_games']), 'complete game')}: the mean of the "
            "middle half of all runs’ final scores, 0 being random play and 1 the human tester "
            "(Agarwal et al. 2021), with the 95 % interval of a bootstrap stratified by game."
        ),
    ]


def _compose_cost(analysis: dict[str, Any]) -> list[Block]:
    first = analysis["cost"][0]
    rows = [
        [
            cost["arm"],
            f"{cost['parameters']:,}",
            f"{100 * (cost['parameters'] / first['parameters'] - 1):+.2f} %",
            f"{cost['multiply_adds']:,}",
            f"{cost['multiply_adds_per_update']:,}",
            str(cost["runs"]),
            f"{cost['hours']:.2f}",
            "-"
            if cost["median_agent_steps_per_second"] is None
            else f"{cost['median_agent_steps_per_second']:.0f}",
        ]
        for cost in analysis["cost"]
    ]
    return [
        Heading(2, "Cost"),
        Table(
            [
                "arm",
                "parameters",
                "more",
                "multiply-adds an observation",
                "and an update",
                "ended runs",
                "hours",
                "steps/s a run",
            ],
            rows,
        ),
        Paragraph(
            "Parameters and multiply-adds are those of the features extractor. The coordinates’ "
            "part of a convolution is the same for every observation, so it is computed once per "
            "update. Hours and rates (median agent steps a second) are those of training alone, "
            "up to each run’s last finished game, with as many runs side by side as there "
            "were jobs."
        ),
    ]


def _compose_coordinate_use(analysis: dict[str, Any]) -> list[Block]:
    uses = [use for use in analysis["coordinate_use"] if use["runs"] or use["ablated_runs"]]
    if not uses:
        return []
    rows = [
        [
            use["game"],
            use["arm"],
            ", ".join(f"{100 * share:.1f} %" for share in use["weight_share"].values()) or "-",
            str(use["ablated_runs"]),
            *(_number(score) for score in use["ablated_scores"].values()),
        ]
        for use in uses
    ]
    return [
        Heading(2, "Use of the position"),
        Table(
            [
                "game",
                "arm",
                "share of the weights",
                "ablated runs",
                "score intact",
                "map zeroed",
                "map shuffled",
            ],
            rows,
        ),
        Paragraph(
            "Share: L2 norm of the weights that see the position over that of all weights, for "
            "each convolution that knows the position, mean over seeds (at the end of training). "
            "Scores: mean return of whole games in evaluation, with the position’s map as "
            "trained, set to zero, or with its positions shuffled; `--ablate` plays them."
        ),
    ]


def _compose_runs(analysis: dict[str, Any]) -> list[Block]:
    runs = analysis["runs"]
    states: dict[str, int] = {}
    for run in runs:
        states[run["state"]] = states.get(run["state"], 0) + 1
    blocks: list[Block] = [
        Heading(2, "Runs"),
        Paragraph(
            f"{_count(len(runs), 'planned run')}: "
            + ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
            + ". A diverged run counts as what it scored until then. An unfinished run is not "
            "scored."
        ),
    ]
    odd = [run for run in runs if run["state"] != _FINISHED]
    if odd:
        rows = [
            [run["run"], run["state"], f"{run['agent_steps']:,}", run["message"] or "-"]
            for run in odd
        ]
        blocks.append(Table(["run", "state", "agent steps", "message"], rows))
    if analysis["left_out"]:
        left_out = [[run["run"], run["reason"]] for run in analysis["left_out"]]
        blocks += [
            Paragraph("Runs in the same folder that are not part of this comparison:"),
            Table(["run", "why left out"], left_out),
        ]
    return blocks


def _compose_settings(analysis: dict[str, Any]) -> list[Block]:
    settings, criteria = analysis["settings"], analysis["plan"]["criteria"]
    rows = [
        *([name, _setting(value)] for name, value in settings["run"].items()),
        *([name, _setting(value)] for name, value in settings["hyperparameters"].items()),
        *([f"protocol: {name}", _setting(value)] for name, value in settings["protocol"].items()),
        *([f"verdicts: {name}", _setting(value)] for name, value in criteria.items()),
        ["source version", settings["source_version"]],
        *(
            [name, "; ".join(settings[name]) or "-"]
            for name in (
                "commit",
                "python",
                "platform",
                "processor",
                "cores",
                "device",
                "threads",
            )
        ),
        *([name, "; ".join(versions)] for name, versions in settings["packages"].items()),
    ]
    return [Heading(2, "Protocol card"), Table(["setting", "value"], rows)]


def _compose_method(analysis: dict[str, Any]) -> list[Block]:
    plan = analysis["plan"]
    criteria = plan["criteria"]
    return [
        Heading(2, "Method"),
        Bullets(
            [
                "**Paired arms.** The same seed means the same starts of the games and the same "
                "initial weights wherever the networks are the same.",
                "**Test.** A paired t test on one difference a seed. It assumes that seeds are "
                "independent and their differences about normal.",
                f"**Margin.** {criteria['margin_fraction']:.0%} of what the baseline gained over a "
                "random player, declared beforehand, estimated from the same runs and then taken "
                "as known.",
                "**Verdict.** Better: the judged interval lies above the margin; worse: below; "
                "similar: within; else undecided. “About n more seeds” is how many would "
                f"give a verdict with probability {criteria['power']:.0%} if the observed "
                "difference and spread were the true ones.",
                "**Correction.** Holm’s step-down over all games of the plan, for better and "
                "worse, and for similar: the probability of any false one in the family is at most "
                f"{criteria['alpha']:.0%}. Every further arm is a family of its own.",
                f"**Looks.** This is look {plan['look']}. Seeds that are added after a game was "
                "complete make a further look, which has a smaller part of that probability to "
                "spend.",
                "**Not learned.** A game in which neither arm’s final score is above random "
                "play is undecided, whatever the difference.",
            ]
        ),
    ]


# --- cells ----------------------------------------------------------------------------------------


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _number(value: float | None) -> str:
    """Four significant digits, or whole numbers from a thousand on."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _interval(ends: Sequence[float] | None) -> str:
    return "-" if ends is None else f"{_number(ends[0])} to {_number(ends[1])}"


def _with_interval(value: float | None, ends: Sequence[float] | None) -> str:
    return _number(value) + ("" if ends is None else f" ({_interval(ends)})")


def _estimate(estimate: dict[str, Any] | None, digits: int) -> str:
    if estimate is None:
        return "-"
    text = f"{estimate['value']:.{digits}f}"
    if estimate["interval_95"] is None:
        return text
    low, high = estimate["interval_95"]
    return f"{text} ({low:.{digits}f} to {high:.{digits}f})"


def _reached(steps: Sequence[int | None], scores: dict[str, Any]) -> str:
    ended = sum(games is not None for games in scores["games_played"])
    known = sorted(step for step in steps if step is not None)
    if not ended:
        return "-"
    if not known:
        return f"none of {ended}"
    middle = (known[(len(known) - 1) // 2] + known[len(known) // 2]) / 2
    return f"{middle:,.0f} ({len(known)} of {ended})"


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:,}" if isinstance(value, int) else str(value)
