"""The networks of examples/: their sizes, counted by hand, and what sets each apart."""

import pytest
import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import NatureCNN
from torch import nn

from agents.models.own_extractor import OBSERVATIONS, count_own_cost, find_extractor, load_extractor
from configs.run_config import parse_own_arm
from examples.coordinates import ScaledCoordCNN
from examples.impala import ImpalaCNN, ResidualBlock
from examples.nature import LayerNormNatureCNN, PooledNatureCNN
from policies.extractors import NatureCoordCNN

# weights and biases of the Nature CNN's convolutions
CONVOLUTIONS = (4 * 8**2 + 1) * 32 + (32 * 4**2 + 1) * 64 + (64 * 3**2 + 1) * 64


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 4, 84, 84, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        (
            "examples.impala:ImpalaCNN",
            (4 * 9 + 1) * 16  # a first convolution, then four in two residual blocks
            + 4 * (16 * 9 + 1) * 16
            + (16 * 9 + 1) * 32
            + 4 * (32 * 9 + 1) * 32
            + (32 * 9 + 1) * 32
            + 4 * (32 * 9 + 1) * 32
            + (32 * 11 * 11 + 1) * 256,
        ),
        ("examples.nature:PooledNatureCNN", CONVOLUTIONS + (64 + 1) * 512),
        (
            "examples.nature:LayerNormNatureCNN",
            CONVOLUTIONS + (64 * 7 * 7 + 1) * 512 + 2 * (32 + 64 + 64 + 512),
        ),
        (
            "examples.coordinates:ScaledCoordCNN,scale=0.5",
            CONVOLUTIONS + 2 * 8**2 * 32 + (64 * 7 * 7 + 1) * 512,
        ),
    ],
)
def test_an_example_can_be_named(text, parameters):
    network = load_extractor(parse_own_arm(text))
    assert find_extractor(network).__name__ == network.extractor.partition(":")[2]
    assert count_own_cost(network)["parameters"] == parameters


def test_impala_halves_rows_and_columns_three_times():
    network = ImpalaCNN(OBSERVATIONS, width=2)
    shapes = []
    for layer in network.layers:
        if isinstance(layer, nn.MaxPool2d):
            layer.register_forward_hook(lambda _, __, output: shapes.append(output.shape[1:]))
    assert network(images(2)).shape == (2, 256)
    assert shapes == [(32, 42, 42), (64, 21, 21), (64, 11, 11)]


def test_a_residual_block_without_weights_is_the_identity():
    block = ResidualBlock(4)
    for weights in block.parameters():
        nn.init.zeros_(weights)
    assert torch.equal(block(images(1)), images(1))


def test_the_pooled_network_sees_means_of_the_convolutions_of_nature_cnn():
    torch.manual_seed(3)
    plain = NatureCNN(OBSERVATIONS)
    torch.manual_seed(3)
    pooled = PooledNatureCNN(OBSERVATIONS)
    maps = plain.cnn[:-1](images(2))
    assert maps.shape == (2, 64, 7, 7)
    torch.testing.assert_close(pooled.cnn(images(2)), maps.mean((2, 3)))


def test_layer_norm_makes_the_scale_of_the_weights_immaterial():
    network = LayerNormNatureCNN(OBSERVATIONS)
    before = network(images(2))
    with torch.no_grad():
        for layer in (network.cnn[0], network.cnn[3], network.linear[0]):
            for weights in layer.parameters():
                weights.mul_(8.0)
    torch.testing.assert_close(network(images(2)), before, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("scale", [1.0, 0.125])
def test_scaled_coordinates_are_those_of_coordconv_times_a_number(scale):
    torch.manual_seed(3)
    usual = NatureCoordCNN(OBSERVATIONS, coord_layers=[0])
    drawn_next = torch.rand(1)
    torch.manual_seed(3)
    scaled = ScaledCoordCNN(OBSERVATIONS, scale=scale)
    assert torch.equal(torch.rand(1), drawn_next)  # the heads start the same too
    for network in (usual, scaled):  # as SB3 initialises a policy
        torch.manual_seed(4)
        network.apply(lambda layer: ActorCriticPolicy.init_weights(layer, gain=2**0.5))
    for name, weights in usual.state_dict().items():
        assert torch.equal(scaled.state_dict()[name], weights), name
    (layer, scaled_layer) = (network.position_layers()[0] for network in (usual, scaled))
    images_alone = torch.nn.functional.conv2d(images(2), layer.weight[:, :4], stride=4)
    expected = images_alone + scale * layer.coordinate_map(84, 84)
    torch.testing.assert_close(scaled_layer(images(2)), expected)


def test_with_the_same_start_it_computes_at_first_what_coordconv_does():
    networks = []
    for make, arguments in (
        (NatureCoordCNN, {"coord_layers": [0]}),
        (ScaledCoordCNN, {"scale": 0.125, "same_start": True}),
    ):
        torch.manual_seed(3)
        networks.append(make(OBSERVATIONS, **arguments))
    usual, scaled = networks
    torch.testing.assert_close(scaled(images(2)), usual(images(2)))
    for network in networks:
        torch.manual_seed(4)
        network.apply(lambda layer: ActorCriticPolicy.init_weights(layer, gain=2**0.5))
    torch.testing.assert_close(scaled(images(2)), usual(images(2)))
    assert scaled.cnn[0].scale == 0.125


def test_a_step_in_all_weights_of_a_coordinate_moves_a_filter_by_64_times_the_scale():
    layer = ScaledCoordCNN(OBSERVATIONS, scale=0.125).position_layers()[0]
    before = layer.coordinate_map(84, 84)
    with torch.no_grad():
        layer.weight[:, 4] += 0.01  # sees the row
    change = (layer.coordinate_map(84, 84) - before)[0]
    # The bottom row of patches sees rows 76 to 83, whose coordinates' mean is 76 / 83.
    torch.testing.assert_close(change[-1], torch.full((20,), 64 * 0.125 * 0.01 * 76 / 83))
