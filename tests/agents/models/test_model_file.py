import base64
import copy
import io
import json
import math
import os
import pickle
import re
import stat
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3 import A2C, DQN
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch import Tensor, nn

from agents.models.model_file import (
    _write_with_checksum,
    read_model_zip,
    verify_checksum,
    write_model_zip,
)
from agents.models.policy_state import load_policy_state
from tests.random_frames import RandomFrames

INTACT = "give an intact model saved by Stable-Baselines3."
NETWORK = "give a model trained with this network on this game."
FEATURES = 8


def _policy_kwargs(**more: Any) -> dict[str, Any]:
    return {"features_extractor_kwargs": {"features_dim": FEATURES}, **more}


@pytest.fixture(scope="module")
def a2c() -> A2C:
    kwargs = _policy_kwargs(optimizer_class=RMSpropTFLike, optimizer_kwargs={"eps": 1e-5})
    model = A2C("CnnPolicy", RandomFrames(1), n_steps=2, seed=0, device="cpu", policy_kwargs=kwargs)
    return model.learn(4)


@pytest.fixture(scope="module")
def dqn() -> DQN:
    options: dict[str, Any] = {"buffer_size": 20, "batch_size": 2, "learning_starts": 1}
    kwargs = _policy_kwargs()
    model = DQN("CnnPolicy", RandomFrames(1), seed=0, device="cpu", policy_kwargs=kwargs, **options)
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
    members = {"config.json": b'{"game": "Pong"}', "resume.json": b'{"agent_steps": 4}'}
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


def _assert_refused(path: Path, fault: str, member: str = "", peak: int | None = None) -> None:
    """`peak` is the most memory in bytes that this may take."""
    source = f"{path}: {member}" if member else str(path)
    if peak is not None:
        tracemalloc.start()
    try:
        message = _refusal(lambda: read_model_zip(path))
        assert peak is None or tracemalloc.get_traced_memory()[1] < peak
    finally:
        tracemalloc.stop()
    assert message == f"{source} cannot be loaded: {fault}; {INTACT}"


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
    file = read_model_zip(ours, ours=True)
    assert file.path == ours
    assert file.config == {"game": "Pong"}
    assert _same(file.policy_state, dict(a2c.policy.state_dict()))
    assert a2c.policy.optimizer is not None
    assert _same(file.optimizer_state, a2c.policy.optimizer.state_dict())
    assert file.sb3_data["num_timesteps"] == 4
    assert file.sb3_data["gamma"] == 0.99
    assert file.sb3_data["policy_kwargs"]["optimizer_kwargs"] == {"eps": 1e-5}
    assert ":serialized:" not in json.dumps(file.sb3_data)
    assert file.read_member("resume.json") == b'{"agent_steps": 4}'


def test_a_foreign_file_is_read_also_packed_again(foreign: Path, tmp_path: Path, a2c: A2C) -> None:
    packed = _pack(tmp_path / "m.zip", _members(foreign), compression=zipfile.ZIP_DEFLATED)
    for file in map(read_model_zip, (foreign, packed)):
        assert (file.config, file.optimizer_state) == (None, None)
        assert _same(file.policy_state, dict(a2c.policy.state_dict()))


def test_plain_sb3_opens_our_files(ours: Path, a2c: A2C, dqn: DQN, tmp_path: Path) -> None:
    loaded = A2C.load(ours, device="cpu")
    assert _same(dict(loaded.policy.state_dict()), dict(a2c.policy.state_dict()))
    assert loaded.num_timesteps == 4
    write_model_zip(tmp_path / "dqn.zip", dqn, {"config.json": b"{}", "resume.npz": b"x"})
    dqn_loaded = DQN.load(tmp_path / "dqn.zip", device="cpu")
    assert _same(dict(dqn_loaded.policy.state_dict()), dict(dqn.policy.state_dict()))


def test_what_is_momentary_is_left_out(dqn: DQN, ours: Path, tmp_path: Path) -> None:
    """SB3 would save the last observations: from 442 environments on more than could be read."""
    write_model_zip(tmp_path / "dqn.zip", dqn, {})
    for path in (ours, tmp_path / "dqn.zip"):
        data = _members(path)["data"]
        assert not {"_last_obs", "_last_episode_starts", "ep_info_buffer"} & json.loads(data).keys()
        assert len(data) < 300_000
    loaded = A2C.load(ours, env=RandomFrames(1), device="cpu")
    assert loaded.learn(4, reset_num_timesteps=False).num_timesteps == 8


