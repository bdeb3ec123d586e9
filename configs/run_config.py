"""The config of one training run: what is asked, and how it is carried out.

The experiment (game, algorithm, seed, network, hyper-parameters) identifies a run; the execution
settings (device, threads, intervals) are recorded with it and never compared.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from configs.settings import (
    Bounds,
    annotations_of,
    as_mapping,
    build,
    describe_unknown,
    differing_keys,
    load_preset,
)
from runtime.files import parse_json, read_json

FORMAT_VERSION = 1
CONVOLUTIONS = 3
LARGEST = 1e30  # of factors: float32 must hold it

Algo = Literal["a2c", "dqn"]


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What is trained, and for how long."""

    game: str
    algo: Algo
    seed: Annotated[int, Bounds(0, 2**31 - 1)]
    total_agent_steps: Annotated[int, Bounds(1, 10**12)]
    protocol: Literal["baselines", "machado"]
    precision: Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Which convolutions are told where they are, and how."""

    coord_layers: Annotated[tuple[int, ...], Bounds(0, CONVOLUTIONS - 1)]
    position: Literal["coordinates", "bias-map", "random-channels"]
    with_radius: bool
    coord_init: Literal["default", "zero"]

    def __post_init__(self) -> None:
        if sorted(set(self.coord_layers)) != list(self.coord_layers):
            raise ValueError(
                f"`coord_layers` must name each convolution once, in order, got "
                f"{list(self.coord_layers)}."
            )
        if not self.coord_layers:
            for name, default in load_preset("run")["network"].items():
                if getattr(self, name) != default and name != "coord_layers":
                    raise ValueError(f"`{name}` needs a layer with coordinates; add --coordconv.")
        if self.with_radius and self.position != "coordinates":
            raise ValueError(f"`with_radius` goes with coordinates, not with {self.position}.")
        if self.position == "bias-map" and self.coord_init == "zero":
            raise ValueError("`coord_init` does not apply to bias-map: it always starts at zero.")


@dataclass(frozen=True, kw_only=True)
class A2CHyperparameters:
    """Settings of A2C; names and meaning are those of `stable_baselines3.A2C`."""

    n_envs: Annotated[int, Bounds(1, 1024)]
    n_steps: Annotated[int, Bounds(1, 10_000)]
    learning_rate: Annotated[float, Bounds(0, LARGEST)]
    learning_rate_schedule: Literal["constant", "linear"]
    gamma: Annotated[float, Bounds(0, 1)]
    gae_lambda: Annotated[float, Bounds(0, 1)]
    ent_coef: Annotated[float, Bounds(0, LARGEST)]
    vf_coef: Annotated[float, Bounds(0, LARGEST)]
    max_grad_norm: Annotated[float, Bounds(above=0, maximum=LARGEST)]
    normalize_advantage: bool
    ortho_init: bool
    optimizer: Literal["rmsprop", "rmsprop_tf_like", "adam"]
    rms_prop_eps: Annotated[float, Bounds(above=0, maximum=LARGEST)]
    rms_prop_alpha: Annotated[float, Bounds(0, below=1)]


@dataclass(frozen=True, kw_only=True)
class DQNHyperparameters:
    """Settings of DQN; names and meaning are those of `stable_baselines3.DQN`."""

    n_envs: Annotated[int, Bounds(1, 1024)]
    buffer_size: Annotated[int, Bounds(1, 10**9)]
    learning_starts: Annotated[int, Bounds(0, 10**12)]
    batch_size: Annotated[int, Bounds(1, 1_000_000)]
    train_freq: Annotated[int, Bounds(1, 1_000_000)]
    gradient_steps: Annotated[int, Bounds(1, 10_000)]
    target_update_interval: Annotated[int, Bounds(1, 10**12)]
    tau: Annotated[float, Bounds(above=0, maximum=1)]
    learning_rate: Annotated[float, Bounds(0, LARGEST)]
    learning_rate_schedule: Literal["constant", "linear"]
    gamma: Annotated[float, Bounds(0, 1)]
    exploration_fraction: Annotated[float, Bounds(0, 1)]
    exploration_initial_eps: Annotated[float, Bounds(0, 1)]
    exploration_final_eps: Annotated[float, Bounds(0, 1)]
    max_grad_norm: Annotated[float, Bounds(above=0, maximum=LARGEST)]


@dataclass(frozen=True, kw_only=True)
class ExecutionSettings:
    """How a run is carried out; recorded with it, never compared."""

    device: str
    threads: Annotated[int, Bounds(0, 4096)]
    checkpoint_every_agent_steps: Annotated[int, Bounds(1, 10**12)]
    log_every_agent_steps: Annotated[int, Bounds(1, 10**12)]
    keep_replay: bool
    hang_timeout_seconds: Annotated[float, Bounds(above=0)]


HYPERPARAMETERS: Mapping[str, type[A2CHyperparameters] | type[DQNHyperparameters]] = {
    "a2c": A2CHyperparameters,
    "dqn": DQNHyperparameters,
}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything about one training run."""

    run: RunSettings
    network: NetworkSettings
    hyperparameters: A2CHyperparameters | DQNHyperparameters
    execution: ExecutionSettings

    @property
    def arm(self) -> str:
        """The name of the network: `cnn`, `coordconv`, `coordconv-all-r`, ..."""
        return arm_name(self.network)

    @property
    def name(self) -> str:
        """Where the run lives below the runs folder: `Pong/a2c-coordconv/seed0`."""
        return f"{self.run.game}/{self.run.algo}-{self.arm}/seed{self.run.seed}"

    def with_total_agent_steps(self, total_agent_steps: int) -> "RunConfig":
        """The same run, of another length."""
        return replace(self, run=replace(self.run, total_agent_steps=total_agent_steps))

    def with_execution(self, execution: ExecutionSettings) -> "RunConfig":
        """The same experiment, carried out in another way."""
        return replace(self, execution=execution)


