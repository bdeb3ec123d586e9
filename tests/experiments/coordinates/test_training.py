import errno
import json
import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from experiments.coordinates import cells, tasks, training
from experiments.coordinates.cells import CellDirectory, find_result
from experiments.coordinates.config import CellConfig, ModelName, TaskName, load_config, make_config
from experiments.coordinates.data import draw_squares
from experiments.coordinates.tasks import judge_positions, make_network, make_task
from experiments.coordinates.training import Divergence, measure, train_cell
from runtime.files import open_atomically
from tests.refusals import refusal

SMALL = {
    "canvas_size": 16,  # 48 training and 16 test examples
    "threads": 1,
    "evaluate_every_steps": 5,
    "learning_rate_drop_epochs": 200,
}


def small(task: TaskName, model: ModelName, **overrides: Any) -> CellConfig:
    return make_config(task, "uniform", model, SMALL | overrides)


def train(path: Path, config: CellConfig) -> dict[str, Any]:
    return train_cell(CellDirectory(path), config, lambda _: None)


def weights_of(path: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = torch.load(path / "weights.pth", weights_only=True)
    return weights


def test_threads_are_as_many_as_the_user_and_the_measurements_allow(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("runtime.process_settings.count_cores", lambda: 8)
    config = small("classification", "coordconv", threads=0, total_steps=1)
    assert train(tmp_path, config)["steps"] == 1
    assert load_config(tmp_path / "config.json").threads == 1


# Figures


def test_classification_is_judged_by_the_brightest_pixel() -> None:
    task = make_task("classification", 4)
    logits = torch.zeros(2, 4, 4)
    logits[0, 1, 2] = logits[1, 0, 0] = 5
    judged = task.judge(logits, torch.tensor([[1, 2], [3, 3]]))
    assert judged.tolist() == [1, 0]
    loss = task.loss(logits, torch.tensor([[1, 2], [0, 0]]))
    assert float(loss) == pytest.approx(math.log(math.exp(5) + 15) - 5)


def test_rendering_is_judged_by_intersection_over_union() -> None:
    task = make_task("rendering", 16)
    positions = torch.tensor([[4, 4], [8, 8], [8, 8]])
    square = draw_squares(positions, 16)
    logits = square * 2 - 1
    logits[1, 0, 0] = 1  # one pixel too many
    logits[2] = -1
    assert task.judge(logits, positions).tolist() == pytest.approx([1, 81 / 82, 0])
    loss = float(task.loss(square[:1] * 2 - 1, positions[:1]))
    assert loss == pytest.approx(math.log1p(math.exp(-1)))


def test_regression_is_judged_in_pixels() -> None:
    task = make_task("regression", 16)
    output = torch.tensor([[0.5, 0.25], [3 / 16, 0.0]])
    positions = torch.tensor([[8, 4], [6, 4]])
    assert task.judge(output, positions).tolist() == [0, 5]
    assert float(task.loss(output, positions)) == pytest.approx((9 + 16) / 256 / 4)


def test_judging_in_passes_equals_judging_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small("rendering", "cnn")
    network = make_network(config)
    positions = torch.tensor([[4, 4], [5, 9], [11, 11]])
    judged = []
    for size in (2, 3):
        monkeypatch.setattr(tasks, "examples_per_pass", lambda _, size=size: size)
        judged.append(judge_positions(network, config, positions))
    torch.testing.assert_close(*judged)
    assert network.training


# Training


def test_coordconv_becomes_perfect_where_the_plain_network_does_not(tmp_path: Path) -> None:
    ours = train(tmp_path / "a", small("classification", "coordconv", total_steps=400))
    plain = train(tmp_path / "b", small("classification", "cnn", total_steps=50))
    assert ours["train_accuracy"] == ours["test_accuracy"] == 1
    assert ours["stopped"] == "perfect"
    assert 0 < ours["steps_to_perfect"] < ours["steps"] < 400
    assert 0 < ours["seconds_to_perfect"] < ours["seconds"]
    assert plain["train_accuracy"] > 0.5
    assert plain["test_accuracy"] < 0.3
    assert plain["stopped"] == "budget"
    assert plain["steps_to_perfect"] is plain["seconds_to_perfect"] is None
    assert (ours["parameters"], plain["parameters"]) == (7_553, 114_241)


@pytest.mark.parametrize(
    ("task", "model", "figure"),
    [
        ("regression", "cnn", "error_pixels"),
        ("regression", "coordconv", "error_pixels"),
        ("rendering", "cnn", "iou"),
        ("rendering", "coordconv", "iou"),
        ("classification", "coordconv", "accuracy"),
    ],
)
def test_result_holds_what_can_be_computed_again_from_the_weights(
    tmp_path: Path, task: TaskName, model: ModelName, figure: str
) -> None:
    result = train(tmp_path, small(task, model, total_steps=12))
    assert json.loads((tmp_path / "result.json").read_text()) == result
    names = {f"{part}_{figure}" for part in ("train", "test")}
    config, network = CellDirectory(tmp_path).load_network()
    assert measure(network, config) == {name: result[name] for name in names}
    assert [row["steps"] for row in result["curve"]] == [0, 5, 10]
    assert (result["task"], result["model"], result["steps"]) == (task, model, 12)


@pytest.mark.parametrize("model", ["cnn", "coordconv"])
def test_the_same_seed_gives_the_same_weights_and_curve(tmp_path: Path, model: ModelName) -> None:
    config = small("classification", model, total_steps=30, learning_rate_drop_epochs=1)
    results = [train(tmp_path / name, config) for name in ("a", "b")]

    def without_time(result: dict[str, Any]) -> dict[str, Any]:
        curve = [{k: v for k, v in row.items() if k != "seconds"} for row in result["curve"]]
        return {k: v for k, v in result.items() if "seconds" not in k} | {"curve": curve}

    assert without_time(results[0]) == without_time(results[1])
    one, other = weights_of(tmp_path / "a"), weights_of(tmp_path / "b")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_every_epoch_has_all_examples_in_an_order_of_its_own() -> None:
    config = small("classification", "coordconv", batch_size=16)
    batches = training._Trainer(config, lambda _: None)._batches()
    orders = [torch.cat([next(batches) for _ in range(3)]).tolist() for _ in range(6)]  # of 48
    assert all(sorted(order) == sorted(orders[0]) for order in orders)
    assert len({str(order) for order in orders}) == 6


def test_tensorboard_shows_the_curve_of_the_last_training(tmp_path: Path) -> None:
    for steps in (10, 20):
        result = train(tmp_path, small("regression", "cnn", total_steps=steps))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {
        *("train/loss", "train/error_pixels", "test/error_pixels", "time/seconds")
    }
    shown = events.Scalars("train/loss")
    assert [event.step for event in shown] == [5, 10, 15, 20]
    losses = [row["loss"] for row in result["curve"][1:]]
    assert [event.value for event in shown] == pytest.approx(losses)


def test_passes_of_a_few_examples_give_the_gradient_of_the_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = small("classification", "coordconv", batch_size=5)

    def gradients() -> list[Tensor | None]:
        trainer = training._Trainer(config, print)
        trainer._step(next(trainer._batches()))
        return [parameter.grad for parameter in trainer.network.parameters()]

    passes = gradients()
    monkeypatch.setattr(training, "examples_per_pass", lambda _: 5)
    for one, other in zip(passes, gradients(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_l2_adds_its_gradient_to_kernels_only(tmp_path: Path) -> None:
    # Adam's first step is the learning rate times the gradient's sign: with a huge l2, the
    # weight's sign.
    config = small("classification", "cnn", total_steps=1, l2=1e6, learning_rate=1e-3)
    before = make_network(config).state_dict()
    train(tmp_path, config)
    after = weights_of(tmp_path)
    kernel = "layers.0.weight"
    torch.testing.assert_close(after[kernel], before[kernel] - 1e-3 * before[kernel].sign())
    norm = "layers.1.weight"  # batch norm's scale, 1 at first
    assert (after[norm] > before[norm]).any()


def test_seconds_are_a_budget_of_processor_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step also waits, which counts by the clock alone."""
    step = training._Trainer._step

    def wait_and_step(trainer: Any, positions: Tensor) -> None:
        time.sleep(0.01)
        step(trainer, positions)

    monkeypatch.setattr(training._Trainer, "_step", wait_and_step)
    result = train(tmp_path, small("regression", "coordconv", total_seconds=0.3))
    assert 0.3 <= result["seconds"] < 3
    assert result["wall_clock_seconds"] > result["seconds"] + 0.01 * result["steps"]


def test_progress_fits_eighty_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_LINE_EVERY_SECONDS", 0)
    lines: list[str] = []
    config = small("rendering", "cnn", total_steps=6)
    train_cell(CellDirectory(tmp_path), config, lines.append)
    assert [re.sub(r"\d+\.\d+|\d+ s", "?", line) for line in lines] == [
        *(f"  step {step} of 6, ?: IOU ? (train), IOU ? (test)" for step in range(1, 7)),
        "  step 6 of 6, ?: looking at every example",
    ]
    assert max(map(len, lines)) <= 80


# What is on disk


@pytest.fixture
def finished(tmp_path: Path) -> CellDirectory:
    train(tmp_path, small("regression", "cnn", total_steps=6))
    return CellDirectory(tmp_path)


@pytest.mark.parametrize(
    ("asked", "is_asked", "answers"),
    [
        ({"total_steps": 6}, True, True),
        ({"total_steps": 9}, True, False),
        ({"total_steps": 5}, False, True),  # a default never makes a cell shorter
        ({"total_seconds": 900.0}, True, False),
    ],
)
def test_a_finished_cell_answers_what_it_has_trained_for(
    finished: CellDirectory, asked: dict[str, Any], is_asked: bool, answers: bool
) -> None:
    config, result = small("regression", "cnn", **asked), finished.read_result()
    assert find_result(finished, config, budget_is_asked=is_asked) == (result if answers else None)
    result["stopped"] = "perfect"  # whatever the budget
    finished.result_path.write_text(json.dumps(result))
    assert find_result(finished, config, budget_is_asked=is_asked) == result


@pytest.mark.parametrize("what", ["train", "_curve_events", "fsync", "weights.pth", "result.json"])
def test_a_crash_leaves_the_old_result(
    finished: CellDirectory, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    longer, before = small("regression", "cnn", total_steps=9), read_cell(finished)

    def crash(*_: object) -> None:
        raise RuntimeError

    def fill_the_disk(_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @contextmanager
    def open_on_a_full_disk(path: Path) -> Iterator[IO[bytes]]:
        with open_atomically(path) as stream:
            if path.name == what:
                fill_the_disk(path)
            yield stream

    with monkeypatch.context() as patched:
        if "." in what:
            patched.setattr(cells, "open_atomically", open_on_a_full_disk)
        elif what == "fsync":
            patched.setattr(cells, "os", SimpleNamespace(fsync=fill_the_disk))
        else:
            patched.setattr(training._Trainer if what == "train" else cells, what, crash)
        with pytest.raises((RuntimeError, OSError)):
            train(finished.path, longer)
    assert read_cell(finished) == before
    assert find_result(finished, longer, budget_is_asked=True) is None
    assert train(finished.path, longer)["steps"] == 9
    assert len(list(finished.path.glob("events.out.*"))) == 1


@pytest.mark.parametrize("task", ["classification", "regression", "rendering"])
def test_a_last_step_that_diverges_leaves_the_old_result(
    finished: CellDirectory, task: TaskName
) -> None:
    before = read_cell(finished)
    with pytest.raises(Divergence, match=r"the loss is (nan|inf) after step 1"):
        train(finished.path, small(task, "coordconv", total_steps=1, learning_rate=1e30))
    assert read_cell(finished) == before


def read_cell(cell: CellDirectory) -> dict[str, bytes]:
    """All its files by name, but those that every start adds to."""
    names = {path.name for path in cell.path.iterdir()} - {".lock", "provenance.json"}
    return {name: (cell.path / name).read_bytes() for name in names}


@pytest.mark.parametrize(
    "damage",
    [None, {"network": Path("/")}, {"weight": torch.ones(1)}, [1]],
    ids=["cut", "pickle", "other network", "not a dict"],
)
def test_damaged_weights_are_one_line(finished: CellDirectory, damage: object) -> None:
    path = finished.weights_path
    if damage is None:
        path.write_bytes(path.read_bytes()[:-200])
    else:
        torch.save(damage, path)
    line = refusal(finished.load_network)
    assert line == f"{path} is damaged; delete {finished.path} and run again."
