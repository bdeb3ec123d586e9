import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from agents.a2c import A2C
from agents.build import extractor_arguments
from configs.run_config import NetworkSettings


class RandomFrames(VecEnv):
    """Random observations, rewards, ends and time limits; the same for the same seed."""

    def __init__(self, n_envs: int, seed: int = 0):
        self.render_mode = None
        super().__init__(n_envs, spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Discrete(5))
        self._random = np.random.default_rng(seed)

    def _frames(self):
        return self._random.integers(0, 256, (self.num_envs, 4, 84, 84), dtype=np.uint8)

    def reset(self):
        return self._frames()

    def step_async(self, actions):
        assert self.action_space.contains(actions[0])

    def step_wait(self):
        dones = self._random.random(self.num_envs) < 0.3
        rewards = self._random.normal(size=self.num_envs).astype(np.float32)
        infos = [
            {
                "terminal_observation": frame,
                "TimeLimit.truncated": bool(self._random.random() < 0.5),
            }
            if done
            else {}
            for done, frame in zip(dones, self._frames(), strict=True)
        ]
        return self._frames(), rewards, dones, infos

    def close(self):
        pass

    def get_attr(self, attr_name, indices=None):
        return [None] * self.num_envs

    def set_attr(self, attr_name, value, indices=None):
        raise NotImplementedError

    def env_method(self, method_name, *method_args, indices=None, **method_kwargs):
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class, indices=None):
        return [False] * self.num_envs


def network(**settings) -> NetworkSettings:
    defaults = {
        "coord_layers": (),
        "position": "coordinates",
        "with_radius": False,
        "coord_init": "default",
    }
    return NetworkSettings(**(defaults | settings))


NETWORKS = {
    "cnn": network(),
    "coordconv": network(coord_layers=(0,)),
    "coordconv-all-r": network(coord_layers=(0, 1, 2), with_radius=True),
    "bias-map": network(coord_layers=(0, 2), position="bias-map"),
    "random-channels": network(coord_layers=(0, 1), position="random-channels"),
}


def make(algorithm, settings: NetworkSettings, **arguments):
    return algorithm(
        "CnnPolicy",
        RandomFrames(n_envs=3),
        n_steps=4,
        ent_coef=0.01,
        vf_coef=0.25,
        seed=1,
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
    ours = train_three_updates(A2C, NETWORKS[arm], **keywords)
    generator_state = torch.get_rng_state()
    theirs = train_three_updates(stable_baselines3.A2C, NETWORKS[arm], **keywords)

    assert torch.equal(generator_state, torch.get_rng_state())
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
    parameters = dict(theirs.policy.named_parameters())
    for name, parameter in ours.policy.named_parameters():
        torch.testing.assert_close(
            parameter.grad, parameters[name].grad, rtol=1e-2, atol=1e-5, msg=name
        )
        torch.testing.assert_close(parameter, parameters[name], rtol=1e-3, atol=1e-5, msg=name)
