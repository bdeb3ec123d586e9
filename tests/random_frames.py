"""What several tests of the agents need: an environment of random frames, and networks to try."""

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from configs.run_config import NetworkSettings


class RandomFrames(VecEnv):
    """Stacks of random frames, random rewards, ends and time limits; the same for the same seed."""

    def __init__(self, n_envs: int, seed: int = 0):
        self.render_mode = None
        super().__init__(n_envs, spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Discrete(5))
        self._random = np.random.default_rng(seed)
        self.end_probability = 0.3
        self._stacks = np.zeros((n_envs, 4, 84, 84), np.uint8)

    def _push_frames(self):
        frames = self._random.integers(0, 256, (self.num_envs, 1, 84, 84), dtype=np.uint8)
        self._stacks = np.concatenate([self._stacks[:, 1:], frames], axis=1)

    def reset(self):
        self._stacks = np.zeros_like(self._stacks)
        self._push_frames()
        return self._stacks

    def step_async(self, actions):
        assert self.action_space.contains(actions[0])

    def step_wait(self):
        dones = self._random.random(self.num_envs) < self.end_probability
        rewards = self._random.normal(size=self.num_envs).astype(np.float32)
        self._push_frames()
        infos = [
            {
                "terminal_observation": stack,
                "TimeLimit.truncated": bool(self._random.random() < 0.5),
            }
            if done
            else {}
            for done, stack in zip(dones, self._stacks, strict=True)
        ]
        ended, self._stacks = self._stacks, self._stacks.copy()
        self._stacks[dones] = 0
        self._push_frames()
        self._stacks = np.where(dones[:, None, None, None], self._stacks, ended)
        return self._stacks, rewards, dones, infos

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
