"""Agents that never trained, saved as a run's directory or as somebody else's model."""

from pathlib import Path

import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium import spaces

from agents.algorithms.build import make_agent
from agents.training.checkpoints import save_agent
from configs.protocols import load_protocol
from configs.run_config import make_config
from runtime.run_directory import RunDirectory, State
from tests.random_frames import RandomFrames

CPU = torch.device("cpu")


class FramesOfGame(RandomFrames):
    """Random frames with a game's number of actions, laid out as SB3's wrappers do or as ours."""

    def __init__(self, actions: int = 4, channels_last: bool = False, frames: int = 4):
        super().__init__(1)
        self.action_space = spaces.Discrete(actions)
        shape = (84, 84, frames) if channels_last else (frames, 84, 84)
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)


def make_decided(policy) -> None:
    """Give an untrained policy opinions: its heads start near zero."""
    generator = torch.Generator().manual_seed(5)
    head = policy.action_net if hasattr(policy, "action_net") else policy.q_net.q_net[0]
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=generator) / 10)


def make_ours(algo: str, **overrides):
    """A config, and its agent."""
    special = {"buffer_size": 10, "exploration_final_eps": 0.25} if algo == "dqn" else {}
    settings = {"n_envs": 1, "coord_layers": [0]} | special | overrides
    config = make_config("Breakout", algo, settings)
    agent = make_agent(config, FramesOfGame(), CPU)
    agent.num_timesteps = 1234
    make_decided(agent.policy)
    return config, agent


def save_run(path: Path, algo: str = "a2c", state: State = "finished", **overrides) -> RunDirectory:
    """A run's directory with a model in it: the final one, or else checkpoints of 100 and 200."""
    config, agent = make_ours(algo, **overrides)
    directory = RunDirectory(path)
    path.mkdir(parents=True)
    directory.config_path.write_text(config.to_json())
    directory.write_status(state, 200)
    if state == "finished":
        save_agent(directory.final_path, config, agent)
    else:
        directory.checkpoints_path.mkdir()
        for steps in (100, 200):
            agent.num_timesteps = steps
            save_agent(directory.checkpoints_path / f"{steps:012d}.zip", config, agent)
    return directory


def save_foreign(path: Path, algorithm: str, policy_kwargs=None, **space):
    """A model of plain SB3, trained by somebody on `make_atari_env` with `VecFrameStack`."""
    settings = {"buffer_size": 10, "exploration_final_eps": 0.02} if algorithm == "DQN" else {}
    model = getattr(stable_baselines3, algorithm)(
        "CnnPolicy",
        FramesOfGame(channels_last=True, **space),
        policy_kwargs=policy_kwargs,
        device="cpu",
        **settings,
    )
    model.num_timesteps = 77
    make_decided(model.policy)
    model.save(path)
    return model


def change_protocols(monkeypatch: pytest.MonkeyPatch, **changes: int) -> None:
    """Of what is evaluated, not of what is trained."""
    for module in ("agents.evaluation.agent", "agents.training.evaluation"):
        monkeypatch.setattr(
            f"{module}.load_protocol", lambda name: load_protocol(name).replace(**changes)
        )
