import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiments.coordinates.cells import _RESULT_KEYS
from experiments.coordinates.command import main
from experiments.coordinates.config import make_config, to_json
from experiments.coordinates.pictures import draw_group
from experiments.coordinates.table import format_table, show_figure

ROOT = Path(__file__).parent.parent
SMALL = ["--set", "canvas_size=16", "--set", "threads=1", "--set", "evaluate_every_steps=2"]
HELP = "; see python -m experiments.coordinates --help."


def run(runs: Path, *arguments: str) -> int:
    return main(["--runs", str(runs), *SMALL, *arguments])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--task", "painting"],
            "python -m experiments.coordinates: argument --task: invalid choice: 'painting' "
            "(choose from",
        ),
        (["--split", "half"], "argument --split: invalid choice: 'half' (choose from"),
        (["--model", "mlp"], "argument --model: invalid choice: 'mlp' (choose from"),
        (["--tas", "all"], f"unrecognized arguments: --tas all{HELP}"),
        (["--seed"], f"argument --seed: expected one argument{HELP}"),
        (["pong"], f"unrecognized arguments: pong{HELP}"),
        (
            ["--seed", "-1"],
            "error: --seed: `seed` must be a whole number at least 0 and at most 2_147_483_647, "
            "got -1.\n",
        ),
        (["--seed", "x"], "error: --seed: `seed` must be a whole number at least 0 and at most "),
        (
            ["--steps", "1.5"],
            "error: --steps: `total_steps` must be a whole number at least 0 and at most ",
        ),
        (
            ["--steps", "0"],
            "error: `total_steps` and `total_seconds` are both 0, no limit; set one of them.\n",
        ),
        (
            ["--seconds", "nan"],
            "error: --seconds: `total_seconds` must be a number at least 0 and at most "
            "1_000_000_000, got nan.\n",
        ),
        (
            ["--steps", "1", "--seconds", "1"],
            "error: --steps and --seconds both set the budget; give one of them.\n",
        ),
        (
            ["--seed", "1", "--set", "seed=1"],
            "error: --seed and --set seed=... both set `seed`; give one of them.\n",
        ),
        (["--set", "seed"], "error: --set takes key=value, got 'seed'.\n"),
        (["--set", "sed=1"], "error: --set: unknown setting 'sed'; did you mean `seed`?\n"),
        (["--set", "l2=1", "--set", "l2=1"], "error: --set: `l2` is given twice; give it once.\n"),
        (
            ["--set", "l2=-1"],
            "error: --set: `l2` must be a number at least 0 and at most 1e+30, got -1.\n",
        ),
        (
            ["--set", "device=tpu"],
            "error: --set: `device` must be one of cpu, cuda, got 'tpu'.\n",
        ),
        (
            ["--set", "kernel_size=3"],
            "error: `kernel_size` does not apply to coordconv on classification; leave it out or "
            "choose another --model or --task.\n",
        ),
        (
            ["--set", "canvas_size=60"],
            "error: `canvas_size` must be a power of two, since the plain network doubles, got "
            "60.\n",
        ),
    ],
)
def test_what_cannot_be_asked_is_one_line_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["--runs", str(tmp_path / "runs"), *arguments])
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_runs_folder_that_is_a_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    runs.write_text("")
    with pytest.raises(SystemExit) as exit_info:
        run(runs, "--steps", "1")
    assert exit_info.value.code == 2
    cell = runs / "coordinates/classification-uniform/coordconv/seed0"
    message = f"error: cannot write to {cell} (Not a directory); choose another --runs folder.\n"
    assert capsys.readouterr().err == message


def test_other_settings_at_the_same_path_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--model", "coordconv", "--steps", "2") == 0
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        run(tmp_path, "--model", "coordconv", "--steps", "2", "--set", "l2=0.5")
    assert exit_info.value.code == 2
    cell = tmp_path / "coordinates/classification-uniform/coordconv/seed0"
    assert capsys.readouterr().err == (
        f"error: {cell} holds a run of other settings (l2); choose another --runs folder, or "
        "delete it.\n"
    )


def test_a_damaged_result_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--model", "coordconv", "--steps", "2")
    run(tmp_path, *arguments)
    result = tmp_path / "coordinates/classification-uniform/coordconv/seed0/result.json"
    result.write_text('{"stopped": ')
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        run(tmp_path, *arguments)
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {result} is not valid JSON (")
    assert error.count("\n") == 1


@pytest.mark.parametrize("task", ["classification", "regression", "rendering"])
def test_all_splits_of_a_task_are_trained_tabled_drawn_and_then_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str
) -> None:
    arguments = ("--task", task, "--split", "all", "--steps", "4", "--seed", "2")
    assert run(tmp_path, *arguments) == 0
    printed = capsys.readouterr().out
    names = ["canvas", "curve"] + ["prediction"] * (task != "regression")
    for split in ("uniform", "quadrant"):
        group = tmp_path / "coordinates" / f"{task}-{split}"
        assert sorted(path.name for path in group.glob("*.png")) == [
            f"{name}-seed2.png" for name in names
        ]
        events = EventAccumulator(str(group))
        events.Reload()
        assert sorted(events.Tags()["images"]) == [f"seed2/{name}" for name in names]
        for model in ("cnn", "coordconv"):
            result = json.loads((group / model / "seed2" / "result.json").read_text())
            assert (result["task"], result["split"], result["model"]) == (task, split, model)
            assert re.search(rf"{task}-{split} +{model} +2 +{result['parameters']:,} +4 ", printed)
    picture = matplotlib.image.imread(group / "canvas-seed2.png")
    assert picture.shape[0] > 400
    assert len(set(picture[..., 0].flatten().tolist())) > 3  # not blank

    weights = tmp_path / f"coordinates/{task}-uniform/cnn/seed2/weights.pth"
    written = weights.stat().st_mtime_ns
    assert run(tmp_path, *arguments) == 0
    assert capsys.readouterr().out.count(": finished; a larger --steps or --seconds") == 4
    assert weights.stat().st_mtime_ns == written


