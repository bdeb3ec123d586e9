import numpy as np
import pytest
import stable_baselines3
import torch

from agents.algorithms.a2c import A2C
from agents.algorithms.build import extractor_arguments
from configs.run_config import NetworkSettings
from tests.agents.algorithms.differences import largest_difference, learn_alike
from tests.random_frames import NETWORKS, RandomFrames


def make(algorithm, settings: NetworkSettings, seed=1, **arguments):
    return algorithm(
        "CnnPolicy",
        RandomFrames(n_envs=3),
        n_steps=4,
        ent_coef=0.01,
        vf_coef=0.25,
        seed=seed,
        device="cpu",
        policy_kwargs=extractor_arguments(settings),
        **arguments,
    )


def train_three_updates(algorithm, settings, **keywords):
    """The model after 3 updates of 4 x 3 steps, seeded at its construction."""
    model = make(algorithm, settings, **keywords)
    return model.learn(36, log_interval=None)


@pytest.mark.parametrize("arm", NETWORKS)
@pytest.mark.parametrize("normalize_advantage", [False, True])
def test_losses_gradients_and_weights_are_those_of_sb3(arm, normalize_advantage):
    """Same seed and stream: equal actions, so equal numbers to float tolerance."""
    keywords = {"normalize_advantage": normalize_advantage, "gae_lambda": 0.9}
    ours, theirs = learn_alike(lambda seed: learn_beside_sb3(NETWORKS[arm], seed=seed, **keywords))
    for name in ("actions", "returns", "values", "advantages"):
        # SB3 has turned its arrays to one row per environment and step.
        expected = getattr(theirs.rollout_buffer, name).reshape(3, 4).T
        actual = getattr(ours.rollout_buffer, name).reshape(4, 3)
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4, err_msg=name)
    for name in ("policy_loss", "value_loss", "entropy_loss", "explained_variance"):
        key = f"train/{name}"
        assert ours.logger.name_to_value[key] == pytest.approx(
            theirs.logger.name_to_value[key], rel=1e-3, abs=1e-5
        ), name


def learn_beside_sb3(settings, **keywords) -> tuple[float, A2C, stable_baselines3.A2C]:
    """The difference of what they learned, this project's agent and SB3's."""
    ours = train_three_updates(A2C, settings, **keywords)
    generator_state = torch.get_rng_state()
    theirs = train_three_updates(stable_baselines3.A2C, settings, **keywords)
    assert torch.equal(generator_state, torch.get_rng_state())
    start = make(stable_baselines3.A2C, settings, **keywords)
    return largest_difference(ours.policy, theirs.policy, start.policy), ours, theirs
