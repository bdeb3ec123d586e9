"""The plan of a comparison: which runs, in which order, and what their verdicts are judged by."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from agents.models.own_extractor import load_extractor
from configs.comparison import Criteria, Design, StoppingRule
from configs.run_config import (
    PRESET_PREFIX,
    A2CHyperparameters,
    DQNHyperparameters,
    ExecutionSettings,
    NetworkSettings,
    RunConfig,
    RunSettings,
    arm_name,
    check_use,
    experiment_differences,
    make_config,
    parse_arm,
    parse_own_arm,
    write_setting,
)
from configs.settings import (
    Argument,
    SavedSettings,
    describe_unknown,
    differing_keys,
    load_preset,
    override,
    show,
)
from envs.games import find_game
from experiments.comparison.statistics.power import find_detectable_difference
from experiments.comparison.statistics.sequential import SequentialDesign
from experiments.comparison.statistics.verdicts import alpha_at_look
from runtime.files import exists, read_json, write_atomically
from runtime.provenance import hash_source

PLAN_NAME = "comparison.json"
_LONGEST_ARM = 200  # bytes; with what is around it in a file's name it must stay below 256
Hyperparameters = A2CHyperparameters | DQNHyperparameters


class ComparisonPlan(SavedSettings):
    """Which runs make a comparison; what `comparison.json` holds."""

    games: tuple[str, ...]
    # Networks, with the hyper-parameters that set them apart; the first is the baseline.
    arms: tuple[str, ...]
    seeds: tuple[Annotated[int, Field(ge=0, le=2**31 - 1)], ...]  # for every game and arm
    template: RunConfig  # what all runs share: everything but game, network and seed
    criteria: Criteria
    source: str  # the version of the source that trains the runs (`runtime.provenance`)
    # Numbers of seeds with which the plan was judged, before seeds or agent steps were added.
    looks: tuple[Annotated[int, Field(ge=1)], ...] = ()
    extractors: tuple[NetworkSettings, ...] = ()  # those of the arms that are users' own
    # Of a plan that goes on until decided, which has `seeds` at most; None: it has all of them.
    stopping: StoppingRule | None = None

    @field_validator("games")
    @classmethod
    def _spell_as_the_emulator(cls, games: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(find_game(game).name for game in games)

    @model_validator(mode="after")
    def _check_lists(self) -> Self:
        for name in ("games", "arms", "seeds"):
            values = getattr(self, name)
            if not values:
                raise ValueError(f"`{name}` of a comparison are missing; name at least one.")
            for value in values:
                if values.count(value) > 1:
                    raise ValueError(f"`{name}` name {value} twice; name it once.")
        if self.stopping is not None and len(self.arms) == 1:
            raise ValueError(
                "--until-decided needs an arm to compare with; name another in --arms."
            )
        if self.stopping is not None and self.stopping.first_look > len(self.seeds):
            raise ValueError(
                f"`first_look` must be at most the {len(self.seeds)} seeds of the plan, got "
                f"{self.stopping.first_look}."
            )
        for arm in self.arms:
            if len(os.fsencode(arm)) > _LONGEST_ARM:
                raise ValueError(
                    f"`arms`: the name {arm:.40}... is longer than {_LONGEST_ARM} bytes, and files "
                    "are named after it; give fewer or shorter settings."
                )
            self.run_of(self.games[0], arm, self.seeds[0])
        return self

    @property
    def look(self) -> int:
        """Which judgement of this plan the next report is; 1 for the first."""
        return len(self.looks) + 1

    @property
    def alpha(self) -> float:
        """The probability of any false verdict in a family that the next report spends."""
        return alpha_at_look(self.look, self.criteria.alpha, self.criteria.look_share)

    @property
    def design(self) -> SequentialDesign | None:
        """The looks at each game of a plan that goes on until decided."""
        return None if self.stopping is None else SequentialDesign(len(self.seeds), self.stopping)

    @property
    def detectable_beyond_margin(self) -> float | None:
        """The smallest difference beyond the margin that all seeds of a game tell from it.

        With a probability of `criteria.power`, at the first of Holm's steps, in standard deviations
        of the paired differences; None with too few seeds.
        """
        alpha = self.alpha / len(self.games)
        if self.design is not None:
            alpha = float(self.design.nominal_level(alpha, len(self.seeds)))
        return find_detectable_difference(len(self.seeds), alpha, self.criteria.power)

    @property
    def total_agent_steps(self) -> int:
        """The length of every run."""
        return self.template.run.total_agent_steps

    def network_of(self, arm: str) -> NetworkSettings:
        """The network of an arm.

        Raises:
            ValueError: If there is none; one line.
        """
        network, _ = self._read_arm(arm)
        return network

    def _read_arm(self, arm: str) -> tuple[NetworkSettings, tuple[str, ...]]:
        """An arm's network, and the hyper-parameters that set it apart, as `key=value`."""
        own, name = {arm_name(network): network for network in self.extractors}, arm
        while name not in own and "," in name:
            name = name.rpartition(",")[0]
        variant = tuple(arm[len(name) + 1 :].split(",")) if name != arm else ()
        return own[name] if name in own else parse_arm(name), variant

    def run_of(self, game: str, arm: str, seed: int) -> RunConfig:
        """The config of one run."""
        network, variant = self._read_arm(arm)
        return self.template.replace(
            run=self.template.run.replace(game=game, seed=seed),
            network=network,
            hyperparameters=_vary(
                self.template.hyperparameters,
                [each for each in variant if not each.startswith(PRESET_PREFIX)],
            ),
            variant=variant,
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


def make_plan(
    algo: str,
    overrides: Mapping[str, Any],
    preset: str | None = None,
    saved: ComparisonPlan | None = None,
    **design: Any,
) -> ComparisonPlan:
    """The preset comparison, or a saved one, with some settings replaced.

    Args:
        algo: "a2c" or "dqn".
        overrides: Values of run settings and criteria, by name.
        preset: As for `make_config`.
        saved: A plan that has what is not given here; None for the presets.
        **design: Values of `Design` that replace its defaults; games in any spelling.

    Raises:
        ValueError: If a name or a value is wrong; one line.
    """
    defaults = load_preset("comparison")
    if saved is not None:
        defaults["comparison"] |= {"games": saved.games, "arms": saved.arms}
        defaults["criteria"] = saved.criteria.model_dump()
        if saved.stopping is not None:
            defaults["comparison"] |= {"until_decided": True, "most_seeds": len(saved.seeds)}
            defaults["stopping"] = saved.stopping.model_dump()
    asked = Design.parse(defaults["comparison"] | design)
    if saved is not None and saved.extractors and "arms" not in design:
        names = ", ".join(network.extractor for network in saved.extractors)
        raise ValueError(
            f"{PLAN_NAME} has networks that are code ({names}), which is run only if you name it: "
            "give its --arms again."
        )
    arms = [_split_typed_arm(arm) for arm in asked.arms]
    own = {name: load_extractor(parse_own_arm(name)) for name, _ in arms if ":" in name}
    for name in overrides:
        if name in NetworkSettings.model_fields:
            raise ValueError(f"`{name}` is set by the arms of a comparison; leave it out.")
    if "seed" in overrides:
        raise ValueError("`seed` is set by --seeds in a comparison; leave it out.")
    criteria = {name: overrides[name] for name in overrides if name in Criteria.model_fields}
    stopping = {name: overrides[name] for name in overrides if name in StoppingRule.model_fields}
    of_runs = {name: overrides[name] for name in overrides if name not in {*criteria, *stopping}}
    _check_seeds(asked, design, stopping)
    if saved is None or preset is not None or algo != saved.template.run.algo:
        template = make_config("", algo, of_runs, preset).replace(variant=())
    else:
        values = saved.template.model_dump()
        override(values, of_runs)
        template = RunConfig.parse(values)
        check_use(of_runs, template)
    if asked.until_decided:
        seeds = tuple(range(asked.most_seeds))
    else:
        seeds = tuple(range(asked.seeds)) if saved is None or "seeds" in design else saved.seeds
    plan = ComparisonPlan.parse(
        {
            "games": asked.games,
            "arms": tuple(
                ",".join([arm_name(own[name]) if name in own else name, *variant])
                for name, settings in arms
                for variant in [_write_variant(settings, template.hyperparameters)]
            ),
            "extractors": tuple({arm_name(network): network for network in own.values()}.values()),
            "seeds": seeds,
            "template": template,
            "criteria": defaults["criteria"] | criteria,
            "source": hash_source(),
            "stopping": defaults["stopping"] | stopping if asked.until_decided else None,
        }
    )
    for arm in plan.arms:
        config = plan.run_of(plan.games[0], arm, plan.seeds[0])
        check_use([setting.partition("=")[0] for setting in config.variant], config)
    return plan


def _split_typed_arm(text: str) -> tuple[str, list[str]]:
    """What names the network, and the settings after it; commas are a user's own extractor's."""
    name, *settings = text.split() if ":" in text else text.replace(",", " ").split() or [text]
    return name, settings


def _write_variant(settings: Sequence[str], shared: Hyperparameters) -> list[str]:
    """The settings of an arm, sorted, each value written in one way.

    Raises:
        ValueError: If one is unknown, wrong, or the same in all runs anyway; one line.
    """
    varied, names = _vary(shared, settings), sorted(part.partition("=")[0] for part in settings)
    for name in names:
        if getattr(varied, name) == getattr(shared, name):
            value = show(getattr(shared, name))
            raise ValueError(
                f"--arms: {name}={value} sets no arm apart, all runs have it; leave it out."
            )
    return [write_setting(varied, name) for name in names]


def _vary(shared: Hyperparameters, settings: Sequence[str]) -> Hyperparameters:
    changes: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--arms: after its network an arm takes key=value, got {setting!r}.")
        if name in RunSettings.model_fields or name in ExecutionSettings.model_fields:
            raise ValueError(
                f"--arms: `{name}` is the same in all runs of a comparison; give it by --set."
            )
        if name not in type(shared).model_fields:
            raise ValueError(f"--arms: {describe_unknown(name, type(shared).model_fields)}")
        if name in changes:
            raise ValueError(f"--arms: `{name}` is given twice; give it once.")
        changes[name] = Argument(text, "--arms")
    return shared.replace(**changes)


def _check_seeds(asked: Design, given: Mapping[str, Any], stopping: Mapping[str, Any]) -> None:
    """Refuse what goes with the other way to choose the number of seeds."""
    if asked.until_decided and "seeds" in given:
        raise ValueError(
            "--seeds is a fixed number, the plan goes on until decided; give --max-seeds."
        )
    if not asked.until_decided:
        for name in (*(["--max-seeds"] if "most_seeds" in given else []), *stopping):
            raise ValueError(
                f"{name} is of a plan that goes on until decided; add --until-decided."
            )


def save_plan(plan: ComparisonPlan, runs: Path) -> None:
    """Write a plan into a folder of runs."""
    write_atomically(runs / PLAN_NAME, plan.to_json())


def load_plan(runs: Path) -> ComparisonPlan | None:
    """Read the plan of a folder of runs; None if it has none.

    Raises:
        ValueError: If it is damaged, or no plan could be there; one line.
    """
    path = runs / PLAN_NAME
    try:
        if not exists(path):
            return None
    except OSError as error:
        raise ValueError(f"cannot use {runs} ({error.strerror}); choose another folder.") from None
    return ComparisonPlan.from_mapping(read_json(path), str(path))


def continue_plan(saved: ComparisonPlan, asked: ComparisonPlan, *, judged: bool) -> ComparisonPlan:
    """What becomes of the plan that is in the folder of runs when a command asks for another.

    Seeds may be added, and the runs made longer. If any game was complete by then (`judged`), its
    verdict could have been seen, so the verdicts on the larger plan are a further look.

    Raises:
        ValueError: If they differ in anything else; one line.
    """
    parts = ("games", "arms", "extractors")
    differing = [name for name in parts if getattr(saved, name) != getattr(asked, name)]
    differing += differing_keys(dict(saved.criteria), dict(asked.criteria))
    if saved.template.run.algo != asked.template.run.algo:
        differing.append("algo")
    else:
        differing += experiment_differences(saved.template, asked.template)
    if saved.stopping != asked.stopping:
        both = saved.stopping is not None and asked.stopping is not None
        differing.append("stopping" if both else "until_decided")
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
    if asked.total_agent_steps < saved.total_agent_steps:
        raise ValueError(
            f"{PLAN_NAME} is a plan of {saved.total_agent_steps:_} agent steps a run, more than "
            f"the {asked.total_agent_steps:_} asked for; ask for at least as many."
        )
    length = (len(asked.seeds), asked.total_agent_steps)
    if saved.stopping is not None and length != (len(saved.seeds), saved.total_agent_steps):
        raise ValueError(
            f"{PLAN_NAME} is a plan of at most {len(saved.seeds)} seeds of "
            f"{saved.total_agent_steps:_} agent steps, which its rule depends on; choose another "
            "--runs folder."
        )
    if asked.seeds[: len(saved.seeds)] != saved.seeds:
        raise ValueError(
            f"{PLAN_NAME} is a plan of {len(saved.seeds)} seeds, more than the {len(asked.seeds)} "
            "asked for; ask for at least as many."
        )
    is_larger = (asked.seeds, asked.total_agent_steps) != (saved.seeds, saved.total_agent_steps)
    looks = (*saved.looks, len(saved.seeds)) if is_larger and judged else saved.looks
    return asked.replace(looks=looks)
