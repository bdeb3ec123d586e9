from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from policies.coordconv import CoordConv2d
from policies.position_controls import BiasMapConv2d, RandomChannelConv2d
from tests.refusals import refusal

both = pytest.mark.parametrize("control", [BiasMapConv2d, RandomChannelConv2d])


def make_conv(**options: Any) -> nn.Conv2d:
    return nn.Conv2d(**{"in_channels": 2, "out_channels": 3, "kernel_size": 3} | options)


@both
def test_another_input_size_is_refused(control):
    layer = control(make_conv(), (6, 7))
    message = "`input` must be 6 x 7, the size that the layer was made for, got 7 x 6."
    assert refusal(layer, torch.rand(1, 2, 7, 6)) == message
    assert refusal(layer.coordinate_map, 7, 6) == message


# Random channels


def reference(layer: RandomChannelConv2d, images: Tensor) -> Tensor:
    inputs = torch.cat([images, layer.channels.expand(len(images), -1, -1, -1)], 1)
    padding: Any = layer.padding
    return F.conv2d(inputs, layer.weight, layer.bias, layer.stride, padding, layer.dilation)


def test_random_channels_are_convolved_beside_the_image():
    layer = RandomChannelConv2d(make_conv(stride=2, padding=1, dtype=torch.float64), (6, 7))
    images = torch.randn(2, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    leaves = [images, *layer.parameters()]
    output, expected = layer(images), reference(layer, images)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-10)
    for actual, wanted in zip(
        torch.autograd.grad(output.square().sum(), leaves),
        torch.autograd.grad(expected.square().sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-10)


def test_random_channels_span_the_range_of_coordinates():
    generator = torch.Generator().manual_seed(0)
    channels = RandomChannelConv2d(make_conv(), (84, 84), generator=generator).channels
    assert channels.shape == (2, 84, 84)
    assert -1 <= channels.min() < -0.99
    assert 0.99 < channels.max() <= 1
    # 14,112 draws: the standard error of the mean is 0.005, that of the variance 0.0025.
    assert channels.mean().item() == pytest.approx(0, abs=0.02)
    assert channels.var().item() == pytest.approx(1 / 3, abs=0.01)
    assert abs(torch.corrcoef(channels.flatten(1))[0, 1].item()) < 0.04


def test_random_channels_come_from_the_generator_given_after_the_weights():
    conv = make_conv()
    layers = [
        RandomChannelConv2d(conv, (6, 7), generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(layers[0].channels, layers[1].channels)
    assert (layers[0].channels != layers[2].channels).all()
    coordconv = CoordConv2d.from_conv2d(conv, generator=torch.Generator().manual_seed(0))
    assert torch.equal(layers[0].weight, coordconv.weight)


def test_random_channels_follow_the_type_of_the_layer():
    layer = RandomChannelConv2d(make_conv(), (6, 7)).double()
    images = torch.rand(2, 2, 6, 7, dtype=torch.float64)
    torch.testing.assert_close(layer(images), reference(layer, images))


# Bias map


def test_bias_map_is_added_at_its_position():
    conv = make_conv(stride=2, padding=1)
    layer = BiasMapConv2d(conv, (6, 7))
    assert layer.bias_map.shape == (3, 3, 4)
    with torch.no_grad():
        layer.bias_map[1, 2, 3] = 5
    images = torch.rand(2, 2, 6, 7)
    difference = layer(images) - conv(images)
    expected = torch.zeros(2, 3, 3, 4)
    expected[:, 1, 2, 3] = 5
    torch.testing.assert_close(difference, expected)
    torch.testing.assert_close(layer(images[0]), layer(images)[0])
    assert torch.equal(layer.coordinate_map(6, 7), expected[0])


def test_bias_map_learns_per_position_and_resets():
    layer = BiasMapConv2d(make_conv(), (6, 7))
    weights = torch.arange(3 * 4 * 5).view(3, 4, 5)
    (layer(torch.rand(2, 2, 6, 7)) * weights).sum().backward()
    assert layer.bias_map.grad is not None
    assert torch.equal(layer.bias_map.grad, 2.0 * weights)
    torch.optim.SGD(layer.parameters(), lr=1).step()
    assert layer.bias_map.count_nonzero() == 59
    layer.reset_bias_map()
    assert layer.bias_map.count_nonzero() == 0


def test_bias_map_keeps_channels_last():
    layer = BiasMapConv2d(make_conv(), (6, 7))
    images = torch.rand(2, 2, 6, 7).contiguous(memory_format=torch.channels_last)
    assert layer(images).is_contiguous(memory_format=torch.channels_last)
