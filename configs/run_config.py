"""The config of one training run: what is asked, and how it is carried out.

The experiment (game, algorithm, seed, network, hyper-parameters) identifies a run; the execution
settings (device, threads, intervals) are recorded with it and never compared.
"""

import json
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import cache
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from configs.own_extractor import check_name, read_arguments, rewrite_arguments, split_arm
from configs.protocols import protocol_names
from configs.settings import (
    LARGEST,
    Flag,
    SavedSettings,
    Settings,
    describe_unknown,
    differing_keys,
    load_preset,
    override,
    show,
)

CONVOLUTIONS = 3
BASELINE = "cnn"
PRESET_PREFIX = "preset="
_PRESET = re.compile(PRESET_PREFIX + "[a-z0-9_-]+")
_DEVICE = re.compile("auto|cpu|cuda(:(0|[1-9][0-9]*))?")
_ARM = re.compile(r"(coordconv|bias-map|random-channels)(?:(-all)|-layer([0-9]+))?(-r)?(-zero)?")
_TOLD = {  # with what is typed for them
    "coord_layers": "`coord_layers` (--coordconv, --coord-layers)",
    "position": "`position`",
    "with_radius": "`with_radius` (--radius)",
    "coord_init": "`coord_init` (--coord-init)",
}

Factor = Annotated[float, Field(ge=0, le=LARGEST)]
Share = Annotated[float, Field(ge=0, le=1)]
Steps = Annotated[int, Field(ge=1, le=10**12)]
Environments = Annotated[
    int, Field(ge=1, le=1024), Flag("--n-envs", "environments stepped together")
]
Schedule = Literal["constant", "linear"]
Position = Literal["coordinates", "bias-map", "random-channels"]
CoordInit = Literal["default", "zero"]


def check_device_name(name: str) -> None:
    """Refuse by a ValueError what no device is called."""
    if not _DEVICE.fullmatch(name):
        raise ValueError(f"`device` must be auto, cpu, cuda or cuda:N, got {show(name)}.")


class RunSettings(Settings):
    """What is trained, and for how long."""

    game: str
    algo: Literal["a2c", "dqn"]
    seed: Annotated[
        int, Field(ge=0, le=2**31 - 1), Flag("--seed", "seed of weights, actions and games")
    ]
    total_agent_steps: Annotated[Steps, Flag("--steps", "agent steps, 4 frames each, such as 2M")]
    protocol: Annotated[
        Literal[tuple(protocol_names())],  # type: ignore[valid-type]
        Flag("--protocol", f"how the game is presented: {' or '.join(protocol_names())}", "NAME"),
    ]
    precision: Annotated[
        Literal["fp32", "bf16"], Flag("--precision", "arithmetic: fp32 or bf16", "KIND")
    ]


class NetworkSettings(Settings):
    """Which convolutions are told where they are, and how; or a network of the user's own."""

    coord_layers: Annotated[
        tuple[Annotated[int, Field(ge=0, le=CONVOLUTIONS - 1)], ...],
        Flag("--coord-layers", "give these convolutions (0 1 2) their coordinates"),
    ]
    position: Position
    with_radius: Annotated[bool, Flag("--radius", "add the distance from the centre")]
    coord_init: Annotated[
        CoordInit,
        Flag("--coord-init", "initial coordinate weights: default or zero", "INIT"),
    ]
    # Configs that were saved before there were networks of users' own lack these three.
    extractor: Annotated[
        str, Flag("--extractor", "a features extractor of your own", "MODULE:CLASS")
    ] = ""
    extractor_settings: Annotated[
        tuple[str, ...], Flag("--extractor-set", "arguments of its class", "KEY=VALUE")
    ] = ()
    extractor_source: str = ""  # a hash of its module's source

    @property
    def extractor_arguments(self) -> dict[str, Any]:
        """What the user's own extractor is made with."""
        return read_arguments(self.extractor_settings)

    @field_validator("extractor_settings")
    @classmethod
    def _write_in_one_way(cls, settings: tuple[str, ...]) -> tuple[str, ...]:
        return rewrite_arguments(settings)

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        standard = load_preset("run")["network"] | {"coord_layers": ()}
        changed = [name for name in _TOLD if getattr(self, name) != standard[name]]
        if self.extractor:
            check_name(self.extractor)
            if changed:
                raise ValueError(f"`extractor` is a whole network; leave out {_TOLD[changed[0]]}.")
            if arm_name(self) in (BASELINE, "coordconv"):  # the only ones that can name a class
                raise ValueError(
                    f"`extractor`: a run of {self.extractor} would be taken for this project's "
                    f"{arm_name(self)}; give the class another name."
                )
        elif self.extractor_settings or self.extractor_source:
            raise ValueError("`extractor_settings` need a network of your own; add --extractor.")
        if sorted(set(self.coord_layers)) != list(self.coord_layers):
            raise ValueError(
                f"`coord_layers` must name each convolution once, in order, got "
                f"{show(list(self.coord_layers))}."
            )
        if changed and not self.coord_layers:
            what = _TOLD[changed[0]]
            raise ValueError(f"{what} needs a layer with coordinates; add --coordconv.")
        if self.with_radius and self.position != "coordinates":
            raise ValueError(f"`with_radius` goes with coordinates, not with {self.position}.")
        if self.position == "bias-map" and self.coord_init == "zero":
            raise ValueError("`coord_init` does not apply to bias-map: it always starts at zero.")
        return self


