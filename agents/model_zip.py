"""Model files: Stable-Baselines3 zips, written whole and read without ever running what is in them.

A model file is what SB3's ``model.save`` writes, with more members (``config.json`` and the like)
and a checksum in the archive's comment. Plain ``A2C.load`` / ``DQN.load`` open it: they look at
``data`` and ``*.pth`` alone. They also unpickle, so a stranger's file runs the stranger's code
there. `read_model_zip` reads the same file with no unpickling but that of ``torch.load`` with
``weights_only=True``, which it hands nothing that it has not checked.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import math
import pickletools
import stat
import zipfile
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn

from configs.files import open_atomically, open_for_reading, parse_json, sha256_of

_CHECKSUM_LABEL = b"sha256:"
_CHECKSUM_DIGITS = 64

_MAX_MEMBERS = 64
_MAX_TOTAL_BYTES = 4 << 30
_MAX_JSON_BYTES = 16 << 20
_MAX_STATE_BYTES = 512 << 20
_MAX_PICKLE_BYTES = 256 << 10
_MAX_TENSOR_RECORDS = 4096
_MAX_TUPLES = 8192  # also bounds how deep a pickle can nest what it hashes
_MAX_RATIO = 200
_RATIO_FREE_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20

# What SB3 saves of the moment at which a model was written, which it does without.
_MOMENTARY = ("_last_obs", "_last_original_obs", "_last_episode_starts", "ep_info_buffer")

_INTACT = "give an intact model saved by Stable-Baselines3"

Array = np.ndarray[Any, np.dtype[Any]]


# --- writing --------------------------------------------------------------------------------------


def write_model_zip(
    path: str | Path,
    model: BaseAlgorithm,
    extra_members: Mapping[str, bytes],
    *,
    exclude: Iterable[str] = (),
) -> None:
    """Write a model atomically, as SB3 does, with more members and a checksum.

    The archive is put together in memory, so that a full disk can only end the one write.

    Args:
        path: The file; its directory must exist.
        model: The SB3 algorithm.
        extra_members: Name to content. The names must not be SB3's, nor end in ``.pth``, which SB3
            would load.
        exclude: Names of attributes of the model to leave out, beside those SB3 leaves out: what
            plain SB3 could not unpickle.

    Raises:
        ValueError: ``path`` is a directory.
        FileWriteError: The file cannot be written.
    """
    buffer = io.BytesIO()
    model.save(buffer, exclude=exclude)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as archive:
        assert not any(name.endswith(".pth") for name in extra_members)
        assert not set(archive.namelist()) & set(extra_members)
        for name, content in extra_members.items():
            archive.writestr(name, content)
    _write_with_checksum(path, buffer)


def write_shared_agent(path: str | Path, model: ModelFile) -> None:
    """Write what acting takes of a model; `A2C.load` and `DQN.load` open it.

    Half as large for A2C, a quarter for DQN. If it learns on, the optimiser starts anew, and DQN's
    target network as a copy of the network; what a run resumes from is left out.

    Args:
        path: The file; its directory must exist.
        model: Of this project, with its optimiser's state.

    Raises:
        FileWriteError: The file cannot be written.
    """
    assert model.optimizer_state is not None
    with zipfile.ZipFile(model.path) as archive:
        members = {
            name: archive.read(name)
            for name in model.member_names
            if not name.startswith("resume.")
        }
    data = json.loads(members["data"])
    members["data"] = json.dumps(
        {name: value for name, value in data.items() if name not in _MOMENTARY}, indent=4
    ).encode()
    optimizer = io.BytesIO()
    torch.save(model.optimizer_state | {"state": {}}, optimizer)
    members["policy.optimizer.pth"] = optimizer.getvalue()
    state = dict(model.policy_state)
    for name in state:
        if name.startswith("q_net_target."):  # tensors that are one are saved once
            state[name] = state[name.replace("q_net_target.", "q_net.")]
    policy = io.BytesIO()
    torch.save(state, policy)
    members["policy.pth"] = policy.getvalue()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    _write_with_checksum(path, buffer)


def _write_with_checksum(path: str | Path, buffer: io.BytesIO) -> None:
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = _CHECKSUM_LABEL + b"0" * _CHECKSUM_DIGITS
    body = buffer.getbuffer()[:-_CHECKSUM_DIGITS]
    with open_atomically(path) as stream:
        stream.write(body)
        stream.write(hashlib.sha256(body).hexdigest().encode())


def verify_checksum(path: str | Path) -> None:
    """Check that a file is, byte for byte, what `write_model_zip` wrote.

    The file ends in the archive's comment, ``sha256:`` and 64 digits: the SHA-256 of every byte
    before the digits. So the checksum is part of the one file that is renamed into place, and a
    missing, added or changed byte anywhere is found.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It has no checksum (as after truncation), or another one.
    """
    if not _checksum_fits(path, required=True):
        fault = "its checksum is missing or wrong"
        raise ValueError(f"{path} is damaged ({fault}); use an earlier file.")


def _checksum_fits(path: str | Path, *, required: bool = False) -> bool:
    """Whether the checksum is right; also if there is none and none is required."""
    with open_for_reading(path) as stream:
        length = stream.seek(0, io.SEEK_END) - _CHECKSUM_DIGITS
        stream.seek(max(length - len(_CHECKSUM_LABEL), 0))
        label, digits = stream.read(len(_CHECKSUM_LABEL)), stream.read(_CHECKSUM_DIGITS)
    if label != _CHECKSUM_LABEL:
        return not required
    return digits == sha256_of(path, length=length).encode()


# --- reading --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ModelFile:
    """What is in a model file, as plain values.

    Attributes:
        path: The file.
        sb3_data: SB3's ``data``: the model's attributes that are JSON. Pickled ones are not here.
        policy_state: The policy's state dict; tensors on the CPU, of any shape and value.
        optimizer_state: The optimiser's state dict; None if there is none or it was not asked for.
        config: The content of ``config.json``; None if somebody else wrote the file.
        member_names: The names of all members, in their order.
    """

    path: Path
    sb3_data: dict[str, Any]
    policy_state: dict[str, Tensor]
    optimizer_state: dict[str, Any] | None
    config: dict[str, Any] | None
    member_names: tuple[str, ...]

    def read_member(self, name: str, max_bytes: int = 1 << 30) -> bytes:
        """Read one member from the file, which is opened again.

        Raises:
            FileNotFoundError: The file is gone.
            ValueError: There is no such member, or it is larger than ``max_bytes`` or damaged.
        """
        with open_for_reading(self.path) as stream:
            archive = _open_archive(stream, str(self.path), _MAX_MEMBERS)
            return _read_member(archive, name, max_bytes, str(self.path))

    def load_npz(self, name: str, max_bytes: int = 1 << 30) -> dict[str, Array]:
        """Read a member's arrays with `parse_npz`; ``max_bytes`` bounds it before and after."""
        return parse_npz(self.read_member(name, max_bytes), f"{self.path}: {name}", max_bytes)


