"""Which network a stranger's zip is for, by its weights' shapes and by what SB3 wrote in words."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from stable_baselines3.common.torch_layers import NatureCNN
from torch import Tensor, nn

from agents.models.architecture import infer_architecture
from agents.models.model_file import ModelFile, read_model_zip
from tests.agents.models.conftest import FEATURES, SMALL
from tests.random_frames import RandomFrames
from tests.refusals import refusal


class _LeakyCNN(NatureCNN):
    """The same weights, another network."""

    def forward(self, observations: Tensor) -> Tensor:
        return nn.functional.leaky_relu(super().forward(observations) - 1)


class _HotPolicy(ActorCriticCnnPolicy):
    """Likewise."""


def save(path: Path, algorithm: str, policy: Any = "CnnPolicy", **policy_kwargs: Any) -> Any:
    model = getattr(stable_baselines3, algorithm)(
        policy,
        RandomFrames(1),
        device="cpu",
        policy_kwargs=SMALL | policy_kwargs,
        **({"buffer_size": 10} if algorithm == "DQN" else {}),
    )
    model.save(path)
    return model


@pytest.fixture
def a2c_state(a2c) -> dict[str, Tensor]:
    return dict(a2c.policy.state_dict())


def test_actor_and_critic_that_differ_share_nothing(a2c_state):
    state = {name: tensor.clone() for name, tensor in a2c_state.items()}
    state["vf_features_extractor.linear.0.bias"] += 1
    assert not infer_architecture(
        ModelFile(Path("m.zip"), {}, state, None, None)
    ).share_features_extractor


def test_another_extractor_or_policy_of_the_same_shapes_is_refused(tmp_path):
    path = tmp_path / "m.zip"
    other = "which makes another network of its weights"
    remedy = "give an agent of SB3's own CnnPolicy on uint8 frames."
    save(path, "PPO", features_extractor_class=_LeakyCNN, net_arch=[])
    assert refusal(infer_architecture, read_model_zip(path)) == (
        f"{path} was trained with 'features_extractor_class' = \"<class '{__name__}._LeakyCNN'>\", "
        f"{other}; {remedy}"
    )
    save(path, "A2C", _HotPolicy)
    assert refusal(infer_architecture, read_model_zip(path)) == (
        f"{path} was trained with 'policy_class' = {__name__!r}, {other}; {remedy}"
    )


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"policy_kwargs": {"normalize_images": "no"}}, "'normalize_images' = 'no'"),
        ({"policy_kwargs": {"normalize_images": 0}}, "'normalize_images' = 0"),
        ({"policy_kwargs": {"use_sde": True}}, "'use_sde' = True"),
        ({"policy_kwargs": {"new\nkey": {}}}, r"'new\nkey' = {}"),
        (
            {"policy_kwargs": {"features_extractor_class": None}},
            "'features_extractor_class' = None",
        ),
    ],
)
def test_settings_that_are_not_known_are_refused(a2c_state, data, named):
    file = ModelFile(Path("m.zip"), data, a2c_state, None, None)
    assert refusal(infer_architecture, file) == (
        f"m.zip was trained with {named}, which makes another network of its weights; give an "
        "agent of SB3's own CnnPolicy on uint8 frames."
    )


def test_frames_that_are_scaled_already_are_not_those_of_the_games(tmp_path):
    env = RandomFrames(1)
    env.observation_space = spaces.Box(0, 1, (4, 84, 84), np.float32)
    kwargs = {"normalize_images": False}
    stable_baselines3.A2C("CnnPolicy", env, device="cpu", policy_kwargs=kwargs).save(
        tmp_path / "m.zip"
    )
    assert "'observation_space' = 'float32'" in refusal(
        infer_architecture, read_model_zip(tmp_path / "m.zip")
    )


@pytest.mark.parametrize(
    "change",
    [
        {"features_extractor.cnn.0.weight": torch.zeros(32, 4, 4, 4)},
        {"features_extractor.cnn.0.weight": torch.zeros(32)},
        {"features_extractor.cnn.0.weight": None},
        {"features_extractor.linear.0.weight": torch.zeros(FEATURES, 100)},
        {"action_net.weight": torch.zeros(5)},
        {"action_net.weight": torch.zeros(5, FEATURES + 1)},
        {"action_net.bias": None},
        {"value_net.weight": torch.zeros(2, FEATURES)},
        {"mlp_extractor.policy_net.0.weight": torch.zeros(64, FEATURES)},
        {"log_std": torch.zeros(5)},
        None,
    ],
)
def test_other_shapes_are_refused(a2c_state, change):
    changed: dict[str, Tensor | None] = {} if change is None else {**a2c_state, **change}
    state = {name: tensor for name, tensor in changed.items() if tensor is not None}
    file = ModelFile(Path("m.zip"), {}, state, None, None)
    assert refusal(infer_architecture, file) == (
        "m.zip is not an A2C, PPO or DQN agent of Stable-Baselines3 with the Nature CNN on 84x84 "
        "frames and no layer behind it (`net_arch`); give such a model, or a run of this project."
    )
