"""The Nature CNN run once per observation, for acting and for learning.

Between two updates the weights do not change. A `CachedNetwork` reads them once, folds in what
position adds, and keeps the activations of the observations an update is made from: the update
starts from them, and only the backward pass is left to do. Losses and gradients are those of
running the network again, to the last bits of floating point (test_a2c.py, test_dqn.py).

Shapes in this file: B batch, C channels, H x W rows and columns, F features.
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from policies.coordconv import ExtraChannelConv2d, sum_over_images
from policies.extractors import NatureCoordCNN
from policies.position_controls import BiasMapConv2d

Precision = Literal["fp32", "bf16"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


class LayerWeights(NamedTuple):
    """A layer's weight, and its bias or, in place of it, a position map [C, H, W]."""

    weight: Tensor
    bias: Tensor | None
    position_map: Tensor | None = None


class CachedNetwork:
    """The features of observations, with the weights read once and the activations kept.

    Args:
        extractor: The network.
        kept: Observations whose activations are kept for the update.
        precision: Arithmetic of the convolutions and the linear layer; features are float32.
    """

    def __init__(self, extractor: nn.Module, kept: int, precision: Precision) -> None:
        assert isinstance(extractor, NatureCoordCNN)
        self._convolutions = [layer for layer in extractor.cnn if isinstance(layer, nn.Conv2d)]
        linear = extractor.linear[0]
        assert isinstance(linear, nn.Linear)
        self._linear = linear
        self._layers = [*extractor.cnn, *extractor.linear]
        self._dtype = DTYPES[precision]
        channels, height, width = extractor._observation_space.shape or ()
        self._activations = [self._empty(kept, channels, height, width)]
        self._input_sizes = extractor.input_sizes()
        self._patches = [
            layer.patches(*size) if isinstance(layer, ExtraChannelConv2d) else None
            for layer, size in zip(self._convolutions, self._input_sizes, strict=True)
        ]
        self._weights: list[LayerWeights] | None = None  # of the convolutions and the linear layer
        with torch.no_grad():
            sample = torch.zeros(1, channels, height, width, device=linear.weight.device)
            for layer in self._convolutions:
                sample = layer(sample)
                self._activations.append(self._empty(kept, *sample.shape[1:]))
        self._features = torch.empty(
            kept, linear.out_features, dtype=self._dtype, device=linear.weight.device
        )

    def is_of(self, extractor: nn.Module) -> bool:
        """Whether this computes the layers that an extractor has now."""
        return (
            isinstance(extractor, NatureCoordCNN)
            and [*extractor.cnn, *extractor.linear] == self._layers
        )

    @property
    def has_weights(self) -> bool:
        """Whether weights were read and not yet used up by `features`."""
        return self._weights is not None

    def read_weights(self) -> None:
        """Read the weights, with gradient if gradients are enabled."""
        weights: list[LayerWeights] = []
        for layer, size, patches in zip(
            self._convolutions, self._input_sizes, self._patches, strict=True
        ):
            weight, bias, position_map = layer.weight, layer.bias, None
            if isinstance(layer, ExtraChannelConv2d):
                weight, position_map = layer.fold(*size, patches)
            elif isinstance(layer, BiasMapConv2d):
                weight, position_map = layer.fold(*size)
            if position_map is not None:
                position_map = self._lay_out(position_map[None])[0]
                bias = None  # in the map
            if not weights:
                weight = weight / 255  # the pixels are not: bfloat16 holds whole numbers exactly
            bias = None if bias is None else bias.to(self._dtype)
            weights.append(LayerWeights(self._lay_out(weight), bias, position_map))
        linear = self._linear
        weights.append(LayerWeights(linear.weight.to(self._dtype), linear.bias.to(self._dtype)))
        self._weights = weights

    @torch.no_grad()
    def compute(self, observations: Tensor, first_kept: int | None = None) -> Tensor:
        """The features of observations, by the weights that were read.

        Args:
            observations: uint8 [B, C, H, W]; fastest with the channels last in memory.
            first_kept: Where their activations are kept for the update, or None if they are not.

        Returns:
            float32 [B, F], without gradient.
        """
        batch_size = len(observations)
        if first_kept is None:
            kept = [self._empty(batch_size, *a.shape[1:]) for a in self._activations]
            features = self._features.new_empty(batch_size, self._features.shape[1])
        else:
            rows = slice(first_kept, first_kept + batch_size)
            kept = [activation[rows] for activation in self._activations]
            features = self._features[rows]
        kept[0].copy_(observations)
        assert self._weights is not None
        *convolutions, linear = self._weights
        for index, (weight, bias, position_map) in enumerate(convolutions):
            output = F.conv2d(kept[index], weight, bias, self._convolutions[index].stride)
            if position_map is not None:
                output.add_(position_map)
            torch.clamp_min(output, 0, out=kept[index + 1])
        output = multiply(kept[-1].flatten(1), linear.weight, linear.bias)
        return torch.clamp_min(output, 0, out=features).float()

    def features(self) -> Tensor:
        """The features of all kept observations, as a function of the network's weights.

        The weights must have been read with gradient. The backward pass uses up their graph, so
        they are to be read again.

        Returns:
            float32 [B, F]; its gradient reaches the parameters.
        """
        value = self._activations[0]
        assert self._weights is not None
        *convolutions, linear = self._weights
        self._weights = None
        for index, (weight, bias, position_map) in enumerate(convolutions):
            value = _KnownConvolution.apply(  # type: ignore[no-untyped-call]
                value,
                weight,
                bias,
                position_map,
                self._activations[index + 1],
                self._convolutions[index].stride,
            )
        features: Tensor = _KnownLinear.apply(  # type: ignore[no-untyped-call]
            value.flatten(1), linear.weight, linear.bias, self._features
        )
        return features.float()

    def _lay_out(self, images: Tensor) -> Tensor:
        return images.to(self._dtype, memory_format=torch.channels_last)

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(
            shape,
            dtype=self._dtype,
            device=self._linear.weight.device,
            memory_format=torch.channels_last,
        )