def test_a_foreign_file_of_many_environments_is_read(tmp_path: Path, a2c: A2C) -> None:
    model = copy.copy(a2c)
    model._last_obs = np.zeros((1024, 4, 84, 84), np.uint8)
    model.save(tmp_path / "m.zip")
    assert _same(read_model_zip(tmp_path / "m.zip").policy_state, dict(a2c.policy.state_dict()))


def test_weights_in_channels_last_layout_are_read(tmp_path: Path) -> None:
    model = A2C("CnnPolicy", RandomFrames(1), device="cpu", policy_kwargs=_policy_kwargs())
    model.policy.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    own = dict(model.policy.state_dict())
    assert not own["features_extractor.cnn.2.weight"].is_contiguous()
    write_model_zip(tmp_path / "m.zip", model, {})
    state = read_model_zip(tmp_path / "m.zip").policy_state
    assert not state["features_extractor.cnn.2.weight"].is_contiguous()
    assert _same(state, own)


def test_a_missing_member_is_named(ours: Path) -> None:
    message = _refusal(lambda: read_model_zip(ours).read_member("replay.npz"))
    assert message == f"{ours} cannot be loaded: it has no member 'replay.npz'; {INTACT}"


# --- checksum -------------------------------------------------------------------------------------


def _damage_message(path: Path) -> str:
    return f"{path} is damaged (its checksum is missing or wrong); use an earlier file."


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
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


@pytest.mark.parametrize("keep", [0, 1, 70, 71, 5000, -1, -64, -71, -72, None])
def test_truncation_and_an_appended_byte_are_found(ours: Path, keep: int | None) -> None:
    content = ours.read_bytes()
    ours.write_bytes(content + b"\n" if keep is None else content[:keep])
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
    _assert_refused(path, "it is not a zip archive, or a truncated one")


@pytest.mark.parametrize("name", ["data", "policy.pth"])
def test_a_zip_without_a_model_in_it(foreign: Path, tmp_path: Path, name: str) -> None:
    members = _members(foreign)
    del members[name]
    path = _pack(tmp_path / "m.zip", members)
    _assert_refused(path, f"it has no member {name!r}")


def _set(field: str, value: int) -> Callable[[zipfile.ZipInfo], None]:
    """Let a member's entry in the directory say something else."""
    return lambda info: setattr(info, field, value)


_LINK = (stat.S_IFLNK | 0o777) << 16
_BOMB = "member 'notes' unpacks to over 200 times its size"


@pytest.mark.parametrize(
    ("name", "alter", "fault"),
    [
        ("notes", _set("flag_bits", 1), "member 'notes' is encrypted"),
        ("notes", _set("external_attr", _LINK), "member 'notes' is a symbolic link"),
        ("../notes", None, "member '../notes' points outside the archive"),
        ("a/../../notes", None, "member 'a/../../notes' points outside the archive"),
        ("..\\notes", None, r"member '..\\notes' points outside the archive"),
        ("/etc/notes", None, "member '/etc/notes' points outside the archive"),
        ("C:\\notes", None, r"member 'C:\\notes' points outside the archive"),
        ("../a\nb", None, r"member '../a\nb' points outside the archive"),
        ("notes", _set("compress_type", 12), "member 'notes' is compressed in an unusual way"),
        ("notes", _set("file_size", 1 << 30), _BOMB),
        ("notes", _set("file_size", 100 << 30), _BOMB),
        ("config.json", _set("file_size", 10), "member 'config.json' is damaged"),
    ],
)
def test_hostile_members(
    foreign: Path,
    tmp_path: Path,
    name: str,
    alter: Callable[[zipfile.ZipInfo], None] | None,
    fault: str,
) -> None:
    content = b'{"harmless": true}'
    path = _pack(tmp_path / "m.zip", _members(foreign) | {name: content}, alter)
    _assert_refused(path, fault, peak=4 << 20)
    name = name.rpartition("/")[2].rpartition("\\")[2]
    _pack(path, _members(foreign) | {name: content})
    assert read_model_zip(path).read_member(name) == content


