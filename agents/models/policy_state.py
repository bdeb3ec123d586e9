"""Saved weights and optimiser states, put where they belong after every value was checked."""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from agents.models.archive import format_shape, quote


def load_policy_state(
    policy: nn.Module, state: Mapping[str, Tensor], *, source: str = "the model file"
) -> None:
    """Copy a state dict into a policy after every tensor of it was checked.

    Tensors that SB3 saves under several names, because its actor and critic share them, may be
    missing under all names but one, as in files older than SB3 1.7.

    Args:
        policy: The policy; unchanged if this raises.
        state: Name to tensor.
        source: What the state's file is called in messages.

    Raises:
        ValueError: A name, shape or dtype differs, a value is NaN or infinite, or two names that
            are one tensor in the policy have different values.
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


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, state: Mapping[str, Any], *, source: str = "the model file"
) -> None:
    """Put an optimiser's saved state back after every value of it was checked.

    Of the settings saved with it only the learning rate is taken: the others are the optimiser's
    own, which follow from the config.

    Args:
        optimizer: The optimiser; unchanged if this raises.
        state: As ``optimizer.state_dict()`` gives it.
        source: What the state's file is called in messages.

    Raises:
        ValueError: It belongs to another optimiser or other parameters, or a value is NaN or
            infinite.
    """
    own_groups = optimizer.state_dict()["param_groups"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    fault = _find_group_fault(state, own_groups) or _find_entry_fault(
        state, parameters, _make_state_entry(optimizer)
    )
    if fault:
        raise ValueError(
            f"{source} does not fit the optimiser: {fault}; resume from another checkpoint."
        )
    groups = [
        {**own, "lr": saved["lr"]}
        for own, saved in zip(own_groups, state["param_groups"], strict=True)
    ]
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})


def _make_state_entry(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state that an optimiser of this kind keeps for a parameter of shape ``[1]``."""
    like = optimizer.param_groups[0]["params"][0]
    probe = nn.Parameter(torch.zeros(1, dtype=like.dtype, device=like.device))
    probe.grad = torch.zeros_like(probe)
    settings = inspect.signature(type(optimizer)).parameters
    twin = type(optimizer)(
        [probe], **{name: value for name, value in optimizer.defaults.items() if name in settings}
    )
    twin.step()
    return dict(twin.state[probe])


def _find_group_fault(state: Mapping[str, Any], own_groups: list[dict[str, Any]]) -> str | None:
    groups = state.get("param_groups")
    if state.keys() != {"state", "param_groups"} or type(groups) is not list:
        return "it is not an optimiser's state"
    if len(groups) != len(own_groups):
        return f"it has {len(groups)} parameter groups, not {len(own_groups)}"
    for group, own in zip(groups, own_groups, strict=True):
        if type(group) is not dict or type(group.get("params")) is not list:
            return "it is not an optimiser's state"
        if len(group["params"]) != len(own["params"]):
            return f"it has {len(group['params'])} parameters, not {len(own['params'])}"
        if not all(type(index) is int for index in group["params"]):
            return "it is not an optimiser's state"
        if group["params"] != own["params"]:
            return "its parameters are in another order"
        rate: Any = group.get("lr")
        if type(rate) not in (int, float) or not 0 <= rate < math.inf:
            return "its learning rate is not a finite number of at least 0"
    return None


def _find_entry_fault(
    state: Mapping[str, Any], parameters: list[Tensor], own_entry: Mapping[str, Any]
) -> str | None:
    entries = state["state"]
    if type(entries) is not dict:
        return "it is not an optimiser's state"
    for index, entry in entries.items():
        if type(index) is not int or not 0 <= index < len(parameters) or type(entry) is not dict:
            return "it has a state for no parameter"
        if entry.keys() != own_entry.keys():
            wanted = ", ".join(own_entry)
            return f"its state for parameter {index} is not {wanted}"
        for name, value in entry.items():
            own = own_entry[name]
            if isinstance(own, Tensor) and own.ndim > 0:
                misfit = _find_misfit(value, parameters[index])
            elif isinstance(value, Tensor):
                misfit = _find_misfit(value, torch.zeros((), dtype=value.dtype))
            else:
                is_number = type(value) in (int, float) and math.isfinite(value)
                misfit = None if is_number else "is not a finite number"
            if misfit:
                return f"{name!r} of parameter {index} {misfit}"
    return None


