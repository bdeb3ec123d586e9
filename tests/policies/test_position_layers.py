"""What CoordConv and its two controls have in common."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from policies.coordconv import CoordConv2d, ExtraChannelConv2d, plain_convolution
from policies.position_controls import BiasMapConv2d, RandomChannelConv2d

Make = Callable[..., ExtraChannelConv2d | BiasMapConv2d]
LAYERS: dict[str, Make] = {
    "coordconv": lambda conv, **zero: CoordConv2d.from_conv2d(conv, with_radius=True, **zero),
    "random-channels": lambda conv, **zero: RandomChannelConv2d(conv, (6, 7), **zero),
    "bias-map": lambda conv, **_: BiasMapConv2d(conv, (6, 7)),  # which always starts at zero
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


@pytest.mark.parametrize("convert", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": (2, 1), "padding": (1, 2), "padding_mode": "reflect"},
        {"padding": "same", "dilation": 2, "bias": False, "dtype": torch.float64},
    ],
    ids=str,
)
def test_a_plain_convolution_is_taken_over_bit_for_bit_and_given_back(convert, options):
    conv = nn.Conv2d(2, 3, 3, **options)
    before = copy.deepcopy(conv.state_dict())
    state = torch.get_rng_state()
    layer = convert(conv, coord_init="zero", generator=torch.Generator())
    assert torch.equal(torch.get_rng_state(), state)
    assert layer.coordinate_weight_share() == 0
    assert all(parameter.requires_grad for parameter in layer.parameters())
    images = torch.rand(2, 2, 6, 7, dtype=conv.weight.dtype)
    torch.testing.assert_close(layer(images), conv(images))
    plain = plain_convolution(layer)
    assert type(plain) is nn.Conv2d
    assert repr(plain) == repr(conv)
    assert plain.state_dict().keys() == before.keys()
    for name, values in before.items():
        assert torch.equal(plain.state_dict()[name], values)
        assert torch.equal(conv.state_dict()[name], values)


@pytest.mark.parametrize(
    ("layer", "added"),
    [
        (CoordConv2d(1, 1, 1), [3.0, 0.0, 4.0]),
        (BiasMapConv2d(nn.Conv2d(1, 1, 1), (1, 1)), [3.0]),
    ],
)
def test_coordinate_weight_share_by_hand(layer, added):
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(added).view(1, -1, 1, 1))
        if isinstance(layer, BiasMapConv2d):
            assert layer.coordinate_weight_share() == 0
            layer.bias_map.fill_(-4)
    assert layer.coordinate_weight_share() == pytest.approx(4 / 5)


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