class A2CHyperparameters(Settings):
    """Settings of A2C; names and meaning are those of `stable_baselines3.A2C`."""

    n_envs: Environments
    n_steps: Annotated[int, Field(ge=1, le=10_000)]
    learning_rate: Factor
    learning_rate_schedule: Schedule
    gamma: Share
    gae_lambda: Share
    ent_coef: Factor
    vf_coef: Factor
    max_grad_norm: Annotated[float, Field(gt=0, le=LARGEST)]
    normalize_advantage: bool
    ortho_init: bool
    optimizer: Literal["rmsprop", "rmsprop_tf_like", "adam"]
    rms_prop_eps: Annotated[float, Field(gt=0, le=LARGEST)]
    rms_prop_alpha: Annotated[float, Field(ge=0, lt=1)]

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.normalize_advantage and self.n_envs * self.n_steps == 1:
            raise ValueError(
                "`normalize_advantage` needs more than one agent step an update; raise `n_envs` or "
                "`n_steps`."
            )
        return self


class DQNHyperparameters(Settings):
    """Settings of DQN; names and meaning are those of `stable_baselines3.DQN`."""

    n_envs: Environments
    buffer_size: Annotated[int, Field(ge=1, le=10**9)]
    learning_starts: Annotated[int, Field(ge=0, le=10**12)]
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)]
    train_freq: Annotated[int, Field(ge=1, le=1_000_000)]
    gradient_steps: Annotated[int, Field(ge=1, le=10_000)]
    target_update_interval: Steps
    tau: Annotated[float, Field(gt=0, le=1)]
    learning_rate: Factor
    learning_rate_schedule: Schedule
    gamma: Share
    exploration_fraction: Share
    exploration_initial_eps: Share
    exploration_final_eps: Share
    max_grad_norm: Annotated[float, Field(gt=0, le=LARGEST)]


class ExecutionSettings(Settings):
    """How a run is carried out; recorded with it, never compared."""

    device: Annotated[str, Flag("--device", "auto, cpu, cuda or cuda:N", "NAME")]
    threads: Annotated[int, Field(ge=0, le=4096)]
    checkpoint_every_agent_steps: Steps
    log_every_agent_steps: Steps
    keep_replay: bool
    hang_timeout_seconds: Annotated[float, Field(gt=0)]
    # Configs that were saved before there were these lack them.
    evaluate_every_agent_steps: Annotated[int, Field(ge=0, le=10**12)] = 0
    evaluation_games: Annotated[int, Field(ge=1, le=100_000)] = 1

    @field_validator("device")
    @classmethod
    def _check_device(cls, device: str) -> str:
        check_device_name(device)
        return device


HYPERPARAMETERS: Mapping[str, type[A2CHyperparameters] | type[DQNHyperparameters]] = {
    "a2c": A2CHyperparameters,
    "dqn": DQNHyperparameters,
}


