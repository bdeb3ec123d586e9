"""Environments to step, and actions for them."""

from typing import Any

import numpy as np
import numpy.typing as npt

from configs.protocols import Protocol
from envs.atari_vec_env import AtariVecEnv
from envs.games import find_game


def make_env(game: str, protocol: Protocol, n_envs: int = 1, seed: int = 0) -> Any:
    return AtariVecEnv(find_game(game), protocol, n_envs, seed)


def draw_actions(env: Any, steps: int, seed: int = 0) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).integers(env.action_space.n, size=(steps, env.num_envs))
