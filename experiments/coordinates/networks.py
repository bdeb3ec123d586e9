"""The paper's networks for the three tasks, parameter for parameter.

"Same" padding is that of the released TensorFlow code: where it cannot be even, the last row and
column get more.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from policies.coordconv import CoordConv2d


class SameConv2d(nn.Conv2d):
    """A convolution whose output has ceil(H / stride) rows and ceil(W / stride) columns."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name nn.Conv2d gives it
        """Pad and convolve: [B, C_in, H, W] to [B, C_out, H', W']."""
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        margins: list[int] = []
        for size in (input.shape[-1], input.shape[-2]):  # F.pad wants the last axis first
            missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            margins += [missing // 2, missing - missing // 2]
        return super().forward(F.pad(input, margins) if any(margins) else input)


class DoublingDeconv2d(nn.ConvTranspose2d):
    """A transposed convolution of stride 2 that doubles the rows and the columns."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__(in_channels, out_channels, kernel_size, stride=2)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: A002
        """Convolve and crop: [B, C_in, H, W] to [B, C_out, 2 H, 2 W]."""
        height, width = input.shape[-2:]
        first = (self.kernel_size[0] - 2) // 2
        whole = super().forward(input, output_size)
        return whole[..., first : first + 2 * height, first : first + 2 * width]


class DeconvPainter(nn.Module):
    """The plain network that paints: it doubles 1 x 1 up to the canvas, with batch norm and ReLU.

    A canvas of 64 pixels, the paper's, makes six layers. The paper's grid has kernel sizes of 2, 3
    and 4 and width multipliers of 1, 2 and 3.
    """

    def __init__(self, canvas_size: int, kernel_size: int, width_multiplier: int):
        super().__init__()
        layer_count = canvas_size.bit_length() - 1
        widths = [64 * width_multiplier] * max(layer_count - 3, 0) + [32 * width_multiplier] * 2
        layers: list[nn.Module] = []
        in_channels = 2
        for out_channels in widths[-(layer_count - 1) :]:
            layers += [
                DoublingDeconv2d(in_channels, out_channels, kernel_size),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(inplace=True),
            ]
            in_channels = out_channels
        self.layers = nn.Sequential(*layers, DoublingDeconv2d(in_channels, 1, kernel_size))

    def forward(self, points: Tensor) -> Tensor:
        """Map [B, 2] (row and column in [-1, 1]) to logits [B, H, W]."""
        logits: Tensor = self.layers(points[:, :, None, None])
        return logits.squeeze(1)


class CoordConvPainter(nn.Module):
    """The CoordConv network that paints: five 1 x 1 convolutions, the first with coordinates.

    Its input is a pair of numbers on every pixel of the canvas. A 1 x 1 convolution of that is the
    same on every pixel, up to what the coordinates add: the first layer is computed on one pixel,
    and its coordinate map (`CoordConv2d.fold`) added, which is the same function.
    """

    def __init__(self, canvas_size: int):
        super().__init__()
        self.canvas_size = canvas_size
        self.first = CoordConv2d(2, 32, 1)
        self.rest = nn.ModuleList(
            nn.Conv2d(in_channels, out_channels, 1)
            for in_channels, out_channels in ((32, 32), (32, 64), (64, 64), (64, 1))
        )

    def forward(self, points: Tensor) -> Tensor:
        """Map [B, 2] (row and column in [-1, 1]) to logits [B, H, W]."""
        size = self.canvas_size
        weight, position_map = self.first.fold(size, size)
        # Pixels as rows of a matrix, channels as columns: [B, C, 1] + [C, H W], transposed.
        features = (
            F.linear(points, weight.flatten(1))[:, None] + position_map.flatten(1).t().contiguous()
        )
        for layer in self.rest:
            assert isinstance(layer, nn.Conv2d)
            features = F.linear(F.relu(features, inplace=True), layer.weight.flatten(1), layer.bias)
        return features.view(-1, size, size)


class CoordConvRenderer(nn.Module):
    """`CoordConvPainter`, a softmax over the canvas, and five convolutions that draw the shape.

    The softmax is multiplied by the number of rows: at the start it is nearly uniform, and values
    of 1 / (H W) would leave the convolutions without a gradient. The paper's grid has kernel sizes
    of 1 and 3 and width multipliers of 1 and 2.
    """

    def __init__(self, canvas_size: int, kernel_size: int, width_multiplier: int):
        super().__init__()
        self.painter = CoordConvPainter(canvas_size)
        layers: list[nn.Module] = []
        in_channels = 1
        for out_channels in (8, 8, 16, 16):
            out_channels *= width_multiplier
            layers += [SameConv2d(in_channels, out_channels, kernel_size), nn.ReLU(inplace=True)]
            in_channels = out_channels
        self.shape = nn.Sequential(*layers, SameConv2d(in_channels, 1, kernel_size))

    def forward(self, points: Tensor) -> Tensor:
        """Map [B, 2] (row and column in [-1, 1]) to logits [B, H, W]."""
        logits = self.painter(points)
        attention = logits.flatten(1).softmax(1).view(logits.shape) * logits.shape[1]
        drawn: Tensor = self.shape(attention[:, None])
        return drawn.squeeze(1)


def coordconv_regressor(canvas_size: int) -> nn.Sequential:
    """Build the linear CoordConv network, [B, 1, H, W] to [B, 2].

    Its maximum over the canvas is the position.
    """
    return nn.Sequential(
        CoordConv2d(1, 8, 1),
        SameConv2d(8, 8, 1),
        SameConv2d(8, 8, 1),
        SameConv2d(8, 8, 3),
        SameConv2d(8, 2, 3),
        nn.MaxPool2d(canvas_size),
        nn.Flatten(),
    )


def pooled_regressor(canvas_size: int) -> nn.Sequential:
    """Build the plain network of the uniform split, [B, 1, H, W] to [B, 2].

    Convolutions, pooling, fully connected layers.
    """
    layers: list[nn.Module] = []
    for in_channels in (1, 16, 16):
        layers += [SameConv2d(in_channels, 16, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    return nn.Sequential(
        *layers,
        SameConv2d(16, 16, 3),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(16 * (canvas_size // 8) ** 2, 64),
        nn.ReLU(inplace=True),
        nn.Linear(64, 2),
    )


def convolutional_regressor() -> nn.Sequential:
    """Build the plain network of the quadrant split, [B, 1, H, W] to [B, 2].

    Convolutions and global average pooling.
    """
    return nn.Sequential(
        *(SameConv2d(1, 16, 5, stride=2), nn.ReLU()),
        *(SameConv2d(16, 16, 1), nn.ReLU(), nn.BatchNorm2d(16)),
        *(SameConv2d(16, 16, 3), nn.ReLU()),
        *(SameConv2d(16, 16, 3, stride=2), nn.ReLU()),
        *(SameConv2d(16, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU()),
        *(SameConv2d(16, 16, 3, stride=2), nn.ReLU()),
        *(SameConv2d(16, 16, 1), nn.ReLU()),
        *(SameConv2d(16, 16, 3, stride=2), nn.ReLU()),
        *(SameConv2d(16, 2, 3), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def initialise(network: nn.Module, kernel_scale: float, generator: Generator) -> None:
    """Draw all kernels from He's normal distribution and set all biases to zero, in place.

    `kernel_scale` is the kernels' standard deviation, as a multiple of He's. The fully connected
    layers of `pooled_regressor` are drawn from Glorot's uniform distribution, TensorFlow's default.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            # A transposed convolution keeps its output channels second.
            is_transposed = isinstance(layer, nn.ConvTranspose2d)
            fan: Literal["fan_in", "fan_out"] = "fan_out" if is_transposed else "fan_in"
            nn.init.kaiming_normal_(layer.weight, 0, fan, "relu", generator)
            with torch.no_grad():
                layer.weight.mul_(kernel_scale)
        elif isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