class RunConfig(SavedSettings):
    """Everything about one training run; what `config.json` holds."""

    run: RunSettings
    network: NetworkSettings
    hyperparameters: A2CHyperparameters | DQNHyperparameters
    execution: ExecutionSettings
    # What sets the run apart beside its network, part of its path: `key=value` of hyper-parameters,
    # of a comparison's arm those that the other arms do not have, of a single run those that the
    # defaults do not have, after `preset=NAME`. Configs of before there were variants lack it.
    variant: tuple[str, ...] = ()

    @field_validator("hyperparameters", mode="before")
    @classmethod
    def _read_those_of_the_algorithm(cls, values: Any, info: ValidationInfo) -> Any:
        run = info.data.get("run")  # missing if it is wrong itself
        if run is None or not isinstance(values, dict):
            return values
        return HYPERPARAMETERS[run.algo].model_validate(values)

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.network.extractor and self.run.precision != "fp32":
            raise ValueError(
                f"`precision` {self.run.precision} is for this project's own networks; leave it "
                f"out with {self.network.extractor}."
            )
        settings = self.hyperparameters
        told = {write_setting(settings, name) for name in type(settings).model_fields}
        for each in self.variant:
            if each not in told and not _PRESET.fullmatch(each):
                raise ValueError(
                    f"`variant` must tell values of the hyper-parameters, got {show(each)}."
                )
        return self

    @property
    def arm(self) -> str:
        """The network, and what sets it apart: `coordconv-r`, `cnn,learning_rate=0.0003`, ..."""
        return ",".join([arm_name(self.network), *self.variant])

    @property
    def name(self) -> str:
        """Where the run lives below the runs folder: `Pong/a2c-coordconv/seed0`."""
        return f"{self.run.game}/{self.run.algo}-{self.arm}/seed{self.run.seed}"

    def find_schedule(self) -> str | None:
        """What depends on the run's length, so that it cannot be made longer; None if nothing."""
        settings = self.hyperparameters
        if settings.learning_rate_schedule != "constant":
            return "learning rate"
        if (
            isinstance(settings, DQNHyperparameters)
            and settings.exploration_initial_eps != settings.exploration_final_eps
        ):
            return "epsilon"
        return None

    def with_total_agent_steps(self, total_agent_steps: int) -> Self:
        """The same run, of another length."""
        return self.replace(run=self.run.replace(total_agent_steps=total_agent_steps))

    def with_execution(self, **changes: Any) -> Self:
        """The same experiment, carried out in another way."""
        return self.replace(execution=self.execution.replace(**changes))


def write_setting(settings: Settings, name: str) -> str:
    """A setting as `key=value`, each value in one way."""
    return f"{name}={json.dumps(getattr(settings, name)).strip(chr(34))}"


def make_config(
    game: str, algo: str, overrides: Mapping[str, Any], preset: str | None = None
) -> RunConfig:
    """The defaults of an algorithm, or a preset of it, with some settings replaced by name.

    The game is spelt as `envs.games` does. Hyper-parameters that are replaced make a variant.

    Raises:
        ValueError: If a setting is unknown, ill-typed or out of range, or does nothing beside the
            others; one line.
    """
    values, presets = _defaults(algo)
    if preset is not None:
        if preset not in presets:
            raise ValueError(f"--preset: {describe_unknown(preset, presets, f'preset of {algo}')}")
        override(values, presets[preset])
    standard = dict(values["hyperparameters"])
    override(values, overrides)
    values["run"] |= {"game": game, "algo": algo}
    config = RunConfig.parse(values)
    check_use(overrides, config)
    changed = differing_keys(standard, dict(config.hyperparameters))
    variant = [write_setting(config.hyperparameters, name) for name in changed]
    return config.replace(variant=(*([f"{PRESET_PREFIX}{preset}"] if preset else []), *variant))


def check_learning(config: RunConfig) -> None:
    """Refuse by a ValueError a run that would end before its first update."""
    steps, settings = config.run.total_agent_steps, config.hyperparameters
    if isinstance(settings, DQNHyperparameters) and steps <= settings.learning_starts:
        raise ValueError(
            f"with {steps:_} agent steps nothing would be learned: DQN acts at random for the "
            f"first {settings.learning_starts:_} (`learning_starts`); give more --steps, at least "
            f"{settings.learning_starts + 1:_}, or set a smaller `learning_starts`."
        )


