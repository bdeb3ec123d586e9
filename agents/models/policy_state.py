"""Saved weights, put into a policy after every value was checked."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from agents.models.archive import format_shape, quote


def load_policy_state(policy: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Copy a state dict into a policy after every tensor of it was checked.

    Tensors that SB3 saves under several names, because its actor and critic share them, may be
    missing under all names but one, as in files older than SB3 1.7.

    Raises:
        ValueError: A name, shape or dtype differs, a value is NaN or infinite where the policy's
            own tensor is not the same, as a mask is, or two names that are one tensor in the policy
            have different values; the policy is unchanged.
    """
    own = policy.state_dict()
    names_of: dict[tuple[int, ...], list[str]] = {}
    for name, tensor in own.items():
        names_of.setdefault((tensor.data_ptr(), *tensor.shape), []).append(name)
    state = dict(state)
    for names in names_of.values():
        given = [name for name in names if name in state]
        state.update({name: state[given[0]] for name in names if given and name not in state})
    remedy = "give a model trained with this network on this game"
    for name in sorted(own.keys() | state.keys()):
        if name not in own:
            fault: str | None = "is not in this network"
        elif name not in state:
            fault = "is missing"
        else:
            fault = _find_misfit(state[name], own[name])
        if fault:
            raise ValueError(f"{source} does not fit: {quote(name)} {fault}; {remedy}.")
    for first, *others in names_of.values():
        for name in others:
            if not torch.equal(state[first], state[name]):
                raise ValueError(
                    f"{source} does not fit: {first!r} and {name!r} differ, which this network "
                    f"shares; set `share_features_extractor` to False."
                )
    policy.load_state_dict(state, strict=True)


def _find_misfit(value: Tensor, like: Tensor) -> str | None:
    """What keeps ``value`` from being copied into ``like``; None if nothing does."""
    if value.shape != like.shape:
        return f"has shape {format_shape(value)}, not {format_shape(like)}"
    if value.dtype != like.dtype:
        return f"is {value.dtype}, not {like.dtype}"
    if not torch.isfinite(value).all() and not torch.equal(value, like):
        return "holds NaN or infinite values"
    return None
