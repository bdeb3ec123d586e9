import copy
import json
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3 import A2C
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn

from agents.models.architecture import Architecture, infer_architecture
from agents.models.model_file import ModelFile, read_model_zip, verify_checksum, write_model_zip
from agents.models.policy_state import load_policy_state
from benchmarks.soak import are_equal
from tests.agents.models.conftest import FEATURES, SMALL, read_members
from tests.random_frames import RandomFrames
from tests.refusals import refusal

INTACT = "give an intact model saved by Stable-Baselines3."
NETWORK = "give a model trained with this network on this game."


@pytest.fixture
def ours(a2c, tmp_path) -> Path:
    path = Path(tmp_path / "ours.zip")
    members = {"config.json": b'{"game": "Pong"}', "resume.json": b'{"agent_steps": 4}'}
    write_model_zip(path, a2c, members)
    return path


# --- writing and reading back ---------------------------------------------------------------------


def test_what_is_written_is_read_back(ours, a2c):
    file = read_model_zip(ours, ours=True)
    assert file.path == ours
    assert file.config == {"game": "Pong"}
    assert are_equal(file.policy_state, dict(a2c.policy.state_dict()))
    assert a2c.policy.optimizer is not None
    assert are_equal(file.optimizer_state, a2c.policy.optimizer.state_dict())
    assert file.sb3_data["num_timesteps"] == 4
    assert file.sb3_data["gamma"] == 0.99
    assert file.sb3_data["policy_kwargs"]["optimizer_kwargs"] == {"eps": 1e-5}
    assert ":serialized:" not in json.dumps(file.sb3_data)
    assert file.read_member("resume.json") == b'{"agent_steps": 4}'


def test_a_foreign_file_is_read_also_packed_again(foreign, forge, a2c):
    packed = forge({}, compression=zipfile.ZIP_DEFLATED)
    for file in map(read_model_zip, (foreign, packed)):
        assert (file.config, file.optimizer_state) == (None, None)
        assert are_equal(file.policy_state, dict(a2c.policy.state_dict()))


def test_what_is_momentary_is_left_out(dqn, ours, tmp_path):
    """SB3 would save the last observations: from 442 environments on more than could be read."""
    write_model_zip(tmp_path / "dqn.zip", dqn, {})
    for path in (ours, tmp_path / "dqn.zip"):
        data = read_members(path)["data"]
        assert not {"_last_obs", "_last_episode_starts", "ep_info_buffer"} & json.loads(data).keys()
        assert len(data) < 300_000
    loaded = A2C.load(ours, env=RandomFrames(1), device="cpu")
    assert loaded.learn(4, reset_num_timesteps=False).num_timesteps == 8


def test_a_foreign_file_of_many_environments_is_read(tmp_path, a2c):
    model = copy.copy(a2c)
    model._last_obs = np.zeros((1024, 4, 84, 84), np.uint8)
    model.save(tmp_path / "m.zip")
    assert are_equal(read_model_zip(tmp_path / "m.zip").policy_state, dict(a2c.policy.state_dict()))


def test_weights_in_channels_last_layout_are_read(tmp_path):
    model = A2C("CnnPolicy", RandomFrames(1), device="cpu", policy_kwargs=SMALL)
    model.policy.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    own = dict(model.policy.state_dict())
    assert not own["features_extractor.cnn.2.weight"].is_contiguous()
    write_model_zip(tmp_path / "m.zip", model, {})
    state = read_model_zip(tmp_path / "m.zip").policy_state
    assert not state["features_extractor.cnn.2.weight"].is_contiguous()
    assert are_equal(state, own)


# --- checksum -------------------------------------------------------------------------------------


