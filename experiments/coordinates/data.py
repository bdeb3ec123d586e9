"""The data set "Not-so-Clevr" of section 4: every position of one square on a canvas.

Shapes in this package: B batch, C channels, H rows and W columns of the canvas (equal here), N
examples. A position is a pair (row, column) of whole numbers, the centre of the square.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

SplitName = Literal["uniform", "quadrant"]

SQUARE_RADIUS = 4  # pixels from the centre to the edge: the square is 9 x 9
_TEST_SHARE = 768 / 3136  # of the uniform split, as the released data set has it


class Split(NamedTuple):
    """The examples to learn from, and those to generalise to.

    Attributes:
        train: [N, 2], int64.
        test: [N, 2], int64.
    """

    train: Tensor
    test: Tensor


def all_positions(canvas_size: int) -> Tensor:
    """List the centres at which the whole square is on the canvas, row by row.

    Args:
        canvas_size: H = W, in pixels.

    Returns:
        [N, 2], int64; 3136 positions, 4 to 59 each way, for the paper's 64 x 64 pixels.
    """
    centres = torch.arange(SQUARE_RADIUS, canvas_size - SQUARE_RADIUS)
    return torch.cartesian_prod(centres, centres)


def split_positions(split: SplitName, canvas_size: int, seed: int) -> Split:
    """Divide the positions as one of the paper's two splits does.

    Args:
        split: "uniform": a random quarter is held out (768 of 3136). "quadrant": all positions
            right of and below the centre are (729 of 3136); the seed has no part in it.
        canvas_size: H = W, in pixels.
        seed: Of the uniform split's permutation.

    Returns:
        The two parts, each in the order of `all_positions`.
    """
    positions = all_positions(canvas_size)
    if split == "quadrant":
        held_out = (positions > canvas_size // 2).all(1)
    else:
        order = torch.randperm(len(positions), generator=torch.Generator().manual_seed(seed))
        held_out = torch.zeros(len(positions), dtype=torch.bool)
        held_out[order[: round(len(positions) * _TEST_SHARE)]] = True
    return Split(positions[~held_out], positions[held_out])


def batches_of(positions: Tensor, size: int) -> Iterator[Tensor]:
    """Yield positions [N, 2] in groups of `size`, the last one possibly smaller."""
    for first in range(0, len(positions), size):
        yield positions[first : first + size]


def draw_points(positions: Tensor, canvas_size: int) -> Tensor:
    """Draw every position as one pixel.

    Args:
        positions: [B, 2], int64.
        canvas_size: H = W, in pixels.

    Returns:
        [B, 1, H, W], float32: 1 at the position, 0 elsewhere.
    """
    images = positions.new_zeros(len(positions), 1, canvas_size, canvas_size, dtype=torch.float32)
    examples = torch.arange(len(positions), device=positions.device)
    images[examples, 0, positions[:, 0], positions[:, 1]] = 1
    return images


def draw_squares(positions: Tensor, canvas_size: int) -> Tensor:
    """Draw the 9 x 9 square around every position.

    Args:
        positions: [B, 2], int64.
        canvas_size: H = W, in pixels.

    Returns:
        [B, H, W], float32: 1 within the square, 0 elsewhere.
    """
    axis = torch.arange(canvas_size, device=positions.device)
    rows, columns = (
        (axis - centre[:, None]).abs() <= SQUARE_RADIUS for centre in positions.unbind(1)
    )
    return (rows[:, :, None] & columns[:, None, :]).float()


def scale_positions(positions: Tensor, canvas_size: int) -> Tensor:
    """Scale positions to [-1, 1], as CoordConv scales the coordinates of the canvas.

    Args:
        positions: [B, 2], int64.
        canvas_size: H = W, in pixels.

    Returns:
        [B, 2], float32: -1 at the first row or column, 1 at the last.
    """
    return positions * (2 / (canvas_size - 1)) - 1
