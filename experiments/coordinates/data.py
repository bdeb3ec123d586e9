"""The data set "Not-so-Clevr" of section 4: every position of one square on a canvas.

Shapes in this package: B batch, C channels, H rows and W columns of the canvas (equal here), N
examples. A position is a pair (row, column) of whole numbers, the centre of the square.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

SplitName = Literal["uniform", "quadrant"]

SQUARE_RADIUS = 4  # pixels from the centre to the edge: the square is 9 x 9
_TEST_SHARE = 768 / 3136  # of the uniform split, as the released data set has it


class Split(NamedTuple):
    """The examples to learn from, and those to generalise to; each [N, 2], int64."""

    train: Tensor
    test: Tensor


def split_positions(split: SplitName, canvas_size: int, seed: int) -> Split:
    """Divide the positions, where the whole square is on the canvas, as the paper's splits do.

    There are 3136 of them, 4 to 59 each way, on the paper's 64 x 64 pixels.

    Args:
        split: "uniform": a random quarter is held out (768 of 3136). "quadrant": all positions
            right of and below the centre are (729 of 3136).
        canvas_size: H = W, in pixels.
        seed: Of the uniform split's permutation.

    Returns:
        The two parts, each row by row.
    """
    centres = torch.arange(SQUARE_RADIUS, canvas_size - SQUARE_RADIUS)
    positions = torch.cartesian_prod(centres, centres)
    if split == "quadrant":
        held_out = (positions > canvas_size // 2).all(1)
    else:
        places = shuffle(torch.arange(len(positions)), torch.Generator().manual_seed(seed))
        held_out = torch.zeros(len(positions), dtype=torch.bool)
        held_out[places[: round(len(positions) * _TEST_SHARE)]] = True
    return Split(positions[~held_out], positions[held_out])


def shuffle(values: Tensor, generator: torch.Generator) -> Tensor:
    """Bring the rows of a tensor, on any device, into an order drawn from a CPU's generator."""
    order = torch.randperm(len(values), generator=generator)
    return values[order.to(values.device)]


def draw_points(positions: Tensor, canvas_size: int) -> Tensor:
    """Draw positions [B, 2] as one pixel each: [B, 1, H, W], float32, 1 there and 0 elsewhere."""
    images = positions.new_zeros(len(positions), 1, canvas_size, canvas_size, dtype=torch.float32)
    examples = torch.arange(len(positions), device=positions.device)
    images[examples, 0, positions[:, 0], positions[:, 1]] = 1
    return images


def draw_squares(positions: Tensor, canvas_size: int) -> Tensor:
    """Draw the 9 x 9 square around positions [B, 2]: [B, H, W], float32, 1 within, 0 elsewhere."""
    axis = torch.arange(canvas_size, device=positions.device)
    rows, columns = (
        (axis - centre[:, None]).abs() <= SQUARE_RADIUS for centre in positions.unbind(1)
    )
    return (rows[:, :, None] & columns[:, None, :]).float()


def scale_positions(positions: Tensor, canvas_size: int) -> Tensor:
    """Scale positions [B, 2] as CoordConv scales the coordinates of the canvas, to float32.

    -1 is the first row or column, 1 the last.
    """
    return positions * (2 / (canvas_size - 1)) - 1
