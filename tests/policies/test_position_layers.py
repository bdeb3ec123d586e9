"""What CoordConv and its two controls have in common."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from policies.coordconv import CoordConv2d, ExtraChannelConv2d
from policies.position_controls import BiasMapConv2d, RandomChannelConv2d

Make = Callable[..., ExtraChannelConv2d | BiasMapConv2d]
LAYERS: dict[str, Make] = {
    "coordconv": lambda conv: CoordConv2d.from_conv2d(conv, with_radius=True),
    "random-channels": lambda conv: RandomChannelConv2d(conv, (6, 7)),
    "bias-map": lambda conv: BiasMapConv2d(conv, (6, 7)),
}


@pytest.fixture(params=LAYERS)
def make(request) -> Make:
    """Makes a layer for images of 2 channels and 6 x 7, with all its parameters drawn."""

    def make(**options: Any) -> ExtraChannelConv2d | BiasMapConv2d:
        layer = LAYERS[request.param](nn.Conv2d(2, 3, 3, **options))
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
        return layer

    return make


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))]
)
def test_a_copy_lives_alone(make, duplicate):
    layer = make()
    images = torch.rand(2, 2, 6, 7)
    expected = layer(images)
    other = duplicate(layer)
    assert type(other) is type(layer)
    assert torch.equal(other(images), expected)
    for parameter in other.parameters():
        parameter.data += 1
    assert torch.equal(layer(images), expected)
    assert not torch.equal(other(images), expected)


@pytest.mark.parametrize("with_gradient", [True, False])
def test_compiles_into_one_graph(make, with_gradient):
    layer = make(padding=1, padding_mode="reflect")
    images = torch.rand(2, 2, 6, 7)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.set_grad_enabled(with_gradient):
        for _ in range(2):
            torch.testing.assert_close(compiled(images), layer(images))
            layer.weight.data += 1


@pytest.mark.parametrize("bias", [False, True])
def test_folded_weight_and_map_compute_what_the_layer_computes(make, bias):
    layer = make(bias=bias, stride=2, padding=1, dtype=torch.float64)
    images = torch.rand(2, 2, 6, 7, dtype=torch.float64)
    weight, added_map = layer.fold(6, 7)
    output = F.conv2d(images, weight, stride=2, padding=1) + added_map
    torch.testing.assert_close(output, layer(images))
    parameters = list(layer.parameters())
    for actual, wanted in zip(
        torch.autograd.grad(output.square().sum(), parameters),
        torch.autograd.grad(layer(images).square().sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(actual, wanted)
