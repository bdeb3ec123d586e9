"""The Nature CNN run once per observation, for acting and for learning.

A2C's weights do not change within a rollout, so the activations an update needs are those the
rollout has computed already. `RolloutNetwork` keeps them; the update starts from them, and only
the backward pass is left to do. Losses and gradients are those of running the network again, to
the last bits of floating point (tests/test_rollout_network.py).

Shapes in this file: N environments, T steps of a rollout, C channels, H x W rows and columns.
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from policies.coordconv import CoordConv2d, sum_over_images
from policies.extractors import NatureCoordCNN
from policies.position_controls import BiasMapConv2d, RandomChannelConv2d

Precision = Literal["fp32", "bf16"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


class RolloutNetwork:
    """The features of a rollout's observations, computed once.

    Args:
        extractor: The network; its weights are read anew in every rollout.
        n_steps: T.
        n_envs: N.
        precision: Arithmetic of the convolutions and the linear layer; features are float32.
    """

    def __init__(
        self, extractor: NatureCoordCNN, n_steps: int, n_envs: int, precision: Precision
    ) -> None:
        self._convolutions = [layer for layer in extractor.cnn if isinstance(layer, nn.Conv2d)]
        linear = extractor.linear[0]
        assert isinstance(linear, nn.Linear)
        self._linear = linear
        self._dtype = DTYPES[precision]
        self._n_envs = n_envs
        batch = n_steps * n_envs
        channels, height, width = extractor._observation_space.shape or ()
        self._activations = [self._empty(batch, channels, height, width)]
        self._input_sizes: list[tuple[int, int]] = []
        with torch.no_grad():
            sample = torch.zeros(1, channels, height, width, device=linear.weight.device)
            for layer in self._convolutions:
                self._input_sizes.append((sample.shape[2], sample.shape[3]))
                sample = layer(sample)
                self._activations.append(self._empty(batch, *sample.shape[1:]))
        self._features = torch.empty(
            batch, linear.out_features, dtype=self._dtype, device=linear.weight.device
        )
        self._weights: list[tuple[Tensor, Tensor | None, Tensor | None]] = []

    @torch.no_grad()
    def begin_rollout(self) -> None:
        """Read the weights: those the next T calls of `compute` and the update are made with."""
        self._weights = self._read_weights()

    @torch.no_grad()
    def compute(self, observations: npt.NDArray[np.uint8], step: int | None = None) -> Tensor:
        """The features of observations; kept for the update if they are a step of the rollout.

        Args:
            observations: uint8 [B, C, H, W]; B is N for a step of the rollout.
            step: Which step of the rollout this is, or None for observations outside it.

        Returns:
            float32 [B, features].
        """
        pixels = torch.from_numpy(observations).to(self._linear.weight.device)
        if step is None:
            kept = [self._empty(len(pixels), *a.shape[1:]) for a in self._activations]
            features = self._features.new_empty(len(pixels), self._features.shape[1])
        else:
            rows = slice(step * self._n_envs, (step + 1) * self._n_envs)
            kept = [activation[rows] for activation in self._activations]
            features = self._features[rows]
        kept[0].copy_(pixels).div_(255)
        for index, layer in enumerate(self._convolutions):
            weight, bias, position_map = self._weights[index]
            output = F.conv2d(kept[index], weight, bias, layer.stride)
            if position_map is not None:
                output.add_(position_map)
            torch.clamp_min(output, 0, out=kept[index + 1])
        weight, bias, _ = self._weights[-1]
        output = F.linear(kept[-1].flatten(1), weight, bias)
        return torch.clamp_min(output, 0, out=features).float()

    def features(self) -> Tensor:
        """The features of the whole rollout, as a function of the network's weights.

        Returns:
            float32 [T * N, features], step after step; its gradient reaches the parameters.
        """
        value = self._activations[0]
        *convolutions, (linear_weight, linear_bias, _) = self._read_weights()
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
            value.flatten(1), linear_weight, linear_bias, self._features
        )
        return features.float()

    def _read_weights(self) -> list[tuple[Tensor, Tensor | None, Tensor | None]]:
        """Each layer's weight, bias, and position map [C, H, W] in place of the bias."""
        weights: list[tuple[Tensor, Tensor | None, Tensor | None]] = []
        for layer, size in zip(self._convolutions, self._input_sizes, strict=True):
            if isinstance(layer, CoordConv2d | RandomChannelConv2d | BiasMapConv2d):
                weight, position_map = layer.fold(*size)
                position_map = position_map[None].to(
                    self._dtype, memory_format=torch.channels_last
                )[0]
                weights.append((self._lay_out(weight), None, position_map))
            else:
                assert layer.bias is not None
                weights.append((self._lay_out(layer.weight), layer.bias.to(self._dtype), None))
        weights.append(
            (self._linear.weight.to(self._dtype), self._linear.bias.to(self._dtype), None)
        )
        return weights

    def _lay_out(self, weight: Tensor) -> Tensor:
        return weight.to(self._dtype, memory_format=torch.channels_last)

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(
            shape,
            dtype=self._dtype,
            device=self._linear.weight.device,
            memory_format=torch.channels_last,
        )


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
        return gradient @ weight, gradient.t() @ value, gradient.sum(0), None
