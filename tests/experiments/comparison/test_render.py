"""The report's two forms."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from configs.run_config import make_config
from experiments.comparison.plan import ComparisonPlan, save_plan
from experiments.comparison.report.analysis import Analysis, ScoresOverGames, TimeToScore, analyse
from experiments.comparison.report.figures import Panel, draw_curves, figure_style, to_bytes
from experiments.comparison.report.records import LeftOutRun, gather
from experiments.comparison.report.render import _show_time_to_score, render
from experiments.comparison.statistics.intervals import Estimate
from runtime.run_directory import RunDirectory
from tests.synthetic_runs import plan_of, write_run

FIGURES = {"learning-curves": b"png", "differences-coordconv": b"png"}


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    runs: Path = tmp_path_factory.mktemp("runs")
    plan = plan_of("Breakout", seeds=3)
    for config in plan.runs():
        bonus = 200 if config.arm == "coordconv" else 0
        write_run(runs, config, [200 + bonus + config.run.seed * (1 + bonus / 400)] * 100)
    write_run(runs, make_config("Pong", "a2c", {"gamma": 0.5}), [1.0])
    save_plan(plan, runs)
    return analyse(gather(runs))


@pytest.mark.parametrize("form", ["markdown", "html"])
def test_both_forms_say_the_same(analysis: Analysis, form: str) -> None:
    text = render(analysis, FIGURES, form)
    if form == "html":
        text = re.sub(r"<(style|nav).*?</\1>|<[^>]*>", " ", text, flags=re.S)
    words = " ".join(re.sub(r"[|*#]", " ", text).split())
    for sentence in (
        "coordconv against cnn , by the mean return over the whole training: 1 better, 0 similar, "
        "0 worse, 0 undecided, of 1 game. Over all games, a run of coordconv beats one of "
        "cnn with probability 1.00 (0.29 to 1.00).",  # none of three lost: 0.025^(1/3)
        # 201 and 401.5 in the mean; the differences are 200, 200.5 and 201.
        "Breakout better 3 201 401.5 200.5 (199.3 to 201.7) 100.6 % 9.965",
        "Liu et al. 2018 6 2 1 0",
        # At the level of 4 %, that of the first look, three seeds see the margin and 3.65 standard
        # deviations: stats.nct.sf(stats.t.ppf(0.98, 2), 2, 3.652 * sqrt(3)) = 0.8 in scipy.
        "Breakout 3 0.5 11.79 5.9 % The smallest difference",
        "with a probability of 80 %: the margin plus 3.65 standard deviations",
        "Pairs that have ended: 3. Pairs in which coordconv had the higher return over training: "
        "3. game seed cnn coordconv difference cnn, final coordconv, final",
        "Breakout 0 200 400 200 200 400 Breakout 1 201 401.5 200.5 201 401.5",
        "6 planned runs: 6 finished. For a diverged run the return",
        "margin_fraction 0.05",
    ):
        assert sentence in words


def test_a_pair_is_listed_once_both_runs_have_ended(tmp_path: Path) -> None:
    plan = plan_of("Breakout", seeds=3)
    for config in plan.runs():
        seed = config.run.seed
        if (config.arm, seed) != ("coordconv", 1):
            write_run(tmp_path, config, [10.0 + (seed if config.arm == "cnn" else 1)] * 100)
    save_plan(plan, tmp_path)
    text = render(analyse(gather(tmp_path)), FIGURES, "markdown")
    assert "Pairs that have ended: 2. Pairs in which coordconv had the higher return over" in text
    assert "over training: 1.\n" in text
    assert "trained on" not in text  # all on one machine
    assert "Pairs of one machine" not in text
    rows = ["| Breakout | 0 | 10 | 11 | 1 | 10 | 11 |", "| Breakout | 2 | 12 | 11 | -1 | 12 | 11 |"]
    assert "\n".join(rows) in text


def record_starts(
    directory: RunDirectory, plan: ComparisonPlan, *starts: Mapping[str, str | None]
) -> None:
    """Let a run of the plan have been trained on these machines, one after the other."""
    recorded = [{"source": plan.source, **start} for start in starts]
    directory.provenance_path.write_text(json.dumps({"starts": recorded}))


def test_pairs_say_where_they_were_trained_if_not_all_in_one_place(tmp_path: Path) -> None:
    plan = plan_of("Breakout", seeds=6)
    places: dict[tuple[str, int], list[tuple[str | None, str | None]]] = {
        ("cnn", 0): [("A", "cpu")],
        ("coordconv", 0): [("A", "cpu"), ("A", "cpu")],
        ("cnn", 1): [("B", "cuda"), ("A", "cpu")],
        ("coordconv", 1): [("B", "cuda"), ("A", "cpu")],
        ("cnn", 2): [("A", "cpu")],
        ("coordconv", 2): [(None, None)],
        ("cnn", 3): [("A", "cpu")],
        ("coordconv", 3): [("A", "cpu")],
        ("cnn", 4): [("B", "cuda:1")],
        ("coordconv", 4): [("B", "cuda")],
        ("cnn", 5): [("B", "cuda")],
        ("coordconv", 5): [("B", "cuda")],
    }
    gains = (1, 50, 60, 2, 6, 7)  # of the second and the third two kinds of machine
    for config in plan.runs():
        gain = gains[config.run.seed] if config.arm == "coordconv" else 0
        directory = write_run(tmp_path, config, [10.0 + gain] * 100)
        starts = [
            {"processor": processor, "device": device}
            for processor, device in places[config.arm, config.run.seed]
        ]
        record_starts(directory, plan, *starts)
    save_plan(plan, tmp_path)
    text = render(analyse(gather(tmp_path)), FIGURES, "markdown")
    assert "| cnn, final | coordconv, final | trained on |" in text
    for row in (
        "0 | 10 | 11 | 1 | 10 | 11 | A |",
        "1 | 10 | 60 | 50 | 10 | 60 | B with cuda, then A |",
        "2 | 10 | 70 | 60 | 10 | 70 | cnn: A; coordconv: unknown |",
    ):
        assert f"| Breakout | {row}" in text
    # Of 1, 2, 6 and 7 the mean is 4, the sum of squares around it 26; of all six the mean is 21.
    half_width = stats.t.ppf(0.975, 3) * math.sqrt(26 / 3 / 4)
    row = text.split("### Pairs of one machine\n\n")[1].splitlines()[2]
    assert row.startswith("| Breakout | 6 | 21 (")
    interval = f"{4 - half_width:.4g} to {4 + half_width:.4g}"
    assert row.endswith(f"| 4 | 4 ({interval}) | 1.5 (2) | 6.5 (2) |")
    assert "\n| machines | A; B with cuda; unknown |\n" in text


def test_the_gpu_that_trained_everything_is_named(tmp_path: Path) -> None:
    plan = plan_of("Breakout")
    for config in plan.runs():
        directory = write_run(tmp_path, config, [10.0] * 100)
        record_starts(directory, plan, {"processor": "B", "device": "cuda:0", "gpu": "C"})
    save_plan(plan, tmp_path)
    text = render(analyse(gather(tmp_path)), FIGURES, "markdown")
    assert "\n| machines | B with C |\n" in text
    assert "trained on" not in text


def test_arms_of_two_machines_leave_no_pair_of_one(tmp_path: Path) -> None:
    plan = plan_of("Breakout", seeds=3)
    for config in plan.runs():
        directory = write_run(tmp_path, config, [10.0 + config.run.seed] * 100)
        record_starts(directory, plan, {"processor": config.arm, "device": "cpu"})
    save_plan(plan, tmp_path)
    text = render(analyse(gather(tmp_path)), FIGURES, "markdown")
    assert text.split("### Pairs of one machine\n\n")[1].startswith(
        "| game | pairs | difference (95 % interval) | of one machine | difference (95 % interval) "
        "|\n| --- | ---: | ---: | ---: | ---: |\n| Breakout | 3 | 0 | 0 | - |\n"
    )


def test_markdown_tables_and_contents(analysis: Analysis) -> None:
    plain, coord = analysis.cost
    untold = replace(coord, parameters=None, multiply_adds=None)  # a user's own network
    changed = replace(analysis, left_out=[LeftOutRun("a|b", "c")], cost=[plain, untold])
    text = render(changed, FIGURES, "markdown")
    assert "\n\n| run | why left out |\n| --- | --- |\n| a\\|b | c |\n\n" in text
    assert "\n\n| arm | parameters |" in text
    assert "\n| coordconv | - | - | - | 1,638,400 | 3 |" in text
    assert "\n\n- [Learning curves](#learning-curves)\n- [coordconv against cnn](#coord" in text
    assert "![Learning curves](figures/learning-curves.png)\n\n*Return of finished" in text


class Page(HTMLParser):
    """What a browser would find."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.identifiers: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.identifiers += [values["id"] or ""] if "id" in values else []
        self.links += [values["href"] or ""] if tag == "a" else []
        self.open += [tag] if tag not in ("meta", "img") else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_is_well_formed_and_its_contents_lead_to_the_sections(analysis: Analysis) -> None:
    mean = Estimate(0.125, (0.1, 0.2))
    over_games = ScoresOverGames(
        ["Breakout", "Pong"], [0, 1, 2], {"cnn": mean}, {"coordconv": mean}
    )
    text = render(replace(analysis, scores_over_games=over_games), FIGURES, "html")
    assert '<td>coordconv less cnn</td><td class="number">0.125 (0.100 to 0.200)</td>' in text
    page = Page(text)
    assert page.open == []
    assert len(page.links) == 7
    assert {link.removeprefix("#") for link in page.links} == set(page.identifiers)
    assert len(set(page.identifiers)) == len(page.identifiers)
    assert '<td><span class="better">better</span></td><td class="number">3</td>' in text
    assert 'src="data:image/png;base64,cG5n"' in text


