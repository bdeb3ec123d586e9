"""CoordConv: a convolution that sees the row and the column of every pixel.

Liu et al., "An intriguing failing of convolutional neural networks and the CoordConv solution",
NeurIPS 2018, arXiv 1807.03247.

Shapes in this file: B batch, C_in image channels, K extra channels, C_out filters, H x W input rows
and columns, H' x W' output rows and columns.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CoordInit = Literal["default", "zero"]


@torch.fx.wrap  # sizes that are traced could not make a tensor
def coordinate_channels(
    height: int,
    width: int,
    *,
    with_radius: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Make the coordinate channels of section 3 of the paper.

    Each coordinate runs over [-1, 1] along its own axis, rows downwards and columns to the right;
    an axis of size 1 has the coordinate 0. The radius is sqrt(row^2 + column^2), not rescaled. They
    are computed in float32 (float64 if that is asked for), then cast.

    Args:
        height: H.
        width: W.
        with_radius: Append the distance from the centre as a third channel.
        device: Where to make them.
        dtype: A floating-point type.

    Returns:
        [K, H, W]: row, column and, if asked for, radius.
    """
    wide = torch.promote_types(dtype, torch.float32)

    def axis(size: int) -> Tensor:
        if size == 1:
            return torch.zeros(1, device=device, dtype=wide)
        return torch.linspace(-1, 1, size, device=device, dtype=wide)

    row = axis(height)[:, None].expand(height, width)
    column = axis(width)[None, :].expand(height, width)
    channels = [row, column, torch.sqrt(row**2 + column**2)] if with_radius else [row, column]
    return torch.stack(channels).to(dtype)


def conv_arguments(conv: nn.Conv2d) -> dict[str, Any]:
    """Return constructor arguments for a convolution like `conv`, its image channels counted.

    The device is "meta", where making a layer draws no random number; `to_empty` then moves it.
    """
    sizes = ("in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups")
    return {
        **{name: getattr(conv, name) for name in (*sizes, "padding", "padding_mode")},
        "bias": conv.bias is not None,
        "device": "meta",
        "dtype": conv.weight.dtype,
    }


def check_is_plain(conv: nn.Conv2d) -> None:
    """Refuse, with a ValueError, what is not exactly a 2-D convolution with its own weight."""
    if type(conv) is not nn.Conv2d or type(conv.weight) is not nn.Parameter:
        raise ValueError(
            f"`conv` must be exactly an nn.Conv2d with its own weight, got {type(conv).__name__}; "
            "give the plain convolution."
        )


@torch.no_grad()
def copy_image_part(source: nn.Conv2d, target: nn.Conv2d) -> None:
    """Copy the weights that see the image, and the bias; frozen ones are frozen in the copy."""
    target.weight[:, : target.in_channels].copy_(source.weight[:, : source.in_channels])
    target.weight.requires_grad_(source.weight.requires_grad)
    if target.bias is not None and source.bias is not None:
        target.bias.copy_(source.bias).requires_grad_(source.bias.requires_grad)


def plain_convolution(layer: nn.Conv2d) -> nn.Conv2d:
    """Make an ordinary convolution of the weights of `layer` that see the image, and its bias."""
    conv = nn.Conv2d(**conv_arguments(layer)).to_empty(device=layer.weight.device)
    copy_image_part(layer, conv)
    return conv


@torch.fx.wrap  # it asks how the output lies in memory
def add_map(output: Tensor, position_map: Tensor) -> Tensor:
    """Return a map [C_out, H', W'] added to every image's output.

    Where channels come last in memory, the sum is made of tensors [..., H', W', C_out], so that the
    gradient's sum over the images runs along memory; across it, that sum takes ten times as long.
    """
    if output.dim() == 4 and output.stride(1) == 1:
        pixels = position_map.permute(1, 2, 0).contiguous()
        return (output.permute(0, 2, 3, 1) + pixels).permute(0, 3, 1, 2)
    return output + position_map


def sum_over_images(gradient: Tensor) -> Tensor:
    """Sum [B, C, H, W] over B, along memory where channels come last; returns [C, H, W]."""
    return gradient.permute(0, 2, 3, 1).sum(0).permute(2, 0, 1)


@torch.fx.wrap  # it looks at the shape
def _checked(images: Tensor, in_channels: int) -> Tensor:
    if images.dim() not in (3, 4):
        raise ValueError(
            f"`input` must have shape [B, C, H, W] or [C, H, W], got {images.dim()} dimensions."
        )
    if images.shape[-3] != in_channels:
        raise ValueError(
            f"`input` must have {in_channels} image channels (the layer adds the coordinates), "
            f"got {images.shape[-3]}."
        )
    return images


