import errno
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiments.coordinates.cells import CellDirectory
from experiments.coordinates.command import main
from experiments.coordinates.config import make_config
from experiments.coordinates.table import format_table, show_figure
from tests.processes import start
from tests.refusals import transcript

SMALL = ["--set", "canvas_size=16", "--set", "threads=1", "--set", "evaluate_every_steps=2"]
CELL = "coordinates/classification-uniform/coordconv/seed0"

Ask = Callable[[str], str]

# A finished cell, as its result.json has it.
RESULT: dict[str, Any] = {
    "task": "classification",
    "split": "uniform",
    "model": "coordconv",
    "seed": 0,
    "parameters": 7_553,
    "steps": 1_200,
    "seconds": 9.04,
    "seconds_to_perfect": None,
    "stopped": "budget",
    "train_accuracy": 0.99996,
    "test_accuracy": 0.125,
    "curve": [],
}


def run(runs: Path, *arguments: str) -> int:
    return main(["--runs", str(runs), *SMALL, *arguments])


@pytest.fixture
def error_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """What a command that must end with status 2 writes to stderr, its cell being CELL."""

    def ask(arguments: str) -> str:
        with pytest.raises(SystemExit, match="2"):
            run(tmp_path, *arguments.split())
        return capsys.readouterr().err.replace(str(tmp_path / CELL), "CELL")

    return ask


WRONG = """
--seed -1
    --seed: `seed` must be a whole number at least 0 and at most 2_147_483_647, got -1.
--steps 0
    `total_steps` and `total_seconds` are both 0, no limit; set one of them.
--steps 1 --seconds 1
    --steps and --seconds both set the budget; give one of them.
--steps 1 --set total_steps=1
    --set: `total_steps` is set by its option, too; give one of them.
--set sed=1
    --set: unknown setting 'sed'; did you mean `seed`?
--set device=tpu
    --set: `device` must be one of cpu, cuda, got 'tpu'.
"""


@pytest.mark.parametrize(("arguments", "line"), transcript(WRONG))
def test_settings_that_cannot_be_are_one_line_and_write_nothing(
    tmp_path: Path, error_of: Ask, arguments: str, line: str
) -> None:
    assert error_of(arguments) == f"error: {line}\n"
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without GPU")
def test_a_gpu_that_is_not_there_is_one_line(error_of: Ask) -> None:
    error = error_of("--set device=cuda")
    assert error == "error: `device` is cuda, but no GPU is available; use cpu.\n"


def test_a_runs_folder_that_cannot_be_written_to_is_one_line(
    tmp_path: Path, error_of: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    line = "error: cannot write to CELL ({}); choose another --runs folder.\n"
    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", refuse)  # as root, every folder can be written to
        assert error_of("--steps 1") == line.format("Permission denied")
    (tmp_path / "coordinates").write_text("")
    assert error_of("--steps 1") == line.format("Not a directory")


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("finished")
    assert run(runs, "--model", "coordconv", "--steps", "2") == 0
    return runs


@pytest.fixture
def finished(finished_once: Path, tmp_path: Path) -> Path:
    """A finished cell of two steps, the only one below `tmp_path`."""
    shutil.copytree(finished_once, tmp_path, dirs_exist_ok=True)
    return tmp_path / CELL


def test_a_finished_cell_is_skipped(
    tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = (finished / "weights.pth").stat().st_mtime_ns
    assert run(tmp_path, "--model", "coordconv", "--steps", "2") == 0
    assert capsys.readouterr().out.count("/seed0: finished\n") == 1
    assert (finished / "weights.pth").stat().st_mtime_ns == written


def test_what_does_not_fit_the_cell_on_disk_is_one_line(finished: Path, error_of: Ask) -> None:
    seconds = json.loads((finished / "result.json").read_text())["seconds"]
    assert error_of("--model coordconv --steps 2 --set l2=0.5 --set batch_size=3") == (
        "error: CELL holds a run of other settings (batch_size, l2); choose another --runs folder, "
        "or delete it.\n"
    )
    assert error_of("--model coordconv --steps 1") == (
        f"error: CELL has trained for 2 steps and {seconds:.1f} s, longer than the 1 steps asked "
        "for; ask for more.\n"
    )
    assert error_of("--model cnn --steps 1 --set split_seed=5") == (
        "error: CELL, which is drawn beside this, holds a run of other data (split_seed); choose "
        "another --runs folder, or delete it.\n"
    )
    assert not finished.parents[1].joinpath("cnn").exists()
    with CellDirectory(finished).lock():
        assert error_of("--model coordconv --steps 3") == (
            "error: CELL is being written by another process; wait for it or stop it.\n"
        )


NOT_JSON = "is not valid JSON (Expecting value at line 1, column {}); correct or replace it."
DAMAGED = "is damaged; delete CELL and run again."


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("config.json", '{"cell": ', NOT_JSON.format(10)),
        ("config.json", "[]", ": a config must be a JSON object; restore the file."),
        ("result.json", '{"stopped": ', NOT_JSON.format(13)),
        ("result.json", "[]", DAMAGED),
        ("result.json", '{"stopped": "perfect", "steps": 2}', DAMAGED),
        ("result.json", json.dumps(RESULT | {"train_accuracy": "all"}), DAMAGED),
        ("result.json", json.dumps(RESULT | {"task": "regression"}), DAMAGED),
        ("result.json", json.dumps(RESULT | {"curve": [{"steps": 2, "seconds": 1}]}), DAMAGED),
    ],
)
def test_damaged_files_are_one_line(
    finished: Path, error_of: Ask, name: str, content: str, line: str
) -> None:
    (finished / name).write_text(content)
    error = error_of("--model coordconv --steps 2")
    assert error == f"error: CELL/{name}{' ' * line.startswith('is')}{line}\n"


