"""Model files: Stable-Baselines3 zips, written whole and read without ever running what is in them.

A model file is what SB3's ``model.save`` writes, with more members (``config.json`` and the like)
and a checksum in the archive's comment. Plain ``A2C.load`` / ``DQN.load`` open it: they look at
``data`` and ``*.pth`` alone. They also unpickle, so a stranger's file runs the stranger's code
there. `read_model_zip` reads the same file with no unpickling but that of ``torch.load`` with
``weights_only=True``, which it hands nothing that it has not checked.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from agents.models.archive import (
    MAX_STATE_BYTES,
    Array,
    check_ratios,
    load_tensors,
    open_archive,
    parse_npz,
    read_member,
    refusal,
)
from runtime.files import open_atomically, open_for_reading, parse_json, sha256_of

_CHECKSUM_LABEL = b"sha256:"
_CHECKSUM_DIGITS = 64

_MAX_MEMBERS = 64
_MAX_JSON_BYTES = 16 << 20

# What SB3 saves of the moment at which a model was written, which it does without.
_MOMENTARY = ("_last_obs", "_last_original_obs", "_last_episode_starts", "ep_info_buffer")


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
            archive = open_archive(stream, str(self.path), _MAX_MEMBERS)
            return read_member(archive, name, max_bytes, str(self.path))

    def load_npz(self, name: str, max_bytes: int = 1 << 30) -> dict[str, Array]:
        """Read a member's arrays with `parse_npz`; ``max_bytes`` bounds it before and after."""
        return parse_npz(self.read_member(name, max_bytes), f"{self.path}: {name}", max_bytes)


def read_model_zip(path: str | Path, *, with_optimizer: bool = True) -> ModelFile:
    """Read an SB3 model file without running anything in it.

    Members are read by name into memory of bounded size, nothing is extracted and nothing unpickled
    but tensors (see `load_tensors`). A checksum is verified where the file has one.

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
        archive = open_archive(stream, source, _MAX_MEMBERS)
        names = tuple(archive.namelist())
        check_ratios(archive, source)

        def read_object(name: str) -> dict[str, Any]:
            text = read_member(archive, name, _MAX_JSON_BYTES, source)
            value = parse_json(text, f"{source}: {name}", allow_nan=name == "data")
            if not isinstance(value, dict):
                raise refusal(f"{source}: {name}", "it is not a JSON object")
            return value

        def read_tensors(name: str) -> Any:
            content = read_member(archive, name, MAX_STATE_BYTES, source)
            return load_tensors(content, f"{source}: {name}")

        data = read_object("data")
        config = read_object("config.json") if "config.json" in names else None
        policy_state = read_tensors("policy.pth")
        if not _is_state_dict(policy_state):
            raise refusal(f"{source}: policy.pth", "it is not a state dict")
        optimizer_state = None
        if with_optimizer and "policy.optimizer.pth" in names:
            optimizer_state = read_tensors("policy.optimizer.pth")
            if type(optimizer_state) is not dict:
                raise refusal(f"{source}: policy.optimizer.pth", "it is not a state dict")
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


def _is_state_dict(value: Any) -> bool:
    return type(value) in (dict, OrderedDict) and all(
        type(name) is str and type(tensor) is Tensor for name, tensor in dict.items(value)
    )