def test_a_member_that_is_there_twice(foreign: Path, tmp_path: Path) -> None:
    path = _pack(tmp_path / "m.zip", _members(foreign))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("data", b"{}")
    _assert_refused(path, "member 'data' is there twice")


def test_a_directory_of_a_hundred_thousand_members_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "m.zip"
    entry = zipfile.ZipInfo("n" * 30)
    _pack(path, {entry.filename: b""})
    content = path.read_bytes()
    start, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    directory = content[start:end] * 100_000
    tail = bytearray(content[end:])
    tail[8:12] = b"\xff\xff\xff\xff"
    tail[12:16] = len(directory).to_bytes(4, "little")
    path.write_bytes(content[:start] + directory + tail)
    with zipfile.ZipFile(path) as archive:  # the standard library loads them all
        assert len(archive.infolist()) == 100_000
    _assert_refused(path, "it is not a zip archive, or a truncated one", peak=4 << 20)


@pytest.mark.parametrize("name", ["data", "policy.pth", "config.json"])
@pytest.mark.parametrize("honest", [True, False])
def test_a_bomb_that_does_unpack_costs_nothing(
    foreign: Path, tmp_path: Path, name: str, honest: bool
) -> None:
    members = _members(foreign)
    members.pop(name, None)
    members[name] = bytes(48 << 20)

    claim = None if honest else _set("file_size", 1000)
    path = _pack(tmp_path / "m.zip", members, claim, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    fault = "unpacks to over 200 times its size" if honest else "is damaged"
    _assert_refused(path, f"member {name!r} {fault}", peak=8 << 20)


@pytest.mark.parametrize(
    ("name", "size", "limit"),
    [("config.json", (1 << 20) + 1, "1,048,576"), ("data", (256 << 20) + 1, "268,435,456")],
)
def test_what_is_too_large_is_not_read_and_not_called_damaged(
    foreign: Path, tmp_path: Path, name: str, size: int, limit: str
) -> None:
    path = _pack(tmp_path / "m.zip", _members(foreign) | {name: bytes(size)})
    assert _refusal(lambda: read_model_zip(path)) == (
        f"{path} is too large: member {name!r} has {size:,} bytes, more than the {limit} that are "
        "read; give a smaller model."
    )


@pytest.mark.parametrize("name", ["data", "config.json"])
@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "nested more than 64 deep"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 7"),
        (b'{"a": 1, "a": 2}', "key 'a' is given twice"),
        (b"{", "Expecting property name enclosed in double quotes at line 1, column 2"),
    ],
    ids=["deep", "not UTF-8", "twice", "truncated"],
)
def test_bad_json_members(
    foreign: Path, tmp_path: Path, name: str, content: bytes, fault: str
) -> None:
    path = _pack(tmp_path / "m.zip", _members(foreign) | {name: content})
    assert _refusal(lambda: read_model_zip(path)) == (
        f"{path}: {name} is not valid JSON ({fault}); correct or replace it."
    )


@pytest.mark.parametrize("name", ["data", "config.json"])
def test_json_that_is_no_object(foreign: Path, tmp_path: Path, name: str) -> None:
    path = _pack(tmp_path / "m.zip", _members(foreign) | {name: b"[1]"})
    _assert_refused(path, "it is not a JSON object", name)


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage_anywhere_is_refused_in_one_line_or_harmless(
    foreign: Path, tmp_path: Path, a2c: A2C, data: st.DataObject
) -> None:
    content = bytearray(foreign.read_bytes())
    heads = [match.start() for match in re.finditer(b"PK", content)]
    place = data.draw(st.sampled_from(heads)) + data.draw(st.integers(0, 300))
    content[place % len(content)] = data.draw(st.integers(0, 255))
    path = tmp_path / "m.zip"
    path.write_bytes(content)
    try:
        state = read_model_zip(path).policy_state
    except ValueError as error:
        message = str(error)
    else:
        assert _same(state, dict(a2c.policy.state_dict()))
        return
    assert message.startswith(str(path))
    assert len(message.splitlines()) == 1


# --- payloads -------------------------------------------------------------------------------------