def read_model_zip(path: str | Path, *, with_optimizer: bool = True) -> ModelFile:
    """Read an SB3 model file without running anything in it.

    Members are read by name into memory of bounded size, nothing is extracted and nothing unpickled
    but tensors (see `_load_tensors`). A checksum is verified where the file has one.

    Args:
        path: The file, by this project or by SB3 alone.
        with_optimizer: Whether the optimiser's state is wanted.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not such a file, is damaged, or is built to do harm. One line.
    """
    path = Path(path)
    source = str(path)
    if not _checksum_fits(path):
        raise ValueError(f"{path} is damaged (its checksum is wrong); use an earlier file.")
    with open_for_reading(path) as stream:
        archive = _open_archive(stream, source, _MAX_MEMBERS)
        names = tuple(archive.namelist())
        _check_members(archive, source)

        def read_object(name: str) -> dict[str, Any]:
            text = _read_member(archive, name, _MAX_JSON_BYTES, source)
            value = parse_json(text, f"{source}: {name}", allow_nan=name == "data")
            if not isinstance(value, dict):
                raise _refusal(f"{source}: {name}", "it is not a JSON object")
            return value

        def read_tensors(name: str) -> Any:
            content = _read_member(archive, name, _MAX_STATE_BYTES, source)
            return _load_tensors(content, f"{source}: {name}")

        data = read_object("data")
        config = read_object("config.json") if "config.json" in names else None
        policy_state = read_tensors("policy.pth")
        if not _is_state_dict(policy_state):
            raise _refusal(f"{source}: policy.pth", "it is not a state dict")
        optimizer_state = None
        if with_optimizer and "policy.optimizer.pth" in names:
            optimizer_state = read_tensors("policy.optimizer.pth")
            if type(optimizer_state) is not dict:
                raise _refusal(f"{source}: policy.optimizer.pth", "it is not a state dict")
    return ModelFile(
        path=path,
        sb3_data={
            key: value
            for key, value in data.items()
            if not (isinstance(value, dict) and ":serialized:" in value)
        },
        policy_state={name: tensor.detach() for name, tensor in dict.items(policy_state)},
        optimizer_state=optimizer_state,
        config=config,
        member_names=names,
    )