def _find_misfit(value: Any, like: Tensor) -> str | None:
    """What keeps ``value`` from being copied into ``like``; None if nothing does."""
    if not isinstance(value, Tensor):
        return "is not a tensor"
    if value.shape != like.shape:
        return f"has shape {format_shape(value)}, not {format_shape(like)}"
    if value.dtype != like.dtype:
        return f"is {value.dtype}, not {like.dtype}"
    if not bool(torch.isfinite(value).all()):
        return "holds NaN or infinite values"
    return None


@dataclass(frozen=True)
class Architecture:
    """What the shapes of a state dict tell about an SB3 ``CnnPolicy`` with the Nature CNN.

    Attributes:
        kind: ``"actor-critic"`` (A2C and PPO) or ``"dqn"``.
        actions: Number of actions.
        frames: Number of stacked grey frames.
        features_dim: Size of the features that the CNN gives.
        share_features_extractor: Whether actor and critic use the same CNN.
    """

    kind: Literal["actor-critic", "dqn"]
    actions: int
    frames: int
    features_dim: int
    share_features_extractor: bool


def infer_architecture(
    policy_state: Mapping[str, Tensor], *, source: str = "the model file"
) -> Architecture:
    """Tell from its state dict alone which policy an agent needs.

    Only the three convolutions and the one linear layer of the Nature CNN, for frames of 84x84,
    with the heads right behind them are known.

    Args:
        policy_state: Name to tensor.
        source: What the state's file is called in messages.

    Raises:
        ValueError: It is another network.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in policy_state.items()}
    kind: Literal["actor-critic", "dqn"] = "actor-critic" if "action_net.bias" in shapes else "dqn"
    if kind == "dqn":
        prefixes, heads = ["q_net.", "q_net_target."], ["q_net.q_net.0", "q_net_target.q_net.0"]
    else:
        prefixes, heads = ["", "pi_", "vf_"], ["action_net"]
        if "pi_features_extractor.linear.0.bias" not in shapes:  # written by SB3 before 1.7
            prefixes = [""]
    first = shapes.get(f"{prefixes[0]}features_extractor.cnn.0.weight", ())
    frames = first[1] if len(first) == 4 else 0
    head = shapes.get(f"{heads[0]}.weight", ())
    actions, features_dim = head if len(head) == 2 else (0, 0)
    cnn = {
        "cnn.0.weight": (32, frames, 8, 8),
        "cnn.0.bias": (32,),
        "cnn.2.weight": (64, 32, 4, 4),
        "cnn.2.bias": (64,),
        "cnn.4.weight": (64, 64, 3, 3),
        "cnn.4.bias": (64,),
        "linear.0.weight": (features_dim, 64 * 7 * 7),
        "linear.0.bias": (features_dim,),
    }
    expected: dict[str, tuple[int, ...]] = {
        f"{prefix}features_extractor.{name}": shape
        for prefix in prefixes
        for name, shape in cnn.items()
    }
    for name in heads:
        expected |= {f"{name}.weight": (actions, features_dim), f"{name}.bias": (actions,)}
    if kind == "actor-critic":
        expected |= {"value_net.weight": (1, features_dim), "value_net.bias": (1,)}
    if not (frames and actions and features_dim) or shapes != expected:
        raise ValueError(
            f"{source} is not an A2C, PPO or DQN agent of Stable-Baselines3 with the Nature CNN on "
            "84x84 frames; give such a model, or a run of this project."
        )
    return Architecture(
        kind=kind,
        actions=actions,
        frames=frames,
        features_dim=features_dim,
        share_features_extractor=len(prefixes) < 3
        or all(
            torch.equal(
                policy_state[f"pi_features_extractor.{name}"],
                policy_state[f"vf_features_extractor.{name}"],
            )
            for name in cnn
        ),
    )