@pytest.mark.parametrize("source", [None, "0123456789ab"])
def test_a_result_of_other_code_is_refused(
    finished: Path, error_of: Ask, source: str | None
) -> None:
    path = finished / "result.json"
    result = json.loads(path.read_text()) | {"source": source}
    path.write_text(json.dumps(result))
    for model in ("coordconv", "cnn"):  # which is drawn beside it
        assert error_of(f"--model {model} --steps 2") == (
            "error: CELL was trained by another version of this code; choose another --runs "
            "folder, or delete it.\n"
        )
    assert json.loads(path.read_text()) == result


def test_a_diverging_cell_is_one_line_and_the_next_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--task", "regression", "--split", "all", "--model", "coordconv", "--seed", "1")
    assert run(tmp_path, *arguments, "--steps", "30", "--set", "learning_rate=1e20") == 1
    errors = capsys.readouterr().err.splitlines()
    assert [re.sub(r"(nan|inf) at step \d+$", "?", line) for line in errors] == [
        f"coordinates/regression-{split}/coordconv/seed1: the loss is ?"
        for split in ("uniform", "quadrant")
    ]
    assert not [*tmp_path.rglob("result.json"), *tmp_path.rglob("*.png")]


@pytest.mark.parametrize("task", ["classification", "regression", "rendering"])
def test_all_splits_of_a_task_are_trained_tabled_and_drawn(
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
            row = (
                rf"{task}, {split} split, seed 2\n(  .*\n)?  {model} +{result['parameters']:,} +4 "
            )
            assert re.search(row, printed)
    # What is longer names a file.
    assert max(len(line.replace(f"{tmp_path}", "runs")) for line in printed.splitlines()) <= 80
    picture = matplotlib.image.imread(group / "canvas-seed2.png")
    assert picture.shape[0] > 400
    assert len(set(picture[..., 0].flatten().tolist())) > 3  # not blank


def test_the_plain_network_gets_at_least_the_time_of_coordconv(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments.coordinates import command

    asked: dict[str, Any] = {}

    def train_cell(directory: Any, config: Any, *_: object) -> dict[str, Any]:
        asked[config.model] = config
        result = RESULT | {"model": config.model, "seconds": 123.5, "wall_clock_seconds": 200}
        directory.path.mkdir(parents=True)
        (directory.path / "config.json").write_text(config.to_json())
        (directory.path / "result.json").write_text(json.dumps(result))
        return result

    monkeypatch.setattr(command, "train_cell", train_cell)
    monkeypatch.setattr(CellDirectory, "check_source", lambda _: None)
    monkeypatch.setattr(command, "draw_group", lambda *_: [])
    monkeypatch.setattr(command, "format_table", lambda _: "")
    assert main(["--runs", str(tmp_path)]) == 0
    assert asked["coordconv"].total_steps > 0
    preset = make_config("classification", "uniform", "cnn", {}).total_seconds
    assert asked["cnn"].total_seconds == max(124, preset)
    waited = "  finished, 1_200 steps in 123.5 s, and 76 s of waiting for the core\n"
    assert capsys.readouterr().out.count(waited) == 2


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)]
)
def test_what_a_signal_ends_starts_again_and_leaves_an_earlier_result_alone(
    tmp_path: Path, finished: Path, number: signal.Signals, status: int
) -> None:
    result = (finished / "result.json").read_bytes()
    options = ["--runs", str(tmp_path), *SMALL, "--model", "coordconv", "--steps", "1_000_000"]
    with start("-m", "experiments.coordinates", *options) as process:
        assert process.stdout is not None
        # Not before it trains: Python forgets a signal that falls between two imports.
        assert any(line.startswith("  step ") for line in process.stdout)
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == status
    assert (finished / "result.json").read_bytes() == result
    assert run(tmp_path, "--model", "coordconv", "--steps", "3") == 0
    assert json.loads((finished / "result.json").read_text())["steps"] == 3


def test_table_and_the_comparison_at_the_same_time() -> None:
    ours = RESULT | {"seconds_to_perfect": 6.51, "train_accuracy": 1.0, "test_accuracy": 1.0}
    curve = [
        {"seconds": seconds, "train_accuracy": train, "test_accuracy": train / 4}
        for seconds, train in ((3.0, 0.0), (6.0, 0.25), (9.0, 0.5))
    ]
    plain = RESULT | {"model": "cnn", "parameters": 409_921, "seconds": 40.0, "curve": curve}
    assert format_table([ours, plain]).splitlines() == [
        "network      weights  steps    time     train    test    all right",
        "classification, uniform split, seed 0",
        "  coordconv    7,553  1,200   9.0 s     100 %   100 %  after 6.5 s",
        "  cnn        409,921  1,200  40.0 s  100.00 %  12.5 %            -",
        "After the 6.5 s that CoordConv took, the plain network had, on a sample,",
        "25 % (train) and 6.25 % (test).",
    ]


@pytest.mark.parametrize(
    ("figure", "value", "text"),
    [
        ("accuracy", 1.0, "100 %"),
        ("accuracy", 0.9990, "99.9 %"),
        ("accuracy", 0.9998, "99.98 %"),
        ("accuracy", 0.0, "0 %"),
        ("error_pixels", 0.1234, "0.123 px"),
        ("iou", 0.9999, "IOU 0.99990"),
        ("iou", 1.0, "IOU 1.000"),
    ],
)
def test_figures_have_units(figure: str, value: float, text: str) -> None:
    assert show_figure(figure, value) == text