def arm_name(network: NetworkSettings) -> str:
    """Name a network after what sets it apart from the standard one."""
    if not network.coord_layers:
        return "cnn"
    name: str = "coordconv" if network.position == "coordinates" else network.position
    if network.coord_layers == tuple(range(CONVOLUTIONS)):
        name += "-all"
    elif network.coord_layers != (0,):
        name += "-layer" + "".join(str(layer) for layer in network.coord_layers)
    return name + "-r" * network.with_radius + "-zero" * (network.coord_init == "zero")


def settable_fields(algo: str) -> dict[str, Any]:
    """The settings of a run that `--set` reaches, with their types."""
    fields: dict[str, Any] = {}
    for section in _sections(algo).values():
        fields |= annotations_of(section)
    for name in ("game", "algo"):
        del fields[name]
    return fields


def make_config(game: str, algo: str, overrides: Mapping[str, Any]) -> RunConfig:
    """The preset of an algorithm with some settings replaced.

    Args:
        game: A game's name as `envs.games` spells it.
        algo: "a2c" or "dqn".
        overrides: Values by setting name, whichever section it is in.

    Raises:
        ValueError: If a setting is unknown, ill-typed or out of range; one line.
    """
    if algo not in HYPERPARAMETERS:
        raise ValueError(f"`algo` must be one of {', '.join(HYPERPARAMETERS)}, got {algo!r}.")
    values = load_preset("run")
    for table, preset in load_preset(algo).items():
        values[table] = values.get(table, {}) | preset
    values["run"] |= {"game": game, "algo": algo}
    for name, value in overrides.items():
        section = next((s for s, c in _sections(algo).items() if name in annotations_of(c)), None)
        if section is None:
            raise ValueError(describe_unknown(name, settable_fields(algo)))
        values[section][name] = value
    return _build_config(values, "settings")


def to_json(config: RunConfig) -> str:
    """The text of `config.json`."""
    sections = {name: as_mapping(getattr(config, name)) for name in _sections(config.run.algo)}
    return json.dumps({"format_version": FORMAT_VERSION} | sections, indent=2) + "\n"


def from_json(text: str | bytes, source: str) -> RunConfig:
    """Read the text of a `config.json`.

    Raises:
        ValueError: If it is not JSON, of another format version, or holds a wrong value.
    """
    return from_mapping(parse_json(text, source), source)


def load_config(path: Path) -> RunConfig:
    """Read a `config.json`.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged; one line.
    """
    return from_mapping(read_json(path), str(path))


def from_mapping(values: Any, source: str) -> RunConfig:
    """Build a config from the parsed content of a `config.json`.

    Files from before there were the settings `optimizer` and `ortho_init` get what was done then.

    Raises:
        ValueError: If it is damaged, or of another format version; one line.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{source}: a config must be a JSON object; restore the file.")
    version = values.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise ValueError(
            f"{source}: format version {version!r:.60} is not the one this release reads "
            f"({FORMAT_VERSION}); use the release that wrote it."
        )
    sections = {name: section for name, section in values.items() if name != "format_version"}
    settings = sections.get("hyperparameters")
    if isinstance(settings, dict) and "vf_coef" in settings:
        as_before = {"optimizer": "rmsprop_tf_like", "ortho_init": True}
        sections["hyperparameters"] = as_before | settings
    return _build_config(sections, source)


def experiment_differences(one: RunConfig, other: RunConfig) -> list[str]:
    """The names of the experiment settings in which two configs differ, the length apart."""

    def experiment(config: RunConfig) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for section in ("run", "network", "hyperparameters"):
            values |= as_mapping(getattr(config, section))
        del values["total_agent_steps"]
        return values

    return differing_keys(experiment(one), experiment(other))


def _sections(algo: str) -> dict[str, type]:
    return {
        "run": RunSettings,
        "network": NetworkSettings,
        "hyperparameters": HYPERPARAMETERS[algo],
        "execution": ExecutionSettings,
    }


def _build_config(values: Mapping[str, Any], source: str) -> RunConfig:
    algo = values["run"].get("algo") if isinstance(values.get("run"), dict) else None
    if not isinstance(algo, str) or algo not in HYPERPARAMETERS:
        raise ValueError(f"{source}: `algo` must be one of {', '.join(HYPERPARAMETERS)}.")
    sections = _sections(algo)
    for name in values:
        if name not in sections:
            raise ValueError(f"{source}: {describe_unknown(name, sections)}")
    built: dict[str, Any] = {}
    for name, section in sections.items():
        if not isinstance(values.get(name), dict):
            raise ValueError(f"{source}: the section `{name}` is missing; restore the file.")
        built[name] = build(section, values[name], source)
    return RunConfig(**built)
