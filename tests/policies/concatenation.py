"""The layer as the paper has it: coordinates concatenated to the image, padded, convolved."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from policies.coordconv import CoordConv2d


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