def parse_npz(content: bytes, source: str, max_bytes: int) -> dict[str, Array]:
    """Read the arrays of an ``.npz`` file that holds numbers, truth values or strings.

    Nothing is unpickled, and no memory is taken for an array before its declared shape was compared
    with the bytes that are there.

    Args:
        content: The file.
        source: What it is called in messages.
        max_bytes: Bound on all arrays together.

    Raises:
        ValueError: It is anything else. One line.
    """
    archive = _open_archive(io.BytesIO(content), source, _MAX_TENSOR_RECORDS)
    arrays = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        array = _parse_npy(_read_member(archive, info.filename, max_bytes, source))
        if array is None:
            raise _refusal(source, f"{_quote(name)} is not an array of numbers, or is damaged")
        max_bytes -= array.nbytes
        arrays[name] = array
    return arrays


def _parse_npy(content: bytes) -> Array | None:
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = header(stream)
        wanted = math.prod(shape) * dtype.itemsize
        there = len(content) - stream.tell()
        if dtype.kind not in "biufcSU" or dtype.itemsize == 0 or min(shape, default=0) < 0:
            return None
        if wanted != there:
            return None
        stream.seek(0)
        array: Array = np.lib.format.read_array(stream, allow_pickle=False)
    except Exception:  # whatever numpy and Python's own parser say about a broken header
        return None
    return array


# --- archives -------------------------------------------------------------------------------------


