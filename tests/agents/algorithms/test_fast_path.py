"""Where the fast path does not apply, the agents are SB3's; what they keep is nobody's burden."""

import copy
from typing import Any

import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3.common import buffers
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from stable_baselines3.common.vec_env import VecNormalize

from agents.algorithms.a2c import A2C
from agents.algorithms.build import extractor_arguments
from agents.algorithms.dqn import DQN
from agents.algorithms.replay_buffer import ReplayBuffer
from policies.extractors import NatureCoordCNN
from tests.agents.algorithms.test_dqn import PlainReplay
from tests.random_frames import NETWORKS, RandomFrames
from tests.refusals import refusal

SB3: dict[Any, Any] = {A2C: stable_baselines3.A2C, DQN: stable_baselines3.DQN}
COORDCONV = extractor_arguments(NETWORKS["coordconv"])


class Doubled(NatureCoordCNN):
    def forward(self, observations):
        return 2 * super().forward(observations)


class FewerActions(ActorCriticCnnPolicy):
    def _get_action_dist_from_latent(self, latent_pi):
        logits = self.action_net(latent_pi)
        return self.action_dist.proba_distribution(logits - 9 * (torch.arange(5) > 2))


class OtherRollouts(buffers.RolloutBuffer):
    pass


def normalised(env):
    return VecNormalize(env, norm_obs=False)


def make(algorithm, policy="CnnPolicy", wrap=None, kwargs=None, change=None, **keywords):
    """`wrap` changes its environment, `change` the agent when it is made."""
    defaults = {"n_steps": 4}
    if issubclass(algorithm, stable_baselines3.DQN):
        defaults = {"buffer_size": 60, "learning_starts": 8, "batch_size": 8}
    env = RandomFrames(1)
    agent = algorithm(
        policy,
        wrap(env) if wrap else env,
        seed=1,
        device="cpu",
        policy_kwargs=COORDCONV | (kwargs or {}),
        **defaults | keywords,
    )
    if change is not None:
        change(agent)
    return agent


def network_of(agent):
    return getattr(agent, "q_net", agent.policy)


def replace_a_layer(agent):
    network_of(agent).features_extractor.cnn[1] = torch.nn.Tanh()


def hook_a_layer(agent):
    layer = network_of(agent).features_extractor.cnn[0]
    layer.register_forward_hook(lambda *call: call[-1] * 2)


def patch_the_policy(agent):
    network = network_of(agent)
    network.extract_features = lambda *call: type(network).extract_features(network, *call) * 2


REPLACED = "a layer that was replaced in the features extractor"
HOOKED = "a hook or a method that was set on a CoordConv2d"
SMALLER: dict[str, Any] = {
    "optimize_memory_usage": True,
    "replay_buffer_kwargs": {"handle_timeout_termination": False},
}


@pytest.mark.parametrize(
    ("algorithm", "options", "obstacle"),
    [
        (A2C, {"kwargs": {"normalize_images": False}}, "`normalize_images` False"),
        (DQN, {"kwargs": {"normalize_images": False}}, "`normalize_images` False"),
        (
            A2C,
            {"kwargs": {"share_features_extractor": False}},
            "`share_features_extractor` False",
        ),
        (
            A2C,
            {"kwargs": {"features_extractor_class": Doubled}},
            "`features_extractor_class` Doubled",
        ),
        (A2C, {"policy": FewerActions}, "`policy` FewerActions"),
        (A2C, {"rollout_buffer_class": OtherRollouts}, "`rollout_buffer_class` OtherRollouts"),
        (A2C, {"change": replace_a_layer}, REPLACED),
        (DQN, {"change": replace_a_layer}, REPLACED),
        (A2C, {"change": hook_a_layer}, HOOKED),
        (DQN, {"change": hook_a_layer}, HOOKED),
        (
            A2C,
            {"change": patch_the_policy},
            "a hook or a method that was set on a ActorCriticCnnPolicy",
        ),
        (DQN, {"n_steps": 3}, "`replay_buffer_class` NStepReplayBuffer"),
        (DQN, {"wrap": normalised}, "`replay_buffer_class` ReplayBuffer"),
        (
            DQN,
            {"replay_buffer_class": buffers.ReplayBuffer},
            "`replay_buffer_class` ReplayBuffer",
        ),
        (DQN, SMALLER, "`replay_buffer_class` ReplayBuffer"),
    ],
)
def test_what_the_fast_path_cannot_do_is_done_as_sb3_does(algorithm, options, obstacle):
    agents = []
    for each in (algorithm, SB3[algorithm]):  # one after the other: both draw from the same seed
        agent = make(each, **options)
        if type(getattr(agent, "replay_buffer", None)) is ReplayBuffer:
            agent.replay_buffer = PlainReplay(agent)  # draws as SB3's does
        agents.append(agent.learn(24, log_interval=None))
    assert agents[0].find_obstacle() == obstacle
    assert agents[0]._network is None
    expected = dict(agents[1].policy.named_parameters())
    for name, parameter in agents[0].policy.named_parameters():
        torch.testing.assert_close(parameter, expected[name], msg=name)


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (
            lambda: make(A2C, kwargs={"normalize_images": False}, precision="bf16"),
            "`precision` 'bf16' is not possible with `normalize_images` False; use 'fp32'.",
        ),
        (
            lambda: make(DQN, n_steps=2, precision="bf16"),
            "`precision` 'bf16' is not possible with `replay_buffer_class` NStepReplayBuffer; use "
            "'fp32'.",
        ),
        (
            lambda: make(A2C, precision="fp16"),
            "`precision` must be one of fp32, bf16, got 'fp16'.",
        ),
        (
            lambda: make(DQN, n_steps=3, replay_buffer_class=ReplayBuffer),
            "`n_steps` must be 1 with this `replay_buffer_class`, got 3; leave out the class.",
        ),
        (
            lambda: make(DQN, optimize_memory_usage=True, replay_buffer_class=ReplayBuffer),
            "`optimize_memory_usage` must be False, since each frame is stored once; or give SB3's "
            "`replay_buffer_class`.",
        ),
        (
            lambda: make(DQN).set_env(normalised(RandomFrames(1))),
            "`env` is a VecNormalize, and this replay buffer holds frames as they are; give the "
            "agent `replay_buffer_class=stable_baselines3.common.buffers.ReplayBuffer`.",
        ),
        (lambda: make(A2C).learn(8).train(), "`train` needs a new rollout; call `learn`."),
    ],
)
def test_what_cannot_be_done_is_refused(attempt, message):
    assert refusal(attempt) == message


