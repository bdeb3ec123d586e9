import json
import re
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


def test_overrides_reach_every_section() -> None:
    overrides = {
        "seed": 3,
        "canvas_size": 32,
        "width_multiplier": 3,
        "l2": 0.5,
        "total_steps": 9,
        "threads": 2,
    }
    config = make_config("classification", "uniform", "cnn", overrides)
    assert (config.cell.seed, config.data.canvas_size, config.training.l2) == (3, 32, 0.5)
    assert (config.network.width_multiplier, config.execution.threads) == (3, 2)


@pytest.mark.parametrize(
    ("overrides", "budget"), [({"total_steps": 9}, "9 steps"), ({"total_seconds": 2.5}, "2.5 s")]
)
def test_an_asked_budget_replaces_the_presets(overrides: dict[str, Any], budget: str) -> None:
    for model in MODELS:
        config = make_config("classification", "uniform", model, overrides)
        assert str(config.budget) == budget


def test_budget_and_execution_do_not_tell_cells_apart() -> None:
    one = make_config("regression", "uniform", "cnn", {})
    other = make_config("regression", "uniform", "cnn", {"total_steps": 5, "threads": 1})
    assert cell_differences(one, other) == []
    other = make_config("regression", "uniform", "cnn", {"l2": 1.0, "split_seed": 1})
    assert cell_differences(one, other) == ["l2", "split_seed"]


@pytest.mark.parametrize(
    ("task", "model", "overrides", "message"),
    [
        (
            "classification",
            "coordconv",
            {"kernel_size": 3},
            "`kernel_size` does not apply to coordconv on classification; leave it out or choose "
            "another --model or --task.",
        ),
        (
            "regression",
            "cnn",
            {"width_multiplier": 2},
            "`width_multiplier` does not apply to cnn on regression; leave it out or choose "
            "another --model or --task.",
        ),
        (
            "rendering",
            "coordconv",
            {"kernel_size": 2},
            "`kernel_size` of coordconv on rendering must be one of 1, 3, got 2.",
        ),
        (
            "rendering",
            "cnn",
            {"width_multiplier": 0},
            "`width_multiplier` must be 1, 2 or 3 for cnn on rendering, got 0.",
        ),
        (
            "regression",
            "cnn",
            {"canvas_size": 48},
            "`canvas_size` must be a power of two, since the plain network doubles, got 48.",
        ),
        (
            "regression",
            "cnn",
            {"total_steps": 0},
            "`total_steps` and `total_seconds` are both 0, no limit; set one of them.",
        ),
        (
            "regression",
            "cnn",
            {"learning_rate": 0.0},
            "`learning_rate` must be a number above 0 and at most 1e+30, got 0.",
        ),
        ("regression", "cnn", {"taks": 1}, None),
        ("regression", "cnn", {"task": "rendering"}, None),
    ],
)
def test_settings_that_cannot_be(
    task: TaskName, model: ModelName, overrides: dict[str, Any], message: str | None
) -> None:
    if message is None:
        (name,) = overrides
        message = f"unknown setting {name!r}; did you mean"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}|known: "):
            make_config(task, "uniform", model, overrides)
    else:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            make_config(task, "uniform", model, overrides)


def test_task_split_and_model_are_not_set_by_name() -> None:
    assert {"task", "split", "model"}.isdisjoint(settable_names())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"format_version": 9},
            "format version 9 is not the one this release reads (2); use the release that wrote "
            "it.",
        ),
        ({"cell": None}, "the section `cell` is missing; restore the file."),
        ({"celll": {}}, "unknown setting 'celll'; did you mean `cell`?"),
    ],
)
def test_a_damaged_config_file(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "config.json"
    config = make_config("rendering", "quadrant", "cnn", {})
    path.write_text(json.dumps(json.loads(config.to_json()) | change))
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {message}')}$"):
        load_config(path)
    path.write_text("[]")
    message = f"{path}: a config must be a JSON object; restore the file."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_config(path)
