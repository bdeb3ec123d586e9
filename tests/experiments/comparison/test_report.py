"""The report: which runs it pools, what it says of them, and that it says it again."""

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from configs.run_config import make_config, parse_arm, parse_own_arm
from experiments.comparison.plan import ComparisonPlan, make_plan, save_plan
from experiments.comparison.report.network_cost import compute_network_cost
from experiments.comparison.report.records import gather, read_progress
from experiments.comparison.report.render import write_report
from runtime.episodes import read_episodes
from runtime.provenance import hash_source
from tests.synthetic_runs import plan_of, read_outputs, write_run

STEPS = 1000


def write_plan_and_runs(runs: Path, plan: ComparisonPlan) -> None:
    """Breakout: coordconv scores twice as much. Pong: nobody leaves -21."""
    save_plan(plan, runs)
    for config in plan.runs():
        better = config.arm == "coordconv"
        noise = config.run.seed % 3 + (0.5 * config.run.seed if better else 0)
        if config.run.game == "Breakout":
            returns = [(400 if better else 200) + noise] * 100
        else:
            returns = [-21 + 0.01 * noise] * 10
        write_run(runs, config, returns)


def read_report(runs: Path) -> Any:
    """Without pictures: they take a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.comparison.report.figures.to_bytes", lambda *_: b"")
        write_report(runs)
    return json.loads((runs / "report.json").read_text())


def verdicts_of(report: Any) -> dict[str, str]:
    (compared,) = report["comparisons"]
    return {game["game"]: game["label"] for game in compared["games"]}


@pytest.fixture(scope="module")
def reported(tmp_path_factory) -> Path:
    """A folder with all runs of a plan, and their report."""
    runs: Path = tmp_path_factory.mktemp("comparison")
    write_plan_and_runs(runs, plan_of(seeds=3))
    write_report(runs)
    return runs


def test_verdicts_and_scores(reported):
    report = json.loads((reported / "report.json").read_text())
    assert verdicts_of(report) == {"Breakout": "better", "Pong": "undecided (not learned)"}
    (compared,) = report["comparisons"]
    assert compared["count"] == {"better": 1, "similar": 0, "worse": 0, "undecided": 1}
    breakout = compared["games"][0]
    assert breakout["pairs"] == 3
    # Constant returns, so the mean over training is the return: 200 + {0, 1, 2} against
    # 400 + {0, 1.5, 3}; the differences are 200, 200.5 and 201.
    assert breakout["mean_difference"] == pytest.approx(200.5)
    assert breakout["standard_deviation"] == pytest.approx(0.5)
    assert breakout["margin"] == pytest.approx(0.05 * (201 - 1.7))
    assert breakout["probability_of_improvement"]["value"] == 1
    scores = report["games"]["Breakout"]
    assert scores["cnn"]["final_score"] == [200, 201, 202]
    assert scores["coordconv"]["mean_return_over_training"] == pytest.approx([400, 401.5, 403])
    # The hundredth game is the first at which the mean of a hundred is known.
    final = {"score": 201, "agent_steps": [None, STEPS, STEPS]}
    assert scores["cnn"]["to_the_baselines_final_score"] == final
    assert scores["coordconv"]["to_the_baselines_final_score"]["agent_steps"] == [STEPS] * 3
    half = {"score": (201 + 1.7) / 2, "agent_steps": [STEPS] * 3}
    assert scores["cnn"]["to_half_the_baselines_gain"] == half
    assert report["games"]["Pong"]["cnn"]["to_half_the_baselines_gain"]["score"] is None
    text = (reported / "report.md").read_text()
    steps = "1,000 (3 of 3) | 1,000 (3 of 3) | 1,000 (2 of 3) | 1,000 (3 of 3)"
    assert f"| Breakout | 201 | 401.5 | {steps} |" in text
    # Of the first of Holm's two steps, at the 4 % of the first look.
    half_width = stats.t.ppf(1 - 0.04 / 2 / 2, 2) * 0.5 / math.sqrt(3)
    assert f"| {200.5 - half_width:.1f} to {200.5 + half_width:.1f} (98.00 %) |" in text
    assert report["cost"][0]["runs"] == 6
    assert report["cost"][0]["median_agent_steps_per_second"] == pytest.approx(10)
    assert report["left_out"] == []
    assert {run["state"] for run in report["runs"]} == {"finished"}


def test_the_first_lines_are_the_verdicts(reported):
    lines = (reported / "report.md").read_text().splitlines()
    # Breakout: 1. Pong: of the pairs of {0, 1.5, 3} and {0, 1, 2}, five wins and a tie: 5.5 / 9.
    assert lines[2].startswith(
        "**coordconv against cnn**, by the mean return over the whole training: 1 better, 0 "
        "similar, 0 worse, 1 undecided, of 2 games. Over all games, a run of coordconv "
        "beats one of cnn with probability 0.81 ("
    )


def write_until_decided(runs: Path, spare: int = 0) -> None:
    """Breakout is decided after 3 seeds, Pong hopeless; of Breakout some seeds more are there."""
    plan = plan_of(most_seeds=6)
    write_plan_and_runs(runs, plan)
    for config in plan.runs():
        if config.run.seed >= 3 + (spare if config.run.game == "Breakout" else 0):
            shutil.rmtree(runs / config.name)


def test_a_plan_until_decided_says_when_each_game_stopped_and_why(tmp_path):
    write_until_decided(tmp_path, spare=1)
    report = read_report(tmp_path)
    assert verdicts_of(report) == {"Breakout": "better", "Pong": "undecided (not learned)"}
    text = (tmp_path / "report.md").read_text()
    rows = (
        "| game | seeds | state |\n| --- | ---: | --- |\n"
        "| Breakout | 3 | decided |\n"
        "| Pong | 3 | given up: not learned |\n"
    )
    assert rows in text
    assert "\n12 planned runs: 12 finished." in text
    assert "Jennison and Turnbull 1991" in text
    assert "more seeds”" not in text
    assert "Not finished" not in text
    assert {run["run"]: run["reason"] for run in report["left_out"]} == {
        f"Breakout/a2c-{arm}/seed3": "of a seed that the game did not need"
        for arm in ("cnn", "coordconv")
    }
    # A run more is known to be needed as soon as the third seed's are not enough.
    shutil.rmtree(tmp_path / "Breakout/a2c-cnn/seed2")
    assert verdicts_of(read_report(tmp_path))["Breakout"] == "no verdict yet"
    text = (tmp_path / "report.md").read_text()
    assert "| Breakout | 3 | goes on, with as many seeds at least |" in text
    assert "**Not finished:** 1 of 12 planned runs have not ended; their games have" in text


def test_a_game_that_is_given_up_is_told_what_that_means(tmp_path):
    save_plan(plan_of("Breakout", most_seeds=6), tmp_path)
    for config in plan_of("Breakout", seeds=3).runs():
        bonus = (60, -60, 5)[config.run.seed] if config.arm == "coordconv" else 0
        write_run(tmp_path, config, [200 + bonus] * 100)
    assert verdicts_of(read_report(tmp_path)) == {"Breakout": "undecided (given up after 3 seeds)"}
    text = (tmp_path / "report.md").read_text()
    row = "| Breakout | 3 | given up: less than 5 % likely to be decided by 6 seeds, by itself |\n"
    assert row in text


def test_what_is_said_over_all_games_is_of_the_same_seeds_in_each_and_waits_for_all(tmp_path):
    plan = plan_of("Breakout Qbert", most_seeds=6)
    save_plan(plan, tmp_path)
    for config in plan.runs():  # Qbert would need a fourth seed, Breakout is decided after three
        seed, is_better = config.run.seed, config.arm == "coordconv"
        if config.run.game == "Breakout" and seed < 3:
            write_run(tmp_path, config, [(400 + 1.5 * seed if is_better else 200 + seed)] * 100)
        elif config.run.game == "Qbert" and seed < 4:
            gain = (3000, 3200, 2000, 9000)[seed] if is_better else 0
            write_run(tmp_path, config, [1000 + seed + gain] * 100)
    report = read_report(tmp_path)
    (compared,) = report["comparisons"]
    assert [game["stage"]["stop"] for game in compared["games"]] == ["decided", None]
    assert not compared["is_complete"]
    assert compared["probability_of_improvement"] is None
    assert (
        "Figures over all games together are given when all are complete."
        in (tmp_path / "report.md").read_text()
    )
    assert report["scores_over_games"]["seeds"] == []
    for config in plan.runs():
        if config.run.game == "Qbert" and config.run.seed >= 3:
            gain = 4000 + config.run.seed * 100 if config.arm == "coordconv" else 0
            write_run(tmp_path, config, [1000 + config.run.seed + gain] * 100)
    report = read_report(tmp_path)
    (compared,) = report["comparisons"]
    assert compared["games"][1]["pairs"] > 3
    assert compared["is_complete"]
    assert compared["probability_of_improvement"]["value"] == 1
    over_games = report["scores_over_games"]
    assert (over_games["games"], over_games["seeds"]) == (["Breakout", "Qbert"], [0, 1, 2])
    # Of 200 to 202 in Breakout (random 1.7, human 30.5) and 1000 to 1002 in Qbert (163.9, 13455) a
    # quarter of the six, one, goes at each end: Breakout's best and Qbert's worst.
    breakout = [(value - 1.7) / (30.5 - 1.7) for value in (200, 201)]
    qbert = [(value - 163.9) / (13455 - 163.9) for value in (1001, 1002)]
    mean = sum(breakout + qbert) / 4
    assert over_games["interquartile_mean"]["cnn"]["value"] == pytest.approx(mean, rel=1e-3)
    difference = over_games["difference"]["coordconv"]["value"]
    means = {arm: value["value"] for arm, value in over_games["interquartile_mean"].items()}
    assert difference == pytest.approx(means["coordconv"] - means["cnn"])
    for seed in (1, 2, 3, 4, 5):
        shutil.rmtree(tmp_path / f"Qbert/a2c-cnn/seed{seed}")
    # Both arms' columns, and the margin, are of the seeds that both have.
    qbert_row = read_report(tmp_path)["comparisons"][0]["games"][1]
    assert (qbert_row["baseline_return"], qbert_row["candidate_return"]) == (1000, 4000)
    assert qbert_row["margin"] == pytest.approx(0.05 * (1000 - 163.9))


def test_two_seeds_allow_no_verdict_and_the_first_line_says_so(tmp_path):
    write_plan_and_runs(tmp_path, plan_of(seeds=2))
    report = read_report(tmp_path)
    assert set(verdicts_of(report).values()) == {"undecided (needs 3 seeds)"}
    assert (tmp_path / "report.md").read_text().splitlines()[2] == (
        "**No verdict is possible:** 2 seeds per game and arm; a verdict needs 3 or more."
    )


def test_the_same_runs_give_the_same_bytes(reported, tmp_path):
    contents = read_outputs(reported)
    write_plan_and_runs(tmp_path, plan_of(seeds=3))
    assert read_outputs(tmp_path) == contents  # `reported` has been written twice
    wanted = {"report.md", "report.json", "report.html", "figures/learning-curves.png"}
    assert wanted <= contents.keys()


def test_the_page_needs_no_other_file(reported):
    page = (reported / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == 2
    assert "http" not in page
    assert "<script" not in page


def test_where_all_runs_are_damaged_the_first_is_named(tmp_path):
    damaged = write_run(tmp_path, plan_of(seeds=1).runs()[0], [1])
    damaged.config_path.write_text('{"a": ')
    name = damaged.path.relative_to(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"has no readable runs; {name}: config.json"):
        gather(tmp_path)


def test_other_runs_are_listed_and_left_out(tmp_path):
    plan = plan_of(seeds=3)
    write_plan_and_runs(tmp_path, plan)
    (first, *_) = plan.runs()

    def other(seed: int, algo: str = "a2c", **overrides):
        steps = {"total_agent_steps": STEPS, "seed": seed}
        return make_config("Breakout", algo, steps | overrides)

    write_run(tmp_path, other(7), [1])
    write_run(tmp_path, other(8, protocol="machado", gamma=0.5), [1])
    write_run(tmp_path, other(9, total_agent_steps=2000), [1])
    write_run(tmp_path, other(10), [1], sources=["abc"])
    write_run(tmp_path, other(0, "dqn"), [1])
    damaged = write_run(tmp_path, other(11), [1])
    damaged.config_path.write_text("{}")
    moved = write_run(tmp_path, other(12), [1])
    moved.path.rename(moved.path.with_name("seed13"))
    mixed = write_run(tmp_path, other(14), [1], sources=[hash_source(), "abc"])
    write_run(tmp_path, other(15), [1], sources=["a\nb"])
    write_run(tmp_path, other(16), [1]).episodes_path.unlink()
    renamed = write_run(tmp_path, other(17), [1]).path
    renamed.rename(renamed.with_name(os.fsdecode(b"seed\xff")))
    report = read_report(tmp_path)
    assert {row["run"]: row["reason"] for row in report["left_out"]} == {
        "Breakout/a2c-cnn/seed7": "not in the plan",
        "Breakout/a2c-cnn,gamma=0.5/seed8": "other settings (gamma = 0.5, protocol = machado)",
        "Breakout/a2c-cnn/seed9": "another length (2_000 agent steps)",
        "Breakout/a2c-cnn/seed10": "another source version (abc)",
        "Breakout/dqn-cnn/seed0": "another algorithm (dqn)",
        "Breakout/a2c-cnn/seed11": "config.json: format version None is not the one "
        "this release reads (2); use the release that wrote it.",
        "Breakout/a2c-cnn/seed13": "its config is that of Breakout/a2c-cnn/seed12",
        "Breakout/a2c-cnn/seed16": "episodes.csv is missing or empty; restore it, or delete "
        f"{tmp_path}/Breakout/a2c-cnn/seed16 to train the run again.",
        "Breakout/a2c-cnn/seed?": "its config is that of Breakout/a2c-cnn/seed17",
        "Breakout/a2c-cnn/seed15": "provenance.json: `source` must be printable text; restore the "
        "file.",
        "Breakout/a2c-cnn/seed14": f"another source version ({hash_source()}, abc)",
    }
    assert mixed.path.exists()
    assert verdicts_of(report)["Breakout"] == "better"
    assert first.name not in {row["run"] for row in report["left_out"]}


@pytest.mark.parametrize(
    ("state", "label", "score"),
    [
        ("interrupted", "no verdict yet", None),
        ("failed", "no verdict yet", None),
        ("running", "no verdict yet", None),
        ("diverged", "better", 400),
    ],
)
def test_only_a_diverged_run_counts_as_far_as_it_came(tmp_path, state, label, score):
    plan = plan_of(seeds=3)
    write_plan_and_runs(tmp_path, plan)
    config = plan.run_of("Breakout", "coordconv", 0)
    write_run(tmp_path, config, [400] * 100, state=state)
    report = read_report(tmp_path)
    assert verdicts_of(report)["Breakout"] == label
    assert report["games"]["Breakout"]["coordconv"]["final_score"][0] == score
    listed = {run["run"]: run for run in report["runs"]}[config.name]
    assert (listed["state"], listed["agent_steps"]) == (state, 500)


def test_a_run_that_is_missing_or_has_no_finished_game_has_no_score(tmp_path):
    plan = plan_of("Pong", 3)
    save_plan(plan, tmp_path)
    report = read_report(tmp_path)
    assert {run["state"] for run in report["runs"]} == {"not started"}
    assert verdicts_of(report) == {"Pong": "no verdict yet"}
    for config in plan.runs():
        write_run(tmp_path, config, [])
    report = read_report(tmp_path)
    assert verdicts_of(report) == {"Pong": "undecided (no finished game)"}
    assert report["games"]["Pong"]["cnn"]["mean_return_over_training"] == [None] * 3
    assert report["games"]["Pong"]["cnn"]["final_score"] == [None] * 3


def test_a_later_look_is_judged_more_strictly(tmp_path):
    plan = plan_of(seeds=3)
    write_plan_and_runs(tmp_path, plan)
    first = read_report(tmp_path)["comparisons"][0]["games"][0]["judged_level"]
    save_plan(plan.replace(looks=(2,)), tmp_path)
    second = read_report(tmp_path)["comparisons"][0]["games"][0]["judged_level"]
    assert second == pytest.approx(0.2 * first)  # 0.8 * 0.05, then 0.8 of the 0.2 that is left


def test_runs_without_a_plan_make_a_comparison_of_what_is_there(tmp_path):
    for config in plan_of(seeds=2).runs():
        write_run(tmp_path, config, [3.0])
    write_run(tmp_path, make_config("Qbert", "a2c", {"total_agent_steps": 9}), [1.0])
    comparison = gather(tmp_path)
    assert comparison.plan.games == ("Breakout", "Pong")
    assert comparison.plan.arms == ("cnn", "coordconv")
    assert comparison.plan.seeds == (0, 1)
    assert "exploratory" in write_report(tmp_path).with_suffix(".md").read_text()


def test_a_single_run_is_a_comparison_of_size_one(tmp_path):
    config = make_config("Breakout", "a2c", {"coord_layers": [0], "seed": 4})
    write_run(tmp_path, config, [3.0, 5.0])
    report = read_report(tmp_path)
    assert report["comparisons"] == []
    assert report["games"]["Breakout"]["coordconv"]["final_score"] == [4.0]


def test_single_runs_of_other_settings_are_a_comparison_like_any(tmp_path):
    """Each of a directory that says so, of the same preset and hyper-parameters."""
    networks: list[dict[str, Any]] = [{"coord_layers": [0], "position": "bias-map"}, {}]
    configs = [make_config("Pong", "a2c", {**each, "gamma": 0.9}, "zoo") for each in networks]
    for config in configs:
        write_run(tmp_path, config, [3.0])
    comparison = gather(tmp_path)
    names = ("cnn,preset=zoo,gamma=0.9", "bias-map,preset=zoo,gamma=0.9")
    assert comparison.plan.arms == names
    assert comparison.plan.runs() == [configs[1], configs[0]]
    assert comparison.left_out == []


def test_a_single_arm_has_a_table_of_returns_and_no_verdict(tmp_path):
    plan = plan_of("Breakout", seeds=3, arms="coordconv")
    save_plan(plan, tmp_path)
    for config in plan.runs():
        write_run(tmp_path, config, [100] * 100 + [200 + config.run.seed] * 100)
    lines = write_report(tmp_path).with_suffix(".md").read_text().splitlines()
    assert lines[2] == (
        "**Nothing to compare:** coordconv is the only arm, so there is no verdict."
    )
    # Half the training at 100, half at 200, 201 and 202.
    assert "| Breakout | 3 | 150.5 | 150 to 151 | 201 | 200 to 202 |" in lines
    assert not any(word in "\n".join(lines) for word in ("undecided", "Holm", "look 1"))


@pytest.mark.parametrize(
    ("schedule", "state", "left_out"),
    [
        ("constant", "interrupted", set()),
        ("linear", "not started", {"another length (1_000 agent steps)"}),
    ],
)
def test_runs_that_go_on_to_the_plans_length_have_not_ended(tmp_path, schedule, state, left_out):
    for config in plan_of(learning_rate_schedule=schedule).runs():
        write_run(tmp_path, config, [1.0])
    save_plan(plan_of(learning_rate_schedule=schedule, total_agent_steps=2000), tmp_path)
    report = read_report(tmp_path)
    assert {run["state"] for run in report["runs"]} == {state}
    assert {run["reason"] for run in report["left_out"]} == left_out


def test_several_arms_are_each_compared_with_the_first(tmp_path):
    plan = plan_of(seeds=3, arms="cnn coordconv bias-map")
    save_plan(plan, tmp_path)
    for config in plan.runs():
        bonus = {"cnn": 0, "coordconv": 100, "bias-map": -60}[config.arm]
        write_run(tmp_path, config, [100 + bonus + config.run.seed * (1 + bonus / 100)] * 20)
    report = read_report(tmp_path)
    assert [(c["baseline"], c["candidate"]) for c in report["comparisons"]] == [
        ("cnn", "coordconv"),
        ("cnn", "bias-map"),
    ]
    breakout = [compared["games"][0]["verdict"] for compared in report["comparisons"]]
    assert breakout == ["better", "worse"]


def test_tensorboard_gets_the_charts_the_text_and_the_pictures(reported):
    events = EventAccumulator(str(reported / "tensorboard" / "comparison-report")).Reload()
    assert events.Tags()["images"] == ["report/learning-curves", "report/differences-coordconv"]
    assert set(events.Tags()["tensors"]) == {"custom_scalars__config__", "report/text_summary"}
    layout = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    assert b"^mean_return/Breakout$" in layout
    assert b"^return/Pong$" in layout
    arm = EventAccumulator(str(reported / "tensorboard" / "coordconv")).Reload()
    curve = arm.Scalars("mean_return/Breakout")
    assert len(curve) == 100
    assert (curve[0].step, curve[0].value) == (5, pytest.approx(401.5))


def test_a_report_removes_what_it_has_no_more_and_nothing_of_the_users(tmp_path):
    for coord_layers in ([], [0], [0, 1, 2]):
        config = make_config("Breakout", "a2c", {"coord_layers": coord_layers})
        write_run(tmp_path, config, [3.0, 5.0])
    write_report(tmp_path)
    figures, charts = tmp_path / "figures", tmp_path / "tensorboard"
    mine = [figures / "mine.png", charts / "coordconv-all" / "mine"]
    for path in mine:
        path.touch()
    shutil.rmtree(tmp_path / "Breakout/a2c-coordconv-all")
    write_report(tmp_path)
    names = ["differences-coordconv.png", "learning-curves.png", "mine.png"]
    assert sorted(path.name for path in figures.iterdir()) == names
    assert sorted(path.parent.name for path in charts.glob("*/events*")) == [
        "cnn",
        "comparison-report",
        "coordconv",
    ]
    assert all(path.exists() for path in mine)


def test_what_differs_by_arm_is_not_said_of_all(tmp_path):
    plan = make_plan("a2c", {}, arms=["cnn", "cnn gamma=0.9"], games=["Breakout"])
    save_plan(plan, tmp_path)
    write_run(tmp_path, plan.runs()[0], [3.0])
    hyperparameters = read_report(tmp_path)["settings"]["hyperparameters"]
    assert (hyperparameters["gamma"], hyperparameters["n_steps"]) == ("by arm", 5)


@pytest.mark.parametrize(("games", "seeds"), [("Breakout", 3), ("Breakout Qbert", 2)])
def test_one_game_or_too_few_seeds_have_no_interquartile_mean(tmp_path, games, seeds):
    plan = plan_of(games, seeds=seeds)
    save_plan(plan, tmp_path)
    for config in plan.runs():
        write_run(tmp_path, config, [200.0 + config.run.seed] * 20)
    report = read_report(tmp_path)
    assert report["comparisons"][0]["is_complete"]
    assert report["scores_over_games"]["interquartile_mean"] == {}


def test_a_network_of_a_users_own_is_reported_without_its_code(tmp_path):
    own = parse_own_arm("not_there:Net,width=[2,3]").replace(extractor_source="0123456789ab")
    plan = plan_of(seeds=3).replace(arms=("cnn", "Net,width=[2,3]"), extractors=(own,))
    write_plan_and_runs(tmp_path, plan)
    report = read_report(tmp_path)
    assert verdicts_of(report) == {
        "Breakout": "undecided (no variation between seeds)",
        "Pong": "undecided (not learned)",
    }
    assert report["cost"][1]["parameters"] is None
    told: list[dict[str, Any]] = [{"parameters": -1}, {"parameters": 5, "multiply_adds": 6}, {}]
    for seed, cost in enumerate(told):
        path = tmp_path / f"Pong/a2c-Net,width=[2,3]/seed{seed}/provenance.json"
        values = json.loads(path.read_text())
        path.write_text(json.dumps({"starts": [values["starts"][0] | {"network_cost": cost}]}))
    (tmp_path / "comparison.json").unlink()  # then the plan is read off the runs
    report = read_report(tmp_path)
    assert report["plan"]["extractors"] == [json.loads(own.model_dump_json())]
    assert (report["cost"][1]["parameters"], report["cost"][1]["multiply_adds"]) == (5, 6)
    page = (tmp_path / "report.md").read_text()
    assert page.startswith("# Which arm helps an agent?\n")
    assert "| network not_there:Net | source 0123456789ab; width=[2,3] |" in page
    assert "](#netwidth23-against-cnn)" in page  # GitHub's own name for the heading


def test_a_stray_run_of_a_users_network_is_left_out(tmp_path):
    write_plan_and_runs(tmp_path, plan_of(precision="bf16"))
    own = {"extractor": "not_there:Net", "total_agent_steps": 1000}
    write_run(tmp_path, make_config("Pong", "a2c", own), [1])
    (left_out,) = gather(tmp_path).left_out
    assert left_out.run == "Pong/a2c-Net/seed0"
    assert left_out.reason == "other settings (precision = fp32)"


def test_cost_of_the_networks():
    plain, coord, bias_map = (
        compute_network_cost(parse_arm(arm)) for arm in ("cnn", "coordconv", "bias-map")
    )
    # 20^2 * 32 * 4 * 8^2 + 9^2 * 64 * 32 * 4^2 + 7^2 * 64 * 64 * 3^2 + 3136 * 512
    assert plain.multiply_adds == 3_276_800 + 2_654_208 + 1_806_336 + 1_605_632
    assert plain.multiply_adds_per_update == 0
    assert coord.multiply_adds == plain.multiply_adds
    assert coord.multiply_adds_per_update == 20**2 * 32 * 2 * 8**2
    counts = [cost.parameters or 0 for cost in (plain, coord, bias_map)]
    assert [count - counts[0] for count in counts[1:]] == [32 * 2 * 8**2, 32 * 20**2]


def test_a_row_that_is_being_written_is_left_out(tmp_path):
    config = plan_of().runs()[0]
    directory = write_run(tmp_path, config, [1, 2, 6])
    text = directory.episodes_path.read_text()
    directory.episodes_path.write_text(text[:-5])
    assert read_episodes(directory.episodes_path).returns.tolist() == [1, 2]
    progress = read_progress(directory)
    assert (progress.agent_steps, progress.mean_return) == (666, 1.5)
    assert progress.agent_steps_per_second == pytest.approx(10)
