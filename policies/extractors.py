"""The one features extractor of all arms: the Nature CNN, with or without position.

Mnih et al., "Human-level control through deep reinforcement learning", Nature 518 (2015).
"""

from collections.abc import Callable, Sequence
from typing import Literal, Self, get_args

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import NatureCNN
from torch import Tensor, nn

from policies.coordconv import CoordConv2d, CoordInit, copy_image_part, plain_convolution
from policies.position_controls import BiasMapConv2d, RandomChannelConv2d

Position = Literal["coordinates", "bias-map", "random-channels"]
PositionLayer = CoordConv2d | BiasMapConv2d | RandomChannelConv2d


class NatureCoordCNN(NatureCNN):
    """SB3's NatureCNN, in which chosen convolutions know the position.

    Without `coord_layers` it is NatureCNN. With them, and for the same seed, the weights that see
    the image, the biases and all later layers are those of NatureCNN bit for bit, after
    construction and after SB3's orthogonal initialisation; torch's global generator is left in the
    same state too. So arms of a comparison differ in the position alone.

    Pass `net_arch=[]` in the `policy_kwargs` beside this class: SB3 knows NatureCNN by name, and
    puts two further layers of 64 behind every other extractor.

    Args:
        observation_space: Box of images [C, H, W], uint8 in [0, 255] unless `normalized_image`.
        features_dim: Number of features that the extractor returns.
        normalized_image: Whether to skip the check of the observations' dtype and bounds.
        coord_layers: Which convolutions know the position, counted from 0.
        position: In which form: "coordinates" (`CoordConv2d`), or as a control "bias-map"
            (`BiasMapConv2d`) or "random-channels" (`RandomChannelConv2d`).
        with_radius: Whether the coordinates include the radius.
        coord_init: How the weights that see the position start, see
            `CoordConv2d.init_coordinate_weights`. A bias map always starts at zero.

    Raises:
        ValueError: For a combination of arguments that makes no sense.
        AssertionError: For an observation space that is none of images (SB3's own checks).
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        features_dim: int = 512,
        normalized_image: bool = False,
        *,
        coord_layers: Sequence[int] = (),
        position: Position = "coordinates",
        with_radius: bool = False,
        coord_init: CoordInit = "default",
    ):
        _check_position(coord_layers, position, with_radius, coord_init)
        super().__init__(observation_space, features_dim, normalized_image)
        self._image_shape = observation_space.shape
        self._coord_init = coord_init
        with torch.random.fork_rng(devices=[]):
            self._layer_seeds: list[int] = torch.randint(2**63 - 1, (3,), device="cpu").tolist()
        for index in sorted(coord_layers):
            self.cnn[2 * index] = self._make_layer(index, position, with_radius)

    def input_sizes(self) -> list[tuple[int, int]]:
        """Return rows and columns of what each of the three convolutions sees."""
        height, width = self._image_shape[1:]
        sizes = []
        for index in range(3):
            sizes.append((height, width))
            conv = self.cnn[2 * index]
            assert isinstance(conv, nn.Conv2d)
            height, width = (
                (size - kernel) // stride + 1
                for size, kernel, stride in zip(
                    (height, width), conv.kernel_size, conv.stride, strict=True
                )
            )
        return sizes

    def position_layers(self) -> dict[int, PositionLayer]:
        """Return the convolutions that know the position, by their index among the three."""
        convolutions = [self.cnn[2 * index] for index in range(3)]
        return {
            index: layer
            for index, layer in enumerate(convolutions)
            if isinstance(layer, PositionLayer)
        }

    def apply(self, fn: Callable[[nn.Module], None]) -> Self:
        """Apply `fn` as `nn.Module.apply` does, but to the part of each layer that sees the image.

        SB3 initialises a policy this way. In place of a layer that knows the position, `fn` gets
        the ordinary convolution of its other weights, as in the plain network. Where it changes
        their values, the weights that see the position are drawn anew, from their own generator.
        """
        layers = self.position_layers()
        stand_ins = {index: plain_convolution(layer) for index, layer in layers.items()}
        for index, stand_in in stand_ins.items():
            self.cnn[2 * index] = stand_in
        try:
            super().apply(fn)
        finally:
            for index, layer in layers.items():
                self.cnn[2 * index] = layer
        for index, layer in layers.items():
            image_weight = layer.weight[:, : layer.in_channels]
            is_new = not torch.equal(image_weight, stand_ins[index].weight)
            copy_image_part(stand_ins[index], layer)
            if is_new:
                self._init_position(index, layer)
        return self

    def _make_layer(self, index: int, position: Position, with_radius: bool) -> PositionLayer:
        """Make the layer that takes the place of a convolution and keeps its weights."""
        conv = self.cnn[2 * index]
        assert isinstance(conv, nn.Conv2d)
        generator = self._generator_for(index)
        if position == "coordinates":
            return CoordConv2d.from_conv2d(
                conv, with_radius=with_radius, coord_init=self._coord_init, generator=generator
            )
        size = self.input_sizes()[index]
        if position == "bias-map":
            return BiasMapConv2d(conv, size)
        return RandomChannelConv2d(conv, size, coord_init=self._coord_init, generator=generator)

    def _init_position(self, index: int, layer: PositionLayer) -> None:
        if isinstance(layer, BiasMapConv2d):
            layer.reset_bias_map()
        else:
            layer.init_coordinate_weights(self._coord_init, self._generator_for(index))

    def _generator_for(self, index: int) -> torch.Generator:
        """Make a layer's own generator, at its start: draws do not depend on the other layers."""
        return torch.Generator().manual_seed(self._layer_seeds[index])


@torch.no_grad()
def count_live_filters(extractor: NatureCNN, images: Tensor) -> list[int]:
    """Count the filters of each convolution that are above zero anywhere in some images.

    Args:
        extractor: With ReLUs, which pass no gradient to a filter that is below zero everywhere.
        images: Float32 [B, C, H, W] in [0, 1].
    """
    counts = []
    for layer in extractor.cnn:
        images = layer(images)
        if isinstance(layer, nn.ReLU):
            counts.append(int((images > 0).any(0).flatten(1).any(1).sum()))
    return counts


def _check_position(
    coord_layers: Sequence[int], position: str, with_radius: bool, coord_init: str
) -> None:
    for index in coord_layers:
        if index not in range(3):
            raise ValueError(f"`coord_layers` must index the 3 convolutions (0-2), got {index}.")
    if len(set(coord_layers)) < len(coord_layers):
        raise ValueError(
            f"`coord_layers` must name each convolution once, got {list(coord_layers)}."
        )
    if position not in get_args(Position):
        names = ", ".join(repr(name) for name in get_args(Position))
        raise ValueError(f"`position` must be one of {names}, got {position!r}.")
    if coord_init not in get_args(CoordInit):
        raise ValueError(f"`coord_init` must be 'default' or 'zero', got {coord_init!r}.")
    if with_radius and position != "coordinates":
        raise ValueError(f"`with_radius` needs `position` 'coordinates', got {position!r}.")
    if len(coord_layers) == 0 and (with_radius or position != "coordinates"):
        option = "`with_radius`" if with_radius else f"`position` {position!r}"
        raise ValueError(f"{option} needs at least one convolution in `coord_layers`, got none.")
