"""Packing runs, and reading packed ones wherever runs are read."""

import json
import lzma
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agents.training.run import plan_run
from benchmarks.preset_trials import format_trials
from configs.run_config import RunConfig, make_config, parse_arm
from experiments.comparison.archive import main as archive
from experiments.comparison.execution.pool import find_unfinished
from experiments.comparison.plan import ComparisonPlan, save_plan
from experiments.comparison.report.network_cost import make_extractor
from experiments.comparison.report.position_use import ablate_runs, find_weight_shares
from experiments.comparison.report.records import read_run
from experiments.comparison.report.render import write_report
from runtime.run_directory import RunDirectory
from tests import synthetic_runs
from tests.processes import ROOT
from tests.refusals import refusal
from tests.short_runs import train
from tests.synthetic_runs import read_outputs, write_run
from train import main

SETTINGS: dict[str, Any] = {
    "total_agent_steps": 400,
    "n_envs": 2,
    "threads": 1,
    "checkpoint_every_agent_steps": 100,
}


def plan_of(**overrides: Any) -> ComparisonPlan:
    return synthetic_runs.plan_of(seeds=1, **(SETTINGS | overrides))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder of all runs of two games, with what --ablate would add."""
    runs: Path = tmp_path_factory.mktemp("comparison") / "runs"
    for config in plan_of().runs():
        directory = train(runs, config)
        if config.arm == "coordconv":
            directory.evaluation_path.mkdir()
            games = {"intact": [3, 5], "zeroed": [1, 2], "shuffled": [0, 1]}
            ablation = json.dumps({"trained_agent_steps": 400, **games})
            (directory.evaluation_path / "ablation.json").write_text(ablation)
    plan = json.loads(plan_of().to_json())
    del plan["template"]["variant"]  # as an earlier release saved it
    (runs / "comparison.json").write_text(json.dumps(plan))
    return runs


def read_packed(folder: Path) -> dict[str, bytes]:
    paths = [*folder.glob("*/*/*/*"), folder / "comparison.json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_the_report_of_packed_runs_is_that_of_the_runs(trained, tmp_path, capsys):
    packed = tmp_path / "elsewhere" / "results"
    assert archive([str(trained), str(packed)]) == 0
    assert capsys.readouterr().out.startswith(f"{packed}: 4 runs packed, 0 not finished yet; ")
    files = read_packed(packed)
    assert len(files) == 2 * 4 + 1
    assert files["comparison.json"] == (trained / "comparison.json").read_bytes()
    starts = [path.read_text() for path in trained.glob("*/*/*/provenance.json")]
    assert len(starts) == 4
    assert all('"argv"' in start for start in starts)
    assert not any(b'"argv"' in content for content in files.values())
    expected = read_outputs(trained)
    use = json.loads(expected["report.json"])["coordinate_use"]
    assert [row["runs"] for row in use] == [row["ablated_runs"] for row in use] == [1, 1]
    assert read_outputs(packed) == expected
    again = tmp_path / "again"  # packed from what is packed
    assert archive([str(packed), str(again)]) == 0
    assert read_packed(again) == files
    before = {path: path.stat().st_mtime_ns for path in packed.glob("*/*/*/*")}
    assert archive([str(trained), str(packed)]) == 0
    assert {path: path.stat().st_mtime_ns for path in packed.glob("*/*/*/*")} == before


def test_the_nine_games_report_is_that_of_their_packed_runs(tmp_path):
    """What `results/nine-games` says comes from its runs, byte for byte."""
    results = ROOT / "results/nine-games"
    for path in (results / "comparison.json", *results.glob("*/*/seed*/*")):
        copy = tmp_path / path.relative_to(results)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    write_report(tmp_path)
    report = (tmp_path / "report.md").read_text()
    assert report == (results / "report.md").read_text()


def test_the_pages_say_what_the_nine_games_report_says():
    report = (ROOT / "results/nine-games/report.md").read_text()
    found = re.search(r"have ended: (\d+)\. Pairs in which coordconv had .*: (\d+)\.", report)
    assert found is not None
    pairs, ahead = map(int, found.groups())
    rows = read_table(report, "game", "verdict")
    assert len(rows) == 9
    page = (ROOT / "docs/nine-games.md").read_text()
    told = {row[0]: row[1:] for row in read_table(page, "game", "pairs", "mean")}
    losses = []
    for game, verdict, count, _, _, difference, percent, margin, judged, _ in rows:
        percent = percent.removesuffix(" %")
        assert told[game][:3] == [count, percent, verdict], game
        for shown, points in zip(told[game][3:], (difference, judged), strict=True):
            in_percent = [5 * end / float(margin) for end in read_interval(points)]
            assert read_interval(shown) == pytest.approx(in_percent, abs=0.55), game
        if verdict == "worse":
            losses.append(-float(percent))
    counts = re.search(r"0 better, 0 similar, (\d) worse, (\d) undecided, of 9 games", report)
    assert counts is not None
    worse, undecided = (
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"][int(count)]
        for count in counts.groups()
    )
    readme = " ".join((ROOT / "README.md").read_text().split())
    loss = f"by {min(losses):.0f} to {max(losses):.0f} %"
    assert f"CoordConv learned **worse in {worse} of nine games**, {loss} of what" in readme
    assert f"**and better in none**; {undecided} are undecided" in readme
    overall = re.search(r"beats one of cnn with probability (\S+) \((.*)\), in", report)
    assert overall is not None
    said = "with a probability of {} (95 % interval {})".format(*overall.groups())
    assert said in readme
    for words in (readme, " ".join(page.split())):
        assert f"{pairs} pairs have ended" in words
        assert f"had the higher mean return over the training in {pairs - ahead}" in words


def test_the_plain_networks_scores_on_the_page_are_those_of_the_packed_runs():
    page = (ROOT / "docs/learning.md").read_text()
    told = {row[0]: row[1:] for row in read_table(page, "game", "seeds", "first 0.5M")}
    trials = "\n".join(format_trials([ROOT / "results/nine-games"], [0.5, 1, 2]))
    found = [row for row in read_table(trials, "game", "variant") if row[1] == "nine-games"]
    assert len(found) == 9
    for game, _, seeds, *cells in found:
        assert told[game][0] == seeds
        for cell, shown in zip(cells[:4], told[game][1:5], strict=True):
            mean = float(cell.split()[0])  # of four digits
            half_a_digit = 0.5 if mean >= 100 else 0.05
            assert float(shown) == pytest.approx(mean, rel=5e-4, abs=half_a_digit), game


def read_interval(text: str) -> list[float]:
    found = re.search(r"(-?[\d.,]+) to (-?[\d.,]+)", text)
    assert found is not None, text
    return [float(end.replace(",", "")) for end in found.groups()]


def read_table(text: str, *first: str) -> list[list[str]]:
    """The rows of the Markdown table whose heading begins with these cells."""
    start = text.index(f"| {' | '.join(first)} |")
    lines = text[start:].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.usefixtures("no_figures")
def test_a_comparison_goes_on_where_only_packed_runs_are_left(trained, tmp_path, capsys):
    stopped, moved = tmp_path / "stopped", tmp_path / "moved"
    shutil.copytree(trained, stopped)
    plan = plan_of()
    done, interrupted, *_, also_done = plan.runs()
    RunDirectory(stopped / interrupted.name).write_status("interrupted", 300)
    assert archive([str(stopped), str(moved)]) == 0
    assert "3 runs packed, 1 not finished yet" in capsys.readouterr().out
    assert {path.name for path in (moved / done.name).iterdir()} == {
        "packed.json",
        "episodes.csv.xz",
    }
    settings = [f"--set={name}={value}" for name, value in SETTINGS.items()]
    options = ["--compare", "--games", "Breakout", "Pong", "--seeds=1", "--jobs=2", *settings]
    assert main([*options, f"--runs={moved}"]) == 0
    assert "3 have ended, 1 to train" in capsys.readouterr().out
    assert not (moved / also_done.name / "config.json").exists()
    write_report(trained)
    reports = [json.loads((runs / "report.json").read_text()) for runs in (moved, trained)]
    for report in reports:  # what tells when and how fast it was trained
        del report["cost"], report["settings"]
        report["shares"] = [row["weight_share"] for row in report.pop("coordinate_use")]
    assert reports[0] == reports[1]


def test_a_packed_run_cannot_be_trained_further(tmp_path):
    runs, packed = tmp_path / "runs", tmp_path / "packed"
    finished, diverged, *others = plan_of().runs()
    write_run(runs, finished, [1.0])
    write_run(runs, diverged, [1.0], state="diverged")
    assert archive([str(runs), str(packed)]) == 0
    assert find_unfinished(plan_of(), packed) == others
    directory = RunDirectory(packed / finished.name)
    assert plan_run(directory, finished)[:2] == (True, finished)
    with pytest.raises(ValueError, match="is a packed run, without the agent") as error:
        find_unfinished(plan_of(total_agent_steps=700), packed)
    assert str(error.value).startswith(str(directory.path))
    with pytest.raises(ValueError, match="was trained, but"):
        train(packed, diverged)


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"status.json": {}}'])
def test_damage_to_one_run_is_told_and_the_others_are_packed(tmp_path, capsys, damage):
    runs, packed = tmp_path / "runs", tmp_path / "packed"
    first, second, third, _ = plan_of().runs()
    for config in (second, third):
        write_run(runs, config, [1.0, 2.0])
    (runs / first.name).mkdir(parents=True)
    (runs / first.name / "packed.json").write_bytes(damage)
    assert archive([str(runs), str(packed)]) == 1
    output = capsys.readouterr()
    assert output.out.startswith(f"{packed}: 2 runs packed, 0 not")
    assert output.err.startswith(f"not packed: {first.name}: ")
    (packed / second.name / "episodes.csv.xz").write_bytes(b"\xfd7zXZ\0 cut")
    write_report(packed)
    (left_out,) = json.loads((packed / "report.json").read_text())["left_out"]
    assert left_out == {
        "run": second.name,
        "reason": "episodes.csv.xz: not a table of games; restore the file.",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gamma": 0.5}, "is a plan of other settings (gamma)"),
        ({"total_agent_steps": 700}, "has runs of 400 agent steps, the plan of RUNS is of 700; "),
    ],
)
def test_another_comparison_is_not_packed_into_an_archive(tmp_path, refuse, change, message):
    for name, settings in (("one", {}), ("other", change)):
        plan = plan_of(**settings)
        write_run(tmp_path / name, plan.runs()[0], [1.0])
        save_plan(plan, tmp_path / name)
    assert archive([str(tmp_path / "one"), str(tmp_path / "packed")]) == 0
    line = refuse(archive, [str(tmp_path / "other"), str(tmp_path / "packed")])
    assert line.startswith(f"error: {tmp_path / 'packed'} ")
    assert message in line
    assert line.endswith("; choose another ARCHIVE folder.")


def test_an_archives_plan_keeps_its_earlier_looks(tmp_path, refuse):
    runs, _, packed = write_and_pack(tmp_path)
    save_plan(plan_of().replace(looks=(1,)), packed)
    save_plan(plan_of(), runs)
    before = (packed / "comparison.json").read_bytes()
    assert refuse(archive, [str(runs), str(packed)]) == (
        f"error: {packed} has had looks at [1] seeds that the plan of RUNS leaves out; choose "
        "another ARCHIVE folder."
    )
    assert (packed / "comparison.json").read_bytes() == before
    save_plan(plan_of().replace(looks=(1, 1)), runs)
    assert archive([str(runs), str(packed)]) == 0


def test_a_plan_is_not_put_beside_packed_runs_that_it_does_not_have(tmp_path, refuse):
    single = make_config("Pong", "a2c", {"n_steps": 8})
    write_run(tmp_path / "single", single, [1.0, 2.0])
    packed, runs = tmp_path / "packed", tmp_path / "runs"
    assert archive([str(tmp_path / "single"), str(packed)]) == 0
    write_run(runs, plan_of().runs()[0], [1.0, 2.0])
    save_plan(plan_of(), runs)
    line = refuse(archive, [str(runs), str(packed)])
    assert line.startswith(f"error: {packed / single.name} is of no plan or another: ")
    assert line.endswith("; choose another ARCHIVE folder.")
    assert not (packed / "comparison.json").exists()
    fitting = tmp_path / "fitting"  # packed before there was a plan
    (runs / "comparison.json").unlink()
    assert archive([str(runs), str(fitting)]) == 0
    save_plan(plan_of(), runs)
    assert archive([str(runs), str(fitting)]) == 0
    assert (fitting / "comparison.json").exists()


def test_games_that_a_run_has_lost_stay_in_the_archive(tmp_path, capsys):
    config = plan_of().runs()[0]
    runs, packed = tmp_path / "runs", tmp_path / "packed"
    directory = write_run(runs, config, [1.0, 2.0])
    save_plan(plan_of(), runs)
    directory.evaluation_path.mkdir()
    ablation = {"trained_agent_steps": 400, "intact": [1], "zeroed": [1], "shuffled": [1]}
    (directory.evaluation_path / "ablation.json").write_text(json.dumps(ablation))
    assert archive([str(runs), str(packed)]) == 0
    before = read_packed(packed)
    shutil.rmtree(directory.evaluation_path)
    assert archive([str(runs), str(packed)]) == 0
    assert read_packed(packed) == before
    capsys.readouterr()
    table = directory.episodes_path.read_text()
    for rest, fault in (
        (table[: table.rindex("400,0")], f"{packed / config.name} is another run (games); choose"),
        ("", f"{directory.episodes_path} is missing or empty; restore it, or delete "),
        (None, f"{directory.episodes_path} is missing or empty; restore it, or delete "),
    ):
        if rest is None:
            directory.episodes_path.unlink()
        else:
            directory.episodes_path.write_text(rest)
        assert archive([str(runs), str(packed)]) == 1
        assert capsys.readouterr().err.startswith(f"not packed: {config.name}: {fault}")
        assert read_packed(packed) == before
    directory.episodes_path.write_text(table)
    for less in (b"damaged", lzma.compress(b""), lzma.compress(table[:-1].encode())):
        (packed / config.name / "episodes.csv.xz").write_bytes(less)
        assert archive([str(runs), str(packed)]) == 0
        assert read_packed(packed) == before


def test_a_run_that_had_diverged_and_was_trained_on_is_packed_again(tmp_path):
    config = plan_of().runs()[0]
    runs, packed = tmp_path / "runs", tmp_path / "packed"
    write_run(runs, config, [1.0, 2.0], state="diverged")
    assert archive([str(runs), str(packed)]) == 0
    write_run(runs, config, [1.0, 3.0, 4.0])
    assert archive([str(runs), str(packed)]) == 0
    run = read_run(RunDirectory(packed / config.name))
    assert (run.state, run.episodes.returns.tolist()) == ("finished", [1.0, 3.0, 4.0])


def write_and_pack(tmp_path: Path, config: RunConfig | None = None) -> tuple[Path, Path, Path]:
    """A run, a folder for others of its name, and an archive that has it."""
    runs, others, packed = (tmp_path / name for name in ("runs", "others", "packed"))
    write_run(runs, config or plan_of().runs()[0], [1.0])
    assert archive([str(runs), str(packed)]) == 0
    return runs, others, packed


@pytest.mark.parametrize(
    ("change", "sources", "named"),
    [
        ({"learning_rate": 0.01}, None, "learning_rate"),
        ({"total_agent_steps": 700}, None, "total_agent_steps"),
        ({}, ["abc"], "source version"),
    ],
)
def test_an_archived_run_is_not_replaced_by_another(tmp_path, capsys, change, sources, named):
    _, others, packed = write_and_pack(tmp_path)
    first, second, *_ = plan_of(**change).runs()
    write_run(others, first, [9.0], sources=sources)
    write_run(others, second, [9.0], sources=sources)
    before = RunDirectory(packed / first.name).packed_path.read_bytes()
    capsys.readouterr()
    assert archive([str(others), str(packed)]) == 1
    output = capsys.readouterr()
    assert output.err == (
        f"not packed: {first.name}: {packed / first.name} is another run ({named}); choose another "
        "ARCHIVE folder.\n"
    )
    assert output.out.startswith(f"{packed}: 1 runs packed, 0 not")
    assert RunDirectory(packed / first.name).packed_path.read_bytes() == before


def test_what_an_archives_plan_does_not_have_is_not_packed_without_a_plan(tmp_path, capsys):
    _, others, packed = write_and_pack(tmp_path)
    save_plan(plan_of(), packed)
    fits, other = plan_of().runs()[1], plan_of(gamma=0.5).runs()[2]
    write_run(others, fits, [1.0])
    write_run(others, other, [1.0])
    assert archive([str(others), str(packed)]) == 1
    assert capsys.readouterr().err == (
        f"not packed: {other.name}: other settings (gamma = 0.5): the archive's comparison.json "
        "has no such run; choose another ARCHIVE folder.\n"
    )
    assert RunDirectory(packed / fits.name).is_packed()
    assert not (packed / other.name).exists()


def test_run_directories_are_no_archive(tmp_path, capsys, refuse):
    runs, others, _ = write_and_pack(tmp_path)
    shutil.copytree(runs, others)
    before = sorted(tmp_path.rglob("*"))
    line = refuse(archive, [str(runs), str(runs / ".." / "runs")])
    assert line.startswith("error: ARCHIVE is RUNS itself, ")
    assert archive([str(runs), str(others)]) == 1
    assert "is a run that is not packed; choose another ARCHIVE" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_weights_that_are_no_numbers_have_no_share_and_stop_nothing(tmp_path, monkeypatch):
    state = make_extractor(parse_arm("coordconv")).state_dict()
    broken = {f"features_extractor.{name}": value * math.nan for name, value in state.items()}
    monkeypatch.setattr(
        "experiments.comparison.report.position_use.read_model_zip",
        lambda _: SimpleNamespace(policy_state=broken),
    )
    runs, _, packed = write_and_pack(tmp_path, plan_of().run_of("Pong", "coordconv", 0))
    assert read_outputs(packed) == read_outputs(runs)


@pytest.mark.usefixtures("no_figures")
def test_a_damaged_model_is_named_and_its_run_not_packed_without_its_share(tmp_path, capsys):
    directory = write_run(tmp_path / "runs", plan_of().run_of("Pong", "coordconv", 0), [1.0])
    directory.final_path.write_bytes(b"damaged")
    assert archive([str(tmp_path / "runs"), str(tmp_path / "packed")]) == 1
    name, fault = directory.path.relative_to(tmp_path / "runs"), "it is not a zip archive"
    told = f"not packed: {name}: {directory.final_path} cannot be loaded: {fault}"
    assert told in capsys.readouterr().err
    write_report(tmp_path / "runs")
    directory.final_path.unlink()
    assert archive([str(tmp_path / "runs"), str(tmp_path / "packed")]) == 0


def test_the_share_of_an_agent_that_was_deleted_stays_in_the_archive(trained, tmp_path):
    runs, packed = tmp_path / "runs", tmp_path / "packed"
    config = plan_of().run_of("Pong", "coordconv", 0)
    shutil.copytree(trained / config.name, runs / config.name)
    assert archive([str(runs), str(packed)]) == 0
    before = find_weight_shares(read_run(RunDirectory(packed / config.name)))
    assert before is not None
    RunDirectory(runs / config.name).final_path.unlink()
    assert archive([str(runs), str(packed)]) == 0
    assert find_weight_shares(read_run(RunDirectory(packed / config.name))) == before


def test_a_run_that_diverged_has_no_share_of_a_model_from_before(tmp_path, trained):
    config = plan_of().run_of("Pong", "coordconv", 0)
    directory = write_run(tmp_path, config, [1.0], state="diverged")
    shutil.copy(trained / config.name / "final.zip", directory.final_path)
    assert find_weight_shares(read_run(directory)) is None
    directory.write_status("finished", config.run.total_agent_steps)
    assert find_weight_shares(read_run(directory)) is not None


@pytest.mark.parametrize("shares", [{"0": "nan"}, {"1": 0.5}, {"0": 1.5}, {"x": 0.5}, {}, [0.5]])
def test_damaged_shares_name_their_file(tmp_path, shares):
    config = plan_of().run_of("Pong", "coordconv", 0)
    _, _, packed = write_and_pack(tmp_path, config)
    path = RunDirectory(packed / config.name).packed_path
    path.write_text(json.dumps(json.loads(path.read_text()) | {"weight_shares.json": shares}))
    assert refusal(write_report, packed) == (
        f"{path}: weight_shares.json are not shares; restore the file."
    )


def test_packed_runs_are_not_ablated_and_the_command_says_so(tmp_path, capsys):
    config = plan_of().run_of("Pong", "coordconv", 0)
    _, _, packed = write_and_pack(tmp_path, config)
    capsys.readouterr()
    ablate_runs(packed, 1, 1)
    assert capsys.readouterr().out == (
        f"{config.name}: is a packed run without its agent; left out.\n"
    )
