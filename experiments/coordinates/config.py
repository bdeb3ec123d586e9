"""The config of one cell of the table: a task, a split, a model and a seed.

Everything but the budget and the execution identifies a cell; a longer budget trains it anew.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, model_validator

from configs.settings import LARGEST, Flag, SavedSettings, differing_keys, load_preset, override
from experiments.coordinates.data import SplitName
from runtime.files import read_json

TaskName = Literal["classification", "regression", "rendering"]
ModelName = Literal["cnn", "coordconv"]

TASKS: tuple[TaskName, ...] = get_args(TaskName)
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
MODELS: tuple[ModelName, ...] = get_args(ModelName)

# The kernel sizes that a network with such a choice may have: the paper's grid.
_KERNEL_SIZES: Mapping[tuple[TaskName, ModelName], tuple[int, ...]] = {
    ("classification", "cnn"): (2, 3, 4),
    ("rendering", "cnn"): (2, 3, 4),
    ("rendering", "coordconv"): (1, 3),
}
_BUDGET = ("total_steps", "total_seconds")
_EXECUTION = ("device", "threads")  # recorded, never compared

Count = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]


class CellConfig(SavedSettings):
    """Everything about one cell; what its `config.json` holds."""

    task: TaskName
    split: SplitName
    model: ModelName
    seed: Annotated[Seed, Flag("--seed", "seed of initial weights and order of examples")]

    canvas_size: Annotated[int, Field(ge=16, le=256)]
    split_seed: Seed

    # What the paper's grids leave open, 0 where a network has no choice; then the initial weights.
    kernel_size: Annotated[int, Field(ge=0, le=4)]
    width_multiplier: Annotated[int, Field(ge=0, le=3)]
    kernel_scale: Annotated[float, Field(gt=0, le=LARGEST)]

    learning_rate: Annotated[float, Field(gt=0, le=LARGEST)]
    learning_rate_drop_epochs: Annotated[int, Field(ge=0, le=10**9)]
    l2: Annotated[float, Field(ge=0, le=LARGEST)]
    batch_size: Annotated[int, Field(ge=1, le=100_000)]
    evaluate_every_steps: Count
    evaluate_examples: Annotated[int, Field(ge=1, le=100_000)]
    perfect_evaluations: Count

    # When training ends at the latest; 0 is no limit.
    total_steps: Annotated[
        int, Field(ge=0, le=10**12), Flag("--steps", "train every network for at most N steps")
    ]
    total_seconds: Annotated[
        float,
        Field(ge=0, le=10**9),
        Flag("--seconds", "the same in seconds of processor time", "S"),
    ]

    device: Literal["cpu", "cuda"]
    threads: Annotated[int, Field(ge=0, le=4096)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.canvas_size.bit_count() != 1:
            raise ValueError(
                f"`canvas_size` must be a power of two, since the plain network doubles, got "
                f"{self.canvas_size}."
            )
        if not self.total_steps and not self.total_seconds:
            raise ValueError(
                "`total_steps` and `total_seconds` are both 0, no limit; set one of them."
            )
        choices = _KERNEL_SIZES.get((self.task, self.model))
        for name in ("kernel_size", "width_multiplier"):
            if choices is None and getattr(self, name):
                raise ValueError(
                    f"`{name}` does not apply to {self.model} on {self.task}; leave it out or "
                    "choose another --model or --task."
                )
        if choices and self.kernel_size not in choices:
            raise ValueError(
                f"`kernel_size` of {self.model} on {self.task} must be one of "
                f"{', '.join(map(str, choices))}, got {self.kernel_size}."
            )
        if choices and not self.width_multiplier:
            raise ValueError(
                f"`width_multiplier` must be 1, 2 or 3 for {self.model} on {self.task}, got 0."
            )
        return self

    @property
    def name(self) -> str:
        """Where the cell lives below the runs folder; two folders up are its group's pictures."""
        return f"coordinates/{self.task}-{self.split}/{self.model}/seed{self.seed}"

    @property
    def budget(self) -> str:
        """When training ends at the latest, in words."""
        steps = f"{self.total_steps:_} steps" if self.total_steps else ""
        seconds = f"{self.total_seconds:_.15g} s" if self.total_seconds else ""
        return " or ".join(filter(None, (steps, seconds)))

    def is_over(self, steps: int, seconds: float) -> bool:
        """Whether a training of this length has to end."""
        return bool(
            (self.total_steps and steps >= self.total_steps)
            or (self.total_seconds and seconds >= self.total_seconds)
        )


def settable_names() -> list[str]:
    """The settings that `--set` reaches."""
    return [name for name in CellConfig.model_fields if name not in ("task", "split", "model")]


def asks_for_budget(overrides: Mapping[str, Any]) -> bool:
    """Whether a budget is among some settings."""
    return not overrides.keys().isdisjoint(_BUDGET)


def make_config(
    task: TaskName, split: SplitName, model: ModelName, overrides: Mapping[str, Any]
) -> CellConfig:
    """The preset of a cell with some settings replaced; a budget replaces the preset's.

    Raises:
        ValueError: If a setting is unknown, ill-typed or out of range, or does not apply; one line.
    """
    preset = load_preset("coordinates")
    values = preset["all"] | preset[task][model]
    if asks_for_budget(overrides):
        values |= dict.fromkeys(_BUDGET, 0)
    override({"cell": values}, overrides)
    return CellConfig.parse(values | {"task": task, "split": split, "model": model})


def load_config(path: Path) -> CellConfig:
    """Read a `config.json`.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged or of another format version; one line.
    """
    return CellConfig.from_mapping(read_json(path), str(path))


def cell_differences(one: CellConfig, other: CellConfig) -> list[str]:
    """The names of the settings in which two cells differ, budget and execution apart."""
    apart = {*_BUDGET, *_EXECUTION}
    return differing_keys(one.model_dump(exclude=apart), other.model_dump(exclude=apart))
