from typing import Any

import pytest
import torch
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

from agents.algorithms.build import make_agent
from configs.protocols import load_protocol
from configs.run_config import make_config
from envs.atari_vec_env import AtariVecEnv
from envs.games import find_game
from tests.random_frames import RandomFrames
from tests.short_runs import short_config


@pytest.mark.parametrize(
    ("optimizer", "kind", "options"),
    [
        ("rmsprop", torch.optim.RMSprop, {"eps": 1e-3, "alpha": 0.9}),
        ("rmsprop_tf_like", RMSpropTFLike, {"eps": 1e-3, "alpha": 0.9}),
        ("adam", torch.optim.Adam, {"eps": 1e-3, "betas": (0.9, 0.999)}),
    ],
)
def test_a2c_learns_by_the_optimiser_that_is_asked_for(optimizer, kind, options):
    asked: dict[str, Any] = {"learning_rate": 0.25, "rms_prop_eps": 1e-3}
    if optimizer != "adam":
        asked["rms_prop_alpha"] = 0.9
    config = short_config(optimizer=optimizer, **asked)
    env = AtariVecEnv(find_game("Breakout"), load_protocol("baselines"), 2, seed=0)
    made = make_agent(config, env, torch.device("cpu")).policy.optimizer
    env.close()
    assert type(made) is kind
    (group,) = made.param_groups
    assert {name: group[name] for name in ("lr", *options)} == {"lr": 0.25, **options}


@pytest.mark.parametrize(
    ("algo", "asked"),
    [
        (
            "a2c",
            {"n_steps": 3, "gamma": 0.5, "gae_lambda": 0.6, "ent_coef": 0.7, "vf_coef": 0.8}
            | {"max_grad_norm": 0.9, "normalize_advantage": True},
        ),
        (
            "dqn",
            {"buffer_size": 30, "learning_starts": 3, "batch_size": 7, "train_freq": 6}
            | {"gradient_steps": 2, "target_update_interval": 9, "tau": 0.5, "gamma": 0.6}
            | {"exploration_fraction": 0.7, "exploration_initial_eps": 0.8}
            | {"exploration_final_eps": 0.3, "max_grad_norm": 0.9},
        ),
    ],
)
def test_every_setting_reaches_the_agent(algo: str, asked: dict[str, Any]):
    rate = {"learning_rate": 0.25, "learning_rate_schedule": "linear"}
    of_run = {"seed": 7, "precision": "bf16"}
    config = make_config("Breakout", algo, {"n_envs": 3, "threads": 1} | rate | of_run | asked)
    default = make_config("Breakout", algo, {}).hyperparameters
    made_elsewhere = {"ortho_init", "optimizer", "rms_prop_eps", "rms_prop_alpha"}
    assert asked.keys() == set(type(default).model_fields) - {"n_envs", *rate} - made_elsewhere
    agent = make_agent(config, RandomFrames(3), torch.device("cpu"))
    for name, value in asked.items():
        assert getattr(default, name) != value
        made = getattr(agent, name)
        assert getattr(made, "frequency", made) == value, name  # train_freq has a unit, too
    assert [agent.lr_schedule(left) for left in (1, 0.5, 0)] == [0.25, 0.125, 0]
    assert (agent.seed, agent.precision, agent.n_envs) == (7, "bf16", 3)


@pytest.mark.parametrize("algo", ["a2c", "dqn"])
def test_the_seed_decides_the_first_weights(algo: str):
    weights = [
        torch.nn.utils.parameters_to_vector(
            make_agent(
                short_config(algo, seed=seed), RandomFrames(2), torch.device("cpu")
            ).policy.parameters()
        )
        for seed in (0, 1, 0)
    ]
    assert torch.equal(weights[0], weights[2])
    assert (weights[0] != weights[1]).float().mean() > 0.9
