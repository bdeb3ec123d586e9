"""The Nature CNN with a CoordConv layer whose coordinates run over less than [-1, 1].

python train.py --game Breakout --extractor examples.coordinates:ScaledCoordCNN
"""

import torch
from gymnasium import spaces
from torch import Tensor

from policies.coordconv import CoordConv2d, CoordInit, conv_arguments
from policies.extractors import NatureCoordCNN


class ScaledCoordConv2d(CoordConv2d):
    """A CoordConv layer whose coordinates are multiplied by `scale`, which is not learned."""

    scale = 1.0
    starts_larger = False  # whether its coordinates' weights do, by as much as these are smaller

    @torch.no_grad()
    def init_coordinate_weights(
        self, coord_init: CoordInit = "default", generator: torch.Generator | None = None
    ) -> None:
        """As in any CoordConv layer, then made larger if asked for."""
        super().init_coordinate_weights(coord_init, generator)
        if self.starts_larger:
            self.weight[:, self.in_channels :] /= self.scale

    def _extra_channels(self, height: int, width: int) -> Tensor:
        return self.scale * super()._extra_channels(height, width)


class ScaledCoordCNN(NatureCoordCNN):
    """The arm `coordconv` with coordinates in [-scale, scale].

    The 64 weights by which a filter of the first layer sees one coordinate see nearly the same
    number, so that their sum counts. That starts large, and an optimiser that gives every weight a
    step of the same size, as RMSprop does, moves it, and with it the filter's output towards the
    borders, up to 64 times as far as its bias. The scale makes both smaller; what can be expressed
    is the same.

    Args:
        observation_space: Box of images [C, H, W].
        features_dim: Number of features that the extractor returns.
        scale: What the coordinates are multiplied by; 1 is `coordconv` itself.
        same_start: Whether their weights start as much larger, so that the network computes at
            first what `coordconv` does, and only its steps differ.
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        features_dim: int = 512,
        scale: float = 1 / 64,
        same_start: bool = False,
    ) -> None:
        super().__init__(observation_space, features_dim, coord_layers=[0])
        layer = self.cnn[0]
        assert isinstance(layer, CoordConv2d)
        scaled = ScaledCoordConv2d(**conv_arguments(layer)).to_empty(device="cpu")  # draws nothing
        scaled.load_state_dict(layer.state_dict())
        scaled.scale = scale
        scaled.starts_larger = same_start
        self.cnn[0] = scaled
        self._init_position(0, scaled)
