"""CoordConv: a convolution that sees the row and the column of every pixel.

Liu et al., "An intriguing failing of convolutional neural networks and the CoordConv solution",
NeurIPS 2018, arXiv 1807.03247.

Shapes in this file: B batch, C_in image channels, K extra channels, C_out filters, H x W input rows
and columns, H' x W' output rows and columns.
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CoordInit = Literal["default", "zero"]


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
    return {
        "in_channels": conv.in_channels,
        "out_channels": conv.out_channels,
        "kernel_size": conv.kernel_size,
        "stride": conv.stride,
        "padding": conv.padding,
        "dilation": conv.dilation,
        "groups": conv.groups,
        "bias": conv.bias is not None,
        "padding_mode": conv.padding_mode,
        "device": "meta",
        "dtype": conv.weight.dtype,
    }


@torch.no_grad()
def copy_image_part(source: nn.Conv2d, target: nn.Conv2d) -> None:
    """Copy the weights that see the image, and the bias, from one convolution to another."""
    target.weight[:, : target.in_channels].copy_(source.weight[:, : source.in_channels])
    if target.bias is not None and source.bias is not None:
        target.bias.copy_(source.bias)


def plain_convolution(layer: nn.Conv2d) -> nn.Conv2d:
    """Make an ordinary convolution of the weights of `layer` that see the image, and its bias."""
    conv = nn.Conv2d(**conv_arguments(layer)).to_empty(device=layer.weight.device)
    copy_image_part(layer, conv)
    return conv


def add_map(output: Tensor, position_map: Tensor) -> Tensor:
    """Add a map [C_out, H', W'] to every image's output, and return the sum.

    `output` is written over, unless the map needs a gradient and channels come last. Then the sum
    is made of tensors [..., H', W', C_out], so that the gradient's sum over the images runs along
    memory; across it, that sum takes ten times as long. The map is first brought into the output's
    memory layout, and stays a part of the graph.
    """
    position_map = _with_layout_of(output, position_map)
    if output.dim() == 4 and output.stride(1) == 1 and position_map.requires_grad:
        pixels: Tensor = output.permute(0, 2, 3, 1) + position_map.permute(1, 2, 0)
        return pixels.permute(0, 3, 1, 2)
    return output.add_(position_map)


def sum_over_images(gradient: Tensor) -> Tensor:
    """Sum [B, C, H, W] over B, along memory where channels come last; returns [C, H, W]."""
    return gradient.permute(0, 2, 3, 1).sum(0).permute(2, 0, 1)


class _StoredMap(NamedTuple):
    """A map and everything it was made from."""

    geometry: tuple[object, ...]
    sources: tuple[Tensor | None, ...]
    map: Tensor


class ExtraChannelConv2d(nn.Conv2d):
    """Convolution over the image and K further channels that are the same for every image.

    What the two classes that differ in those channels share: `CoordConv2d` and the control with
    random channels. A subclass says what the channels are.

    The result is that of concatenating the channels to the image and convolving, padding included,
    but the convolution is split. The channels do not depend on the batch, so their part and the
    bias form one map [C_out, H', W'] that is added to every image's output: the product of their
    weights with what each position sees of the channels. Where the map needs no
    gradient it is kept, on the CPU, and used again for as long as the VALUES it was made from are
    the same. (A tensor's version counter does not tell: fused optimisers and writes through
    `.data` leave it alone.) On an accelerator that comparison would make the host wait for the
    device, so there the map is made anew in every call.

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
        self._stored_map: _StoredMap | None = None

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
        if input.dim() not in (3, 4):
            raise ValueError(
                f"`input` must have shape [B, C, H, W] or [C, H, W], got {input.dim()} dimensions."
            )
        if input.shape[-3] != self.in_channels:
            raise ValueError(
                f"`input` must have {self.in_channels} image channels (the layer adds the "
                f"coordinates), got {input.shape[-3]}."
            )
        image_weight, extra_weight = self._split_weight()
        image: Tensor = self._conv_forward(input, image_weight, None)
        return add_map(image, self._map_for(image, extra_weight, *input.shape[-2:]))

    @torch.no_grad()
    def coordinate_map(self, height: int, width: int) -> Tensor:
        """Return what position adds to each filter's output for an input size, without the bias.

        Args:
            height: H.
            width: W.

        Returns:
            [C_out, H', W'], a new tensor without gradient.
        """
        return self._make_map(self._split_weight()[1], None, height, width).contiguous()

    def fold(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return the layer as an ordinary convolution and a map, for an input size.

        `conv(input, weight) + map` is what the layer computes; both follow its parameters, with
        gradient.

        Args:
            height: H.
            width: W.

        Returns:
            The weight [C_out, C_in, kernel height, kernel width], and the map [C_out, H', W'] with
            the bias in it.
        """
        image_weight, extra_weight = self._split_weight()
        return image_weight, self._make_map(extra_weight, self.bias, height, width)

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

    def _map_sources(self, extra_weight: Tensor) -> tuple[Tensor | None, ...]:
        """Return all values that the map depends on: weights, bias, then any others."""
        return extra_weight, self.bias

    def _may_store(self) -> bool:
        """Tell whether results may outlive this call.

        Not while torch.compile or jit traces, nor with weights that are not the layer's own: those
        that `torch.func` or a parametrisation puts in place may carry a batch or a tangent.
        """
        return (
            not torch.compiler.is_compiling()
            and not torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
            and type(self.weight) is nn.Parameter
            and (self.bias is None or type(self.bias) is nn.Parameter)
        )

    def _map_for(self, image: Tensor, extra_weight: Tensor, height: int, width: int) -> Tensor:
        """Return the map, bias included, that belongs to the image part's output `image`."""
        sources = self._map_sources(extra_weight)
        needs_gradient = torch.is_grad_enabled() and any(
            source is not None and source.requires_grad for source in sources
        )
        of_numbers = type(image) is Tensor  # not of shapes alone, as under FakeTensorMode
        if needs_gradient or image.device.type != "cpu" or not of_numbers or not self._may_store():
            return self._make_map(extra_weight, self.bias, height, width)

        geometry = (
            *self._geometry(height, width),
            image.stride()[-3:],
            image.dtype,  # also tells whether autocast is on
        )
        stored = self._stored_map
        if (
            stored is not None
            and stored.geometry == geometry
            and all(map(_have_equal_values, stored.sources, sources))
        ):
            return stored.map
        # Ordinary tensors, which a later call that records gradients may use; and a map made from
        # the copies, so that both agree whatever other threads write meanwhile.
        with torch.inference_mode(False), torch.no_grad():
            copies = tuple(None if source is None else source.clone() for source in sources)
            weight, bias, *_ = copies
            assert weight is not None
            new_map = _with_layout_of(image, self._make_map(weight, bias, height, width))
        self._stored_map = _StoredMap(geometry, copies, new_map)
        return new_map

    def _make_map(self, weight: Tensor, bias: Tensor | None, height: int, width: int) -> Tensor:
        """Return a map [C_out, H', W'], its channels last in memory."""
        return F.linear(self._patches(height, width), weight.flatten(1), bias).permute(2, 0, 1)

    def _patches(self, height: int, width: int) -> Tensor:
        """Return what each output position sees of the channels, [H', W', K * kernel size]."""
        channels = self._extra_channels(height, width)[None]
        padding = self._reversed_padding_repeated_twice
        if self.padding_mode != "zeros":
            padded = F.pad(channels, padding, self.padding_mode)
        elif isinstance(self.padding, str):
            padded = F.pad(channels, padding)
        else:  # `padding` may have been set since, which a convolution with zeros follows
            padded = F.pad(channels, [size for size in reversed(self.padding) for _ in range(2)])
        rows, columns = (
            (size - dilation * (kernel_size - 1) - 1) // stride + 1
            for size, kernel_size, stride, dilation in zip(
                padded.shape[-2:], self.kernel_size, self.stride, self.dilation, strict=True
            )
        )
        patches = F.unfold(padded, self.kernel_size, self.dilation, stride=self.stride)[0]
        return patches.t().contiguous().view(rows, columns, -1)

    def _geometry(self, height: int, width: int) -> tuple[object, ...]:
        """Return all that the patches depend on, beside the channels."""
        return (
            height,
            width,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.padding_mode,
            tuple(self._reversed_padding_repeated_twice),
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stored_map": None}


class CoordConv2d(ExtraChannelConv2d):
    """A drop-in for `nn.Conv2d` that also sees where it is.

    It equals concatenating the row, the column and, if asked for, the radius of every pixel to the
    image and convolving; the state dict is that of such a convolution. The padding applies to the
    concatenation: with zeros, the border reads as the middle of the image, whose coordinate is 0.
    See `coordinate_channels` for the coordinates and `ExtraChannelConv2d` for how it is computed.
    What the kernel sees of the coordinates at each position, K x kernel size x H' x W' numbers, is
    kept for the last input size.

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
        self._stored_patches: tuple[tuple[object, ...], Tensor] | None = None

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
            ValueError: If `conv` has groups, or for an unknown `coord_init`.
        """
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

    def _patches(self, height: int, width: int) -> Tensor:
        if not self._may_store():
            return super()._patches(height, width)
        key = (*self._geometry(height, width), self.weight.dtype, self.weight.device)
        stored = self._stored_patches
        if stored is None or stored[0] != key:
            with torch.inference_mode(False):
                stored = key, super()._patches(height, width)
            if type(stored[1]) is Tensor:  # of numbers, not of shapes alone
                self._stored_patches = stored
        return stored[1]

    def extra_repr(self) -> str:
        """Describe the layer as `nn.Conv2d` does."""
        plain: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return plain + (", with_radius=True" if self.with_radius else "")

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_stored_patches": None}


def _have_equal_values(stored: Tensor | None, current: Tensor | None) -> bool:
    if stored is None or current is None:
        return stored is current
    return stored.dtype == current.dtype and torch.equal(stored, current)


def _with_layout_of(output: Tensor, position_map: Tensor) -> Tensor:
    if output.stride(-3) == 1:  # channels last
        return position_map.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    return position_map.contiguous()
