"""Which network a stranger's model file is for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from agents.models.model_file import ModelFile

# What `policy_kwargs` may say of weights with the Nature CNN's shapes without changing what is
# computed with them: what the shapes show, how they were initialised and how they were trained.
_HARMLESS = {
    "activation_fn",  # of layers between the CNN and the heads, and there are none
    "features_extractor_kwargs",
    "full_std",
    "log_std_init",
    "net_arch",
    "optimizer_class",
    "optimizer_kwargs",
    "ortho_init",
    "share_features_extractor",
    "use_expln",
}
_EXTRACTORS = {
    "<class 'stable_baselines3.common.torch_layers.NatureCNN'>",
    "<class 'policies.extractors.NatureCoordCNN'>",  # of the same shapes, it is the same network
}


@dataclass(frozen=True)
class Architecture:
    """What a model file tells about an SB3 ``CnnPolicy`` with the Nature CNN."""

    is_dqn: bool  # else an actor-critic, A2C's or PPO's
    actions: int
    frames: int  # stacked, grey
    features_dim: int  # that the CNN gives
    share_features_extractor: bool  # whether actor and critic use the same CNN
    normalize_images: bool  # whether it sees pixels as 0 to 1, not as 0 to 255


def infer_architecture(file: ModelFile) -> Architecture:
    """Tell from a model file alone which policy its agent needs.

    Only the three convolutions and the one linear layer of the Nature CNN, for frames of 84x84,
    with the heads right behind them are known. Weights of these shapes can be meant for another
    network all the same, so what SB3 wrote of its settings in words counts too.

    Raises:
        ValueError: It is another network; one line.
    """
    state = file.policy_state
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    is_dqn = "action_net.bias" not in shapes
    if is_dqn:
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
    if not is_dqn:
        expected |= {"value_net.weight": (1, features_dim), "value_net.bias": (1,)}
    if not (frames and actions and features_dim) or shapes != expected:
        raise ValueError(
            f"{file.path} is not an A2C, PPO or DQN agent of Stable-Baselines3 with the Nature CNN "
            "on 84x84 frames and no layer behind it (`net_arch`); give such a model, or a run of "
            "this project."
        )
    return Architecture(
        is_dqn=is_dqn,
        actions=actions,
        frames=frames,
        features_dim=features_dim,
        share_features_extractor=len(prefixes) < 3
        or all(
            torch.equal(
                state[f"pi_features_extractor.{name}"], state[f"vf_features_extractor.{name}"]
            )
            for name in cnn
        ),
        normalize_images=_read_normalize_images(file.sb3_data, str(file.path)),
    )


def _read_normalize_images(sb3_data: Mapping[str, Any], source: str) -> bool:
    """SB3's setting; all others that make another network of the same weights are refused."""
    said = {name: value for name, value in sb3_data.items() if isinstance(value, dict)}
    settings = dict(said.get("policy_kwargs", {}))
    settings["policy_class"] = said.get("policy_class", {}).get("__module__", "stable_baselines3")
    settings["observation_space"] = said.get("observation_space", {}).get("dtype", "uint8")
    normalize_images = settings.get("normalize_images", True)
    known = {
        "normalize_images": type(normalize_images) is bool,
        "features_extractor_class": str(settings.get("features_extractor_class")) in _EXTRACTORS,
        "policy_class": str(settings["policy_class"]).split(".")[0] == "stable_baselines3",
        "observation_space": settings["observation_space"] == "uint8",
    }
    for name, value in settings.items():
        if not known.get(name, name in _HARMLESS):
            raise ValueError(
                f"{source} was trained with {name[:80]!r} = {value!r:.80}, which makes another "
                "network of its weights; give an agent of SB3's own CnnPolicy on uint8 frames."
            )
    return bool(normalize_images)
