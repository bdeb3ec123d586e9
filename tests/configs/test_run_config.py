import json
from typing import Any

import pytest

from configs.run_config import (
    RunConfig,
    arm_name,
    default_settings,
    experiment_differences,
    make_config,
    parse_own_arm,
)
from configs.settings import Argument, show
from tests.refusals import refusal

# --- any config -----------------------------------------------------------------------------------

CONFIGS = [
    make_config("Pong", algo, network | settings)
    for algo, settings in (
        ("a2c", {"optimizer": "adam", "learning_rate": 3e-5, "ent_coef": 0, "max_grad_norm": 1e30}),
        ("dqn", {"tau": 0.5, "keep_replay": True, "device": "cuda:1", "seed": 2**31 - 1}),
    )
    for network in (
        {"coord_layers": [0, 2], "with_radius": True, "coord_init": "zero", "precision": "bf16"},
        {"coord_layers": [1], "position": "bias-map"},
        {"extractor": "a.b:C", "extractor_settings": ["d=[1,2]", "e=x"]},
    )
]
any_config = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)


def read(text: str | bytes) -> RunConfig:
    return RunConfig.from_mapping(json.loads(text), "text")


@any_config
def test_a_saved_config_comes_back(config):
    assert read(config.to_json()) == config


def test_advantages_of_one_agent_step_cannot_be_normalised():
    settings = {"n_envs": 1, "n_steps": 1, "normalize_advantage": True}
    assert refusal(make_config, "Pong", "a2c", settings) == (
        "`normalize_advantage` needs more than one agent step an update; raise `n_envs` or "
        "`n_steps`."
    )
    make_config("Pong", "a2c", settings | {"n_envs": 2})


def test_a_config_from_before_there_were_evaluations_asks_for_none():
    config = make_config("Pong", "dqn", {"evaluate_every_agent_steps": 5, "evaluation_games": 3})
    values = json.loads(config.to_json())
    for name in ("evaluate_every_agent_steps", "evaluation_games"):
        del values["execution"][name]
    before = read(json.dumps(values))
    assert before.execution.evaluate_every_agent_steps == 0
    assert experiment_differences(before, config) == []


@any_config
def test_a_config_differs_in_nothing_from_itself_carried_out_otherwise(config):
    other = config.with_execution(threads=7, device="cuda:1").with_total_agent_steps(123)
    assert experiment_differences(config, other) == []
    assert other.name == config.name


def test_a_wrong_list_of_layers_is_told_shortened():
    line = refusal(make_config, "Pong", "a2c", {"coord_layers": [0] * 10**5})
    assert line == (
        f"`coord_layers` must name each convolution once, in order, got [{'0, ' * 18}0,...."
    )


# --- the presets ----------------------------------------------------------------------------------


def test_a2c_is_rl_baselines3_zoos():
    """hyperparams/a2c.yml, section atari; SB3's defaults where that is silent."""
    config = make_config("Pong", "a2c", {}, "zoo")
    assert config.run.total_agent_steps == 10_000_000
    assert dict(config.hyperparameters) == {
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


def test_the_default_preset_is_the_zoos_but_for_what_trials_chose():
    default, zoo = (make_config("Pong", "a2c", {}, preset) for preset in (None, "zoo"))
    changed = dict(default.hyperparameters).items() - dict(zoo.hyperparameters).items()
    assert dict(changed) == {
        "learning_rate": 5e-4,
        "learning_rate_schedule": "linear",
        "vf_coef": 0.5,
        "rms_prop_eps": 1e-10,
    }
    assert default.run.total_agent_steps == 2_000_000
    default, zoo = (make_config("Pong", "dqn", {}, preset) for preset in (None, "zoo"))
    assert default.hyperparameters == zoo.hyperparameters
    assert (default.run.total_agent_steps, zoo.run.total_agent_steps) == (1_000_000, 10_000_000)


HOW = {"precision": "bf16", "threads": 1, "total_agent_steps": 5, "protocol": "machado"}


@pytest.mark.parametrize(
    ("overrides", "preset", "variant"),
    [
        (HOW | {"learning_rate": 5e-4}, None, []),  # the default
        (HOW, "zoo", ["preset=zoo"]),
        ({"gamma": "1", "learning_rate": "1e-3"}, None, ["gamma=1.0", "learning_rate=0.001"]),
        ({"vf_coef": 0.25, "ortho_init": False}, "zoo", ["preset=zoo", "ortho_init=false"]),
        ({"optimizer": "adam"}, "zoo", ["preset=zoo", "optimizer=adam"]),
    ],
)
def test_a_run_is_named_after_its_preset_and_hyperparameters(overrides, preset, variant):
    typed = {
        name: Argument(value, "--set") if name in ("gamma", "learning_rate") else value
        for name, value in overrides.items()
    }
    config = make_config("Pong", "a2c", {"coord_layers": [0]} | typed, preset)
    assert list(config.variant) == variant
    assert config.name == f"Pong/a2c-{','.join(['coordconv', *variant])}/seed0"
    assert read(config.to_json()) == config


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
        (
            {"coord_layers": [0, 1, 2], "with_radius": True, "coord_init": "zero"},
            "coordconv-all-r-zero",
        ),
        ({"coord_layers": [0], "position": "bias-map"}, "bias-map"),
        ({"coord_layers": [0], "position": "random-channels"}, "random-channels"),
    ],
)
def test_arm_names(network, name):
    config = make_config("Pong", "a2c", network)
    assert config.arm == arm_name(config.network) == name


