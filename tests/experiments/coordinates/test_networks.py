import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.coordinates.config import make_config
from experiments.coordinates.networks import (
    CoordConvPainter,
    CoordConvRenderer,
    DeconvPainter,
    DoublingDeconv2d,
    SameConv2d,
    convolutional_regressor,
    coordconv_regressor,
    initialise,
    pooled_regressor,
)
from experiments.coordinates.tasks import count_parameters, make_network
from policies.coordconv import CoordConv2d, coordinate_channels


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        (CoordConvPainter(64), 7_553),
        (CoordConvRenderer(64, 1, 1), 8_074),
        (CoordConvRenderer(64, 1, 2), 9_490),
        (CoordConvRenderer(64, 3, 1), 11_850),
        (CoordConvRenderer(64, 3, 2), 24_210),
        (coordconv_regressor(64), 906),
        (pooled_regressor(64), 72_850),
        (convolutional_regressor(), 12_914),
        (DeconvPainter(64, 2, 1), 46_465),
        (DeconvPainter(64, 2, 2), 183_041),
        (DeconvPainter(64, 2, 3), 409_729),
        (DeconvPainter(64, 3, 1), 103_585),
        (DeconvPainter(64, 3, 2), 409_921),
        (DeconvPainter(64, 3, 3), 919_009),
        (DeconvPainter(64, 4, 1), 183_553),
        (DeconvPainter(64, 4, 2), 727_553),
        (DeconvPainter(64, 4, 3), 1_632_001),
    ],
)
def test_parameter_counts_are_the_papers(network: nn.Module, parameters: int) -> None:
    assert count_parameters(network) == parameters


@pytest.mark.parametrize("size", [16, 64])
def test_painters_fill_the_canvas_and_regressors_answer_with_a_position(size: int) -> None:
    deconvolutions = [DeconvPainter(size, kernel_size, 1) for kernel_size in (2, 3, 4)]
    for painter in (*deconvolutions, CoordConvPainter(size), CoordConvRenderer(size, 3, 1)):
        assert painter(torch.rand(2, 2)).shape == (2, size, size)
    for regressor in (coordconv_regressor(size), pooled_regressor(size), convolutional_regressor()):
        assert regressor(torch.rand(2, 1, size, size)).shape == (2, 2)


@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "margins"),
    [  # left or top, right or bottom: TensorFlow's "SAME"
        (64, 5, 2, (1, 2)),
        (32, 3, 2, (0, 1)),
        (5, 3, 2, (1, 1)),
        (64, 3, 1, (1, 1)),
        (1, 3, 2, (1, 1)),
    ],
)
def test_same_convolution_pads_like_tensorflow(
    size: int, kernel_size: int, stride: int, margins: tuple[int, int]
) -> None:
    layer = SameConv2d(1, 2, kernel_size, stride)
    image = torch.rand(1, 1, size, size)
    padded = F.pad(image, (*margins, *margins))
    expected = F.conv2d(padded, layer.weight, layer.bias, stride)
    torch.testing.assert_close(layer(image), expected)


@pytest.mark.parametrize(
    ("kernel_size", "expected"),
    [  # of one pixel of value 1 at the first of two places, the kernel being 1, 2, 3, ...
        (2, [1, 2, 0, 0]),
        (3, [1, 2, 3, 0]),
        (4, [2, 3, 4, 0]),
    ],
)
def test_doubling_crops_like_tensorflow(kernel_size: int, expected: list[float]) -> None:
    layer = DoublingDeconv2d(1, 1, kernel_size)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(1.0, kernel_size + 1).expand(1, 1, kernel_size, -1))
        layer.bias.zero_()  # type: ignore[union-attr]
    image = torch.tensor([[1.0, 0.0], [0.0, 0.0]])[None, None]
    output = layer(image)
    assert output.shape == (1, 1, 4, 4)
    assert output[0, 0, 0].tolist() == expected


def test_painter_equals_convolutions_of_the_tiled_point() -> None:
    network = CoordConvPainter(16).double()
    points = torch.rand(3, 2, dtype=torch.float64)
    tiled = points[:, :, None, None].expand(-1, -1, 16, 16)

    def paint() -> Tensor:
        features: Tensor = network.first(tiled)
        for layer in network.rest:
            features = layer(F.relu(features))
        return features[:, 0]

    direction = torch.randn(3, 16, 16, dtype=torch.float64)
    parameters = list(network.parameters())
    outputs = network(points), paint()
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(output, parameters, direction) for output in outputs]
    for actual, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-10)


def test_regressor_finds_the_point_with_hand_made_weights() -> None:
    # The point lifts its own pixel above all others; there stands the coordinate.
    network = coordconv_regressor(16)
    with torch.no_grad():
        for layer in network:
            if isinstance(layer, nn.Conv2d):
                layer.weight.zero_()
                layer.bias.zero_()  # type: ignore[union-attr]
                if isinstance(layer, CoordConv2d):
                    layer.weight[0, :, 0, 0] = torch.tensor([4.0, 1.0, 0.0])
                    layer.weight[1, :, 0, 0] = torch.tensor([4.0, 0.0, 1.0])
                else:
                    middle = layer.kernel_size[0] // 2
                    layer.weight[:2, :2, middle, middle] = torch.eye(2)
    image = torch.zeros(1, 1, 16, 16)
    image[0, 0, 3, 12] = 1
    coordinates = coordinate_channels(16, 16)
    torch.testing.assert_close(network(image)[0], 4 + coordinates[:, 3, 12])


def test_kernels_are_drawn_from_hes_distribution() -> None:
    network = DeconvPainter(64, 3, 3)
    initialise(network, 1.0, torch.Generator().manual_seed(0))
    second = network.layers[3]
    assert isinstance(second, DoublingDeconv2d)
    fan_in = 192 * 9
    assert float(second.weight.detach().std()) == pytest.approx((2 / fan_in) ** 0.5, rel=0.02)
    linear = coordconv_regressor(64)
    initialise(linear, 0.5, torch.Generator().manual_seed(0))
    third = linear[3]
    assert isinstance(third, SameConv2d)
    assert float(third.weight.detach().std()) == pytest.approx(0.5 * (2 / 72) ** 0.5, rel=0.15)
    for name, value in linear.named_parameters():
        assert value.any() == (not name.endswith("bias")), name


def test_regression_starts_without_the_coordinates() -> None:
    network = make_network(make_config("regression", "uniform", "coordconv", {}))
    assert isinstance(network, nn.Sequential)
    first = network[0]
    assert isinstance(first, CoordConv2d)
    assert first.coordinate_weight_share() == 0
    assert first.weight[:, :1].abs().min() > 0


@pytest.mark.parametrize(
    ("split", "network"),
    [("uniform", pooled_regressor(64)), ("quadrant", convolutional_regressor())],
)
def test_plain_regressor_is_the_one_of_the_split(split: str, network: nn.Module) -> None:
    config = make_config("regression", split, "cnn", {})  # type: ignore[arg-type]
    assert count_parameters(make_network(config)) == count_parameters(network)
