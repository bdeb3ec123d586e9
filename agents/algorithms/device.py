"""Arrays on their way to the network."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def to_device(array: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    """Return an array as a tensor; on the CPU the two share memory.

    To a GPU it goes through pinned memory, and the host does not wait for its arrival. (torch
    gives pinned memory out again only when what was read from it has arrived.)
    """
    values: Any = torch.from_numpy(array)
    if device.type == "cuda":
        values = values.pin_memory()
    tensor: Tensor = values.to(device, non_blocking=True)
    return tensor