def check_use(names: Collection[str], config: RunConfig) -> None:
    """Refuse by a ValueError settings that were given and do nothing beside the others."""
    execution, optimizer = config.execution, getattr(config.hyperparameters, "optimizer", None)
    if "keep_replay" in names and execution.keep_replay and config.run.algo != "dqn":
        raise ValueError("`keep_replay` is of DQN, nothing else has a replay buffer; leave it out.")
    if "evaluation_games" in names and not execution.evaluate_every_agent_steps:
        raise ValueError(
            "`evaluation_games` are of evaluations while training; set evaluate_every_agent_steps."
        )
    if "rms_prop_alpha" in names and optimizer == "adam":
        raise ValueError(
            "`rms_prop_alpha` is of RMSprop, and the optimizer is adam; leave one of them out."
        )


def default_settings(algo: str) -> dict[str, Any]:
    """The settings of a run that `--set` reaches, and their defaults."""
    return {
        name: value for section in _defaults(algo)[0].values() for name, value in section.items()
    }


def _defaults(algo: str) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """The default settings by section, and the presets that replace some of them."""
    if algo not in HYPERPARAMETERS:
        raise ValueError(f"`algo` must be one of {', '.join(HYPERPARAMETERS)}, got {algo!r}.")
    values, special = load_preset("run"), load_preset(algo)
    presets = special.pop("presets", {})
    return values | {name: values.get(name, {}) | special[name] for name in special}, presets


def experiment_differences(one: RunConfig, other: RunConfig) -> list[str]:
    """The names of the experiment settings in which two configs differ, the length apart."""
    experiments = [
        dict(config.run) | dict(config.network) | dict(config.hyperparameters)
        for config in (one.with_total_agent_steps(1), other.with_total_agent_steps(1))
    ]
    return differing_keys(*experiments)


def find_length_fault(saved: RunConfig, asked: RunConfig) -> str | None:
    """Why a run cannot be made as long as is asked; None if it can."""
    saved_total, asked_total = saved.run.total_agent_steps, asked.run.total_agent_steps
    if asked_total < saved_total:
        return (
            f"is a run of {saved_total:_} agent steps, longer than the {asked_total:_} asked for; "
            "ask for at least as many."
        )
    scheduled = saved.find_schedule()
    if scheduled and asked_total > saved_total:
        return (
            f"is a run of {saved_total:_} agent steps, over which its {scheduled} falls, and going "
            f"on to {asked_total:_} would raise it again; choose another --runs folder for the "
            "longer run."
        )
    return None


# --- the names of networks ------------------------------------------------------------------------


def arm_name(network: NetworkSettings) -> str:
    """Name a network after what sets it apart from the standard one, or after its class."""
    if network.extractor:
        return ",".join([network.extractor.partition(":")[2], *network.extractor_settings])
    if not network.coord_layers:
        return BASELINE
    name: str = "coordconv" if network.position == "coordinates" else network.position
    if network.coord_layers == tuple(range(CONVOLUTIONS)):
        name += "-all"
    elif network.coord_layers != (0,):
        name += "-layer" + "".join(str(layer) for layer in network.coord_layers)
    return name + "-r" * network.with_radius + "-zero" * (network.coord_init == "zero")


@cache
def parse_arm(name: str) -> NetworkSettings:
    """This project's network of a name by `arm_name`; ValueError if there is none."""
    values: dict[str, Any] = load_preset("run")["network"]
    if found := _ARM.fullmatch(name):
        kind, all_layers, some_layers, radius, zero = found.groups()
        layers = range(CONVOLUTIONS) if all_layers else map(int, some_layers or "0")
        values["coord_layers"] = tuple(layers)
        values["position"] = "coordinates" if kind == "coordconv" else kind
        values["with_radius"] = radius is not None
        values["coord_init"] = "zero" if zero else "default"
    with suppress(ValueError):  # not all of them go together
        network = NetworkSettings.parse(values)
        if arm_name(network) == name:
            return network
    raise ValueError(
        f"--arms: unknown arm {name!r}; use cnn, coordconv, coordconv-all, bias-map or "
        "random-channels, with -r for the radius, -zero for coordinate weights that start at 0; or "
        "module:Class for a network of your own."
    )


def parse_own_arm(text: str) -> NetworkSettings:
    """The network that `module:Class,key=value,...` stands for; ValueError for another form."""
    extractor, settings = split_arm(text)
    own = {"extractor": extractor, "extractor_settings": settings}
    return NetworkSettings.parse(load_preset("run")["network"] | own, "--arms")
