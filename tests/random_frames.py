"""What several tests of the agents need: an environment of random frames, and networks to try."""

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

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


def network(**settings: Any) -> NetworkSettings:
    defaults: dict[str, Any] = {
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