def _damage_message(path: Path) -> str:
    return f"{path} is damaged (its checksum is missing or wrong); use an earlier file."


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_every_flipped_bit_is_found(ours, place, bit):
    verify_checksum(ours)
    content = bytearray(ours.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    damaged = ours.with_name("flipped.zip")
    damaged.write_bytes(content)
    assert refusal(verify_checksum, damaged) == _damage_message(damaged)


def test_every_flipped_byte_of_the_end_is_found(ours):
    content = bytearray(ours.read_bytes())
    for back in range(1, 100):
        content[-back] ^= 0x20  # also makes digits of the checksum upper-case
        ours.write_bytes(content)
        assert refusal(verify_checksum, ours) == _damage_message(ours)
        content[-back] ^= 0x20


def test_truncation_an_appended_byte_and_a_foreign_file_are_found(ours, foreign):
    content = ours.read_bytes()
    shorter = (content[:keep] for keep in (0, 1, 70, 71, 5000, -1, -64, -71, -72))
    for damaged in (*shorter, content + b"\n", foreign.read_bytes()):
        ours.write_bytes(damaged)
        assert refusal(verify_checksum, ours) == _damage_message(ours)


def test_reading_verifies_the_checksum(ours):
    content = bytearray(ours.read_bytes())
    place = content.index(b"_stable_baselines3_version") + 26  # a member that is never read
    content[place] ^= 1
    ours.write_bytes(content)
    assert refusal(read_model_zip, ours) == (
        f"{ours} is damaged (its checksum is wrong); use an earlier file."
    )


# --- into the policy ------------------------------------------------------------------------------

HEAD = "action_net.weight"


def _state_of(model: BaseAlgorithm) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}


@pytest.fixture(scope="module")
def fresh_policy() -> nn.Module:
    return A2C("CnnPolicy", RandomFrames(1), seed=1, device="cpu", policy_kwargs=SMALL).policy


def test_a_zip_of_before_sb3_1_7_has_shared_weights_once(a2c, fresh_policy):
    policy = copy.deepcopy(fresh_policy)
    full = _state_of(a2c)
    old = {name: full[name] for name in full if not name.startswith(("pi_", "vf_"))}
    assert len(old) == 12
    file = ModelFile(Path("m.zip"), {"policy_kwargs": {}}, old, None, None)
    assert infer_architecture(file) == Architecture(False, 5, 4, FEATURES, True, True)
    load_policy_state(policy, old, source="m.zip")
    assert are_equal(dict(policy.state_dict()), full)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({HEAD: torch.full((5, FEATURES), math.nan)}, f"{HEAD!r} holds NaN or infinite values"),
        ({HEAD: torch.full((5, FEATURES), -math.inf)}, f"{HEAD!r} holds NaN or infinite values"),
        ({HEAD: torch.zeros(6, FEATURES)}, f"{HEAD!r} has shape 6x8, not 5x8"),
        ({HEAD: torch.tensor(0.0)}, f"{HEAD!r} has shape (), not 5x8"),
        (
            {HEAD: torch.zeros(1).expand(10**6, 10**6)},
            f"{HEAD!r} has shape 1000000x1000000, not 5x8",
        ),
        ({HEAD: torch.zeros(5, FEATURES).half()}, f"{HEAD!r} is torch.float16, not torch.float32"),
        ({HEAD: None}, f"{HEAD!r} is missing"),
        ({"zeal\n": torch.zeros(1)}, r"'zeal\n' is not in this network"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_states_that_do_not_fit_change_nothing(a2c, fresh_policy, change, fault):
    policy = copy.deepcopy(fresh_policy)
    state: dict[str, Any] = _state_of(a2c) | change
    state = {name: value for name, value in state.items() if value is not None}
    message = refusal(load_policy_state, policy, state, source="m.zip")
    assert message == f"m.zip does not fit: {fault}; {NETWORK}"
    assert are_equal(dict(policy.state_dict()), dict(fresh_policy.state_dict()))


def test_different_values_for_one_shared_tensor_change_nothing(a2c, fresh_policy):
    policy = copy.deepcopy(fresh_policy)
    state = _state_of(a2c)
    state["vf_features_extractor.linear.0.bias"] += 1
    assert refusal(load_policy_state, policy, state, source="m.zip") == (
        "m.zip does not fit: 'features_extractor.linear.0.bias' and "
        "'vf_features_extractor.linear.0.bias' differ, which this network shares; "
        "set `share_features_extractor` to False."
    )
    assert are_equal(dict(policy.state_dict()), dict(fresh_policy.state_dict()))
