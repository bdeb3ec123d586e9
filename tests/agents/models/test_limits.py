"""What a reader accepts is more than the program writes, at the ends of its settings' ranges."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from agents.algorithms.build import make_agent
from agents.models.model_file import read_model_zip, read_newest_checkpoint
from agents.training.checkpoints import save_agent, save_checkpoint
from configs.protocols import load_protocol, protocol_names
from configs.run_config import make_config
from envs.emulated_game import AGENT_STEPS_BETWEEN_SEEDINGS
from runtime.run_directory import RunDirectory
from tests.random_frames import RandomFrames

MOST_ENVS = 1024


def longest_game_state() -> dict[str, Any]:
    """Of the longest game there can be, begun just before its emulator would be seeded anew."""
    steps = max(
        protocol.max_frames_per_game // protocol.frames_per_agent_step
        for protocol in map(load_protocol, protocol_names())
    )
    actions = AGENT_STEPS_BETWEEN_SEEDINGS + 2 * steps  # with the presses at every lost life
    return {
        "actions_since_seeding": "AAAA" * (actions // 3),
        "unreported": [{"r": 1} for _ in "12"],
    }


def test_a_checkpoint_of_as_many_environments_as_may_be(tmp_path):
    config = make_config("Pong", "a2c", {"n_envs": 1})
    agent = make_agent(config, RandomFrames(1), torch.device("cpu"))
    agent.num_timesteps = 1
    agent._last_obs = np.zeros((MOST_ENVS, 4, 84, 84), np.uint8)
    agent._last_episode_starts = np.zeros(MOST_ENVS, bool)
    agent.ep_info_buffer = cast(Any, [{"r": 1.0, "l": 1, "t": 0.5}] * MOST_ENVS)
    games = [longest_game_state()] * MOST_ENVS
    env = cast(Any, SimpleNamespace(get_state=lambda: {"games": games}))
    directory = RunDirectory(tmp_path)
    save_checkpoint(directory, config, agent, env, {})
    file = read_newest_checkpoint(directory)
    assert file is not None
    assert len(file.read_member("resume.json")) > 80e6
    assert len(file.read_member("resume.npz")) > 28e6


@pytest.mark.parametrize("position", ["coordinates", "bias-map", "random-channels"])
def test_the_largest_networks(tmp_path, position):
    network: dict[str, Any] = {"coord_layers": [0, 1, 2], "position": position}
    network["with_radius"] = position == "coordinates"
    config = make_config("Pong", "dqn", {"buffer_size": 10, **network})
    agent = make_agent(config, RandomFrames(1), torch.device("cpu"))
    save_agent(tmp_path / "final.zip", config, agent)
    state = read_model_zip(tmp_path / "final.zip", ours=True).policy_state
    assert state.keys() == agent.policy.state_dict().keys()