def test_the_plain_network_gets_at_least_the_time_of_coordconv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments.coordinates import command

    asked: dict[str, Any] = {}

    def train_cell(directory: Any, config: Any, *_: object) -> dict[str, Any]:
        asked[config.cell.model] = config.budget
        result = dict.fromkeys(_RESULT_KEYS) | {"steps": 7, "seconds": 123.5}
        directory.path.mkdir(parents=True)
        (directory.path / "config.json").write_text(to_json(config))
        for name in ("result.json", "weights.pth"):
            (directory.path / name).write_text(json.dumps(result))
        (directory.path / "status.json").write_text(
            '{"state": "finished", "steps": 7, "seconds": 123.5, "message": ""}'
        )
        return result

    monkeypatch.setattr(command, "train_cell", train_cell)
    monkeypatch.setattr(command, "draw_group", lambda *_: [])
    monkeypatch.setattr(command, "format_table", lambda _: "")
    assert main(["--runs", str(tmp_path)]) == 0
    assert asked["coordconv"].total_steps > 0
    preset = make_config("classification", "uniform", "cnn", {}).budget.total_seconds
    assert asked["cnn"].total_seconds == max(123.5, preset)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_the_same_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals, status: int
) -> None:
    cell = tmp_path / "coordinates/classification-uniform/cnn/seed0"

    def send_when_saved() -> None:
        deadline = time.monotonic() + 60
        while not (cell / "checkpoint.pth").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send_when_saved)
    sender.start()
    often = ("--set", "checkpoint_every_seconds=0.05")
    assert run(tmp_path, "--model", "cnn", *often, "--steps", "100_000") == status
    sender.join()
    line = f"{cell}: saved; the same command goes on from here.\n"
    assert capsys.readouterr().out.endswith(line)
    saved = json.loads((cell / "status.json").read_text())
    assert saved["state"] == "interrupted"
    assert saved["steps"] > 0
    assert run(tmp_path, "--model", "cnn", "--steps", str(saved["steps"] + 3)) == 0
    assert json.loads((cell / "result.json").read_text())["steps"] == saved["steps"] + 3


def test_neither_sb3_nor_gymnasium_is_imported() -> None:
    code = (
        "import pkgutil, sys, importlib, experiments.coordinates as package\n"
        "for module in pkgutil.iter_modules(package.__path__):\n"
        "    importlib.import_module('experiments.coordinates.' + module.name)\n"
        "names = {'stable_baselines3', 'gymnasium', 'ale_py', 'envs', 'agents', 'policies'}\n"
        "print(sorted(names & {name.partition('.')[0] for name in sys.modules}))\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert finished.stdout == "['policies']\n"


def test_nothing_finished_means_nothing_drawn(tmp_path: Path) -> None:
    assert draw_group(tmp_path / "classification-uniform", 0) == []


def test_table_and_the_comparison_at_the_same_time() -> None:
    common = {"task": "classification", "split": "uniform", "seed": 0, "steps": 1_200}
    ours = common | {
        "model": "coordconv",
        "parameters": 7_553,
        "seconds": 9.04,
        "seconds_to_perfect": 6.51,
        "train_accuracy": 1.0,
        "test_accuracy": 1.0,
        "curve": [],
    }
    plain = common | {
        "model": "cnn",
        "parameters": 409_921,
        "seconds": 40.0,
        "seconds_to_perfect": None,
        "train_accuracy": 0.99996,
        "test_accuracy": 0.125,
        "curve": [
            {"seconds": 3.0, "train_accuracy": 0.0, "test_accuracy": 0.0},
            {"seconds": 6.0, "train_accuracy": 0.25, "test_accuracy": 0.0625},
            {"seconds": 9.0, "train_accuracy": 0.5, "test_accuracy": 0.125},
        ],
    }
    lines = format_table([ours, plain]).splitlines()
    assert [re.sub(" {2,}", " | ", line) for line in lines[:3]] == [
        "task-split | network | seed | weights | steps | time | train | test | all right",
        "classification-uniform | coordconv | 0 | 7,553 | 1,200 | 9.0 s | 100 % | 100 % | "
        "after 6.5 s",
        "classification-uniform | cnn | 0 | 409,921 | 1,200 | 40.0 s | 100.00 % | 12.5 % | -",
    ]
    assert len({len(line) for line in lines[:3]}) == 1
    assert lines[3:] == [
        "After the 6.5 s that CoordConv took on classification-uniform, the plain network had 25 % "
        "(train) and 6.25 % (test) on a sample.",
    ]


@pytest.mark.parametrize(
    ("figure", "value", "text"),
    [
        ("accuracy", 1.0, "100 %"),
        ("accuracy", 0.9990, "99.9 %"),
        ("accuracy", 0.9998, "99.98 %"),
        ("accuracy", 0.0, "0 %"),
        ("error_pixels", 0.1234, "0.123 px"),
        ("iou", 0.9999, "IOU 1.000"),
    ],
)
def test_figures_have_units(figure: str, value: float, text: str) -> None:
    assert show_figure(figure, value) == text
