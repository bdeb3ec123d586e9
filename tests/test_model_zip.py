import base64
import copy
import io
import json
import math
import os
import pickle
import stat
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch import Tensor, nn

from agents.model_zip import (
    Architecture,
    ModelFile,
    infer_architecture,
    load_optimizer_state,
    load_policy_state,
    parse_npz,
    read_model_zip,
    verify_checksum,
    write_model_zip,
)

INTACT = "give an intact model saved by Stable-Baselines3."
NETWORK = "give a model trained with this network on this game."
FEATURES = 8


class _Frames(gymnasium.Env[np.ndarray[Any, Any], np.int64]):
    """Four grey frames of noise, three actions."""

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(0, 255, (4, 84, 84), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action: np.int64) -> Any:
        return self._observe(), float(action), False, False, {}

    def _observe(self) -> np.ndarray[Any, Any]:
        return self.np_random.integers(0, 256, (4, 84, 84), np.uint8)


def _policy_kwargs(**more: Any) -> dict[str, Any]:
    return {"features_extractor_kwargs": {"features_dim": FEATURES}, **more}


@pytest.fixture(scope="module")
def a2c() -> A2C:
    kwargs = _policy_kwargs(optimizer_class=RMSpropTFLike, optimizer_kwargs={"eps": 1e-5})
    model = A2C("CnnPolicy", _Frames(), n_steps=2, seed=0, device="cpu", policy_kwargs=kwargs)
    return model.learn(4)


@pytest.fixture(scope="module")
def dqn() -> DQN:
    settings = {"buffer_size": 20, "batch_size": 2, "learning_starts": 1, "train_freq": 1}
    kwargs = _policy_kwargs()
    model = DQN("CnnPolicy", _Frames(), seed=0, device="cpu", policy_kwargs=kwargs, **settings)
    return model.learn(4)


