from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from policies.coordconv import CoordConv2d, coordinate_channels, plain_convolution
from tests.policies.concatenation import concatenate_coordinates, make_layer, reference
from tests.refusals import refusal

# Coordinates


def test_coordinates_of_three_rows_and_two_columns():
    root = 2**0.5
    expected = [
        [[-1, -1], [0, 0], [1, 1]],
        [[-1, 1], [-1, 1], [-1, 1]],
        [[root, root], [1, 1], [root, root]],
    ]
    channels = coordinate_channels(3, 2, with_radius=True)
    torch.testing.assert_close(channels, torch.tensor(expected))
    assert torch.equal(coordinate_channels(3, 2), channels[:2])


@pytest.mark.parametrize(("height", "width"), [(5, 84), (84, 5), (84, 84), (2, 3)])
def test_each_coordinate_spans_its_own_axis(height, width):
    row, column = coordinate_channels(height, width)
    assert row.shape == column.shape == (height, width)
    assert torch.equal(row[[0, -1], 0], torch.tensor([-1.0, 1.0]))
    assert torch.equal(column[0, [0, -1]], torch.tensor([-1.0, 1.0]))
    assert torch.equal(row, row[:, :1].expand(height, width))
    assert torch.equal(column, column[:1].expand(height, width))


def test_an_axis_of_one_pixel_has_coordinate_zero():
    assert coordinate_channels(1, 1, with_radius=True).tolist() == [[[0]], [[0]], [[0]]]
    assert coordinate_channels(1, 3).tolist() == [[[0, 0, 0]], [[-1, 0, 1]]]


def test_coordinates_are_computed_in_float32_then_cast():
    narrow = coordinate_channels(84, 160, with_radius=True, dtype=torch.bfloat16)
    assert torch.equal(narrow, coordinate_channels(84, 160, with_radius=True).bfloat16())
    wide = coordinate_channels(4, 4, dtype=torch.float64)
    assert abs(wide[0, 1, 0].item() + 1 / 3) < 1e-15


# Equality with the concatenated form


@st.composite
def cases(draw: st.DrawFn) -> tuple[dict[str, Any], int, int]:
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    options: dict[str, Any] = {
        "kernel_size": draw(st.one_of(st.integers(1, 4), st.tuples(*2 * [st.integers(1, 4)]))),
        "dilation": draw(st.one_of(st.integers(1, 2), pair)),
        "padding": draw(
            st.one_of(
                st.integers(0, 2),
                st.tuples(st.integers(0, 2), st.integers(0, 2)),
                st.sampled_from(["same", "valid"]),
            )
        ),
        "padding_mode": draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
        "bias": draw(st.booleans()),
        "with_radius": draw(st.booleans()),
    }
    if options["padding"] != "same":
        options["stride"] = draw(st.one_of(st.integers(1, 3), pair))
    return options, draw(st.integers(1, 10)), draw(st.integers(1, 10))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@settings(max_examples=100, derandomize=True)
@given(cases(), st.sampled_from([torch.contiguous_format, torch.channels_last]))
def test_equals_the_concatenated_form_in_outputs_and_gradients(case, layout):
    options, height, width = case
    torch.manual_seed(0)
    layer = make_layer(**options, dtype=torch.float64).to(memory_format=layout)  # type: ignore[call-overload]
    images = torch.randn(2, 2, height, width, dtype=torch.float64).contiguous(memory_format=layout)
    images.requires_grad_()
    try:
        expected = reference(layer, images)
    except RuntimeError:  # the kernel or the padding is too large for the image
        assume(False)
    leaves = [images, *layer.parameters()]
    direction = torch.randn_like(expected)
    output = layer(images)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(layer(images[1]), expected[1], rtol=0, atol=1e-10)
    for actual, wanted in zip(
        torch.autograd.grad(output, leaves, direction),
        torch.autograd.grad(expected, leaves, direction),
        strict=True,
    ):
        torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(layer(images), expected, rtol=0, atol=1e-10)


def test_weight_channels_are_image_row_column_radius():
    layer = CoordConv2d(1, 1, 1, with_radius=True)
    layer.load_state_dict(
        {
            "weight": torch.tensor([1000.0, 100.0, 10.0, 1.0]).view(1, 4, 1, 1),
            "bias": torch.tensor([0.5]),
        }
    )
    # Bottom left of a 3 x 3 image: row 1, column -1, radius sqrt 2.
    output = layer(torch.full((1, 1, 3, 3), 2.0))
    torch.testing.assert_close(output[0, 0, 2, 0].item(), 2000 + 100 - 10 + 2**0.5 + 0.5)


def test_state_dict_is_that_of_a_convolution_over_the_concatenation():
    layer = make_layer(with_radius=True)
    concatenated = nn.Conv2d(5, 3, 3)
    concatenated.load_state_dict(layer.state_dict())
    images = torch.rand(2, 2, 6, 7)
    expected = concatenated(concatenate_coordinates(images, with_radius=True))
    torch.testing.assert_close(layer(images), expected)
    assert layer.in_channels == 2


def test_initial_weights_are_those_of_a_convolution_over_the_concatenation():
    torch.manual_seed(3)
    layer = make_layer()
    torch.manual_seed(3)
    concatenated = nn.Conv2d(4, 3, 3)
    assert torch.equal(layer.weight, concatenated.weight)


