import dataclasses
import json
import re
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.run_config import (
    HYPERPARAMETERS,
    ExecutionSettings,
    NetworkSettings,
    RunConfig,
    RunSettings,
    arm_name,
    experiment_differences,
    from_json,
    load_config,
    make_config,
    settable_fields,
    to_json,
)
from configs.settings import Bounds, annotations_of

# --- any config -----------------------------------------------------------------------------------


def values_of(annotation: Any) -> st.SearchStrategy[Any]:
    """Values a field may have."""
    kind, bounds = annotation, Bounds()
    if hasattr(annotation, "__metadata__"):
        kind, bounds = get_args(annotation)
    low = bounds.above if bounds.minimum is None else bounds.minimum
    high = bounds.below if bounds.maximum is None else bounds.maximum
    if get_origin(kind) is tuple:
        layers = st.sets(st.integers(int(low or 0), int(high or 0)))
        return layers.map(lambda numbers: tuple(sorted(numbers)))
    if kind is bool:
        return st.booleans()
    if kind is str:
        return st.text(max_size=20).filter(str.isprintable)
    if kind is int:
        return st.integers(int(low or 0), 10**12 if high is None else int(high))
    if kind is float:
        return st.floats(
            low,
            high,
            exclude_min=bounds.above is not None,
            exclude_max=bounds.below is not None,
            allow_nan=False,
            allow_infinity=False,
        )
    return st.sampled_from(get_args(kind))


@st.composite
def configs(draw: st.DrawFn) -> RunConfig:
    algo = draw(st.sampled_from(["a2c", "dqn"]))

    def of(section: Any) -> dict[str, Any]:
        return {name: draw(values_of(kind)) for name, kind in annotations_of(section).items()}

    network = of(NetworkSettings)
    if not network["coord_layers"]:
        network = {"coord_layers": (), "position": "coordinates"}
        network |= {"with_radius": False, "coord_init": "default"}
    if network["position"] != "coordinates":
        network |= {"with_radius": False}
    if network["position"] == "bias-map":
        network |= {"coord_init": "default"}
    return RunConfig(
        run=RunSettings(**of(RunSettings) | {"algo": algo}),
        network=NetworkSettings(**network),
        hyperparameters=HYPERPARAMETERS[algo](**of(HYPERPARAMETERS[algo])),
        execution=ExecutionSettings(**of(ExecutionSettings)),
    )


@settings(deadline=None)
@given(configs())
def test_from_json_is_the_inverse_of_to_json(config: RunConfig) -> None:
    assert from_json(to_json(config), "text") == config


@settings(deadline=None)
@given(configs())
def test_a_config_differs_in_nothing_from_itself_carried_out_otherwise(config: RunConfig) -> None:
    execution = dataclasses.replace(config.execution, threads=7, device="cuda:1")
    other = config.with_execution(execution).with_total_agent_steps(123)
    assert experiment_differences(config, other) == []
    assert other.name == config.name


@settings(deadline=None)
@given(st.binary() | st.text() | st.text().map(lambda text: json.dumps({text: text})))
def test_from_json_raises_nothing_but_one_line(document: bytes | str) -> None:
    with pytest.raises(ValueError, match=r"^text\b[^\n]*$"):
        from_json(document, "text")


@settings(deadline=None)
@given(st.data())
def test_a_config_with_one_part_replaced_is_read_or_refused_in_one_line(
    data: st.DataObject,
) -> None:
    values = json.loads(to_json(make_config("Pong", "dqn", {})))
    section = data.draw(st.sampled_from(sorted(values)))
    junk = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.none(), max_size=1)
    if isinstance(values[section], dict) and data.draw(st.booleans()):
        values[section][data.draw(st.sampled_from(sorted(values[section])))] = data.draw(junk)
    else:
        values[section] = data.draw(junk)
    try:
        config = from_json(json.dumps(values), "text")
    except ValueError as error:
        line = str(error)
        assert re.fullmatch(r"[^\n]+", line)
    else:
        assert from_json(to_json(config), "text") == config


# --- the presets ----------------------------------------------------------------------------------


def test_a2c_is_rl_baselines3_zoos() -> None:
    """hyperparams/a2c.yml, section atari; SB3's defaults where that is silent."""
    settings = dataclasses.asdict(make_config("Pong", "a2c", {}).hyperparameters)
    assert settings == {
        "n_envs": 16,
        "n_steps": 5,
        "learning_rate": 7e-4,
        "learning_rate_schedule": "constant",
        "gamma": 0.99,
        "gae_lambda": 1.0,
        "ent_coef": 0.01,
        "vf_coef": 0.25,
        "max_grad_norm": 0.5,
        "normalize_advantage": False,
        "ortho_init": True,
        "optimizer": "rmsprop_tf_like",
        "rms_prop_eps": 1e-5,
        "rms_prop_alpha": 0.99,
    }


def test_overrides_reach_every_section() -> None:
    config = make_config(
        "Pong", "dqn", {"seed": 4, "coord_layers": [1], "tau": 0.5, "keep_replay": True}
    )
    assert config.run.seed == 4
    assert config.network.coord_layers == (1,)
    assert config.execution.keep_replay
    assert getattr(config.hyperparameters, "tau") == 0.5  # noqa: B009
    assert config.name == "Pong/dqn-coordconv-layer1/seed4"


@pytest.mark.parametrize(
    ("network", "name"),
    [
        ({}, "cnn"),
        ({"coord_layers": [0]}, "coordconv"),
        ({"coord_layers": [0, 1, 2]}, "coordconv-all"),
        ({"coord_layers": [2]}, "coordconv-layer2"),
        ({"coord_layers": [1, 2]}, "coordconv-layer12"),
        ({"coord_layers": [0], "with_radius": True}, "coordconv-r"),
        ({"coord_layers": [0], "coord_init": "zero"}, "coordconv-zero"),
        ({"coord_layers": [0, 1, 2], "with_radius": True, "coord_init": "zero"}, None),
        ({"coord_layers": [0], "position": "bias-map"}, "bias-map"),
        ({"coord_layers": [0], "position": "random-channels"}, "random-channels"),
    ],
)
def test_arm_names(network: dict[str, Any], name: str | None) -> None:
    config = make_config("Pong", "a2c", network)
    assert config.arm == arm_name(config.network) == (name or "coordconv-all-r-zero")


@pytest.mark.parametrize(
    ("algo", "overrides", "message"),
    [
        ("ppo", {}, "`algo` must be one of a2c, dqn, got 'ppo'."),
        ("a2c", {"gama": 1}, "unknown setting 'gama'; did you mean `gamma`?"),
        (
            "a2c",
            {"gamma": 2},
            "settings: `gamma` must be a number at least 0 and at most 1, got 2.",
        ),
    ],
)
def test_make_config_refuses(algo: str, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make_config("Pong", algo, overrides)


def test_game_and_algorithm_are_not_settable() -> None:
    assert {"game", "algo"} & set(settable_fields("a2c")) == set()
    assert "buffer_size" in settable_fields("dqn")
    assert "buffer_size" not in settable_fields("a2c")


def test_experiment_differences_are_named_and_sorted() -> None:
    one = make_config("Pong", "a2c", {})
    other = make_config("Pong", "a2c", {"seed": 1, "gamma": 0.9, "coord_layers": [0]})
    assert experiment_differences(one, other) == ["coord_layers", "gamma", "seed"]


def test_load_config_of_nothing(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    message = f"{path} does not exist; check the path."
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        load_config(path)