@pytest.fixture(scope="module")
def foreign(a2c: A2C, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What somebody else's plain SB3 saved: no config, no checksum."""
    path = tmp_path_factory.mktemp("foreign") / "model.zip"
    a2c.save(path)
    return path


@pytest.fixture
def ours(a2c: A2C, tmp_path: Path) -> Path:
    path = tmp_path / "ours.zip"
    arrays = io.BytesIO()
    np.savez(arrays, steps=np.arange(3), name=np.array("Pong"))
    members = {
        "config.json": b'{"game": "Pong"}',
        "resume.json": b'{"agent_steps": 4}',
        "resume.npz": arrays.getvalue(),
    }
    write_model_zip(path, a2c, members)
    return path


def _members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _pack(
    path: Path,
    members: Mapping[str, bytes],
    alter: Callable[[zipfile.ZipInfo], None] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """Write a zip; `alter` changes what its directory says of the last member."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        if alter:
            alter(archive.infolist()[-1])
    return path


def _refusal(call: Callable[[], object]) -> str:
    """The message of the one-line ValueError that `call` must raise."""
    with pytest.raises(ValueError, match=r"\A.*\Z") as caught:
        call()
    return str(caught.value)


def _same(first: Any, second: Any) -> bool:
    """Whether nested state dicts are equal, tensors bit for bit."""
    if isinstance(first, Tensor):
        return bool(torch.equal(first, second)) and first.dtype == second.dtype
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_same(first[k], second[k]) for k in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(_same, first, second))
    return bool(first == second)


# --- writing and reading back ---------------------------------------------------------------------


def test_what_is_written_is_read_back(ours: Path, a2c: A2C) -> None:
    file = read_model_zip(ours)
    assert file.path == ours
    assert file.config == {"game": "Pong"}
    assert _same(file.policy_state, dict(a2c.policy.state_dict()))
    assert a2c.policy.optimizer is not None
    assert _same(file.optimizer_state, a2c.policy.optimizer.state_dict())
    assert file.sb3_data["num_timesteps"] == 4
    assert file.sb3_data["gamma"] == 0.99
    assert "policy_class" not in file.sb3_data
    assert ":serialized:" not in json.dumps(file.sb3_data)
    assert file.read_member("resume.json") == b'{"agent_steps": 4}'
    arrays = file.load_npz("resume.npz")
    assert arrays["steps"].tolist() == [0, 1, 2]
    assert arrays["name"].item() == "Pong"
    assert file.member_names[-3:] == ("config.json", "resume.json", "resume.npz")


def test_a_foreign_file_is_read(foreign: Path, a2c: A2C) -> None:
    file = read_model_zip(foreign)
    assert file.config is None
    assert _same(file.policy_state, dict(a2c.policy.state_dict()))
    assert read_model_zip(foreign, with_optimizer=False).optimizer_state is None


def test_a_foreign_file_that_was_packed_again_with_compression_is_read(
    foreign: Path, tmp_path: Path, a2c: A2C
) -> None:
    path = _pack(tmp_path / "m.zip", _members(foreign), compression=zipfile.ZIP_DEFLATED)
    assert _same(read_model_zip(path).policy_state, dict(a2c.policy.state_dict()))


def test_plain_sb3_opens_our_files(ours: Path, a2c: A2C, dqn: DQN, tmp_path: Path) -> None:
    loaded = A2C.load(ours, device="cpu")
    assert _same(dict(loaded.policy.state_dict()), dict(a2c.policy.state_dict()))
    assert loaded.num_timesteps == 4
    write_model_zip(tmp_path / "dqn.zip", dqn, {"config.json": b"{}", "resume.npz": b"x"})
    dqn_loaded = DQN.load(tmp_path / "dqn.zip", device="cpu")
    assert _same(dict(dqn_loaded.policy.state_dict()), dict(dqn.policy.state_dict()))


def test_excluded_attributes_are_left_out(a2c: A2C, tmp_path: Path) -> None:
    model = copy.copy(a2c)
    model.recorder = object()  # type: ignore[attr-defined]
    write_model_zip(tmp_path / "with.zip", model, {})
    write_model_zip(tmp_path / "without.zip", model, {}, exclude=["recorder"])
    assert "recorder" in json.loads(_members(tmp_path / "with.zip")["data"])
    assert "recorder" not in json.loads(_members(tmp_path / "without.zip")["data"])


def test_weights_in_channels_last_layout_are_read(a2c: A2C, tmp_path: Path) -> None:
    model = copy.copy(a2c)
    model.policy = copy.deepcopy(a2c.policy).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    weight = model.policy.state_dict()["features_extractor.cnn.2.weight"]
    assert not weight.is_contiguous()
    write_model_zip(tmp_path / "m.zip", model, {})
    state = read_model_zip(tmp_path / "m.zip").policy_state
    assert _same(state, dict(a2c.policy.state_dict()))


def test_a_missing_member_is_named(ours: Path) -> None:
    message = _refusal(lambda: read_model_zip(ours).read_member("replay.npz"))
    assert message == f"{ours} cannot be loaded: it has no member 'replay.npz'; {INTACT}"


def test_a_member_over_the_callers_limit_is_refused(ours: Path) -> None:
    file = read_model_zip(ours)
    assert len(file.read_member("resume.json", 18)) == 18
    message = _refusal(lambda: file.read_member("resume.json", 17))
    assert message == (
        f"{ours} cannot be loaded: member 'resume.json' is larger than 17 bytes; {INTACT}"
    )


# --- checksum -------------------------------------------------------------------------------------


def _damage_message(path: Path) -> str:
    return f"{path} is damaged (its checksum is missing or wrong); use an earlier file."


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_every_flipped_bit_is_found(ours: Path, place: float, bit: int) -> None:
    verify_checksum(ours)
    content = bytearray(ours.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    damaged = ours.with_name("flipped.zip")
    damaged.write_bytes(content)
    assert _refusal(lambda: verify_checksum(damaged)) == _damage_message(damaged)


@pytest.mark.parametrize("back", range(1, 100))
def test_every_flipped_byte_of_the_end_is_found(ours: Path, back: int) -> None:
    content = bytearray(ours.read_bytes())
    content[-back] ^= 0x20  # also makes digits of the checksum upper-case
    ours.write_bytes(content)
    assert _refusal(lambda: verify_checksum(ours)) == _damage_message(ours)


@pytest.mark.parametrize("keep", [0, 1, 70, 71, 5000, -1, -64, -71, -72])
def test_truncation_is_found(ours: Path, keep: int) -> None:
    ours.write_bytes(ours.read_bytes()[:keep])
    assert _refusal(lambda: verify_checksum(ours)) == _damage_message(ours)
    with pytest.raises(ValueError, match=r"\A.*\Z"):
        read_model_zip(ours)


def test_an_appended_byte_is_found(ours: Path) -> None:
    ours.write_bytes(ours.read_bytes() + b"\n")
    assert _refusal(lambda: verify_checksum(ours)) == _damage_message(ours)


def test_reading_verifies_the_checksum(ours: Path) -> None:
    content = bytearray(ours.read_bytes())
    place = content.index(b"_stable_baselines3_version") + 26  # a member that is never read
    content[place] ^= 1
    ours.write_bytes(content)
    assert _refusal(lambda: read_model_zip(ours)) == (
        f"{ours} is damaged (its checksum is wrong); use an earlier file."
    )


def test_a_foreign_file_has_no_checksum(foreign: Path) -> None:
    assert _refusal(lambda: verify_checksum(foreign)) == _damage_message(foreign)


# --- hostile archives -----------------------------------------------------------------------------


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        read_model_zip(tmp_path / "none.zip")
    assert str(caught.value) == f"{tmp_path}/none.zip does not exist; check the path."
    message = _refusal(lambda: read_model_zip(tmp_path))
    assert message == f"{tmp_path} is a directory; give the path of a file."


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a zip", bytes(100_000)])
def test_files_that_are_no_zip(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.zip"
    path.write_bytes(content)
    assert _refusal(lambda: read_model_zip(path)) == (
        f"{path} cannot be loaded: it is not a zip archive, or a truncated one; {INTACT}"
    )


@pytest.mark.parametrize("name", ["data", "policy.pth"])
def test_a_zip_without_a_model_in_it(foreign: Path, tmp_path: Path, name: str) -> None:
    members = _members(foreign)
    del members[name]
    path = _pack(tmp_path / "m.zip", members)
    assert _refusal(lambda: read_model_zip(path)) == (
        f"{path} cannot be loaded: it has no member {name!r}; {INTACT}"
    )


def _encrypt(info: zipfile.ZipInfo) -> None:
    info.flag_bits |= 1


def _link(info: zipfile.ZipInfo) -> None:
    info.external_attr = (stat.S_IFLNK | 0o777) << 16


def _claim_100_gigabytes(info: zipfile.ZipInfo) -> None:
    info.file_size = 100 << 30


def _claim_one_gigabyte(info: zipfile.ZipInfo) -> None:
    info.file_size = 1 << 30


def _claim_less(info: zipfile.ZipInfo) -> None:
    info.file_size = 10


def _use_bzip2(info: zipfile.ZipInfo) -> None:
    info.compress_type = zipfile.ZIP_BZIP2


@pytest.mark.parametrize(
    ("name", "alter", "fault"),
    [
        ("notes", _encrypt, "member 'notes' is encrypted"),
        ("notes", _link, "member 'notes' is a symbolic link"),
        ("../notes", None, "member '../notes' points outside the archive"),
        ("a/../../notes", None, "member 'a/../../notes' points outside the archive"),
        ("..\\notes", None, "member '..\\\\notes' points outside the archive"),
        ("/etc/notes", None, "member '/etc/notes' points outside the archive"),
        ("C:\\notes", None, "member 'C:\\\\notes' points outside the archive"),
        ("../a\nb", None, r"member '../a\nb' points outside the archive"),
        ("notes", _use_bzip2, "member 'notes' is compressed in an unusual way"),
        (
            "notes",
            _claim_100_gigabytes,
            "it unpacks to 107,374,{:03d},{:03d} bytes, more than 4,294,967,296",
        ),
        ("notes", _claim_one_gigabyte, "member 'notes' unpacks to over 200 times its size"),
        ("config.json", _claim_less, "member 'config.json' is damaged"),
    ],
)
def test_hostile_members(
    foreign: Path,
    tmp_path: Path,
    name: str,
    alter: Callable[[zipfile.ZipInfo], None] | None,
    fault: str,
) -> None:
    members = _members(foreign) | {name: b'{"harmless": true}'}
    path = _pack(tmp_path / "m.zip", members, alter)
    if "{" in fault:
        others = sum(len(content) for content in _members(foreign).values())
        total = others + (100 << 30)
        fault = f"it unpacks to {total:,} bytes, more than 4,294,967,296"
    expected = f"{path} cannot be loaded: {fault}; {INTACT}"
    assert _refusal(lambda: read_model_zip(path)) == expected
    intact = _pack(tmp_path / "m.zip", members | {name: b"{}"}) if name[0] not in "./aC" else foreign
    assert read_model_zip(intact).policy_state
