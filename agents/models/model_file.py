"""Model files: Stable-Baselines3 zips, written whole and read without ever running what is in them.

A model file is what SB3's ``model.save`` writes, with more members (``config.json`` and the like)
and a checksum in the archive's comment. Plain ``A2C.load`` / ``DQN.load`` open it: they look at
``data`` and ``*.pth`` alone. They also unpickle, so a stranger's file runs the stranger's code
there. `read_model_zip` unpickles nothing but tensors, and those with `load_tensors` alone.
"""

import hashlib
import io
import math
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from agents.models.archive import (
    MAX_STATE_BYTES,
    format_shape,
    load_tensors,
    open_archive,
    read_member,
    refusal,
)
from runtime.files import open_atomically, open_for_reading, parse_json
from runtime.run_directory import RunDirectory

_CHECKSUM_LABEL = b"sha256:"
_CHECKSUM_DIGITS = 64
_CHUNK_BYTES = 1 << 20

_MAX_DATA_BYTES = 256 << 20  # SB3 keeps the last observations in it: 39 MB of 1,024 environments
_MAX_DATA_VALUES = 1_000_000  # which may take over twenty times the memory of their text
_MAX_CONFIG_BYTES = 1 << 20
_MAX_MEMBER_BYTES = 1 << 30

# What SB3 would save of the moment, which grows with the number of environments. It does without;
# what a run resumes from is in members of its own.
_MOMENTARY = ("_last_obs", "_last_episode_starts", "ep_info_buffer")


@dataclass(frozen=True, eq=False)
class ModelFile:
    """What is in a model file, as plain values."""

    path: Path
    # SB3's ``data``: the model's attributes that are JSON, and of others what SB3 writes in words
    # beside the pickle, never the pickle.
    sb3_data: dict[str, Any]
    policy_state: dict[str, Tensor]  # on the CPU, of any shape and value
    optimizer_state: dict[str, Any] | None  # None of a file that may be a stranger's
    config: dict[str, Any] | None  # ``config.json``; None if somebody else wrote the file

    def read_member(self, name: str) -> bytes:
        """Read one member from the file, which is opened again; raises as `read_model_zip` does."""
        with open_for_reading(self.path) as stream:
            archive = open_archive(stream, str(self.path))
            return read_member(archive, name, _MAX_MEMBER_BYTES, str(self.path))


# --- writing --------------------------------------------------------------------------------------


def write_model_zip(path: Path, model: BaseAlgorithm, extra_members: Mapping[str, bytes]) -> None:
    """Write a model atomically, as SB3 does, with more members and a checksum.

    The archive is put together in memory, so that a full disk can only end the one write. The names
    of extra members must not be SB3's, nor end in ``.pth``, which SB3 would load.

    Raises:
        FileWriteError: The file cannot be written.
    """
    buffer = io.BytesIO()
    model.save(buffer, exclude=_MOMENTARY)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as archive:
        for name, content in extra_members.items():
            archive.writestr(name, content)
    _write_with_checksum(path, buffer)


def write_shared_agent(path: Path, model: ModelFile) -> None:
    """Write what acting takes of a model; `A2C.load` and `DQN.load` open it.

    Half as large for A2C, a quarter for DQN. If it learns on, the optimiser starts anew, and DQN's
    target network as a copy of the network; what a run resumes from is left out. The model must
    have been read as one of this project's.

    Raises:
        FileWriteError: The file cannot be written.
    """
    assert model.optimizer_state is not None
    with zipfile.ZipFile(model.path) as archive:
        members = {
            name: archive.read(name)
            for name in archive.namelist()
            if not name.startswith("resume.")
        }
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


def _write_with_checksum(path: Path, buffer: io.BytesIO) -> None:
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = _CHECKSUM_LABEL + b"0" * _CHECKSUM_DIGITS
    body = buffer.getbuffer()[:-_CHECKSUM_DIGITS]
    with open_atomically(path) as stream:
        stream.write(body)
        stream.write(hashlib.sha256(body).hexdigest().encode())


def verify_checksum(path: Path, *, required: bool = True) -> None:
    """Check that a file is, byte for byte, what `write_model_zip` wrote.

    It ends in the archive's comment, ``sha256:`` and the SHA-256 of every byte before its digits.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It has another checksum, or none (as after truncation) though ``required``.
    """
    with open_for_reading(path) as stream:
        length = stream.seek(0, io.SEEK_END) - _CHECKSUM_DIGITS
        stream.seek(max(length - len(_CHECKSUM_LABEL), 0))
        label, digits = stream.read(len(_CHECKSUM_LABEL)), stream.read(_CHECKSUM_DIGITS)
        if label == _CHECKSUM_LABEL:
            fits = digits == _sha256_of(stream, length).encode()
        else:
            fits = not required
    if not fits:
        fault = "missing or wrong" if required else "wrong"
        raise ValueError(f"{path} is damaged (its checksum is {fault}); use an earlier file.")


