import json
import math
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from experiments.coordinates import training
from experiments.coordinates.cells import CellDirectory
from experiments.coordinates.config import CellConfig, ModelName, TaskName, make_config
from experiments.coordinates.data import draw_squares
from experiments.coordinates.tasks import judge_positions, make_network, make_task
from experiments.coordinates.training import (
    Divergence,
    TrainingStopped,
    measure,
    plan_cell,
    train_cell,
)
from runtime.stop_request import StopRequest

SMALL = {
    "canvas_size": 16,  # 48 training and 16 test examples
    "threads": 1,
    "evaluate_every_steps": 5,
    "learning_rate_drop_epochs": 200,
}


def small(task: TaskName, model: ModelName, **overrides: Any) -> CellConfig:
    return make_config(task, "uniform", model, SMALL | overrides)


def train(path: Path, config: CellConfig) -> dict[str, Any]:
    return train_cell(CellDirectory(path), config, StopRequest(), lambda _: None)


class StopAfter(StopRequest):
    """A request that is made after a number of questions."""

    def __init__(self, questions: int):
        super().__init__()
        self.left = questions

    def __bool__(self) -> bool:
        self.left -= 1
        if self.left < 0:
            self.signal = signal.SIGINT
        return self.signal is not None


def weights_of(path: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = torch.load(path / "weights.pth", weights_only=True)
    return weights


# Figures


def test_classification_is_judged_by_the_brightest_pixel() -> None:
    task = make_task("classification", 4)
    logits = torch.zeros(2, 4, 4)
    logits[0, 1, 2] = logits[1, 0, 0] = 5
    judged = task.judge(logits, torch.tensor([[1, 2], [3, 3]]))
    assert judged["accuracy"].tolist() == [1, 0]
    torch.testing.assert_close(judged["error_pixels"], torch.tensor([0, 18**0.5]))
    loss = task.loss(logits, torch.tensor([[1, 2], [0, 0]]))
    assert float(loss) == pytest.approx(math.log(math.exp(5) + 15) - 5)


def test_rendering_is_judged_by_intersection_over_union() -> None:
    task = make_task("rendering", 16)
    positions = torch.tensor([[4, 4], [8, 8], [8, 8]])
    square = draw_squares(positions, 16)
    logits = square * 2 - 1
    logits[1, 0, 0] = 1  # one pixel too many
    logits[2] = -1
    assert task.judge(logits, positions)["iou"].tolist() == pytest.approx([1, 81 / 82, 0])
    loss = float(task.loss(square[:1] * 2 - 1, positions[:1]))
    assert loss == pytest.approx(math.log1p(math.exp(-1)))


def test_regression_is_judged_in_pixels() -> None:
    task = make_task("regression", 16)
    output = torch.tensor([[0.5, 0.25], [3 / 16, 0.0]])
    positions = torch.tensor([[8, 4], [6, 4]])
    assert task.judge(output, positions)["error_pixels"].tolist() == [0, 5]
    assert float(task.loss(output, positions)) == pytest.approx((9 + 16) / 256 / 4)


def test_judging_in_passes_equals_judging_at_once() -> None:
    config = small("rendering", "cnn")
    network, task = make_network(config), make_task("rendering", 16)
    positions = torch.tensor([[4, 4], [5, 9], [11, 11]])
    one, other = (judge_positions(network, task, positions, 16, size) for size in (2, 3))
    torch.testing.assert_close(one["iou"], other["iou"])
    assert network.training


# Training


def test_coordconv_becomes_perfect_where_the_plain_network_does_not(tmp_path: Path) -> None:
    ours = train(tmp_path / "a", small("classification", "coordconv", total_steps=400))
    plain = train(tmp_path / "b", small("classification", "cnn", total_steps=150))
    assert ours["train_accuracy"] == ours["test_accuracy"] == 1
    assert ours["train_error_pixels"] == ours["test_error_pixels"] == 0
    assert ours["stopped"] == "perfect"
    assert 0 < ours["steps_to_perfect"] < ours["steps"] < 400
    assert 0 < ours["seconds_to_perfect"] < ours["seconds"]
    assert plain["train_accuracy"] > 0.5
    assert plain["test_accuracy"] < 0.3
    assert plain["stopped"] == "budget"
    assert plain["steps_to_perfect"] is plain["seconds_to_perfect"] is None
    assert (ours["parameters"], plain["parameters"]) == (7_553, 114_241)


@pytest.mark.parametrize(
    ("task", "model", "figures"),
    [
        ("regression", "cnn", {"error_pixels"}),
        ("regression", "coordconv", {"error_pixels"}),
        ("rendering", "cnn", {"iou"}),
        ("rendering", "coordconv", {"iou"}),
        ("classification", "coordconv", {"accuracy", "error_pixels"}),
    ],
)
def test_result_holds_what_can_be_computed_again_from_the_weights(
    tmp_path: Path, task: TaskName, model: ModelName, figures: set[str]
) -> None:
    result = train(tmp_path, small(task, model, total_steps=12))
    assert json.loads((tmp_path / "result.json").read_text()) == result
    names = {f"{part}_{figure}" for part in ("train", "test") for figure in figures}
    config, network = CellDirectory(tmp_path).load_network()
    assert measure(network, config) == {name: result[name] for name in names}
    assert [row["steps"] for row in result["curve"]] == [0, 5, 10]
    assert (result["task"], result["model"], result["steps"]) == (task, model, 12)


@pytest.mark.parametrize(
    ("task", "model", "stopped_at"),
    [
        ("classification", "coordconv", 13),
        ("classification", "coordconv", 12),  # the end of an epoch, where the learning rate drops
        ("classification", "cnn", 13),
        ("regression", "cnn", 13),
    ],
)
def test_an_interrupted_cell_ends_like_an_uninterrupted_one(
    tmp_path: Path, task: TaskName, model: ModelName, stopped_at: int
) -> None:
    config = small(task, model, total_steps=30, learning_rate_drop_epochs=1)
    whole = train(tmp_path / "whole", config)
    directory = CellDirectory(tmp_path / "parts")
    with pytest.raises(TrainingStopped):
        train_cell(directory, config, StopAfter(stopped_at), lambda _: None)
    status = directory.read_cell_status()
    assert status is not None
    assert (status.state, status.steps) == ("interrupted", stopped_at)
    plan, resumed = plan_cell(directory, config, budget_is_asked=True)
    assert plan == "resume"
    lines: list[str] = []
    parts = train_cell(directory, resumed, StopRequest(), lines.append)
    assert lines[0] == f"{config.name}: resumed at step {stopped_at}."

    def without_time(result: dict[str, Any]) -> dict[str, Any]:
        curve = [{k: v for k, v in row.items() if k != "seconds"} for row in result["curve"]]
        return {k: v for k, v in result.items() if "seconds" not in k} | {"curve": curve}

    assert without_time(whole) == without_time(parts)
    one, other = weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)

    events = EventAccumulator(str(tmp_path / "parts"))
    events.Reload()
    headline = "error_pixels" if task == "regression" else "accuracy"
    assert {"train/loss", f"train/{headline}", f"test/{headline}", "time/seconds"} == set(
        events.Tags()["scalars"]
    )
    assert [event.step for event in events.Scalars("train/loss")] == [5, 10, 15, 20, 25, 30]


