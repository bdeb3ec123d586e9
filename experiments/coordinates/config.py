"""The config of one cell of the table: a task, a split, a model and a seed.

Everything but the budget and the execution identifies a cell; a longer budget extends it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from configs.settings import (
    Bounds,
    annotations_of,
    as_mapping,
    build,
    describe_unknown,
    differing_keys,
    load_preset,
)
from experiments.coordinates.data import SplitName
from runtime.files import read_json

FORMAT_VERSION = 1
_LARGEST = 1e30  # of factors: float32 must hold it

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


@dataclass(frozen=True, kw_only=True)
class CellSettings:
    """Which cell of the table it is."""

    task: TaskName
    split: SplitName
    model: ModelName
    seed: Annotated[int, Bounds(0, 2**31 - 1)]


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The examples."""

    canvas_size: Annotated[int, Bounds(16, 256)]
    split_seed: Annotated[int, Bounds(0, 2**31 - 1)]

    def __post_init__(self) -> None:
        if self.canvas_size.bit_count() != 1:
            raise ValueError(
                f"`canvas_size` must be a power of two, since the plain network doubles, got "
                f"{self.canvas_size}."
            )


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """What the paper's grids leave open (0 where a network has no choice), and initial weights."""

    kernel_size: Annotated[int, Bounds(0, 4)]
    width_multiplier: Annotated[int, Bounds(0, 3)]
    kernel_scale: Annotated[float, Bounds(above=0, maximum=_LARGEST)]


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How a network is trained."""

    learning_rate: Annotated[float, Bounds(above=0, maximum=_LARGEST)]
    learning_rate_drop_epochs: Annotated[int, Bounds(0, 10**9)]
    l2: Annotated[float, Bounds(0, _LARGEST)]
    batch_size: Annotated[int, Bounds(1, 100_000)]
    evaluate_every_steps: Annotated[int, Bounds(1, 10**9)]
    evaluate_examples: Annotated[int, Bounds(1, 100_000)]
    perfect_evaluations: Annotated[int, Bounds(1, 10**9)]


@dataclass(frozen=True, kw_only=True)
class BudgetSettings:
    """When training ends at the latest; 0 is no limit."""

    total_steps: Annotated[int, Bounds(0, 10**12)]
    total_seconds: Annotated[float, Bounds(0, 10**9)]

    def __post_init__(self) -> None:
        if not self.total_steps and not self.total_seconds:
            raise ValueError(
                "`total_steps` and `total_seconds` are both 0, no limit; set one of them."
            )

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


@dataclass(frozen=True, kw_only=True)
class ExecutionSettings:
    """How training is carried out; recorded, never compared."""

    device: Literal["cpu", "cuda"]
    threads: Annotated[int, Bounds(0, 4096)]


_SECTIONS: Mapping[str, type] = {
    "cell": CellSettings,
    "data": DataSettings,
    "network": NetworkSettings,
    "training": TrainingSettings,
    "budget": BudgetSettings,
    "execution": ExecutionSettings,
}


@dataclass(frozen=True, kw_only=True)
class CellConfig:
    """Everything about one cell."""

    cell: CellSettings
    data: DataSettings
    network: NetworkSettings
    training: TrainingSettings
    budget: BudgetSettings
    execution: ExecutionSettings

    def __post_init__(self) -> None:
        task, model = self.cell.task, self.cell.model
        allowed = _KERNEL_SIZES.get((task, model), (0,))
        if self.network.kernel_size not in allowed:
            if allowed == (0,):
                raise ValueError(
                    f"`kernel_size` does not apply to {model} on {task}; leave it out or choose "
                    "another --model or --task."
                )
            raise ValueError(
                f"`kernel_size` of {model} on {task} must be one of "
                f"{', '.join(map(str, allowed))}, got {self.network.kernel_size}."
            )
        if (self.network.width_multiplier == 0) != (allowed == (0,)):
            raise ValueError(
                f"`width_multiplier` does not apply to {model} on {task}; leave it out or choose "
                "another --model or --task."
                if allowed == (0,)
                else f"`width_multiplier` must be 1, 2 or 3 for {model} on {task}, got 0."
            )

    @property
    def name(self) -> str:
        """Where the cell lives below the runs folder."""
        cell = self.cell
        return f"{group_name(cell.task, cell.split)}/{cell.model}/seed{cell.seed}"

    def with_budget(self, budget: BudgetSettings) -> "CellConfig":
        """The same cell, trained for longer or shorter."""
        return replace(self, budget=budget)


def group_name(task: TaskName, split: SplitName) -> str:
    """Where the cells of a task and a split, and their pictures, live below the runs folder."""
    return f"coordinates/{task}-{split}"


def settable_fields() -> dict[str, Any]:
    """The settings that `--set` reaches, with their types."""
    fields: dict[str, Any] = {}
    for section in _SECTIONS.values():
        fields |= annotations_of(section)
    for name in ("task", "split", "model"):
        del fields[name]
    return fields


def make_config(
    task: TaskName, split: SplitName, model: ModelName, overrides: Mapping[str, Any]
) -> CellConfig:
    """The preset of a cell with some settings replaced.

    Args:
        task: As in the paper.
        split: As in the paper.
        model: "cnn" (the plain network) or "coordconv".
        overrides: Values by setting name, whichever section it is in. A budget replaces the whole
            budget of the preset.

    Raises:
        ValueError: If a setting is unknown, ill-typed or out of range, or does not apply; one line.
    """
    preset = load_preset("coordinates")
    chosen = preset[task][model]
    values: dict[str, dict[str, Any]] = {
        name: {
            field: chosen.get(field, preset["all"].get(field)) for field in annotations_of(section)
        }
        for name, section in _SECTIONS.items()
    }
    values["cell"] = {"task": task, "split": split, "model": model, "seed": preset["all"]["seed"]}
    if not values["budget"].keys().isdisjoint(overrides):
        values["budget"] = {"total_steps": 0, "total_seconds": 0.0}
    for name, value in overrides.items():
        section = next((s for s in _SECTIONS if name in values[s]), None)
        if section is None or (section == "cell" and name != "seed"):
            raise ValueError(describe_unknown(name, settable_fields()))
        values[section][name] = value
    return _build_config(values, "settings")


def to_json(config: CellConfig) -> str:
    """The text of `config.json`."""
    sections = {name: as_mapping(getattr(config, name)) for name in _SECTIONS}
    return json.dumps({"format_version": FORMAT_VERSION} | sections, indent=2) + "\n"


def load_config(path: Path) -> CellConfig:
    """Read a `config.json`.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged or of another format version; one line.
    """
    values = read_json(path)
    if not isinstance(values, dict):
        raise ValueError(f"{path}: a config must be a JSON object; restore the file.")
    version = values.pop("format_version", None)
    if type(version) is not int or version != FORMAT_VERSION:
        raise ValueError(
            f"{path}: format version {version!r:.60} is not the one this release reads "
            f"({FORMAT_VERSION}); use the release that wrote it."
        )
    return _build_config(values, str(path))


def cell_differences(one: CellConfig, other: CellConfig) -> list[str]:
    """The names of the settings in which two cells differ, budget and execution apart."""

    def identity(config: CellConfig) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for section in ("cell", "data", "network", "training"):
            values |= as_mapping(getattr(config, section))
        return values

    return differing_keys(identity(one), identity(other))


def _build_config(values: Mapping[str, Any], source: str) -> CellConfig:
    for name in values:
        if name not in _SECTIONS:
            raise ValueError(f"{source}: {describe_unknown(name, _SECTIONS)}")
    built: dict[str, Any] = {}
    for name, section in _SECTIONS.items():
        if not isinstance(values.get(name), dict):
            raise ValueError(f"{source}: the section `{name}` is missing; restore the file.")
        built[name] = build(section, values[name], source)
    return CellConfig(**built)
