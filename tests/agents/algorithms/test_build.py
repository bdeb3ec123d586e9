from typing import Any

import pytest
import torch
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

from agents.algorithms.build import make_agent
from configs.protocols import load_protocol
from envs.atari_vec_env import AtariVecEnv
from envs.games import find_game
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
    asked: dict[str, Any] = {"learning_rate": 0.25, "rms_prop_eps": 1e-3, "rms_prop_alpha": 0.9}
    config = short_config(optimizer=optimizer, **asked)
    env = AtariVecEnv(find_game("Breakout"), load_protocol("baselines"), 2, seed=0)
    made = make_agent(config, env, torch.device("cpu")).policy.optimizer
    env.close()
    assert type(made) is kind
    (group,) = made.param_groups
    assert {name: group[name] for name in ("lr", *options)} == {"lr": 0.25, **options}