class _Payload:
    """Makes a directory when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A path that appears if a payload runs; payloads are shown to work first."""
    path = tmp_path / "payload-ran"
    pickle.loads(pickle.dumps(_Payload(path), 2))
    path.rmdir()
    return path


def _save(value: object, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def _repack(
    content: bytes,
    pickled: bytes | None = None,
    records: Mapping[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    """A .pth file with another pickle or other records."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if pickled is not None:
        members["archive/data.pkl"] = pickled
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, record in (members | dict(records or {})).items():
            archive.writestr(name, record)
    return buffer.getvalue()


def test_a_payload_in_data_runs_in_plain_sb3_and_not_here(
    foreign: Path, tmp_path: Path, marker: Path
) -> None:
    members = _members(foreign)
    data = json.loads(members["data"])
    serialized = base64.b64encode(pickle.dumps(_Payload(marker))).decode()
    data["ep_info_buffer"] = {":type:": "x", ":serialized:": serialized}
    path = _pack(tmp_path / "m.zip", members | {"data": json.dumps(data).encode()})
    assert read_model_zip(path).sb3_data["ep_info_buffer"] == {}
    assert not marker.exists()
    A2C.load(path, device="cpu")
    assert marker.exists()


@pytest.mark.parametrize("name", ["data", "config.json"])
def test_a_pickle_instead_of_json(foreign: Path, tmp_path: Path, marker: Path, name: str) -> None:
    members = _members(foreign) | {name: pickle.dumps(_Payload(marker))}
    path = _pack(tmp_path / "m.zip", members)
    assert _refusal(lambda: read_model_zip(path)) == (
        f"{path}: {name} is not valid JSON (not UTF-8 at byte 0); correct or replace it."
    )
    assert not marker.exists()


@pytest.mark.parametrize("name", ["policy.pth", "policy.optimizer.pth"])
@pytest.mark.parametrize("kind", ["pickle", "legacy", "zip", "protocol 4"])
def test_a_payload_instead_of_tensors(
    foreign: Path, tmp_path: Path, marker: Path, name: str, kind: str
) -> None:
    intact = _members(foreign)
    content, fault = {
        "pickle": (
            pickle.dumps(_Payload(marker)),
            "it is not in the zip format that torch.save writes since 1.6",
        ),
        "legacy": (
            _save({"weight": _Payload(marker)}, legacy=True),
            "it is not in the zip format that torch.save writes since 1.6",
        ),
        "zip": (
            _save({"weight": _Payload(marker)}),
            "its pickle names 'posix.mkdir', which no state dict needs",
        ),
        "protocol 4": (
            _repack(intact[name], pickle.dumps(_Payload(marker), 4)),
            "torch cannot read it",
        ),
    }[kind]
    path = _pack(tmp_path / "m.zip", intact | {name: content})
    _write_with_checksum(path, io.BytesIO(path.read_bytes()))  # which proves nothing of its writer
    assert _refusal(lambda: read_model_zip(path, ours=True)) == (
        f"{path}: {name} cannot be loaded: {fault}; {INTACT}"
    )
    assert not marker.exists()
    _pack(path, intact | {name: _repack(intact[name])})
    assert read_model_zip(path).policy_state


@pytest.mark.parametrize("name", ["policy.optimizer.pth", "pytorch_variables.pth", "notes"])
def test_a_payload_in_a_member_that_is_not_needed(
    foreign: Path, tmp_path: Path, marker: Path, name: str
) -> None:
    for content in (pickle.dumps(_Payload(marker)), _save(_Payload(marker))):
        path = _pack(tmp_path / "m.zip", _members(foreign) | {name: content})
        assert read_model_zip(path).policy_state
    assert not marker.exists()


# --- hostile tensors ------------------------------------------------------------------------------


def _with_state(foreign: Path, path: Path, content: bytes) -> Path:
    return _pack(path, _members(foreign) | {"policy.pth": content})


_SAVED = _save({"w": torch.arange(16.0)})
with zipfile.ZipFile(io.BytesIO(_SAVED)) as _archive:
    _PICKLED = _archive.read("archive/data.pkl")


def _replace(old: bytes, new: bytes, count: int = 1) -> bytes:
    assert _PICKLED.count(old) >= count
    return _PICKLED.replace(old, new, count)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (
            _save({"w": torch.zeros(1).expand(10**12)}),
            "a tensor of shape 1000000000000 is larger than its file",
        ),
        (
            _save({"w": torch.zeros(1).expand(2**31, 2**31)}),
            "a tensor of shape 2147483648x2147483648 is larger than its file",
        ),
        # put over a new storage, and that resized
        (
            _repack(
                _SAVED,
                _replace(b"Rq\x0d", b"Rq\x0d)b(h\x0dK\x00J\x00\x00\x00\x01\x85K\x01\x85tb"),
            ),
            "a tensor of shape 16777216 is larger than its file",
        ),
        (_repack(_SAVED, _PICKLED[:-30]), "its pickle is damaged"),
        (_repack(_SAVED, b""), "its pickle is damaged"),
        (
            _repack(_SAVED, _replace(b"torch._utils\n_rebuild_tensor_v2", b"builtins\nbytearray")),
            "its pickle names 'builtins.bytearray', which no state dict needs",
        ),
        (
            _repack(_SAVED, b"\x80\x02cbuiltins\nbytearray\nq\x00J\x00\x00\x00\x7f\x85R."),
            "its pickle names 'builtins.bytearray', which no state dict needs",
        ),
        (
            _repack(_SAVED, _replace(b"FloatStorage", rb"\x46loatStorage")),
            "its pickle names 'torch.FloatStorage', which no state dict needs",
        ),
        # a key whose hash goes as deep as 64 KiB of pickle can nest it
        (_repack(_SAVED, b"\x80\x02})" + b"\x85" * 65500 + b"K\x01s."), "it is not a state dict"),
        (
            _repack(_SAVED, compression=zipfile.ZIP_DEFLATED),
            "its records are compressed, which torch.save never does",
        ),
        (
            _repack(_SAVED, records={"other/data.pkl": _PICKLED}),
            "it has 2 records data.pkl instead of one",
        ),
        (
            _repack(_SAVED, records={"archive/../../x": b""}),
            "member 'archive/../../x' points outside the archive",
        ),
        (_SAVED[:-200], "it is not a zip archive, or a truncated one"),
        (_save([torch.zeros(1)]), "it is not a state dict"),
        (_save({"w": 1.0}), "it is not a state dict"),
        (_save({1: torch.zeros(1)}), "it is not a state dict"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_hostile_state_dicts(foreign: Path, tmp_path: Path, content: bytes, fault: str) -> None:
    path = _with_state(foreign, tmp_path / "m.zip", content)
    _assert_refused(path, fault, "policy.pth")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"K\x10", b"M\x00\x10"),  # 16 elements claimed as 4,096
        (b"K\x10", b"K\x0f"),  # as 15
        (b"K\x10", b"J\xf0\xff\xff\xff"),  # as -16
        (b"FloatStorage", b"DoubleStorage"),  # as 64-bit numbers
        (b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x001"),  # in a record that is not there
        (b"X\x01\x00\x00\x000", b"X\x02\x00\x00\x0000"),  # or under another spelling
        (b"tq\x07Q", b"tq\x07h\x07Q"),  # the claim handed over as an object made elsewhere
        (b"K\x10\x85", b"K\x11\x85"),  # a tensor of 17 elements in a record of 16
        (b"QK\x00", b"QK\x01"),  # of 16 from the second on
        (b".", b"\x8c\x02os\x8c\x06system\x93."),  # instructions that no state dict has
        (b".", b"(ios\nsystem\n."),
    ],
)
def test_torch_itself_refuses(foreign: Path, tmp_path: Path, old: bytes, new: bytes) -> None:
    head, _, tail = _PICKLED.rpartition(old) if old == b"." else _PICKLED.partition(old)
    path = _with_state(foreign, tmp_path / "m.zip", _repack(_SAVED, head + new + tail))
    _assert_refused(path, "torch cannot read it", "policy.pth")


def test_a_pickle_over_its_limit_is_not_read(foreign: Path, tmp_path: Path) -> None:
    content = _repack(_SAVED, b"N" * 65537)
    path = _with_state(foreign, tmp_path / "m.zip", content)
    assert _refusal(lambda: read_model_zip(path)) == (
        f"{path}: policy.pth is too large: member 'archive/data.pkl' has 65,537 bytes, more than "
        "the 65,536 that are read; give a smaller model."
    )


def test_the_intact_copy_of_the_hostile_state_dicts_loads(foreign: Path, tmp_path: Path) -> None:
    path = _with_state(foreign, tmp_path / "m.zip", _repack(_SAVED, _PICKLED))
    assert read_model_zip(path).policy_state["w"].tolist() == list(range(16))


def test_attributes_of_a_pickled_dict_are_dropped(foreign: Path, tmp_path: Path) -> None:
    pickled = b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsNsb."
    path = _with_state(foreign, tmp_path / "m.zip", _repack(_SAVED, pickled))
    state = read_model_zip(path).policy_state
    assert state == {}
    assert type(state) is dict


# --- into the policy ------------------------------------------------------------------------------

HEAD = "action_net.weight"


def _state_of(model: BaseAlgorithm) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}


@pytest.fixture(scope="module")
def fresh_policy() -> nn.Module:
    kwargs = _policy_kwargs()
    return A2C("CnnPolicy", RandomFrames(1), seed=1, device="cpu", policy_kwargs=kwargs).policy


def test_load_policy_state_copies_every_tensor(foreign: Path, fresh_policy: nn.Module) -> None:
    policy = copy.deepcopy(fresh_policy)
    state = read_model_zip(foreign).policy_state
    assert not _same(dict(policy.state_dict()), state)
    load_policy_state(policy, state)
    assert _same(dict(policy.state_dict()), state)


def test_the_shared_names_may_be_missing_as_before_sb3_1_7(
    a2c: A2C, fresh_policy: nn.Module
) -> None:
    policy = copy.deepcopy(fresh_policy)
    full = _state_of(a2c)
    old = {name: full[name] for name in full if not name.startswith(("pi_", "vf_"))}
    assert len(old) == 12
    load_policy_state(policy, old)
    assert _same(dict(policy.state_dict()), full)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({HEAD: torch.full((5, FEATURES), math.nan)}, f"{HEAD!r} holds NaN or infinite values"),
        (
            {HEAD: torch.full((5, FEATURES), -math.inf)},
            f"{HEAD!r} holds NaN or infinite values",
        ),
        ({HEAD: torch.zeros(6, FEATURES)}, f"{HEAD!r} has shape 6x8, not 5x8"),
        ({HEAD: torch.tensor(0.0)}, f"{HEAD!r} has shape (), not 5x8"),
        (
            {HEAD: torch.zeros(1).expand(10**6, 10**6)},
            f"{HEAD!r} has shape 1000000x1000000, not 5x8",
        ),
        ({HEAD: torch.zeros(5, FEATURES).half()}, f"{HEAD!r} is torch.float16, not torch.float32"),
        ({HEAD: 1}, f"{HEAD!r} is not a tensor"),
        ({HEAD: None}, f"{HEAD!r} is missing"),
        ({"zeal\n": torch.zeros(1)}, r"'zeal\n' is not in this network"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_states_that_do_not_fit_change_nothing(
    a2c: A2C, fresh_policy: nn.Module, change: dict[str, Any], fault: str
) -> None:
    policy = copy.deepcopy(fresh_policy)
    state: dict[str, Any] = _state_of(a2c) | change
    state = {name: value for name, value in state.items() if value is not None}
    message = _refusal(lambda: load_policy_state(policy, state, source="m.zip"))
    assert message == f"m.zip does not fit: {fault}; {NETWORK}"
    assert _same(dict(policy.state_dict()), dict(fresh_policy.state_dict()))


def test_different_values_for_one_shared_tensor_change_nothing(
    a2c: A2C, fresh_policy: nn.Module
) -> None:
    policy = copy.deepcopy(fresh_policy)
    state = _state_of(a2c)
    state["vf_features_extractor.linear.0.bias"] += 1
    assert _refusal(lambda: load_policy_state(policy, state, source="m.zip")) == (
        "m.zip does not fit: 'features_extractor.linear.0.bias' and "
        "'vf_features_extractor.linear.0.bias' differ, which this network shares; "
        "set `share_features_extractor` to False."
    )
    assert _same(dict(policy.state_dict()), dict(fresh_policy.state_dict()))