def _sha256_of(stream: io.FileIO, length: int) -> str:
    """The SHA-256 of a file's first ``length`` bytes, in lower-case hexadecimal."""
    digest = hashlib.sha256()
    stream.seek(0)
    while chunk := stream.read(min(length - stream.tell(), _CHUNK_BYTES)):
        digest.update(chunk)
    return digest.hexdigest()


# --- reading --------------------------------------------------------------------------------------


def read_model_zip(path: Path, *, ours: bool = False) -> ModelFile:
    """Read an SB3 model file without running anything in it.

    Members are read by name into memory of bounded size, nothing is extracted and nothing unpickled
    but tensors (see `load_tensors`). A checksum is verified where the file has one.

    With `ours` it must be what this project wrote, byte for byte; only then is the optimiser's
    state read.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not such a file, is damaged, or is built to do harm. One line.
    """
    source = str(path)
    verify_checksum(path, required=ours)
    with open_for_reading(path) as stream:
        archive = open_archive(stream, source)

        def read_object(name: str, max_bytes: int) -> dict[str, Any]:
            text = read_member(archive, name, max_bytes, source)
            if sum(map(text.count, (b"[", b"{", b","))) > _MAX_DATA_VALUES:
                raise refusal(f"{source}: {name}", f"it has over {_MAX_DATA_VALUES:,} values")
            value = parse_json(text, f"{source}: {name}", allow_nan=name == "data")
            if not isinstance(value, dict):
                raise refusal(f"{source}: {name}", "it is not a JSON object")
            return value

        data = read_object("data", _MAX_DATA_BYTES)
        has_config = "config.json" in archive.namelist()
        config = read_object("config.json", _MAX_CONFIG_BYTES) if has_config else None
        state = read_member(archive, "policy.pth", MAX_STATE_BYTES, source)
        policy_state = load_state_dict(state, f"{source}: policy.pth")
        optimizer_state = None
        if ours:
            state = read_member(archive, "policy.optimizer.pth", MAX_STATE_BYTES, source)
            optimizer_state = load_tensors(state, f"{source}: policy.optimizer.pth")
    return ModelFile(
        path=path,
        sb3_data={name: _without_pickle(value) for name, value in data.items()},
        policy_state=policy_state,
        optimizer_state=optimizer_state,
        config=config,
    )


def read_newest_checkpoint(directory: RunDirectory) -> ModelFile | None:
    """The newest checkpoint of a run that can be read, None if it has none; tells of damaged ones.

    Raises:
        ValueError: If there are checkpoints and none can be read.
    """
    complaints: list[str] = []
    for path in directory.list_checkpoints():
        try:
            checkpoint = read_model_zip(path, ours=True)
        except (ValueError, FileNotFoundError) as error:
            complaints.append(str(error))
        else:
            for complaint in complaints:
                print(f"{complaint} The checkpoint before it is used.", flush=True)
            return checkpoint
    if complaints:
        raise ValueError(
            f"no checkpoint in {directory.checkpoints_path} can be read; restore one from a copy, "
            f"or train with another --runs. Of the newest: {complaints[0]}"
        )
    return None


def _without_pickle(value: Any) -> Any:
    if isinstance(value, dict) and ":serialized:" in value:
        return {name: item for name, item in value.items() if not name.startswith(":")}
    return value


def load_state_dict(content: bytes, source: str) -> dict[str, Tensor]:
    """Load what `torch.save` wrote of a state dict of dense tensors; ValueError if of more."""
    state = load_tensors(content, source)
    if type(state) not in (dict, OrderedDict) or not all(
        type(name) is str and type(tensor) is Tensor for name, tensor in dict.items(state)
    ):
        raise refusal(source, "it is not a state dict")
    for tensor in dict.values(state):  # with strides of 0, one number is a tensor of any shape
        if math.prod(tensor.shape) * tensor.element_size() > len(content):
            fault = f"a tensor of shape {format_shape(tensor)} is larger than its file"
            raise refusal(source, fault)
    return {name: tensor.detach() for name, tensor in dict.items(state)}
