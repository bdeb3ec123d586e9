"""What a model file from a stranger can try, and that it is refused in one line or harmless."""

import base64
import io
import json
import os
import pickle
import re
import stat
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3 import A2C

from agents.models.model_file import _write_with_checksum, read_model_zip
from benchmarks.soak import are_equal
from tests.agents.models.conftest import read_members
from tests.refusals import refusal

INTACT = "give an intact model saved by Stable-Baselines3."


def assert_refused(path: Path, fault: str, member: str = "", peak: int | None = None) -> None:
    """`peak` is the most memory in bytes that this may take."""
    source = f"{path}: {member}" if member else str(path)
    if peak is not None:
        tracemalloc.start()
    try:
        message = refusal(read_model_zip, path)
        assert peak is None or tracemalloc.get_traced_memory()[1] < peak
    finally:
        tracemalloc.stop()
    assert message == f"{source} cannot be loaded: {fault}; {INTACT}"


# --- archives -----------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a zip", bytes(100_000)])
def test_files_that_are_no_zip(tmp_path, content):
    path = tmp_path / "m.zip"
    path.write_bytes(content)
    assert_refused(path, "it is not a zip archive, or a truncated one")


@pytest.mark.parametrize("name", ["data", "policy.pth"])
def test_a_zip_without_a_model_in_it(forge, name):
    assert_refused(forge({name: None}), f"it has no member {name!r}")


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
def test_hostile_members(forge, name, alter, fault):
    content = b'{"harmless": true}'
    assert_refused(forge({name: content}, alter), fault, peak=4 << 20)
    name = name.rpartition("/")[2].rpartition("\\")[2]
    assert read_model_zip(forge({name: content})).read_member(name) == content


def test_a_member_that_is_there_twice(forge):
    path = forge({})
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("data", b"{}")
    assert_refused(path, "member 'data' is there twice")


def test_a_directory_of_a_hundred_thousand_members_is_not_loaded(tmp_path):
    path = tmp_path / "m.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("n" * 30, b"")
    content = path.read_bytes()
    start, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    directory = content[start:end] * 100_000
    tail = bytearray(content[end:])
    tail[8:12] = b"\xff\xff\xff\xff"
    tail[12:16] = len(directory).to_bytes(4, "little")
    path.write_bytes(content[:start] + directory + tail)
    with zipfile.ZipFile(path) as archive:  # the standard library loads them all
        assert len(archive.infolist()) == 100_000
    assert_refused(path, "it is not a zip archive, or a truncated one", peak=4 << 20)


@pytest.mark.parametrize("name", ["data", "policy.pth", "config.json"])
@pytest.mark.parametrize("honest", [True, False])
def test_a_bomb_that_does_unpack_costs_nothing(forge, name, honest):
    claim = None if honest else _set("file_size", 1000)
    path = forge({name: bytes(48 << 20)}, claim, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    fault = "unpacks to over 200 times its size" if honest else "is damaged"
    assert_refused(path, f"member {name!r} {fault}", peak=8 << 20)


@pytest.mark.parametrize("value", [b"[],", b"{},", b"0,0,"])
def test_values_that_would_take_many_times_their_text_are_not_parsed(forge, value):
    path = forge({"data": b'{"a": [' + value * 501_000 + b"0]}"})
    assert_refused(path, "it has over 1,000,000 values", "data", peak=8 << 20)


@pytest.mark.parametrize(
    ("name", "size", "limit"),
    [("config.json", (1 << 20) + 1, "1,048,576"), ("data", (256 << 20) + 1, "268,435,456")],
)
def test_what_is_too_large_is_not_read_and_not_called_damaged(forge, name, size, limit):
    path = forge({name: bytes(size)})
    assert refusal(read_model_zip, path) == (
        f"{path} is too large: member {name!r} has {size:,} bytes, more than the {limit} that are "
        "read; give a smaller model."
    )


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_is_refused_in_one_line_or_harmless(foreign, tmp_path, a2c, data):
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
        assert are_equal(state, dict(a2c.policy.state_dict()))
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


def _overlap(content: bytes) -> bytes:
    """A record that, stored as it is, would reach over those before it."""
    buffer = io.BytesIO(content)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("archive/data/1", b"")
        info = archive.infolist()[-1]
        info.header_offset, info.file_size, info.compress_size = 0, len(content), len(content)
    return buffer.getvalue()


def test_a_payload_in_data_runs_in_plain_sb3_and_not_here(foreign, forge, marker):
    data = json.loads(read_members(foreign)["data"])
    serialized = base64.b64encode(pickle.dumps(_Payload(marker))).decode()
    data["ep_info_buffer"] = {":type:": "x", ":serialized:": serialized}
    path = forge({"data": json.dumps(data).encode()})
    assert read_model_zip(path).sb3_data["ep_info_buffer"] == {}
    assert not marker.exists()
    A2C.load(path, device="cpu")
    assert marker.exists()


@pytest.mark.parametrize("name", ["data", "config.json"])
def test_a_pickle_or_odd_json_instead_of_a_json_object(forge, marker, name):
    duplicate = (b'{"a": 1, "a": 2}', "key 'a' is given twice")
    for content, fault in ((pickle.dumps(_Payload(marker)), "not UTF-8 at byte 0"), duplicate):
        path = forge({name: content})
        assert refusal(read_model_zip, path) == (
            f"{path}: {name} is not valid JSON ({fault}); correct or replace it."
        )
    assert_refused(forge({name: b"[1]"}), "it is not a JSON object", name)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["policy.pth", "policy.optimizer.pth"])
