"""The plan of a comparison: which runs, in which order, and what their verdicts are judged by."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from configs.run_config import (
    RunConfig,
    experiment_differences,
    from_mapping,
    make_config,
    to_json,
)
from configs.settings import (
    Bounds,
    annotations_of,
    as_mapping,
    build,
    describe_unknown,
    load_preset,
)
from envs.games import find_game
from experiments.comparison.arms import parse_arm
from experiments.comparison.statistics.verdicts import Criteria
from runtime.files import read_json, write_atomically
from runtime.source_version import hash_source

FORMAT_VERSION = 1
PLAN_NAME = "comparison.json"
SET_BY_ARMS = ("coord_layers", "position", "with_radius", "coord_init")


@dataclass(frozen=True, kw_only=True)
class _Design:
    """The part of a plan that is a plain list of settings."""

    games: tuple[str, ...]
    arms: tuple[str, ...]
    seeds: Annotated[tuple[int, ...], Bounds(0, 2**31 - 1)]
    source: str
    looks: Annotated[tuple[int, ...], Bounds(1)]


@dataclass(frozen=True, kw_only=True)
class ComparisonPlan:
    """Which runs make a comparison.

    Attributes:
        games: Their names.
        arms: Names of networks; the first is the baseline.
        seeds: Of the runs, for every game and arm.
        template: What all runs share: everything but game, network and seed.
        criteria: What the verdicts are judged by.
        source: The version of the source that trains the runs (`runtime.source_version`).
        looks: Numbers of seeds at which the plan was judged, before more seeds were added.
    """

    games: tuple[str, ...]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    template: RunConfig
    criteria: Criteria
    source: str
    looks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("games", "arms", "seeds"):
            values = getattr(self, name)
            if not values:
                raise ValueError(f"`{name}` of a comparison are missing; name at least one.")
            for value in values:
                if values.count(value) > 1:
                    raise ValueError(f"`{name}` name {value} twice; name it once.")

    @property
    def look(self) -> int:
        """Which judgement of this plan the next report is; 1 for the first."""
        return len(self.looks) + 1

    @property
    def total_agent_steps(self) -> int:
        """The length of every run."""
        return self.template.run.total_agent_steps

    def run_of(self, game: str, arm: str, seed: int) -> RunConfig:
        """The config of one run."""
        return replace(
            self.template,
            run=replace(self.template.run, game=game, seed=seed),
            network=parse_arm(arm),
        )

    def runs(self) -> list[RunConfig]:
        """All runs, in an order whose every beginning is balanced.

        All games and arms of a seed come before those of the next; the arms of a game follow each
        other, and take turns in being first.
        """
        return [
            self.run_of(game, self.arms[(place + turn) % len(self.arms)], seed)
            for seed_number, seed in enumerate(self.seeds)
            for game_number, game in enumerate(self.games)
            for turn in [seed_number + game_number]
            for place in range(len(self.arms))
        ]


def settable_criteria() -> dict[str, Any]:
    """The criteria that `--set` reaches, with their types."""
    return annotations_of(Criteria)


def make_plan(
    *,
    algo: str,
    overrides: Mapping[str, Any],
    games: Sequence[str] | None = None,
    arms: Sequence[str] | None = None,
    seeds: int | None = None,
) -> ComparisonPlan:
    """The preset comparison with some settings replaced.

    Args:
        algo: "a2c" or "dqn".
        overrides: Values of run settings and criteria, by name.
        games: Names in any spelling; None for the nine.
        arms: Names of networks, the baseline first; None for `cnn` and `coordconv`.
        seeds: How many; None for the preset's.

    Raises:
        ValueError: If a name or a value is wrong, or there are fewer than two arms; one line.
    """
    preset = load_preset("comparison")
    design = preset["comparison"]
    arms = tuple(design["arms"] if arms is None else arms)
    if len(arms) < 2:
        raise ValueError(f"--arms must name two or more arms, got {len(arms)}; add one.")
    for name in SET_BY_ARMS:
        if name in overrides:
            raise ValueError(f"`{name}` is set by the arms of a comparison; leave it out.")
    if "seed" in overrides:
        raise ValueError("`seed` is set by --seeds in a comparison; leave it out.")
    criteria = {name: value for name, value in overrides.items() if name in settable_criteria()}
    plan = ComparisonPlan(
        games=tuple(find_game(name).name for name in (design["games"] if games is None else games)),
        arms=arms,
        seeds=tuple(range(design["seeds"] if seeds is None else seeds)),
        template=make_config(
            "",
            algo,
            {name: value for name, value in overrides.items() if name not in criteria},
        ),
        criteria=build(Criteria, preset["criteria"] | criteria, "settings"),
        source=hash_source(),
    )
    for arm in arms:
        parse_arm(arm)
    return plan


def plan_to_json(plan: ComparisonPlan) -> str:
    """The text of `comparison.json`."""
    design = {name: list(getattr(plan, name)) for name in ("games", "arms", "seeds", "looks")}
    values = {
        "format_version": FORMAT_VERSION,
        "design": design | {"source": plan.source},
        "criteria": as_mapping(plan.criteria),
        "template": json.loads(to_json(plan.template)),
    }
    return json.dumps(values, indent=2) + "\n"


def save_plan(plan: ComparisonPlan, runs: Path) -> None:
    """Write a plan into a folder of runs."""
    write_atomically(runs / PLAN_NAME, plan_to_json(plan))


def load_plan(runs: Path) -> ComparisonPlan | None:
    """Read the plan of a folder of runs; None if it has none.

    Raises:
        ValueError: If it is damaged, or no plan could be there; one line.
    """
    path = runs / PLAN_NAME
    try:
        if not path.exists():
            return None
    except OSError as error:
        raise ValueError(f"cannot use {runs} ({error.strerror}); choose another folder.") from None
    values = read_json(path)
    if not isinstance(values, dict) or values.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} is not a plan of format version {FORMAT_VERSION}; use the release that wrote "
            "it, or restore the file."
        )
    sections: dict[str, Any] = {}
    for name in ("design", "criteria"):
        if not isinstance(values.get(name), dict):
            raise ValueError(f"{path}: the section `{name}` is missing; restore the file.")
        sections[name] = values[name]
    for name in values:
        if name not in ("format_version", "design", "criteria", "template"):
            raise ValueError(f"{path}: {describe_unknown(name, [*sections, 'template'])}")
    design = build(_Design, sections["design"], str(path))
    plan = ComparisonPlan(
        games=tuple(find_game(game).name for game in design.games),
        arms=design.arms,
        seeds=design.seeds,
        looks=design.looks,
        source=design.source,
        criteria=build(Criteria, sections["criteria"], str(path)),
        template=from_mapping(values.get("template"), f"{path}: template"),
    )
    for arm in plan.arms:
        parse_arm(arm)
    return plan


def continue_plan(saved: ComparisonPlan, asked: ComparisonPlan, *, judged: bool) -> ComparisonPlan:
    """What a command does with the plan that is there already.

    Seeds may be added. If a game was complete by then, its verdict could have been seen, so the
    verdicts on the larger plan are a further look.

    Args:
        saved: The plan in the folder of runs.
        asked: The plan of the command.
        judged: Whether any game of the saved plan is complete.

    Raises:
        ValueError: If they differ in anything but added seeds; one line.
    """
    differing = [
        name
        for name in ("games", "arms", "criteria")
        if getattr(saved, name) != getattr(asked, name)
    ]
    differing += experiment_differences(saved.template, asked.template)
    if saved.total_agent_steps != asked.total_agent_steps:
        differing.append("total_agent_steps")
    if differing:
        raise ValueError(
            f"{PLAN_NAME} is a plan of other settings ({', '.join(differing)}); choose another "
            "--runs folder."
        )
    if saved.source != asked.source:
        raise ValueError(
            f"{PLAN_NAME} was begun with source version {saved.source}, this is {asked.source}: "
            "their runs do not compare; go back to that version, or choose another --runs folder."
        )
    if asked.seeds[: len(saved.seeds)] != saved.seeds:
        raise ValueError(
            f"{PLAN_NAME} is a plan of {len(saved.seeds)} seeds, more than the {len(asked.seeds)} "
            "asked for; ask for at least as many."
        )
    grown = len(asked.seeds) > len(saved.seeds)
    looks = (*saved.looks, len(saved.seeds)) if grown and judged else saved.looks
    return replace(asked, looks=looks)
