import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from policies.coordconv import (
    CoordConv2d,
    coordinate_channels,
    plain_convolution,
)


def concatenate_coordinates(images: Tensor, with_radius: bool = False) -> Tensor:
    """Build the input of the paper's layer, one pixel at a time."""
    height, width = images.shape[-2:]
    channels = torch.zeros(3, height, width, dtype=torch.float64)
    for i in range(height):
        for j in range(width):
            row = 2 * i / (height - 1) - 1 if height > 1 else 0.0
            column = 2 * j / (width - 1) - 1 if width > 1 else 0.0
            radius = (row**2 + column**2) ** 0.5
            channels[:, i, j] = torch.tensor([row, column, radius], dtype=torch.float64)
    channels = channels[: 3 if with_radius else 2].to(images.dtype)
    return torch.cat([images, channels.expand(len(images), -1, -1, -1)], 1)


def reference(layer: CoordConv2d, images: Tensor) -> Tensor:
    """Concatenate, pad, convolve."""
    inputs = concatenate_coordinates(images, layer.with_radius)
    padding: Any = layer.padding
    if padding == "valid":
        padding = (0, 0)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        (top, bottom), (left, right) = ((size // 2, size - size // 2) for size in total)
    else:
        (top, bottom), (left, right) = ((size, size) for size in padding)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    inputs = F.pad(inputs, (left, right, top, bottom), mode=mode)
    return F.conv2d(inputs, layer.weight, layer.bias, layer.stride, 0, layer.dilation)


def make_layer(**options: Any) -> CoordConv2d:
    return CoordConv2d(**{"in_channels": 2, "out_channels": 3, "kernel_size": 3} | options)


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
@settings(max_examples=200, deadline=None, derandomize=True)
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
    for actual, wanted in zip(
        torch.autograd.grad(output, leaves, direction),
        torch.autograd.grad(expected, leaves, direction),
        strict=True,
    ):
        torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(layer(images), expected, rtol=0, atol=1e-10)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 8, "stride": 4, "in_channels": 4},
        {"kernel_size": 4, "padding": "same", "padding_mode": "reflect"},
        {"kernel_size": (2, 3), "padding": (1, 2), "padding_mode": "circular"},
        {"kernel_size": 3, "padding": "same", "dilation": (2, 1), "padding_mode": "replicate"},
        {"kernel_size": (1, 4), "padding": 2, "stride": (2, 3), "with_radius": True},
    ],
    ids=str,
)
def test_equals_the_concatenated_form_where_hypothesis_may_not_look(options):
    layer = make_layer(**options, dtype=torch.float64)
    images = torch.randn(3, layer.in_channels, 17, 12, dtype=torch.float64)
    torch.testing.assert_close(layer(images), reference(layer, images), rtol=0, atol=1e-10)


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


def test_second_derivatives_are_right():
    layer = make_layer(kernel_size=2, out_channels=2, dtype=torch.float64)
    images = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)

    def run(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        parameters = {"weight": weight, "bias": bias}
        output: Tensor = torch.func.functional_call(layer, parameters, (images,))
        return output.tanh()

    assert torch.autograd.gradgradcheck(run, (images, *layer.parameters()))


def test_an_image_without_batch_axis():
    layer = make_layer(padding=1, padding_mode="reflect")
    image = torch.rand(2, 6, 7)
    expected = reference(layer, image[None])[0]
    torch.testing.assert_close(layer(image), expected)
    with torch.no_grad():
        torch.testing.assert_close(layer(image), expected)


@pytest.mark.parametrize("without_gradient", [False, True])
def test_channels_last_stays_channels_last(without_gradient):
    layer = make_layer()
    images = torch.rand(2, 2, 6, 7)
    with torch.set_grad_enabled(not without_gradient):
        expected = reference(layer, images)
        for layout in (torch.channels_last, torch.contiguous_format, torch.channels_last):
            output = layer(images.contiguous(memory_format=layout))
            assert output.is_contiguous(memory_format=layout)
            torch.testing.assert_close(output, expected)


# The output follows what changes


def fused_adam_step(layer: CoordConv2d) -> None:
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1, fused=True)
    with torch.enable_grad():
        layer(torch.rand(2, 2, 6, 7)).square().sum().backward()
    optimizer.step()


def replace_parameter(layer: CoordConv2d) -> None:
    layer.weight = nn.Parameter(layer.weight.detach() + 0.5)


def change_only_the_bias(layer: CoordConv2d) -> None:
    assert layer.bias is not None
    layer.bias.data += 0.5


def remove_the_bias(layer: CoordConv2d) -> None:
    layer.bias = None