@pytest.mark.parametrize("kind", ["pickle", "legacy", "zip", "protocol 4"])
def test_a_payload_instead_of_tensors(foreign, forge, marker, name, kind):
    intact = read_members(foreign)[name]
    no_zip = "it is not in the zip format that torch.save writes since 1.6"
    named = "its pickle names 'posix.mkdir', which no state dict needs"
    payload = _Payload(marker)
    content, fault = {
        "pickle": (pickle.dumps(payload), no_zip),
        "legacy": (_save({"weight": payload}, legacy=True), no_zip),
        "zip": (_save({"weight": payload}), named),
        "protocol 4": (_repack(intact, pickle.dumps(payload, 4)), "torch cannot read it"),
    }[kind]
    path = forge({name: content})
    _write_with_checksum(path, io.BytesIO(path.read_bytes()))  # which proves nothing of its writer
    assert refusal(read_model_zip, path, ours=True) == (
        f"{path}: {name} cannot be loaded: {fault}; {INTACT}"
    )
    assert not marker.exists()
    assert read_model_zip(forge({name: _repack(intact)})).policy_state


@pytest.mark.parametrize("name", ["policy.optimizer.pth", "pytorch_variables.pth", "notes"])
def test_a_payload_in_a_member_that_is_not_needed(forge, marker, name):
    for content in (pickle.dumps(_Payload(marker)), _save(_Payload(marker))):
        path = forge({name: content})
        assert read_model_zip(path).policy_state
    assert not marker.exists()


# --- tensors -------------------------------------------------------------------------------------


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
        (_overlap(_SAVED), "its records overlap"),
        (_SAVED[:-200], "it is not a zip archive, or a truncated one"),
        (_save([torch.zeros(1)]), "it is not a state dict"),
        (_save({"w": 1.0}), "it is not a state dict"),
        (_save({1: torch.zeros(1)}), "it is not a state dict"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_hostile_state_dicts(forge, content, fault):
    path = forge({"policy.pth": content})
    assert_refused(path, fault, "policy.pth")


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
def test_torch_itself_refuses(forge, old, new):
    head, _, tail = _PICKLED.rpartition(old) if old == b"." else _PICKLED.partition(old)
    path = forge({"policy.pth": _repack(_SAVED, head + new + tail)})
    assert_refused(path, "torch cannot read it", "policy.pth")


def test_a_pickle_over_its_limit_is_not_read(forge):
    content = _repack(_SAVED, b"N" * 65537)
    path = forge({"policy.pth": content})
    assert refusal(read_model_zip, path) == (
        f"{path}: policy.pth is too large: member 'archive/data.pkl' has 65,537 bytes, more than "
        "the 65,536 that are read; give a smaller model."
    )


def test_the_intact_copy_of_the_hostile_state_dicts_loads(forge):
    path = forge({"policy.pth": _repack(_SAVED, _PICKLED)})
    assert read_model_zip(path).policy_state["w"].tolist() == list(range(16))


def test_attributes_of_a_pickled_dict_are_dropped(forge):
    pickled = b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsNsb."
    path = forge({"policy.pth": _repack(_SAVED, pickled)})
    state = read_model_zip(path).policy_state
    assert state == {}
    assert type(state) is dict
