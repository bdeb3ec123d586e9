"""Packing runs, and reading packed ones wherever runs are read."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from agents.training.run import plan_run
from experiments.comparison.archive import main as archive
from experiments.comparison.execution.pool import find_unfinished
from experiments.comparison.plan import ComparisonPlan, make_plan, save_plan
from experiments.comparison.report.render import write_report
from runtime.run_directory import RunDirectory
from tests.short_runs import train
from tests.synthetic_runs import write_run
from train import main

SETTINGS: dict[str, Any] = {
    "total_agent_steps": 600,
    "n_envs": 2,
    "threads": 1,
    "checkpoint_every_agent_steps": 100,
}


def plan_of(**overrides: Any) -> ComparisonPlan:
    games = ["Breakout", "Pong"]
    return make_plan(algo="a2c", overrides=SETTINGS | overrides, games=games, seeds=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder of all runs of two games, with what --ablate would add."""
    runs: Path = tmp_path_factory.mktemp("comparison") / "runs"
    for config in plan_of().runs():
        directory = train(runs, config)
        if config.arm == "coordconv":
            directory.evaluation_path.mkdir()
            games = {"intact": [3, 5], "zeroed": [1, 2], "shuffled": [0, 1]}
            ablation = json.dumps({"trained_agent_steps": 600, **games})
            (directory.evaluation_path / "ablation.json").write_text(ablation)
    save_plan(plan_of(), runs)
    return runs


def read_outputs(runs: Path) -> dict[str, bytes]:
    write_report(runs)
    paths = [*runs.glob("report.*"), *runs.glob("figures/*"), *runs.glob("tensorboard/*/*")]
    return {path.relative_to(runs).as_posix(): path.read_bytes() for path in paths}


def read_packed(folder: Path) -> dict[str, bytes]:
    paths = [*folder.glob("*/*/*/*"), folder / "comparison.json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_the_report_of_packed_runs_is_that_of_the_runs(trained, tmp_path, capsys):
    packed = tmp_path / "elsewhere" / "results"
    assert archive([str(trained), str(packed)]) == 0
    assert capsys.readouterr().out.startswith(f"{packed}: 4 runs packed, 0 not finished yet; ")
    files = read_packed(packed)
    assert len(files) == 2 * 4 + 1
    assert not any(str(trained).encode() in content for content in files.values())
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


def test_a_comparison_goes_on_where_only_packed_runs_are_left(trained, tmp_path, capsys):
    stopped, moved = tmp_path / "stopped", tmp_path / "moved"
    shutil.copytree(trained, stopped)
    plan = plan_of()
    done, interrupted, missing, also_done = plan.runs()
    RunDirectory(stopped / interrupted.name).write_status("interrupted", 300)
    shutil.rmtree(stopped / missing.name)
    assert archive([str(stopped), str(moved)]) == 0
    assert "2 runs packed, 1 not finished yet" in capsys.readouterr().out
    assert {path.name for path in (moved / done.name).iterdir()} == {
        "packed.json",
        "episodes.csv.xz",
    }
    settings = [f"--set={name}={value}" for name, value in SETTINGS.items()]
    options = ["--compare", "--games", "Breakout", "Pong", "--seeds=1", "--jobs=2", *settings]
    assert main([*options, f"--runs={moved}"]) == 0
    assert "2 have ended, 2 to train" in capsys.readouterr().out
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
    assert plan_run(directory, finished)[:2] == ("finished", finished)
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


def test_another_comparison_is_not_packed_into_an_archive(tmp_path, capsys):
    for name, gamma in (("one", 0.9), ("other", 0.5)):
        plan = plan_of(gamma=gamma)
        write_run(tmp_path / name, plan.runs()[0], [1.0])
        save_plan(plan, tmp_path / name)
    assert archive([str(tmp_path / "one"), str(tmp_path / "packed")]) == 0
    with pytest.raises(SystemExit):
        archive([str(tmp_path / "other"), str(tmp_path / "packed")])
    assert "is a plan of other settings (gamma)" in capsys.readouterr().err
