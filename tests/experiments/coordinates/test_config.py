from pathlib import Path
from typing import Any

import pytest

from experiments.coordinates.config import (
    MODELS,
    SPLITS,
    TASKS,
    ModelName,
    TaskName,
    cell_differences,
    load_config,
    make_config,
    settable_names,
)
from experiments.coordinates.data import SplitName
from tests.refusals import refusal


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("model", MODELS)
def test_every_preset_is_complete_and_survives_its_file(
    tmp_path: Path, task: TaskName, split: SplitName, model: ModelName
) -> None:
    config = make_config(task, split, model, {"seed": 7})
    path = tmp_path / "config.json"
    path.write_text(config.to_json())
    assert load_config(path) == config
    assert config.name == f"coordinates/{task}-{split}/{model}/seed7"


@pytest.mark.parametrize(
    ("overrides", "budget"), [({"total_steps": 9}, "9 steps"), ({"total_seconds": 2.5}, "2.5 s")]
)
def test_an_asked_budget_replaces_the_presets(overrides: dict[str, Any], budget: str) -> None:
    for model in MODELS:
        assert make_config("classification", "uniform", model, overrides).budget == budget


def test_budget_and_execution_do_not_tell_cells_apart() -> None:
    one = make_config("regression", "uniform", "cnn", {})
    other = make_config("regression", "uniform", "cnn", {"total_steps": 5, "threads": 1})
    assert cell_differences(one, other) == []
    other = make_config("regression", "uniform", "cnn", {"l2": 1.0, "split_seed": 1})
    assert cell_differences(one, other) == ["l2", "split_seed"]


DOES_NOT_APPLY = "does not apply to {}; leave it out or choose another --model or --task."


@pytest.mark.parametrize(
    ("task", "model", "setting", "value", "fault"),
    [
        ("classification", "coordconv", "kernel_size", 3,
         DOES_NOT_APPLY.format("coordconv on classification")),
        ("regression", "cnn", "width_multiplier", 2, DOES_NOT_APPLY.format("cnn on regression")),
        ("rendering", "coordconv", "kernel_size", 2,
         "of coordconv on rendering must be one of 1, 3, got 2."),
        ("rendering", "cnn", "width_multiplier", 0,
         "must be 1, 2 or 3 for cnn on rendering, got 0."),
        ("regression", "cnn", "canvas_size", 48,
         "must be a power of two, since the plain network doubles, got 48."),
        ("regression", "cnn", "total_steps", 0,
         "and `total_seconds` are both 0, no limit; set one of them."),
        ("regression", "cnn", "learning_rate", 0.0,
         "must be a number above 0 and at most 1e+30, got 0."),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(
    task: TaskName, model: ModelName, setting: str, value: float, fault: str
) -> None:
    line = refusal(make_config, task, "uniform", model, {setting: value})
    assert line == f"`{setting}` {fault}"


@pytest.mark.parametrize("name", ["taks", "task", "split", "model"])
def test_what_is_not_set_by_name(name: str) -> None:
    assert name not in settable_names()
    line = refusal(make_config, "regression", "uniform", "cnn", {name: 1})
    assert line.startswith(f"unknown setting {name!r}; ")
