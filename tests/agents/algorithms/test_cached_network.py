"""The network with its weights read once, beside the network itself."""

import pytest
import torch
from gymnasium import spaces
from torch.nn import functional as F

import agents.algorithms.cached_network
from agents.algorithms.build import extractor_arguments
from agents.algorithms.cached_network import CachedNetwork, multiply
from agents.algorithms.dqn import DQN
from policies.extractors import NatureCoordCNN
from tests.agents.algorithms.test_dqn import PlainReplay, make
from tests.random_frames import NETWORKS, RandomFrames


def make_extractor(arm: str) -> NatureCoordCNN:
    torch.manual_seed(0)
    keywords = extractor_arguments(NETWORKS[arm])["features_extractor_kwargs"]
    space = RandomFrames(1).observation_space
    assert isinstance(space, spaces.Box)
    return NatureCoordCNN(space, **keywords)


@pytest.mark.parametrize("arm", NETWORKS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_features_and_gradients_are_those_of_the_extractor(arm, channels_last):
    extractor = make_extractor(arm)
    pixels = torch.randint(0, 256, (6, 4, 84, 84), dtype=torch.uint8)
    expected = extractor(pixels / 255)
    weights = torch.randn_like(expected)
    gradients = torch.autograd.grad((expected * weights).sum(), list(extractor.parameters()))

    network = CachedNetwork(extractor, 6, "fp32")
    read = network.read_weights()
    observations = pixels.contiguous(memory_format=torch.channels_last) if channels_last else pixels
    for first in (0, 2, 4):  # in parts, as a rollout does
        computed = network.compute(read, observations[first : first + 2], first)
        torch.testing.assert_close(computed, expected[first : first + 2].detach())
    torch.testing.assert_close(network.compute(read, observations[:1]), expected[:1].detach())
    features = network.features(read)
    torch.testing.assert_close(features, expected)
    (features * weights).sum().backward()
    for parameter, gradient in zip(extractor.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-3)


def test_weights_set_from_outside_are_read_when_learning_goes_on():
    model = make(DQN, "coordconv")
    model.replay_buffer = PlainReplay(model)
    model.learn(24, log_interval=None)
    networks = (model.q_net, model.q_net_target)
    with torch.no_grad():
        for parameter in (p for network in networks for p in network.parameters()):
            parameter.mul_(1.5)
    model._setup_learn(4, reset_num_timesteps=False)
    observations = torch.randint(0, 256, (2, 4, 84, 84), dtype=torch.uint8)
    with torch.no_grad():
        for network, cached, weights in zip(
            networks,
            (model._network, model._target_network),
            (model._weights, model._target_weights),
            strict=True,
        ):
            expected = network.features_extractor(observations / 255)
            torch.testing.assert_close(cached.compute(weights, observations), expected)


def test_an_update_needs_the_batch_size_of_the_agent():
    model = make(DQN, "cnn")
    model.replay_buffer = PlainReplay(model)
    model.learn(20, log_interval=None)
    with pytest.raises(ValueError, match=r"^`batch_size` must be the agent's own, 8, got 100\.$"):
        model.train(gradient_steps=1)


@pytest.mark.parametrize("rows", [1, 2, 80])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("has_operator", [False, True])
def test_multiplies_as_a_linear_layer(rows, with_bias, transposed, has_operator, monkeypatch):
    """With and without oneDNN's operator, which a later torch may not have."""
    if has_operator:
        assert agents.algorithms.cached_network._ONEDNN_LINEAR is not None
    else:
        monkeypatch.setattr(agents.algorithms.cached_network, "_ONEDNN_LINEAR", None)
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(rows, 300, generator=generator)
    right = torch.randn(200, 300, generator=generator)
    if transposed:
        left, right = left.t().contiguous().t(), right.t().contiguous().t()
    bias = torch.randn(200, generator=generator) if with_bias else None
    expected = F.linear(left.double(), right.double(), None if bias is None else bias.double())
    torch.testing.assert_close(multiply(left, right, bias).double(), expected, rtol=1e-5, atol=1e-4)