class ExtraChannelConv2d(nn.Conv2d):
    """Convolution over the image and K further channels that are the same for every image.

    What the two classes that differ in those channels share: `CoordConv2d` and the control with
    random channels. A subclass says what the channels are.

    The result is that of concatenating the channels to the image and convolving, padding included,
    but the convolution is split. The channels do not depend on the batch, so their part and the
    bias form one map [C_out, H', W'] that is added to every image's output.

    Attributes:
        weight: [C_out, C_in + K, kernel height, kernel width], image channels first.
        bias: [C_out] or None.
        in_channels: C_in, without the K extra channels.
    """

    def __init__(
        self, in_channels: int, *, extra_channel_count: int, groups: int, **conv_arguments: Any
    ):
        if groups != 1:
            raise ValueError(
                f"`groups` must be 1, since every filter sees the coordinates, got {groups}."
            )
        if in_channels < 1:
            raise ValueError(f"`in_channels` must be at least 1, got {in_channels}.")
        super().__init__(in_channels + extra_channel_count, groups=groups, **conv_arguments)
        self.in_channels = in_channels

    def _extra_channels(self, height: int, width: int) -> Tensor:
        """Return the channels [K, H, W] for an input size, of the weight's dtype and device."""
        raise NotImplementedError

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name nn.Conv2d gives it
        """Convolve the image and the extra channels.

        Args:
            input: [B, C_in, H, W] or [C_in, H, W], of the weight's dtype.

        Returns:
            [B, C_out, H', W'] or [C_out, H', W'].

        Raises:
            ValueError: If the input has another number of dimensions or channels.
        """
        input = _checked(input, self.in_channels)  # noqa: A001
        height, width = input.shape[-2:]
        weight, position_map = self.fold(height, width)
        return add_map(self._conv_forward(input, weight, None), position_map)

    @torch.no_grad()
    def coordinate_map(self, height: int, width: int) -> Tensor:
        """Return what position adds to an output, bias apart: [C_out, H', W'], no gradient."""
        return self._make_map(self._split_weight()[1], None, height, width).contiguous()

    def fold(self, height: int, width: int, patches: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the layer as an ordinary convolution and a map, for an input of H x W.

        `conv(input, weight) + map` is what the layer computes; both follow its parameters, with
        gradient. Who folds often gives what `patches` returned, which depends on no parameter.

        Returns:
            The weight [C_out, C_in, kernel height, kernel width], and the map [C_out, H', W'] with
            the bias in it.
        """
        image_weight, extra_weight = self._split_weight()
        return image_weight, self._make_map(extra_weight, self.bias, height, width, patches)

    def patches(self, height: int, width: int) -> Tensor:
        """Return what each position sees of the channels, [H', W', K * kernel size], unpadded."""
        rows, columns = (
            (size - dilation * (kernel_size - 1) - 1) // stride + 1
            for size, kernel_size, stride, dilation in zip(
                (height, width), self.kernel_size, self.stride, self.dilation, strict=True
            )
        )
        channels = self._extra_channels(height, width)[None]
        patches = F.unfold(channels, self.kernel_size, self.dilation, stride=self.stride)[0]
        return patches.t().contiguous().view(rows, columns, -1)

    @torch.no_grad()
    def coordinate_weight_share(self) -> float:
        """Return the L2 norm of the extra channels' weights over that of all weights, in [0, 1]."""
        extra, whole = (
            torch.linalg.vector_norm(weight) for weight in (self._split_weight()[1], self.weight)
        )
        return float(extra / whole)

    @torch.no_grad()
    def init_coordinate_weights(
        self, coord_init: CoordInit = "default", generator: torch.Generator | None = None
    ) -> None:
        """Draw the extra channels' weights anew; the image's weights stay as they are.

        "zero": the layer starts as the plain convolution. "default": uniform around 0, with the
        root mean square of the image's weights as standard deviation. That makes a coordinate one
        more input channel of the same scale, however the image's weights were initialised, without
        the rescaling of those that initialising all together (with a larger fan-in) would bring.

        Args:
            coord_init: "default" or "zero".
            generator: What to draw from; torch's global generator if None.

        Raises:
            ValueError: If `coord_init` is neither.
        """
        image_weight, extra_weight = self._split_weight()
        if coord_init == "zero":
            extra_weight.zero_()
        elif coord_init == "default":
            root_mean_square = torch.linalg.vector_norm(image_weight) / image_weight.numel() ** 0.5
            unit = torch.empty(
                extra_weight.shape,
                dtype=extra_weight.dtype,
                device=extra_weight.device if generator is None else generator.device,
            ).uniform_(-(3**0.5), 3**0.5, generator=generator)
            extra_weight.copy_(unit).mul_(root_mean_square)
        else:
            raise ValueError(f"`coord_init` must be 'default' or 'zero', got {coord_init!r}.")

    def _split_weight(self) -> tuple[Tensor, Tensor]:
        """Return views of the weights [C_out, C_in, ...] and [C_out, K, ...]."""
        extra_channel_count = self.weight.shape[1] - self.in_channels
        image_weight, extra_weight = self.weight.split_with_sizes(
            (self.in_channels, extra_channel_count), dim=1
        )
        return image_weight, extra_weight

    def _make_map(
        self,
        weight: Tensor,
        bias: Tensor | None,
        height: int,
        width: int,
        patches: Tensor | None = None,
    ) -> Tensor:
        """Return a map [C_out, H', W']."""
        if self.padding_mode != "zeros" or self.padding not in ("valid", (0, 0)):
            # Not from patches, where an infinite weight would meet the padding's zeros. As a batch
            # of two, since torch pads a small single image by such zeros, but not a batch.
            channels = self._extra_channels(height, width).expand(2, -1, -1, -1)
            pair: Tensor = self._conv_forward(channels, weight, bias)
            return pair[0]
        if patches is None:
            patches = self.patches(height, width)
        return F.linear(patches, weight.flatten(1), bias).permute(2, 0, 1)


class CoordConv2d(ExtraChannelConv2d):
    """A drop-in for `nn.Conv2d` that also sees where it is.

    It equals concatenating the row, the column and, if asked for, the radius of every pixel to the
    image and convolving; the state dict is that of such a convolution. The padding applies to the
    concatenation: with zeros, the border reads as the middle of the image, whose coordinate is 0.
    See `coordinate_channels` for the coordinates and `ExtraChannelConv2d` for how it is computed.

    Args:
        in_channels: C_in, the channels of the image; the layer adds the coordinates itself.
        out_channels: C_out.
        kernel_size: As in `nn.Conv2d`, like all that follow.
        stride: Stride of the convolution.
        padding: Rows and columns added on each side, or "same" or "valid".
        dilation: Spacing of the kernel's elements.
        groups: Only 1, since every filter sees the coordinates.
        bias: Whether to add a learned bias.
        padding_mode: "zeros", "reflect", "replicate" or "circular".
        device: Where the weights are.
        dtype: Type of the weights.
        with_radius: Add the distance from the centre as a third coordinate.

    Attributes:
        weight: [C_out, C_in + K, kernel height, kernel width]. Order of its channels: those of the
            image, row, column, radius. K is 2, with the radius 3.
        bias: [C_out] or None.

    Raises:
        ValueError: If `groups` is not 1 or `in_channels` is less.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        with_radius: bool = False,
    ):
        super().__init__(
            in_channels,
            extra_channel_count=3 if with_radius else 2,
            groups=groups,
            out_channels=out_channels,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            bias=bias,
            padding_mode=padding_mode,
            device=device,
            dtype=dtype,
        )
        self.with_radius = with_radius

    @classmethod
    def from_conv2d(
        cls,
        conv: nn.Conv2d,
        *,
        with_radius: bool = False,
        coord_init: CoordInit = "default",
        generator: torch.Generator | None = None,
    ) -> "CoordConv2d":
        """Make a layer that starts with the weights and the bias of `conv`, bit for bit.

        Args:
            conv: The plain convolution; it is not changed.
            with_radius: As in the class.
            coord_init: See `init_coordinate_weights`.
            generator: What to draw the coordinates' weights from; torch's global one if None.

        Raises:
            ValueError: If `conv` is not exactly an `nn.Conv2d` or has groups, or for an unknown
                `coord_init`.
        """
        check_is_plain(conv)
        layer = cls(**conv_arguments(conv), with_radius=with_radius)
        layer.to_empty(device=conv.weight.device)
        copy_image_part(conv, layer)
        layer.init_coordinate_weights(coord_init, generator)
        return layer

    def _extra_channels(self, height: int, width: int) -> Tensor:
        """Return the coordinates [K, H, W] for an input size, of the weight's dtype and device."""
        return coordinate_channels(
            height,
            width,
            with_radius=self.with_radius,
            device=self.weight.device,
            dtype=self.weight.dtype,
        )

    def extra_repr(self) -> str:
        """Describe the layer as `nn.Conv2d` does."""
        plain: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return plain + (", with_radius=True" if self.with_radius else "")