class _CappedReader(io.BufferedReader):
    """Refuses long reads, so that opening an archive never loads a huge directory of members."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = 2 * _CHUNK_BYTES
        if size > 2 * _CHUNK_BYTES:
            raise zipfile.BadZipFile("its directory of members is too long")
        return super().read(size)


def _open_archive(stream: io.FileIO | io.BytesIO, source: str, max_members: int) -> zipfile.ZipFile:
    """Open a zip and check its list of members: few, each name once, nothing encrypted or odd."""
    reader = _CappedReader(stream)
    try:
        archive = zipfile.ZipFile(reader)
        members = archive.infolist()
    except Exception as error:
        raise _refusal(source, "it is not a zip archive, or a truncated one") from error
    if len(members) > max_members:
        raise _refusal(source, f"it has {len(members):,} members, more than {max_members:,}")
    seen = set()
    for info in members:
        fault = _find_fault(info)
        if info.filename in seen:
            fault = "is there twice"
        if fault:
            raise _refusal(source, f"member {_quote(info.filename)} {fault}")
        seen.add(info.filename)
    total = sum(info.file_size for info in members)
    if total > _MAX_TOTAL_BYTES:
        raise _refusal(source, f"it unpacks to {total:,} bytes, more than {_MAX_TOTAL_BYTES:,}")
    return archive


def _find_fault(info: zipfile.ZipInfo) -> str | None:
    if info.flag_bits & 0x1:
        return "is encrypted"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a symbolic link"
    parts = info.filename.replace("\\", "/").split("/")
    if parts[0] == "" or ":" in parts[0] or ".." in parts:
        return "points outside the archive"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed in an unusual way"
    return None


def _check_members(archive: zipfile.ZipFile, source: str) -> None:
    """Refuse members that unpack to far more than they take: no model compresses like that."""
    for info in archive.infolist():
        if info.file_size > max(_RATIO_FREE_BYTES, _MAX_RATIO * info.compress_size):
            fault = f"member {_quote(info.filename)} unpacks to over {_MAX_RATIO} times its size"
            raise _refusal(source, fault)


def _read_member(archive: zipfile.ZipFile, name: str, max_bytes: int, source: str) -> bytes:
    """Read a member in pieces, no further than ``max_bytes``; its CRC is checked."""
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise _refusal(source, f"it has no member {_quote(name)}") from None
    if info.file_size > max_bytes:
        raise _refusal(source, f"member {_quote(name)} is larger than {max_bytes:,} bytes")
    content = bytearray()
    try:
        with archive.open(info) as member:  # which ends at `file_size`, whatever is in there
            while chunk := member.read(_CHUNK_BYTES):
                content += chunk
    except Exception as error:
        raise _refusal(source, f"member {_quote(name)} is damaged") from error
    if len(content) < info.file_size:
        raise _refusal(source, f"member {_quote(name)} is damaged")
    return bytes(content)


def _refusal(source: str, fault: str) -> ValueError:
    return ValueError(f"{source} cannot be loaded: {fault}; {_INTACT}.")


def _quote(name: str) -> str:
    return repr(name[:80])


# --- tensors --------------------------------------------------------------------------------------

_STORAGES = {
    f"torch {name}Storage": item_bytes
    for name, item_bytes in {
        "Bool": 1,
        "Byte": 1,
        "Char": 1,
        "Short": 2,
        "Half": 2,
        "BFloat16": 2,
        "Int": 4,
        "Float": 4,
        "Long": 8,
        "Double": 8,
    }.items()
}
_GLOBALS = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", *_STORAGES}
_LITERALS = {"BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1"}
_TUPLES = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
_GETS = {"BINGET", "LONG_BINGET"}
_PUTS = {"BINPUT", "LONG_BINPUT"}
_OTHERS = (
    "PROTO STOP MARK REDUCE BUILD EMPTY_DICT EMPTY_LIST EMPTY_TUPLE SETITEM SETITEMS APPEND "
    "APPENDS NONE NEWTRUE NEWFALSE BINFLOAT"
)
_OPCODES = {"GLOBAL", "BINPERSID", *_LITERALS, *_TUPLES, *_GETS, *_PUTS, *_OTHERS.split()}


def _load_tensors(content: bytes, source: str) -> Any:
    """Load what ``torch.save`` wrote of dicts, lists, numbers and dense tensors.

    The records are read under our own bounds, the pickle among them is checked instruction by
    instruction (`_check_pickle`), and both are packed anew for ``torch.load``: it never sees the
    archive as it came, so nothing in that can look different to torch than it did here.
    """
    if not content.startswith(b"PK\x03\x04"):
        raise _refusal(source, "it is not in the zip format that torch.save writes since 1.6")
    archive = _open_archive(io.BytesIO(content), source, _MAX_TENSOR_RECORDS)
    if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
        raise _refusal(source, "its records are compressed, which torch.save never does")
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise _refusal(source, f"it has {len(pickles)} records data.pkl instead of one")
    root = pickles[0].removesuffix("data.pkl")
    sizes = {
        info.filename.removeprefix(f"{root}data/"): info.file_size
        for info in archive.infolist()
        if info.filename.startswith(f"{root}data/")
    }
    pickled = _read_member(archive, pickles[0], _MAX_PICKLE_BYTES, source)
    _check_pickle(pickled, sizes, source)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as clean:
        clean.writestr("archive/data.pkl", pickled)
        clean.writestr("archive/version", "3\n")
        if f"{root}byteorder" in archive.namelist():
            order = _read_member(archive, f"{root}byteorder", 6, source)
            clean.writestr("archive/byteorder", b"big" if order == b"big" else b"little")
        for key in sizes:
            record = _read_member(archive, f"{root}data/{key}", _MAX_STATE_BYTES, source)
            clean.writestr(f"archive/data/{key}", record)
    packed.seek(0)
    try:
        value = torch.load(packed, map_location="cpu", weights_only=True)
    except Exception as error:  # of any kind: the file decides what torch stumbles over
        raise _refusal(source, "torch cannot read it") from error
    _check_tensors(value, source)
    return value


def _check_pickle(pickled: bytes, sizes: Mapping[str, int], source: str) -> None:
    """Check that a pickle does nothing but describe dense tensors in records that are there.

    Every global is on a short list. Every storage is named in the one way ``torch.save`` names it,
    a tuple of literals (followed here through the pickle's memo), and is as long as its record:
    that nothing is read past a record's end is not left to the version of torch.

    Args:
        pickled: The content of ``data.pkl``.
        sizes: Bytes of each record, by key.
        source: What it is called in messages.
    """
    try:
        instructions = list(pickletools.genops(pickled))
    except Exception as error:  # whatever its decoders say
        raise _refusal(source, "its pickle is damaged") from error
    trail: deque[tuple[str, Any]] = deque(maxlen=7)
    memo: dict[int, tuple[str, Any]] = {}
    tuples = 0
    argument: Any
    position: Any
    for opcode, argument, position in instructions:
        name = opcode.name
        if name not in _OPCODES or (name == "PROTO" and argument != 2):
            raise _refusal(source, f"its pickle has the instruction {name}")
        if name == "GLOBAL" and not _is_allowed(argument, pickled, position):
            named = _quote(argument.replace(" ", "."))
            raise _refusal(source, f"its pickle names {named}, which no state dict needs")
        if name == "BINPERSID" and not _is_storage(list(trail), sizes):
            raise _refusal(source, "a tensor in it claims a record that is not there")
        if name in _PUTS:
            memo[argument] = trail[-1] if trail else ("", None)
        elif name in _GETS:
            entry = memo.get(argument, ("", None))
            trail.append(entry if entry[0] in ("GLOBAL", "literal") else ("", None))
        else:
            trail.append(("literal" if name in _LITERALS else name, argument))
            tuples += name in _TUPLES
    if tuples > _MAX_TUPLES:
        raise _refusal(source, f"its pickle has {tuples:,} tuples, more than {_MAX_TUPLES:,}")


def _is_allowed(argument: str, pickled: bytes, position: int) -> bool:
    """Whether a global is on the list, also in the file's own spelling: `genops` unescapes it."""
    spelled = f"c{argument}\n".replace(" ", "\n").encode()
    return argument in _GLOBALS and pickled.startswith(spelled, position)


def _is_storage(trail: list[tuple[str, Any]], sizes: Mapping[str, int]) -> bool:
    kinds = [kind for kind, _ in trail]
    if kinds != ["MARK", "literal", "GLOBAL", "literal", "literal", "literal", "TUPLE"]:
        return False
    _, tag, storage, key, location, length, _ = (value for _, value in trail)
    return (
        tag == "storage"
        and storage in _STORAGES
        and isinstance(key, str)
        and isinstance(location, str)
        and isinstance(length, int)
        and length * _STORAGES[storage] == sizes.get(key)
    )


def _check_tensors(value: Any, source: str) -> None:
    """Refuse tensors with more elements than their storage, which strides of 0 make."""
    left = [value]
    seen = set()  # a pickle can hold one list many times, and lists that hold themselves
    while left:
        item = left.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            left.extend(dict.values(item))
        elif isinstance(item, list | tuple):
            left.extend(item)
        elif isinstance(item, Tensor):
            item_bytes = math.prod(item.shape) * item.element_size()
            if item_bytes > item.untyped_storage().nbytes():
                fault = f"a tensor of shape {_format_shape(item)} is larger than its record"
                raise _refusal(source, fault)


def _is_state_dict(value: Any) -> bool:
    return type(value) in (dict, OrderedDict) and all(
        type(name) is str and type(tensor) is Tensor for name, tensor in dict.items(value)
    )


# --- into the network -----------------------------------------------------------------------------


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
            raise ValueError(f"{source} does not fit: {_quote(name)} {fault}; {remedy}.")
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
        return f"has shape {_format_shape(value)}, not {_format_shape(like)}"
    if value.dtype != like.dtype:
        return f"is {value.dtype}, not {like.dtype}"
    if not bool(torch.isfinite(value).all()):
        return "holds NaN or infinite values"
    return None


def _format_shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape[:8])) or "()"


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
