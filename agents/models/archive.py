"""Zip archives from anywhere, read without ever running what is in them.

Members are read by name into memory of bounded size, nothing is extracted, and nothing unpickled
but tensors: by ``torch.load`` with ``weights_only=True``, which is handed nothing that was not
checked here. What is refused is refused with one line.
"""

import io
import math
import pickletools
import stat
import zipfile
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAX_STATE_BYTES = 512 << 20
_MAX_TOTAL_BYTES = 4 << 30
_MAX_PICKLE_BYTES = 256 << 10
_MAX_TENSOR_RECORDS = 4096
_MAX_TUPLES = 8192  # also bounds how deep a pickle can nest what it hashes
_MAX_RATIO = 200
_RATIO_FREE_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20

_INTACT = "give an intact model saved by Stable-Baselines3"

Array = np.ndarray[Any, np.dtype[Any]]


# --- archives -------------------------------------------------------------------------------------


class _CappedReader(io.BufferedReader):
    """Refuses long reads, so that opening an archive never loads a huge directory of members."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = 2 * _CHUNK_BYTES
        if size > 2 * _CHUNK_BYTES:
            raise zipfile.BadZipFile("its directory of members is too long")
        return super().read(size)


def open_archive(stream: io.FileIO | io.BytesIO, source: str, max_members: int) -> zipfile.ZipFile:
    """Open a zip and check its list of members: few, each name once, nothing encrypted or odd.

    Raises:
        ValueError: It cannot be trusted or read; one line.
    """
    reader = _CappedReader(stream)
    try:
        archive = zipfile.ZipFile(reader)
        members = archive.infolist()
    except Exception as error:
        raise refusal(source, "it is not a zip archive, or a truncated one") from error
    if len(members) > max_members:
        raise refusal(source, f"it has {len(members):,} members, more than {max_members:,}")
    seen = set()
    for info in members:
        fault = _find_fault(info)
        if info.filename in seen:
            fault = "is there twice"
        if fault:
            raise refusal(source, f"member {quote(info.filename)} {fault}")
        seen.add(info.filename)
    total = sum(info.file_size for info in members)
    if total > _MAX_TOTAL_BYTES:
        raise refusal(source, f"it unpacks to {total:,} bytes, more than {_MAX_TOTAL_BYTES:,}")
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


def check_ratios(archive: zipfile.ZipFile, source: str) -> None:
    """Refuse members that unpack to far more than they take: no model compresses like that.

    Raises:
        ValueError: It cannot be trusted or read; one line.
    """
    for info in archive.infolist():
        if info.file_size > max(_RATIO_FREE_BYTES, _MAX_RATIO * info.compress_size):
            fault = f"member {quote(info.filename)} unpacks to over {_MAX_RATIO} times its size"
            raise refusal(source, fault)


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
        raise refusal(source, f"member {quote(name)} is larger than {max_bytes:,} bytes")
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


def load_tensors(content: bytes, source: str) -> Any:
    """Load what ``torch.save`` wrote of dicts, lists, numbers and dense tensors.

    The records are read under our own bounds, the pickle among them is checked instruction by
    instruction (`_check_pickle`), and both are packed anew for ``torch.load``: it never sees the
    archive as it came, so nothing in that can look different to torch than it did here.

    Raises:
        ValueError: It cannot be trusted or read; one line.
    """
    if not content.startswith(b"PK\x03\x04"):
        raise refusal(source, "it is not in the zip format that torch.save writes since 1.6")
    archive = open_archive(io.BytesIO(content), source, _MAX_TENSOR_RECORDS)
    if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
        raise refusal(source, "its records are compressed, which torch.save never does")
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise refusal(source, f"it has {len(pickles)} records data.pkl instead of one")
    root = pickles[0].removesuffix("data.pkl")
    sizes = {
        info.filename.removeprefix(f"{root}data/"): info.file_size
        for info in archive.infolist()
        if info.filename.startswith(f"{root}data/")
    }
    pickled = read_member(archive, pickles[0], _MAX_PICKLE_BYTES, source)
    _check_pickle(pickled, sizes, source)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as clean:
        clean.writestr("archive/data.pkl", pickled)
        clean.writestr("archive/version", "3\n")
        if f"{root}byteorder" in archive.namelist():
            order = read_member(archive, f"{root}byteorder", 6, source)
            clean.writestr("archive/byteorder", b"big" if order == b"big" else b"little")
        for key in sizes:
            record = read_member(archive, f"{root}data/{key}", MAX_STATE_BYTES, source)
            clean.writestr(f"archive/data/{key}", record)
    packed.seek(0)
    try:
        value = torch.load(packed, map_location="cpu", weights_only=True)
    except Exception as error:  # of any kind: the file decides what torch stumbles over
        raise refusal(source, "torch cannot read it") from error
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
        raise refusal(source, "its pickle is damaged") from error
    trail: deque[tuple[str, Any]] = deque(maxlen=7)
    memo: dict[int, tuple[str, Any]] = {}
    tuples = 0
    argument: Any
    position: Any
    for opcode, argument, position in instructions:
        name = opcode.name
        if name not in _OPCODES or (name == "PROTO" and argument != 2):
            raise refusal(source, f"its pickle has the instruction {name}")
        if name == "GLOBAL" and not _is_allowed(argument, pickled, position):
            named = quote(argument.replace(" ", "."))
            raise refusal(source, f"its pickle names {named}, which no state dict needs")
        if name == "BINPERSID" and not _is_storage(list(trail), sizes):
            raise refusal(source, "a tensor in it claims a record that is not there")
        if name in _PUTS:
            memo[argument] = trail[-1] if trail else ("", None)
        elif name in _GETS:
            entry = memo.get(argument, ("", None))
            trail.append(entry if entry[0] in ("GLOBAL", "literal") else ("", None))
        else:
            trail.append(("literal" if name in _LITERALS else name, argument))
            tuples += name in _TUPLES
    if tuples > _MAX_TUPLES:
        raise refusal(source, f"its pickle has {tuples:,} tuples, more than {_MAX_TUPLES:,}")


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
                fault = f"a tensor of shape {format_shape(item)} is larger than its record"
                raise refusal(source, fault)


# --- arrays ---------------------------------------------------------------------------------------


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
    archive = open_archive(io.BytesIO(content), source, _MAX_TENSOR_RECORDS)
    arrays = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        array = _parse_npy(read_member(archive, info.filename, max_bytes, source))
        if array is None:
            raise refusal(source, f"{quote(name)} is not an array of numbers, or is damaged")
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


# --- messages -------------------------------------------------------------------------------------


def refusal(source: str, fault: str) -> ValueError:
    """The error of a file that is not what it should be."""
    return ValueError(f"{source} cannot be loaded: {fault}; {_INTACT}.")


def quote(name: str) -> str:
    """A name from a file, short and printable."""
    return repr(name[:80])


def format_shape(tensor: Tensor) -> str:
    """A tensor's shape: 4x84x84."""
    return "x".join(map(str, tensor.shape[:8])) or "()"