@pytest.mark.parametrize(
    "change", [fused_adam_step, replace_parameter, change_only_the_bias, remove_the_bias]
)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_output_follows_every_change_of_the_weights(change, mode):
    torch.manual_seed(0)
    layer = make_layer()
    images = torch.rand(2, 2, 6, 7)
    with mode():
        before = layer(images)
    change(layer)
    with mode():
        after = layer(images)
        torch.testing.assert_close(after, reference(layer, images))
    assert (after - before).abs().max() > 1e-3


@pytest.mark.parametrize("size", [(6, 7), (7, 6), (12, 6), (5, 9)])
def test_output_follows_a_change_of_the_input_size(size):
    # With stride 3, 6 x 6, 6 x 7 and 7 x 6 all give 2 x 2: the output's size would not tell.
    layer = make_layer(stride=3)
    with torch.no_grad():
        for images in (torch.rand(2, 2, 6, 6), torch.rand(2, 2, *size), torch.rand(2, 2, 6, 6)):
            torch.testing.assert_close(layer(images), reference(layer, images))


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("stride", (2, 2)), ("stride", (3, 2)), ("padding", (0, 1)), ("dilation", (2, 1))],
)
def test_output_follows_a_change_of_geometry_that_keeps_its_size(attribute, value):
    layer = make_layer(stride=3, padding=0 if attribute == "stride" else 1)
    images = torch.rand(2, 2, 6, 6)
    with torch.no_grad():
        before = layer(images)
        setattr(layer, attribute, value)
        after = layer(images)
        assert after.shape == before.shape
        torch.testing.assert_close(after, reference(layer, images))


def test_output_follows_a_change_of_padding_mode():
    layer = make_layer(padding=1)
    images = torch.rand(2, 2, 6, 7)
    with torch.no_grad():
        layer(images)
        layer.padding_mode = "circular"
        torch.testing.assert_close(layer(images), reference(layer, images))


def test_output_follows_changes_of_type():
    layer = make_layer()
    images = torch.rand(2, 2, 6, 7)
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(images).dtype == torch.bfloat16
        for dtype in (torch.float32, torch.float64, torch.float32):
            output = layer.to(dtype)(images.to(dtype))
            torch.testing.assert_close(output, reference(layer, images.to(dtype)))


def test_frozen_weights_pass_gradients_on():
    layer = make_layer().requires_grad_(False)
    images = torch.rand(2, 2, 6, 7, requires_grad=True)
    gradient, expected = (
        torch.autograd.grad(run(images).square().sum(), images)[0]
        for run in (layer, lambda images: reference(layer, images))
    )
    torch.testing.assert_close(gradient, expected)


def test_training_goes_on_after_inference_mode():
    layer = make_layer()
    images = torch.rand(2, 2, 6, 7)
    with torch.inference_mode():
        layer.coordinate_map(6, 7)
        layer(images)
    output = layer(images)
    output.square().sum().backward()
    torch.testing.assert_close(output, reference(layer, images))
    assert layer.weight.grad is not None
    assert layer.weight.grad[:, 2:].abs().min() > 0


def test_only_the_bias_learns():
    layer = make_layer()
    layer.weight.requires_grad_(False)
    layer(torch.rand(2, 2, 6, 7)).sum().backward()
    assert layer.bias is not None
    assert layer.bias.grad is not None
    assert layer.bias.grad.tolist() == [2 * 4 * 5] * 3


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


# Copies, types, graphs


def through_pickle(layer: CoordConv2d) -> CoordConv2d:
    copied = pickle.loads(pickle.dumps(layer))
    assert isinstance(copied, CoordConv2d)
    return copied


def through_torch_save(layer: CoordConv2d) -> CoordConv2d:
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    copied = torch.load(file, weights_only=False)
    assert isinstance(copied, CoordConv2d)
    return copied


@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle, through_torch_save])
def test_a_copy_lives_alone(duplicate):
    layer = make_layer(with_radius=True)
    images = torch.rand(2, 2, 6, 7)
    with torch.no_grad():
        expected = layer(images)
        other = duplicate(layer)
        assert torch.equal(other(images), expected)
        other.weight.data += 1
        assert torch.equal(layer(images), expected)
        torch.testing.assert_close(other(images), reference(other, images))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("without_gradient", [False, True])
