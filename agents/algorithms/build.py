"""From a config to an SB3 algorithm."""

from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from agents.algorithms.a2c import A2C
from agents.algorithms.dqn import DQN
from agents.algorithms.replay_buffer import ReplayBuffer
from agents.models.own_extractor import find_extractor
from configs.run_config import (
    A2CHyperparameters,
    DQNHyperparameters,
    NetworkSettings,
    RunConfig,
)
from policies.extractors import NatureCoordCNN

# Hyper-parameters that SB3's algorithms do not take under these names; they take all the others.
_NOT_SB3S = {
    "n_envs",
    "learning_rate_schedule",
    "ortho_init",
    "optimizer",
    "rms_prop_eps",
    "rms_prop_alpha",
}


def make_agent(
    config: RunConfig, env: VecEnv, device: torch.device, replay_folder: Path | None = None
) -> A2C | DQN:
    """The untrained agent of a config: SB3's algorithm with this project's extractor.

    Args:
        config: The run's config.
        env: What it plays.
        device: Where it computes; see `find_device`.
        replay_folder: Where DQN keeps its replay buffer; None for memory alone.
    """
    settings = config.hyperparameters
    rate = settings.learning_rate
    schedule = (
        LinearSchedule(rate, 0.0, 1.0) if settings.learning_rate_schedule == "linear" else rate
    )
    arguments: dict[str, Any] = settings.model_dump(exclude=_NOT_SB3S) | {
        "policy": "CnnPolicy",
        "env": env,
        "learning_rate": schedule,
        "seed": config.run.seed,
        "device": device,
        "precision": config.run.precision,
    }
    if isinstance(settings, A2CHyperparameters):
        return A2C(
            **arguments,
            policy_kwargs=extractor_arguments(config.network)
            | {"ortho_init": settings.ortho_init}
            | _optimizer_arguments(settings),
        )
    return DQN(
        **arguments,
        replay_buffer_class=ReplayBuffer,
        replay_buffer_kwargs={
            "folder": replay_folder,
            "slack_transitions": replay_slack(config),
            "seed": config.run.seed,
        },
        policy_kwargs=extractor_arguments(config.network) | {"optimizer_kwargs": {"fused": True}},
    )


def _optimizer_arguments(settings: A2CHyperparameters) -> dict[str, Any]:
    """The `policy_kwargs` that give an SB3 policy its optimiser."""
    eps = settings.rms_prop_eps
    if settings.optimizer == "adam":
        return {
            "optimizer_class": torch.optim.Adam,
            "optimizer_kwargs": {"eps": eps, "fused": True},
        }
    return {
        "optimizer_class": RMSpropTFLike
        if settings.optimizer == "rmsprop_tf_like"
        else torch.optim.RMSprop,
        "optimizer_kwargs": {"alpha": settings.rms_prop_alpha, "eps": eps},
    }


def replay_slack(config: RunConfig) -> int:
    """Frames, and so transitions too, that may be stored since the older of the kept checkpoints.

    Checkpoints are up to one update apart from their interval, and a twentieth more frames than
    transitions is far more than the beginnings of episodes add.
    """
    settings = config.hyperparameters
    assert isinstance(settings, DQNHyperparameters)
    apart = config.execution.checkpoint_every_agent_steps + settings.train_freq * settings.n_envs
    return 2 * apart * 21 // 20 + 1_000


def extractor_arguments(network: NetworkSettings) -> dict[str, Any]:
    """The `policy_kwargs` that put an arm's extractor into an SB3 policy, its heads right behind.

    Raises:
        ValueError: If it is one of the user's own that was not loaded; one line.
    """
    # SB3 knows NatureCNN by name and puts two layers of 64 behind any other extractor.
    heads: dict[str, Any] = {"net_arch": []}
    if network.extractor:
        return heads | {
            "features_extractor_class": find_extractor(network),
            "features_extractor_kwargs": network.extractor_arguments,
        }
    return heads | {
        "features_extractor_class": NatureCoordCNN,
        "features_extractor_kwargs": {
            "coord_layers": network.coord_layers,
            "position": network.position,
            "with_radius": network.with_radius,
            "coord_init": network.coord_init,
        },
    }
