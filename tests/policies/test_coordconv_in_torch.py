"""The layer as a module of torch: gradients, types, devices, transforms and exports."""

import copy

import pytest
import torch
from torch import Tensor, nn

from policies.coordconv import plain_convolution
from tests.policies.concatenation import make_layer, reference

close = torch.testing.assert_close


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 2, 6, 7)


# Gradients


def test_second_derivatives_are_right():
    layer = make_layer(kernel_size=2, out_channels=2, dtype=torch.float64)
    images = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)

    def run(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        parameters = {"weight": weight, "bias": bias}
        output: Tensor = torch.func.functional_call(layer, parameters, (images,))
        return output.tanh()

    assert torch.autograd.gradgradcheck(run, (images, *layer.parameters()))


def test_frozen_weights_pass_gradients_on(images):
    layer = make_layer().requires_grad_(False)
    images.requires_grad_()
    gradient, expected = (
        torch.autograd.grad(run(images).square().sum(), images)[0]
        for run in (layer, lambda images: reference(layer, images))
    )
    close(gradient, expected)


def test_only_the_bias_learns(images):
    layer = make_layer()
    layer.weight.requires_grad_(False)
    layer(images).sum().backward()
    assert layer.bias is not None
    assert layer.bias.grad is not None
    assert layer.bias.grad.tolist() == [2 * 4 * 5] * 3


# Types, devices


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types(dtype, images):
    layer = make_layer(padding=1)
    expected = reference(layer, images)
    output = layer.to(dtype)(images.to(dtype))
    assert output.dtype == dtype
    tolerance = 4 * max(torch.finfo(dtype).eps, 1e-6)
    close(output.float(), expected, rtol=tolerance, atol=tolerance)


def test_autocast_gives_the_type_that_a_plain_convolution_gives(images):
    layer = make_layer()
    expected = reference(layer, images)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(images)
        assert output.dtype == plain_convolution(layer)(images).dtype == torch.bfloat16
    close(output.float(), expected, rtol=0.02, atol=0.02)
    output.float().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32


def test_channels_last_stays_channels_last(images):
    layer = make_layer()
    for layout in (torch.channels_last, torch.contiguous_format):
        output = layer(images.contiguous(memory_format=layout))
        assert output.is_contiguous(memory_format=layout)
        close(output, reference(layer, images))


def test_moves_to_another_device(images):
    layer = make_layer(with_radius=True)
    layer(images)
    output = layer.to("meta")(images.to("meta"))
    assert output.device.type == "meta"
    assert output.shape == (2, 3, 4, 5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gives_the_same_on_a_gpu(images):
    layer = make_layer()
    expected = layer(images)
    close(layer.cuda()(images.cuda()).cpu(), expected, rtol=1e-3, atol=1e-3)
    layer.weight.data += 1
    expected = reference(copy.deepcopy(layer).cpu(), images)
    close(layer(images.cuda()).cpu(), expected, rtol=1e-3, atol=1e-3)


# Transforms, exports


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("names", [("weight",), ("bias",), ("weight", "bias")], ids=str)
def test_works_under_function_transforms_without_gradients(names, images):
    layer, other = make_layer(), make_layer()

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
        close(expected + change, reference(layer, images))
        close(outputs[0], expected)
        close(outputs[1], reference(layer, images))


@pytest.mark.parametrize(
    "options", [{}, {"with_radius": True, "bias": False}, {"padding": "same"}], ids=str
)
def test_is_traced_by_fx(options):
    """Also for sizes that the trace did not see, and within a network."""
    layer = make_layer(**options)
    for traced in (torch.fx.symbolic_trace(layer), torch.fx.symbolic_trace(nn.Sequential(layer))):
        for images in (torch.rand(2, 2, 6, 7), torch.rand(2, 5, 4)):
            assert torch.equal(traced(images), layer(images))


def test_exports(images):
    layer = make_layer()
    sizes = ({0: torch.export.Dim("batch")},)
    with torch.no_grad():
        exported = torch.export.export(layer, (images,), dynamic_shapes=sizes)
    more_images = torch.rand(5, 2, 6, 7)
    close(exported.module()(more_images), layer(more_images))


@pytest.mark.filterwarnings("ignore")
def test_exports_to_onnx(tmp_path, images):
    import onnxruntime

    layer = make_layer(with_radius=True)
    with torch.no_grad():
        expected = layer(images)
        program = torch.onnx.export(layer, (images,), dynamo=True, verbose=False)
    assert program is not None
    program.save(tmp_path / "layer.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "layer.onnx")
    (output,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    close(torch.from_numpy(output), expected)
