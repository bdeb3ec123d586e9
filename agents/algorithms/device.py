"""Where an agent computes, and how arrays get there."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from configs.run_config import check_device_name


def find_device(name: str) -> torch.device:
    """The device a name stands for; "auto" is the GPU if there is one.

    Raises:
        ValueError: If it stands for none, or there is no such device here.
    """
    check_device_name(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    # Asked before torch, which keeps the number in a byte and takes cuda:256 for cuda:0.
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"`device` {name} is not there: {torch.cuda.device_count()} GPUs found; use auto."
        )
    return torch.device(name)


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