def test_names_of_any_letters_and_length_can_be_drawn() -> None:
    names = ["cnn", "$x^$" + "y" * 190]
    panel = Panel("Pong\n$x^$", 100, [np.ones((1, 10)), np.zeros((1, 10))], None)
    with figure_style():
        assert to_bytes(draw_curves([panel], names), "png").startswith(b"\x89PNG")


def test_what_runs_say_cannot_become_markup(analysis: Analysis) -> None:
    hostile = "<script>alert(1)</script>"
    text = render(replace(analysis, left_out=[LeftOutRun(hostile, hostile)]), FIGURES, "html")
    assert "<script>" not in text
    assert text.count("&lt;script&gt;") == 2


def test_the_first_step_that_half_of_all_runs_had_reached() -> None:
    def show(steps: list[int | None], ended: int) -> str:
        games = [1] * ended + [None] * (len(steps) - ended)
        assert _show_time_to_score(TimeToScore(None, steps), games) == "-"
        return _show_time_to_score(TimeToScore(5.0, steps), games)

    assert show([30, None, 10], 3) == "30 (2 of 3)"
    assert show([30, None, 10, None], 4) == "- (2 of 4)"
    assert show([30, None], 1) == "30 (1 of 1)"
    assert show([None], 0) == "-"


@pytest.mark.parametrize(
    ("estimate", "sentence"),
    [
        (Estimate(0.5, (0.25, 0.75)), "with probability 0.50 (0.25 to 0.75)."),
        (None, "of 1 game.\n"),  # too few seeds for a verdict: no probability either
    ],
)
def test_probability_of_improvement(
    analysis: Analysis, estimate: Estimate | None, sentence: str
) -> None:
    (compared,) = analysis.comparisons
    changed = replace(compared, probability_of_improvement=estimate)
    text = render(replace(analysis, comparisons=[changed]), FIGURES, "markdown")
    assert sentence in text.split("## ")[0]
