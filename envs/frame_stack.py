"""Stacks of the last four frames, kept packed.

A pixel's four values are the bytes of one 32-bit number, the oldest lowest. Making room for a frame
is then one shift, and the observation [4, rows, columns] has its channels last in memory, as
convolutions like it: bringing it into that layout takes ten times as long as turning it into
floating point.
"""

import numpy as np
import numpy.typing as npt

STACKED_FRAMES = 4  # Mnih et al. 2015

Stacks = npt.NDArray[np.uint32]
Frames = npt.NDArray[np.uint8]


def empty_stacks(*shape: int) -> Stacks:
    """Stacks of black frames; the shape is that of the frames."""
    return np.zeros(shape, dtype="<u4")


def frames_of(stacks: Stacks) -> Frames:
    """The frames [..., 4] of stacks [...], the newest last; a view."""
    return stacks.view(np.uint8).reshape(*stacks.shape, STACKED_FRAMES)


def drop_oldest(stacks: Stacks) -> None:
    """Move every frame down by one, in place; the newest is black."""
    np.right_shift(stacks, 8, out=stacks)


def observations_of(stacks: Stacks) -> Frames:
    """Observations [N, 4, rows, columns] of stacks [N, rows, columns], the newest last; a view."""
    return frames_of(stacks).transpose(0, 3, 1, 2)