def own(name: str = "mynets:Impala", *arguments: str, **more: Any) -> RunConfig:
    network = {"extractor": name, "extractor_settings": list(arguments)}
    return make_config("Pong", "dqn", network | more)


def test_a_network_of_a_users_own_is_named_after_its_class_and_arguments():
    config = own("my.nets:Impala", "width=1e1", "norm=True", "depths=[1, 2]", "act=relu", "x=None")
    assert config.name == "Pong/dqn-Impala,act=relu,depths=[1,2],norm=true,width=10.0,x=null/seed0"
    assert config.network.extractor_arguments == {
        "act": "relu",
        "depths": [1, 2],
        "norm": True,
        "width": 10.0,
        "x": None,
    }
    assert own("a:Net").name == "Pong/dqn-Net/seed0"
    assert own("a:Net", "b=1", "a=1") == own("a:Net", "a=1", "b=1")
    text = "my.nets:Impala,width=10.0,depths=[1,2],act=relu,norm=true,x=none"
    assert parse_own_arm(text) == config.network


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(
            (
                (name,),
                "`extractor` must be a module and a class of it, such as mynets:ImpalaCNN, got "
                f"{name!r}.",
            )
            for name in ("Impala", "a/b:C", "a:b:C", "a:../C", "a.:C", ":C", "a:Cé", "a:C ")
        ),
        *(
            (
                ("a:C", text),
                "`extractor_settings` must be key=value, without spaces and slashes and at most "
                f"100 letters long, got {show(text)}.",
            )
            for text in ("x", "=1", "x=a/b", "x=a b", "x=é", "x y=1", "x=" + "[" * 99, "1=x")
        ),
        (("a:C", "x=1", "x=2"), "`extractor_settings` give x twice; give it once."),
        (
            ("a:cnn",),
            "`extractor`: a run of a:cnn would be taken for this project's cnn; give the class "
            "another name.",
        ),
        (("", "x=1"), "`extractor_settings` need a network of your own; add --extractor."),
    ],
)
def test_wrong_names_of_own_networks_are_refused(arguments, message):
    assert refusal(own, *arguments) == message


def test_an_own_network_goes_with_neither_coordinates_nor_bf16():
    assert refusal(own, coord_layers=[0]) == (
        "`extractor` is a whole network; leave out `coord_layers` (--coordconv, --coord-layers)."
    )
    assert refusal(own, with_radius=True) == (
        "`extractor` is a whole network; leave out `with_radius` (--radius)."
    )
    assert refusal(own, precision="bf16") == (
        "`precision` bf16 is for this project's own networks; leave it out with mynets:Impala."
    )


def test_a_config_of_before_there_were_own_networks_is_read():
    saved = json.loads(make_config("Pong", "a2c", {"coord_layers": [0]}).to_json())
    for name in ("extractor", "extractor_settings", "extractor_source"):
        del saved["network"][name]
    assert read(json.dumps(saved)) == make_config("Pong", "a2c", {"coord_layers": [0]})


def test_game_and_algorithm_are_not_settable():
    assert {"game", "algo"} & default_settings("a2c").keys() == set()
    assert "buffer_size" in default_settings("dqn")
    assert "buffer_size" not in default_settings("a2c")