@pytest.mark.parametrize(
    "options", [{"padding": 1}, {"padding": "same"}, {"padding": 1, "padding_mode": "circular"}, {}]
)
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_weight_that_is_not_finite_does_what_it_does_in_a_convolution(options, value):
    """At a border padded by zeros it meets no pixel, so it does nothing there."""
    layer = make_layer(**options)
    layer.weight.data[1, 2, 0, 0] = value  # of the row, which is 0 nowhere
    concatenated = nn.Conv2d(4, 3, 3, **options)
    concatenated.load_state_dict(layer.state_dict())
    images = torch.rand(2, 2, 6, 7)
    expected = concatenated(concatenate_coordinates(images))
    assert expected.isfinite().any()
    assert not expected[:, 1].isfinite().all()
    torch.testing.assert_close(layer(images), expected, equal_nan=True)


# From an ordinary convolution


@pytest.mark.parametrize("frozen", [("weight", "bias"), ("bias",), ()], ids=str)
def test_what_is_frozen_stays_frozen(frozen):
    conv = nn.Conv2d(4, 6, 3)
    for name in frozen:
        conv.get_parameter(name).requires_grad_(False)
    layer = CoordConv2d.from_conv2d(conv)
    for copied in (layer, plain_convolution(layer)):
        for name, parameter in copied.named_parameters():
            assert parameter.requires_grad == (name not in frozen)


def test_coordinate_weights_have_the_scale_of_the_image_weights():
    conv = nn.Conv2d(4, 64, 8)
    nn.init.constant_(conv.weight, 0.3)
    layer = CoordConv2d.from_conv2d(conv, generator=torch.Generator().manual_seed(0))
    coordinate_weight = layer.weight[:, 4:].detach()
    # 8192 draws: the standard error of the standard deviation is 0.5 %, of the mean 1.1 % of it.
    assert coordinate_weight.std().item() == pytest.approx(0.3, rel=0.02)
    assert coordinate_weight.mean().item() == pytest.approx(0, abs=0.015)
    assert coordinate_weight.abs().max().item() == pytest.approx(0.3 * 3**0.5, rel=0.001)


def test_coordinate_weights_come_from_the_generator_given():
    conv = nn.Conv2d(4, 6, 3)
    weights = [
        CoordConv2d.from_conv2d(conv, generator=torch.Generator().manual_seed(seed)).weight
        for seed in (0, 0, 1)
    ]
    assert torch.equal(weights[0], weights[1])
    assert (weights[0] != weights[2])[:, 4:].all()
    torch.manual_seed(0)
    assert torch.equal(CoordConv2d.from_conv2d(conv).weight, weights[0])


# What logging reads


def test_coordinate_map_is_what_position_adds():
    layer = make_layer(padding=1, with_radius=True)
    images = torch.rand(2, 2, 6, 7)
    added = layer(images) - plain_convolution(layer)(images)
    coordinate_map = layer.coordinate_map(6, 7)
    assert not coordinate_map.requires_grad
    torch.testing.assert_close(coordinate_map.expand(2, -1, -1, -1), added)


def test_coordinate_map_is_affine_without_padding_and_radius():
    coordinate_map = CoordConv2d(4, 5, 8, 4).coordinate_map(84, 60)
    assert coordinate_map.shape == (5, 20, 14)
    for axis in (1, 2):
        assert coordinate_map.diff(n=2, dim=axis).abs().max() < 1e-5
        assert coordinate_map.diff(dim=axis).abs().max() > 1e-3


def test_repr():
    assert repr(make_layer()) == "CoordConv2d(2, 3, kernel_size=(3, 3), stride=(1, 1))"
    assert repr(make_layer(bias=False, with_radius=True)) == (
        "CoordConv2d(2, 3, kernel_size=(3, 3), stride=(1, 1), bias=False, with_radius=True)"
    )


# Errors


class PaddedConv2d(nn.Conv2d):
    """A convolution that does something else besides."""


def convert(conv: Any, **options: Any) -> Callable[[], object]:
    return lambda: CoordConv2d.from_conv2d(conv, **options)


GROUPS = "`groups` must be 1, since every filter sees the coordinates, got {}."
NOT_PLAIN = (
    "`conv` must be exactly an nn.Conv2d with its own weight, got {}; give the plain convolution."
)


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (
            lambda: make_layer()(torch.rand(6, 7)),
            "`input` must have shape [B, C, H, W] or [C, H, W], got 2 dimensions.",
        ),
        (
            lambda: make_layer()(torch.rand(1, 4, 6, 7)),
            "`input` must have 2 image channels (the layer adds the coordinates), got 4.",
        ),
        (lambda: CoordConv2d(0, 4, 3), "`in_channels` must be at least 1, got 0."),
        (lambda: CoordConv2d(2, 4, 3, groups=2), GROUPS.format(2)),
        (convert(nn.Conv2d(4, 4, 3, groups=4)), GROUPS.format(4)),
        (convert(nn.ConvTranspose2d(2, 4, 3)), NOT_PLAIN.format("ConvTranspose2d")),
        (convert(nn.Conv1d(2, 4, 3)), NOT_PLAIN.format("Conv1d")),
        (convert(PaddedConv2d(2, 4, 3)), NOT_PLAIN.format("PaddedConv2d")),
        (convert(CoordConv2d(2, 4, 3)), NOT_PLAIN.format("CoordConv2d")),
        (convert(nn.utils.spectral_norm(nn.Conv2d(2, 4, 3))), NOT_PLAIN.format("Conv2d")),
        (
            convert(nn.Conv2d(2, 4, 3), coord_init="ones"),
            "`coord_init` must be 'default' or 'zero', got 'ones'.",
        ),
    ],
)
def test_misuse_is_named(misuse, message):
    assert refusal(misuse) == message