@pytest.mark.parametrize("algorithm", [A2C, DQN])
def test_precision_is_saved_and_plain_sb3_opens_the_file(algorithm, tmp_path):
    agent = make(algorithm, precision="bf16").learn(12, log_interval=None)
    agent.save(tmp_path / "agent.zip")
    for opener in (algorithm, SB3[algorithm]):
        loaded = opener.load(tmp_path / "agent.zip", env=RandomFrames(1), device="cpu")
        for name, values in agent.policy.state_dict().items():
            assert torch.equal(loaded.policy.state_dict()[name], values), name
        loaded.learn(12, log_interval=None)
        if opener is algorithm:
            assert loaded.precision == "bf16"
            assert loaded.find_obstacle() is None


@pytest.mark.parametrize("algorithm", [A2C, DQN])
def test_goes_on_from_a_file_of_plain_sb3(algorithm, tmp_path):
    agent = make(SB3[algorithm]).learn(12, log_interval=None)
    agent.save(tmp_path / "agent.zip")
    loaded = algorithm.load(tmp_path / "agent.zip", env=RandomFrames(1), device="cpu")
    before = loaded.policy.parameters_to_vector()
    loaded.learn(16, log_interval=None)
    assert loaded._n_updates > agent._n_updates > 0
    assert not np.array_equal(loaded.policy.parameters_to_vector(), before)


class Copies(BaseCallback):
    def _on_step(self):
        copy.deepcopy(self.model)
        return True


@pytest.mark.parametrize("algorithm", [A2C, DQN])
def test_an_agent_that_has_learned_is_copied_and_becomes_a_vector(algorithm):
    agent = make(algorithm).learn(16, Copies(), log_interval=None)
    copied = copy.deepcopy(agent)
    vector = agent.policy.parameters_to_vector()
    assert np.array_equal(copied.policy.parameters_to_vector(), vector)
    for each in (agent, copied):
        each.set_random_seed(3)
        each.learn(16, log_interval=None)
    for ours, theirs in zip(agent.policy.parameters(), copied.policy.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    agent.policy.load_from_vector(vector)
    assert np.array_equal(agent.policy.parameters_to_vector(), vector)


def test_a_replay_buffer_is_saved_and_loaded(tmp_path):
    agent, other = (make(DQN).learn(steps, log_interval=None) for steps in (32, 12))
    agent.save_replay_buffer(tmp_path / "buffer.pkl")
    other.load_replay_buffer(tmp_path / "buffer.pkl")
    assert other.replay_buffer.size() == 32
    numbers, environments = np.arange(32), np.zeros(32, int)
    expected, actual = (each.replay_buffer.gather(numbers, environments) for each in (agent, other))
    assert torch.equal(actual.observations, expected.observations)
    assert torch.equal(actual.rewards, expected.rewards)
    other.learn(12, log_interval=None)
    assert other.replay_buffer.size() == 44