_ONEDNN_LINEAR = (
    getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    else None
)


def multiply(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply [B, N] by the transpose of [M, N] and add a bias [M]: [B, M], without gradient.

    In float32 on a CPU `torch.nn.functional.linear` asks MKL, which takes twice as long as oneDNN
    on processors that are not Intel's; oneDNN is reached by an operator made for torch.compile.
    """
    if (
        _ONEDNN_LINEAR is None
        or left.device.type != "cpu"
        or left.dtype != torch.float32
        or len(left) == 1  # bound by memory; the same for both
    ):
        return F.linear(left, right, bias)
    product: Tensor = _ONEDNN_LINEAR(left, right, bias, "none", [], "")
    return product


class _KnownConvolution(torch.autograd.Function):
    """relu(convolution + map), whose output is known: only its gradient is computed."""

    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        position_map: Tensor | None,
        output: Tensor,
        stride: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(value, weight, output)
        ctx.stride = stride
        return output.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        value, weight, output = ctx.saved_tensors
        needs_value, needs_weight, needs_bias, needs_map, *_ = ctx.needs_input_grad
        gradient = torch.ops.aten.threshold_backward(gradient, output, 0)
        value_gradient, weight_gradient, bias_gradient = torch.ops.aten.convolution_backward(
            gradient,
            value,
            weight,
            [weight.shape[0]],
            ctx.stride,
            (0, 0),
            (1, 1),
            False,
            (0, 0),
            1,
            (needs_value, needs_weight, needs_bias),
        )
        map_gradient = sum_over_images(gradient) if needs_map else None
        return value_gradient, weight_gradient, bias_gradient, map_gradient, None, None


class _KnownLinear(torch.autograd.Function):
    """relu(linear layer), whose output is known: only its gradient is computed."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, weight: Tensor, bias: Tensor, output: Tensor) -> Tensor:
        ctx.save_for_backward(value, weight, output)
        return output.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        value, weight, output = ctx.saved_tensors
        gradient = torch.ops.aten.threshold_backward(gradient, output, 0)
        return (
            multiply(gradient, weight.t()),
            multiply(gradient.t(), value.t()),
            gradient.sum(0),
            None,
        )
