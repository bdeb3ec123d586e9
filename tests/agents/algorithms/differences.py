"""How far two networks that learned the same are apart."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def largest_difference(ours: nn.Module, theirs: nn.Module, start: nn.Module) -> float:
    """Over all parameters, of the gradients and of what was learned, relative to their norms.

    About 1e-5 by rounding alone; a few percent where rounding decided whether a unit is on. A
    gradient below 1e-6, as of a policy that is certain, is nothing but rounding.
    """
    norm = torch.linalg.vector_norm
    expected, before = dict(theirs.named_parameters()), dict(start.named_parameters())
    differences = []
    for name, parameter in ours.named_parameters():
        there = expected[name]
        assert parameter.grad is not None, name
        assert there.grad is not None, name
        differences.append(norm(parameter.grad - there.grad) / (norm(there.grad) + 1e-6))
        differences.append(norm(parameter - there) / norm(there - before[name]))
    return float(max(difference.item() for difference in differences))


def learn_alike(learn_beside_sb3: Callable[[int], tuple[float, Any, Any]]) -> tuple[Any, Any]:
    """This project's agent and SB3's, of the first of three seeds in which they learn the same.

    Where rounding decides whether a unit is on, gradients differ by its share; so not every seed
    has to agree. Given a seed, `learn_beside_sb3` returns how far the two are apart, and the two.
    """
    for seed in (1, 2, 3):
        difference, *agents = learn_beside_sb3(seed)
        assert difference < 0.2
        if difference < 1e-3:
            ours, theirs = agents
            return ours, theirs
    raise AssertionError("no seed agrees")