def test_passes_of_a_few_examples_give_the_gradient_of_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # After one step Adam's first moment is a tenth of the gradient.
    config = small("classification", "coordconv", total_steps=1, batch_size=5)

    def first_moments(path: Path) -> list[Tensor]:
        train(path, config)
        state = torch.load(path / "checkpoint.pth", weights_only=True)["optimizer"]["state"]
        return [parameter["exp_avg"] for parameter in state.values()]

    passes = first_moments(tmp_path / "passes")
    monkeypatch.setattr(training, "examples_per_pass", lambda _: 5)
    for one, other in zip(passes, first_moments(tmp_path / "whole"), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


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


def test_a_loss_that_is_not_finite_ends_training(tmp_path: Path) -> None:
    config = small("regression", "cnn", total_steps=50, learning_rate=1e30)
    with pytest.raises(Divergence, match=r"^the loss is (nan|inf) at step \d+$"):
        train(tmp_path, config)
    status = CellDirectory(tmp_path).read_cell_status()
    assert status is not None
    assert status.state == "diverged"
    assert status.message.startswith("the loss is ")
    assert not (tmp_path / "result.json").exists()


def test_seconds_are_a_budget_too(tmp_path: Path) -> None:
    result = train(tmp_path, small("regression", "coordconv", total_seconds=0.3))
    assert 0.3 <= result["seconds"] < 3
    assert result["steps"] > 0


# Planning


@pytest.fixture
def finished(tmp_path: Path) -> CellDirectory:
    train(tmp_path, small("regression", "cnn", total_steps=6))
    return CellDirectory(tmp_path)


def test_same_command_again_finds_the_cell_finished(finished: CellDirectory) -> None:
    asked = small("regression", "cnn", total_steps=6)
    assert plan_cell(finished, asked, budget_is_asked=True)[0] == "finished"


def test_a_longer_budget_extends(finished: CellDirectory, tmp_path: Path) -> None:
    plan, config = plan_cell(
        finished, small("regression", "cnn", total_steps=9), budget_is_asked=True
    )
    assert plan == "extend"
    assert train_cell(finished, config, StopRequest(), lambda _: None)["steps"] == 9
    train(tmp_path / "whole", config)
    one, other = weights_of(finished.path), weights_of(tmp_path / "whole")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_crash_while_extending_does_not_leave_a_finished_cell(
    finished: CellDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = small("regression", "cnn", total_steps=9)

    def crash(*_: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr(training, "describe_start", crash)
        with pytest.raises(RuntimeError):
            train_cell(finished, longer, StopRequest(), lambda _: None)
    assert plan_cell(finished, longer, budget_is_asked=True)[0] == "resume"
    assert train(finished.path, longer)["steps"] == 9


def test_a_shorter_budget_is_refused_if_it_was_asked_for(finished: CellDirectory) -> None:
    asked = small("regression", "cnn", total_steps=5)
    status = finished.read_cell_status()
    assert status is not None
    message = (
        f"{finished.path} has trained for 6 steps and {status.seconds:.1f} s, longer than the "
        "5 steps asked for; ask for more."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        plan_cell(finished, asked, budget_is_asked=True)
    assert plan_cell(finished, asked, budget_is_asked=False)[0] == "finished"


def test_other_settings_are_refused_by_name(finished: CellDirectory) -> None:
    asked = small("regression", "cnn", total_steps=6, l2=0.1, batch_size=7)
    message = (
        f"{finished.path} holds a run of other settings (batch_size, l2); choose another --runs "
        "folder, or delete it."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        plan_cell(finished, asked, budget_is_asked=True)


def test_threads_of_the_first_start_are_used_again(finished: CellDirectory) -> None:
    asked = small("regression", "cnn", total_steps=9, threads=0)
    assert plan_cell(finished, asked, budget_is_asked=True)[1].execution.threads == 1


def test_a_perfect_cell_is_finished_whatever_the_budget(tmp_path: Path) -> None:
    config = small("classification", "coordconv", total_steps=400)
    train(tmp_path, config)
    longer = small("classification", "coordconv", total_steps=4_000)
    assert plan_cell(CellDirectory(tmp_path), longer, budget_is_asked=True)[0] == "finished"


# Damage


@pytest.mark.parametrize("name", ["weights.pth", "checkpoint.pth"])
@pytest.mark.parametrize("damage", ["cut", "pickle", "other network", "not a dict"])
def test_damaged_tensors_are_one_line(finished: CellDirectory, name: str, damage: str) -> None:
    path = finished.path / name
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "pickle":
        torch.save({"network": Path("/")}, path)
    elif damage == "not a dict":
        torch.save([1], path)
    else:
        torch.save({"network": {"weight": torch.ones(1)}}, path)

    def open_it() -> None:
        if name == "weights.pth":
            finished.load_network()
        else:
            longer = small("regression", "cnn", total_steps=9)
            train_cell(finished, longer, StopRequest(), lambda _: None)

    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))} [^\n]+ again\.$"):
        open_it()


def test_a_damaged_result_and_status_are_one_line(finished: CellDirectory) -> None:
    finished.result_path.write_text('{"task": "regression"}')
    message = f"{finished.result_path}: not a result; delete {finished.path}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        finished.read_result()
    finished.status_path.write_text("[]")
    message = f"{finished.status_path}: not a status; delete the file and run again."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        finished.read_cell_status()
