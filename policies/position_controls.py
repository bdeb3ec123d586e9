"""Controls for CoordConv: convolutions that have position, but not as coordinates.

If an agent gains as much from one of them, the gain is not the coordinates'. Both are made from an
ordinary convolution, whose weights and bias they take over bit for bit, and for one input size.

Shapes in this file: C_in image channels, K extra channels, C_out filters, H x W input rows and
columns, H' x W' output rows and columns.
"""

import torch
from torch import Tensor, nn

from policies.coordconv import (
    CoordInit,
    ExtraChannelConv2d,
    add_map,
    check_is_plain,
    conv_arguments,
    copy_image_part,
)

torch.fx.wrap("add_map")


class RandomChannelConv2d(ExtraChannelConv2d):
    """CoordConv with random numbers in place of row and column.

    As many weights, as many position-dependent inputs of about the same range, but nothing that
    varies evenly across the image. The channels stay what they were at construction, and are part
    of the state dict.

    Args:
        conv: The ordinary convolution to start from; it is not changed.
        input_size: H and W of its input.
        coord_init: How the extra channels' weights start, see `init_coordinate_weights`.
        generator: What to draw from, first those weights (thus the same ones as `CoordConv2d`
            would draw), then the channels, on its device; torch's global one if None.

    Attributes:
        weight: [C_out, C_in + 2, kernel height, kernel width], image channels first.
        bias: [C_out] or None.
        channels: [2, H, W], uniform over [-1, 1].

    Raises:
        ValueError: If `conv` is not exactly an `nn.Conv2d` or has groups, or for an unknown
            `coord_init`.
    """

    channels: Tensor

    def __init__(
        self,
        conv: nn.Conv2d,
        input_size: tuple[int, int],
        *,
        coord_init: CoordInit = "default",
        generator: torch.Generator | None = None,
    ):
        check_is_plain(conv)
        super().__init__(**conv_arguments(conv), extra_channel_count=2)
        self.to_empty(device=conv.weight.device)
        copy_image_part(conv, self)
        self.init_coordinate_weights(coord_init, generator)
        draw_device = self.weight.device if generator is None else generator.device
        channels = torch.empty(2, *input_size, device=draw_device).uniform_(
            -1, 1, generator=generator
        )
        self.register_buffer("channels", channels.to(self.weight))

    def _extra_channels(self, height: int, width: int) -> Tensor:
        """Return the fixed channels [2, H, W].

        Raises:
            ValueError: If the input is not of the size that the channels were made for.
        """
        _check_input_size((height, width), (self.channels.shape[1], self.channels.shape[2]))
        return self.channels


class BiasMapConv2d(nn.Conv2d):
    """Convolution whose bias has, beside its value per filter, one per filter and position.

    It can learn any map that CoordConv can add to the output, and every other one, with no order
    given: a position learns nothing from its neighbours. It starts as the ordinary convolution.

    Args:
        conv: The ordinary convolution to start from; it is not changed.
        input_size: H and W of its input.

    Attributes:
        weight: [C_out, C_in / groups, kernel height, kernel width].
        bias: [C_out] or None.
        bias_map: [C_out, H', W'], zero at first.
    """

    def __init__(self, conv: nn.Conv2d, input_size: tuple[int, int]):
        check_is_plain(conv)
        super().__init__(**conv_arguments(conv))
        self.input_size = input_size
        height, width = input_size
        output: Tensor = self._conv_forward(
            torch.empty(self.in_channels, height, width, device="meta", dtype=self.weight.dtype),
            self.weight,
            None,
        )
        self.bias_map = nn.Parameter(torch.empty_like(output))
        self.to_empty(device=conv.weight.device)
        copy_image_part(conv, self)
        self.reset_bias_map()

    @torch.no_grad()
    def reset_bias_map(self) -> None:
        """Set the map to zero."""
        self.bias_map.zero_()

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name nn.Conv2d gives it
        """Convolve the image and add the map.

        Args:
            input: [B, C_in, H, W] or [C_in, H, W], of the weight's dtype.

        Returns:
            [B, C_out, H', W'] or [C_out, H', W'].

        Raises:
            ValueError: If the input is not of the size that the map was made for.
        """
        height, width = input.shape[-2:]
        _check_input_size((height, width), self.input_size)
        return add_map(super().forward(input), self.bias_map)

    def coordinate_map(self, height: int, width: int) -> Tensor:
        """Return a copy of the map, as `CoordConv2d.coordinate_map` does."""
        _check_input_size((height, width), self.input_size)
        return self.bias_map.detach().clone()

    def fold(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return the weight and the map with the bias in it, as `CoordConv2d.fold` does."""
        _check_input_size((height, width), self.input_size)
        if self.bias is None:
            return self.weight, self.bias_map
        return self.weight, self.bias_map + self.bias[:, None, None]

    @torch.no_grad()
    def coordinate_weight_share(self) -> float:
        """Return the L2 norm of the map over that of the map and all weights, in [0, 1]."""
        bias_map, weight = (
            torch.linalg.vector_norm(values) for values in (self.bias_map, self.weight)
        )
        return float(bias_map / torch.hypot(bias_map, weight))


@torch.fx.wrap
def _check_input_size(size: tuple[int, int], expected: tuple[int, int]) -> None:
    if size != expected:
        raise ValueError(
            f"`input` must be {expected[0]} x {expected[1]}, the size that the layer was made "
            f"for, got {size[0]} x {size[1]}."
        )
