"""The config of one cell of the table: a task, a split, a model and a seed.

Everything but the budget and the execution identifies a cell; a longer budget extends it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, model_validator

from configs.settings import (
    LARGEST,
    Flag,
    SavedSettings,
    Settings,
    differing_keys,
    load_preset,
    override,
)
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

Count = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]


class CellSettings(Settings):
    """Which cell of the table it is."""

    task: TaskName
    split: SplitName
    model: ModelName
    seed: Annotated[Seed, Flag("--seed", "seed of initial weights and order of examples")]


class DataSettings(Settings):
    """The examples."""

    canvas_size: Annotated[int, Field(ge=16, le=256)]
    split_seed: Seed

    @model_validator(mode="after")
    def _check_canvas_size(self) -> Self:
        if self.canvas_size.bit_count() != 1:
            raise ValueError(
                f"`canvas_size` must be a power of two, since the plain network doubles, got "
                f"{self.canvas_size}."
            )
        return self


class NetworkSettings(Settings):
    """What the paper's grids leave open (0 where a network has no choice), and initial weights."""

    kernel_size: Annotated[int, Field(ge=0, le=4)]
    width_multiplier: Annotated[int, Field(ge=0, le=3)]
    kernel_scale: Annotated[float, Field(gt=0, le=LARGEST)]


class TrainingSettings(Settings):
    """How a network is trained."""

    learning_rate: Annotated[float, Field(gt=0, le=LARGEST)]
    learning_rate_drop_epochs: Annotated[int, Field(ge=0, le=10**9)]
    l2: Annotated[float, Field(ge=0, le=LARGEST)]
    batch_size: Annotated[int, Field(ge=1, le=100_000)]
    evaluate_every_steps: Count
    evaluate_examples: Annotated[int, Field(ge=1, le=100_000)]
    perfect_evaluations: Count


class BudgetSettings(Settings):
    """When training ends at the latest; 0 is no limit."""

    total_steps: Annotated[
        int, Field(ge=0, le=10**12), Flag("--steps", "train every network for at most N steps")
    ]
    total_seconds: Annotated[
        float,
        Field(ge=0, le=10**9),
        Flag("--seconds", "the same in seconds of processor time", "S"),
    ]

    @model_validator(mode="after")
    def _check_limit(self) -> Self:
        if not self.total_steps and not self.total_seconds:
            raise ValueError(
                "`total_steps` and `total_seconds` are both 0, no limit; set one of them."
            )
        return self

    def __str__(self) -> str:
        parts = (f"{self.total_steps:_} steps", f"{self.total_seconds:_.15g} s")
        limits = (self.total_steps, self.total_seconds)
        return " or ".join(part for part, limit in zip(parts, limits, strict=True) if limit)

    def is_reached(self, steps: int, seconds: float) -> bool:
        """Whether a training of this length has to end."""
        return bool(
            (self.total_steps and steps >= self.total_steps)
            or (self.total_seconds and seconds >= self.total_seconds)
        )


class ExecutionSettings(Settings):
    """How training is carried out; recorded, never compared."""

    device: Literal["cpu", "cuda"]
    threads: Annotated[int, Field(ge=0, le=4096)]


class CellConfig(SavedSettings):
    """Everything about one cell; what its `config.json` holds."""

    cell: CellSettings
    data: DataSettings
    network: NetworkSettings
    training: TrainingSettings
    budget: BudgetSettings
    execution: ExecutionSettings

    @model_validator(mode="after")
    def _check_network(self) -> Self:
        task, model = self.cell.task, self.cell.model
        choices, network = _KERNEL_SIZES.get((task, model)), self.network
        for name in ("kernel_size", "width_multiplier"):
            if choices is None and getattr(network, name):
                raise ValueError(
                    f"`{name}` does not apply to {model} on {task}; leave it out or choose "
                    "another --model or --task."
                )
        if choices and network.kernel_size not in choices:
            raise ValueError(
                f"`kernel_size` of {model} on {task} must be one of "
                f"{', '.join(map(str, choices))}, got {network.kernel_size}."
            )
        if choices and not network.width_multiplier:
            raise ValueError(f"`width_multiplier` must be 1, 2 or 3 for {model} on {task}, got 0.")
        return self

    @property
    def name(self) -> str:
        """Where the cell lives below the runs folder; two folders up are its group's pictures."""
        cell = self.cell
        return f"coordinates/{cell.task}-{cell.split}/{cell.model}/seed{cell.seed}"


def settable_names() -> list[str]:
    """The settings that `--set` reaches."""
    return [name for section in _defaults("classification", "cnn").values() for name in section]


def make_config(
    task: TaskName, split: SplitName, model: ModelName, overrides: Mapping[str, Any]
) -> CellConfig:
    """The preset of a cell with some settings replaced, whichever section they are in.

    A budget replaces the whole budget of the preset.

    Raises:
        ValueError: If a setting is unknown, ill-typed or out of range, or does not apply; one line.
    """
    values = _defaults(task, model)
    if not values["budget"].keys().isdisjoint(overrides):
        values["budget"] = {"total_steps": 0, "total_seconds": 0.0}
    override(values, overrides)
    values["cell"] |= {"task": task, "split": split, "model": model}
    return CellConfig.parse(values)


def load_config(path: Path) -> CellConfig:
    """Read a `config.json`.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged or of another format version; one line.
    """
    return CellConfig.from_mapping(read_json(path), str(path))


def cell_differences(one: CellConfig, other: CellConfig) -> list[str]:
    """The names of the settings in which two cells differ, budget and execution apart."""
    identities = [
        dict(config.cell) | dict(config.data) | dict(config.network) | dict(config.training)
        for config in (one, other)
    ]
    return differing_keys(*identities)


def _defaults(task: TaskName, model: ModelName) -> dict[str, dict[str, Any]]:
    """The default settings by section; the preset file has them in one table."""
    preset = load_preset("coordinates")
    values = preset["all"] | preset[task][model]
    sections: dict[str, Any] = {n: field.annotation for n, field in CellConfig.model_fields.items()}
    return {
        name: {setting: values[setting] for setting in section.model_fields if setting in values}
        for name, section in sections.items()
    }