def test_other_types(dtype, without_gradient):
    layer = make_layer(padding=1)
    images = torch.rand(2, 2, 6, 7)
    with torch.set_grad_enabled(not without_gradient):
        layer(images)
        expected = reference(layer, images)
        output = layer.to(dtype)(images.to(dtype))
    assert output.dtype == dtype
    tolerance = 4 * max(torch.finfo(dtype).eps, 1e-6)
    torch.testing.assert_close(output.float(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("without_gradient", [False, True])
def test_autocast_gives_the_type_that_a_plain_convolution_gives(without_gradient):
    layer = make_layer()
    images = torch.rand(2, 2, 6, 7)
    expected = reference(layer, images)
    with (
        torch.set_grad_enabled(not without_gradient),
        torch.autocast("cpu", torch.bfloat16),
    ):
        output = layer(images)
        assert output.dtype == plain_convolution(layer)(images).dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected, rtol=0.02, atol=0.02)
    if not without_gradient:
        output.float().sum().backward()
        assert layer.weight.grad is not None
        assert layer.weight.grad.dtype == torch.float32


def test_moves_to_another_device():
    layer = make_layer(with_radius=True)
    with torch.no_grad():
        layer(torch.rand(2, 2, 6, 7))
        output = layer.to("meta")(torch.rand(2, 2, 6, 7, device="meta"))
    assert output.device.type == "meta"
    assert output.shape == (2, 3, 4, 5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gives_the_same_on_a_gpu():
    layer = make_layer()
    images = torch.rand(2, 2, 6, 7)
    with torch.no_grad():
        expected = layer(images)
        for _ in range(2):
            output = layer.cuda()(images.cuda())
            torch.testing.assert_close(output.cpu(), expected, rtol=1e-3, atol=1e-3)
        layer.weight.data += 1
        expected = reference(copy.deepcopy(layer).cpu(), images)
        torch.testing.assert_close(layer(images.cuda()).cpu(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("without_gradient", [False, True])
def test_compiles_into_one_graph(without_gradient):
    layer = make_layer(with_radius=True, padding=1, padding_mode="reflect")
    images = torch.rand(2, 2, 6, 7)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.set_grad_enabled(not without_gradient):
        layer(images)
        torch.testing.assert_close(compiled(images), reference(layer, images))
        layer.weight.data += 1
        torch.testing.assert_close(compiled(images), reference(layer, images))


def test_exports():
    layer = make_layer()
    images = torch.rand(2, 2, 6, 7)
    with torch.no_grad():
        exported = torch.export.export(
            layer, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
    more_images = torch.rand(5, 2, 6, 7)
    torch.testing.assert_close(exported.module()(more_images), layer(more_images))


@pytest.mark.filterwarnings("ignore")
def test_exports_to_onnx(tmp_path):
    import onnxruntime

    layer = make_layer(with_radius=True)
    images = torch.rand(2, 2, 6, 7)
    file = tmp_path / "layer.onnx"
    with torch.no_grad():
        expected = layer(images)
        program = torch.onnx.export(layer, (images,), dynamo=True, verbose=False)
    assert program is not None
    program.save(file)
    session = onnxruntime.InferenceSession(file)
    (output,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), expected)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("names", [("weight",), ("bias",), ("weight", "bias")], ids=str)
def test_works_under_function_transforms_without_gradients(names):
    layer, other = make_layer(), make_layer()
    images = torch.rand(2, 2, 6, 7)

    def run(parameters: dict[str, Tensor]) -> Tensor:
        output: Tensor = torch.func.functional_call(layer, parameters, (images,))
        return output

    with torch.no_grad():
        expected = layer(images)
        values = {name: layer.state_dict()[name] for name in names}
        others = {name: other.state_dict()[name] for name in names}
        tangents = {name: others[name] - values[name] for name in names}
        change = torch.func.jvp(run, (values,), (tangents,))[1]
        stacked = {name: torch.stack([values[name], others[name]]) for name in names}
        outputs = torch.func.vmap(run)(stacked)
        layer.load_state_dict(others, strict=False)
        # The layer is affine in its parameters, so the derivative is the difference.
        torch.testing.assert_close(expected + change, reference(layer, images))
        torch.testing.assert_close(outputs[0], expected)
        torch.testing.assert_close(outputs[1], reference(layer, images))


@pytest.mark.parametrize(
    "options", [{}, {"with_radius": True, "bias": False}, {"padding": "same"}], ids=str
)
def test_is_traced_by_fx(options):
    """Also for sizes that the trace did not see, and within a network."""
    layer = make_layer(**options)
    for traced in (torch.fx.symbolic_trace(layer), torch.fx.symbolic_trace(nn.Sequential(layer))):
        for images in (torch.rand(2, 2, 6, 7), torch.rand(2, 5, 4)):
            assert torch.equal(traced(images), layer(images))


# From an ordinary convolution


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": (1, 2), "dilation": 2, "padding_mode": "reflect"},
        {"padding": "same", "bias": False, "dtype": torch.float64},
    ],
    ids=str,
)
@pytest.mark.parametrize("with_radius", [False, True])
def test_a_plain_convolution_is_taken_over_bit_for_bit(options, with_radius):
    conv = nn.Conv2d(4, 6, 3, **options)
    before = copy.deepcopy(conv.state_dict())
    state = torch.get_rng_state()
    layer = CoordConv2d.from_conv2d(
        conv, with_radius=with_radius, coord_init="zero", generator=torch.Generator()
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert layer.weight.shape == (6, 7 if with_radius else 6, 3, 3)
    assert torch.equal(layer.weight[:, :4], conv.weight)
    assert layer.weight[:, 4:].count_nonzero() == 0
    assert layer.weight.requires_grad
    images = torch.rand(2, 4, 9, 8, dtype=conv.weight.dtype)
    torch.testing.assert_close(layer(images), conv(images))
    plain = plain_convolution(layer)
    assert type(plain) is nn.Conv2d
    assert repr(plain) == repr(conv)
    assert plain.state_dict().keys() == before.keys()
    for name, values in before.items():
        assert torch.equal(plain.state_dict()[name], values)
        assert torch.equal(conv.state_dict()[name], values)


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


def test_coordinate_weight_share_by_hand():
    layer = CoordConv2d(1, 1, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([3.0, 0.0, 4.0]).view(1, 3, 1, 1))
    assert layer.coordinate_weight_share() == pytest.approx(4 / 5)
    layer.init_coordinate_weights("zero")
    assert layer.coordinate_weight_share() == 0


@pytest.mark.parametrize("bias", [False, True])
def test_folded_weight_and_map_compute_what_the_layer_computes(bias):
    options: dict[str, Any] = {"stride": 2, "padding": 1, "bias": bias, "dtype": torch.float64}
    layer = make_layer(**options, with_radius=True)
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


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "CoordConv2d(2, 3, kernel_size=(3, 3), stride=(1, 1))"),
        (
            {"padding": 1, "bias": False, "with_radius": True},
            "CoordConv2d(2, 3, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False, "
            "with_radius=True)",
        ),
    ],
)
def test_repr(options, expected):
    assert repr(make_layer(**options)) == expected


