"""Zip archives from anywhere, read without ever running what is in them.

Members are read by name into memory of bounded size, nothing is extracted, and nothing unpickled
but tensors: by ``torch.load`` with ``weights_only=True``, which since torch 2.10 also compares what
a tensor claims with the record that is there. What is refused is refused with one line.
"""

import io
import pickletools
import re
import stat
import zipfile
from typing import Any

import torch
from torch import Tensor

MAX_STATE_BYTES = 512 << 20
_MAX_PICKLE_BYTES = 64 << 10  # ten times a policy's; what torch can be made to copy grows squared
_MAX_RATIO = 200
_RATIO_FREE_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20


# --- archives -------------------------------------------------------------------------------------


class _CappedReader(io.BufferedReader):
    """Refuses long reads, so that opening an archive never loads a huge directory of members."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = 2 * _CHUNK_BYTES
        if size > 2 * _CHUNK_BYTES:
            raise zipfile.BadZipFile("its directory of members is too long")
        return super().read(size)


def open_archive(stream: io.FileIO | io.BytesIO, source: str) -> zipfile.ZipFile:
    """Open a zip and check its list of members: each name once, nothing encrypted or odd.

    Raises:
        ValueError: It cannot be trusted or read; one line.
    """
    try:
        archive = zipfile.ZipFile(_CappedReader(stream))
    except Exception as error:
        raise refusal(source, "it is not a zip archive, or a truncated one") from error
    seen = set()
    for info in archive.infolist():
        fault = "is there twice" if info.filename in seen else _find_fault(info)
        if fault:
            raise refusal(source, f"member {quote(info.filename)} {fault}")
        seen.add(info.filename)
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
    if info.file_size > max(_RATIO_FREE_BYTES, _MAX_RATIO * info.compress_size):
        return f"unpacks to over {_MAX_RATIO} times its size"  # no model compresses like that
    return None


def read_member(archive: zipfile.ZipFile, name: str, max_bytes: int, source: str) -> bytes:
    """Read a member in pieces, no further than ``max_bytes``; its CRC is checked.

    Raises:
        ValueError: It cannot be trusted or read; one line.
    """
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise refusal(source, f"it has no member {quote(name)}") from None
    if info.file_size > max_bytes:
        raise ValueError(
            f"{source} is too large: member {quote(name)} has {info.file_size:,} bytes, more than "
            f"the {max_bytes:,} that are read; give a smaller model."
        )
    content = bytearray()
    try:
        with archive.open(info) as member:  # which ends at `file_size`, whatever is in there
            while chunk := member.read(_CHUNK_BYTES):
                content += chunk
    except Exception as error:
        raise refusal(source, f"member {quote(name)} is damaged") from error
    if len(content) < info.file_size:
        raise refusal(source, f"member {quote(name)} is damaged")
    return bytes(content)


# --- tensors --------------------------------------------------------------------------------------

_RECORD = re.compile(r"data\.pkl|version|byteorder|data/[0-9]+")
_KINDS = "Bool Byte Char Short Half BFloat16 Int Float Long Double"
# The instructions for the globals that a state dict needs, byte for byte.
_GLOBALS = (
    b"ccollections\nOrderedDict\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    *(f"ctorch\n{kind}Storage\n".encode() for kind in _KINDS.split()),
)


def load_tensors(content: bytes, source: str) -> Any:
    """Load what ``torch.save`` wrote of dicts, lists, numbers and dense tensors.

    The records are read under our own bounds and packed anew for ``torch.load``: it never sees the
    archive as it came, so nothing in that can look different to torch than it did here.

    Raises:
        ValueError: It cannot be trusted or read; one line.
    """
    if not content.startswith(b"PK\x03\x04"):
        raise refusal(source, "it is not in the zip format that torch.save writes since 1.6")
    archive = open_archive(io.BytesIO(content), source)
    if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
        raise refusal(source, "its records are compressed, which torch.save never does")
    if sum(info.file_size for info in archive.infolist()) > len(content):
        raise refusal(source, "its records overlap")
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise refusal(source, f"it has {len(pickles)} records data.pkl instead of one")
    root = pickles[0].removesuffix("data.pkl")
    _check_pickle(read_member(archive, pickles[0], _MAX_PICKLE_BYTES, source), source)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as clean:
        for name in archive.namelist():
            if name.startswith(root) and _RECORD.fullmatch(name, len(root)):
                record = read_member(archive, name, MAX_STATE_BYTES, source)
                clean.writestr(f"archive/{name[len(root) :]}", record)
    packed.seek(0)
    try:
        return torch.load(packed, map_location="cpu", weights_only=True)
    except Exception as error:  # of any kind: the file decides what torch stumbles over
        raise refusal(source, "torch cannot read it") from error


def _check_pickle(pickled: bytes, source: str) -> None:
    """Refuse globals that torch allows and no state dict needs: `bytearray` takes any memory."""
    try:
        instructions = list(pickletools.genops(pickled))
    except Exception as error:  # whatever its decoders say
        raise refusal(source, "its pickle is damaged") from error
    for opcode, argument, position in instructions:
        if opcode.name == "GLOBAL" and not pickled.startswith(_GLOBALS, position):
            named = quote(str(argument).replace(" ", "."))
            raise refusal(source, f"its pickle names {named}, which no state dict needs")


# --- messages -------------------------------------------------------------------------------------


def refusal(source: str, fault: str) -> ValueError:
    """The error of a file that is not what it should be."""
    return ValueError(
        f"{source} cannot be loaded: {fault}; give an intact model saved by Stable-Baselines3."
    )


def quote(name: str) -> str:
    """A name from a file, short and printable."""
    return repr(name[:80])


def format_shape(tensor: Tensor) -> str:
    """A tensor's shape: 4x84x84."""
    return "x".join(map(str, tensor.shape[:8])) or "()"
