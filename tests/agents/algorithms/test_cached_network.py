"""The network with its weights read once, beside the network itself."""

import copy

import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback

import agents.algorithms.cached_network
from agents.algorithms.build import extractor_arguments
from agents.algorithms.cached_network import CachedNetwork
from agents.algorithms.dqn import DQN
from policies.extractors import NatureCoordCNN
from tests.agents.algorithms.test_dqn import make
from tests.random_frames import NETWORKS, RandomFrames


def make_extractor(arm: str) -> NatureCoordCNN:
    torch.manual_seed(0)
    keywords = extractor_arguments(NETWORKS[arm])["features_extractor_kwargs"]
    space = RandomFrames(1).observation_space
    assert isinstance(space, spaces.Box)
    return NatureCoordCNN(space, **keywords)


@pytest.mark.parametrize("arm", NETWORKS)
@pytest.mark.parametrize(("channels_last", "has_operator"), [(False, True), (True, False)])
def test_features_and_gradients_are_those_of_the_extractor(
    monkeypatch, arm, channels_last, has_operator
):
    """With and without oneDNN's operator, which a later torch may not have."""
    assert agents.algorithms.cached_network._ONEDNN_LINEAR is not None
    if not has_operator:
        monkeypatch.setattr(agents.algorithms.cached_network, "_ONEDNN_LINEAR", None)
    extractor = make_extractor(arm)
    pixels = torch.randint(0, 256, (6, 4, 84, 84), dtype=torch.uint8)
    expected = extractor(pixels / 255)
    weights = torch.randn_like(expected)
    gradients = torch.autograd.grad((expected * weights).sum(), list(extractor.parameters()))

    network = CachedNetwork(extractor, 6, "fp32")
    network.read_weights()
    observations = pixels.contiguous(memory_format=torch.channels_last) if channels_last else pixels
    for first in (0, 2, 4):  # in parts, as a rollout does
        computed = network.compute(observations[first : first + 2], first)
        torch.testing.assert_close(computed, expected[first : first + 2].detach())
    torch.testing.assert_close(network.compute(observations[:1]), expected[:1].detach())
    features = network.features()
    assert not network.has_weights
    torch.testing.assert_close(features, expected)
    (features * weights).sum().backward()
    for parameter, gradient in zip(extractor.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-3)


def test_layers_and_weights_changed_between_updates_are_those_of_the_next():
    model = make(DQN, "coordconv")
    changed = []

    class Change(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            if self.num_timesteps == 32:
                with torch.no_grad():
                    for parameter in model.policy.parameters():
                        parameter.mul_(1.5)
                extractor = model.q_net.features_extractor
                extractor.cnn[2] = copy.deepcopy(extractor.cnn[2])
                changed.append(model._network)

    choose, seen = model._choose_best, []

    def watch(network, observations):
        with torch.no_grad():
            expected = model.q_net.features_extractor(torch.from_numpy(observations) / 255)
        torch.testing.assert_close(network.compute(torch.from_numpy(observations)), expected)
        seen.append(network)
        return choose(network, observations)

    model._choose_best = watch
    model.learn(80, Change(), log_interval=None)
    assert changed[0] in seen
    assert seen[-1] is not changed[0]


def test_an_update_needs_the_batch_size_of_the_agent():
    model = make(DQN, "cnn")
    model.learn(20, log_interval=None)
    with pytest.raises(ValueError, match=r"^`batch_size` must be the agent's own, 8, got 100\.$"):
        model.train(gradient_steps=1)