# Errors


def test_a_pass_of_shapes_alone_leaves_no_trace():
    layer, images = make_layer(), torch.rand(2, 2, 6, 7)
    with torch.no_grad():
        with FakeTensorMode(allow_non_fake_inputs=True):
            assert layer(torch.rand(2, 2, 6, 7)).shape == layer(images).shape
        torch.testing.assert_close(layer(images), reference(layer, images))


def give_two_dimensions() -> None:
    make_layer()(torch.rand(6, 7))


def give_coordinates_too() -> None:
    make_layer()(torch.rand(1, 4, 6, 7))


def ask_for_groups() -> None:
    CoordConv2d(2, 4, 3, groups=2)


def convert_groups() -> None:
    CoordConv2d.from_conv2d(nn.Conv2d(4, 4, 3, groups=4))


def convert(conv: Any) -> Callable[[], object]:
    return lambda: CoordConv2d.from_conv2d(conv)


class PaddedConv2d(nn.Conv2d):
    """A convolution that does something else besides."""


def refusal(got: str) -> str:
    return (
        f"`conv` must be exactly an nn.Conv2d with its own weight, got {got}; give the plain "
        "convolution."
    )


def ask_for_no_image_channels() -> None:
    CoordConv2d(0, 4, 3)


def ask_for_unknown_init() -> None:
    CoordConv2d.from_conv2d(nn.Conv2d(2, 4, 3), coord_init="ones")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (
            give_two_dimensions,
            "`input` must have shape [B, C, H, W] or [C, H, W], got 2 dimensions.",
        ),
        (
            give_coordinates_too,
            "`input` must have 2 image channels (the layer adds the coordinates), got 4.",
        ),
        (ask_for_groups, "`groups` must be 1, since every filter sees the coordinates, got 2."),
        (convert_groups, "`groups` must be 1, since every filter sees the coordinates, got 4."),
        (convert(nn.ConvTranspose2d(2, 4, 3)), refusal("ConvTranspose2d")),
        (convert(nn.Conv1d(2, 4, 3)), refusal("Conv1d")),
        (convert(PaddedConv2d(2, 4, 3)), refusal("PaddedConv2d")),
        (convert(CoordConv2d(2, 4, 3)), refusal("CoordConv2d")),
        (convert(nn.utils.spectral_norm(nn.Conv2d(2, 4, 3))), refusal("Conv2d")),
        (ask_for_no_image_channels, "`in_channels` must be at least 1, got 0."),
        (ask_for_unknown_init, "`coord_init` must be 'default' or 'zero', got 'ones'."),
    ],
)
def test_misuse_is_named(misuse, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011  # the whole message is compared
        misuse()
    assert str(error.value) == message
