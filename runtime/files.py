"""Files written whole or not at all, and JSON read without trusting it."""

import contextlib
import errno
import fcntl
import io
import json
import math
import os
import re
import secrets
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

_MAX_JSON_BYTES = 16 << 20
_MAX_JSON_DEPTH = 64
_TEMPORARY_NAME = re.compile(r"\..+\.[0-9a-f]{16}\.tmp", re.DOTALL)
_CHANGE_DIRECTORY = "choose a directory that you may write to"
_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the limit on file sizes",
    errno.EIO: "check the disk",
    errno.EACCES: _CHANGE_DIRECTORY,
    errno.EPERM: _CHANGE_DIRECTORY,
    errno.EROFS: _CHANGE_DIRECTORY,
    errno.ENOENT: "create its directory first",
    errno.ENOTDIR: "create its directory first",
    errno.ENAMETOOLONG: "choose a shorter name",
}


class FileWriteError(OSError):
    """A file could not be written; the message is one line that names the file and the remedy.

    The operating system's own error is its ``__cause__``.
    """


# --- writing --------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_atomically(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that appears at ``path`` complete and on disk, or not at all.

    The body writes to a temporary file, seekable, in the same directory, which must exist. When it
    ends, that file is flushed, fsynced and renamed to ``path``, and the directory is fsynced. When
    it raises, the temporary is removed and what was at ``path`` before is untouched.

    Raises:
        ValueError: ``path`` is a directory.
        FileWriteError: The disk is full, the directory is missing or not writable, and the like.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a directory; give the path of a file.")
    with naming_write_errors(path):
        stream = _create_temporary(path)
    temporary: str = stream.name
    try:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())
        os.replace(temporary, path)  # noqa: PTH105 (its error then names `temporary` as a string)
    except BaseException as error:
        with contextlib.suppress(OSError):
            stream.close()
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        if isinstance(error, OSError) and error.filename in (None, temporary):
            _raise_write_error(path, error)
        raise
    stream.close()
    _sync_directory(path.parent)


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a whole file, as `open_atomically` does; a ``str`` is written as UTF-8."""
    with open_atomically(path) as stream:
        stream.write(data.encode() if isinstance(data, str) else data)


def write_json(path: Path, value: Any) -> None:
    """Write `dump_json` of a value atomically."""
    write_atomically(path, dump_json(value))


def dump_json(value: Any) -> str:
    """The text of a JSON file: keys sorted, indented, a newline at the end; NaN is a ValueError."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"


def remove_stale_temporaries(directory: Path) -> None:
    """Remove the temporaries of `open_atomically` whose writers are dead.

    A writer holds a lock on its temporary, which ends with its process: a file that can be locked
    has no writer. Files of any other name, and folders below, are left alone.
    """
    for path in list(directory.iterdir()):
        if not _TEMPORARY_NAME.fullmatch(path.name) or path.is_symlink() or not path.is_file():
            continue
        with contextlib.suppress(OSError), path.open("r+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _create_temporary(path: Path) -> IO[bytes]:
    """Create and lock the temporary for ``path``; its name is the stream's ``name``."""
    while True:
        name = os.fspath(path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp"))
        stream = open(name, "xb")  # noqa: PTH123, SIM115
        with contextlib.suppress(OSError):  # some file systems have no locks
            fcntl.flock(stream, fcntl.LOCK_EX)
        if Path(name).exists():
            return stream
        stream.close()  # it was cleaned away before it was locked


def _sync_directory(directory: Path) -> None:
    """Make a rename in ``directory`` durable where the file system can; the data itself is safe."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _raise_write_error(path: Path, error: OSError) -> NoReturn:
    if isinstance(error, FileWriteError) or error.errno not in _REMEDIES:
        raise error
    remedy = _REMEDIES[error.errno]
    raise FileWriteError(f"{path} cannot be written ({error.strerror}); {remedy}.") from error


@contextlib.contextmanager
def naming_write_errors(path: Path) -> Iterator[None]:
    """Let a write to ``path`` that the system refuses raise what `open_atomically` would."""
    try:
        yield
    except OSError as error:
        _raise_write_error(path, error)


# --- reading --------------------------------------------------------------------------------------


def exists(path: Path) -> bool:
    """Whether anything is there; OSError if there can be no such path.

    `Path.exists` says no of a path that is too long or out of reach, from Python 3.14 on.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def whole_path(path: Path) -> Path:
    """A path from the root, without "..", on which links keep their names."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def open_for_reading(path: Path) -> io.FileIO:
    """Open a regular file, unbuffered.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is a directory, a pipe or a device, or may not be read.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ValueError(f"{path} is a directory; give the path of a file.")
        if not stat.S_ISREG(mode):
            raise ValueError(f"{path} is not a regular file; give the path of a file.")
        return path.open("rb", buffering=0)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{path} does not exist; check the path.") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); check the path.") from error


def check_replaceable(path: Path, beginning: bytes) -> None:
    """Refuse by a ValueError a file that does not begin as the one that would replace it."""
    if path.exists():
        with open_for_reading(path) as file:
            if file.read(len(beginning)) not in (beginning, b""):
                raise ValueError(f"{path} holds something else; choose another name.")


def read_bytes(path: Path, *, max_bytes: int) -> bytes:
    """Read a whole regular file of at most ``max_bytes``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read or is larger.
    """
    with open_for_reading(path) as raw, io.BufferedReader(raw) as stream:
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"{path} is larger than {max_bytes:,} bytes; give another file.")
    return data


def read_json(path: Path) -> Any:
    """Read a JSON file of at most 16 MiB; raises what `read_bytes` and `parse_json` do."""
    return parse_json(read_bytes(path, max_bytes=_MAX_JSON_BYTES), str(path))


def parse_json(document: bytes | str, source: str, *, allow_nan: bool = False) -> Any:
    """Parse JSON strictly: UTF-8, no key twice, at most 64 levels, numbers that are finite.

    With `allow_nan` also ``NaN``, ``Infinity`` and numbers that overflow. `source` is for messages.

    Raises:
        ValueError: Anything else; one line.
    """
    try:
        text = document if isinstance(document, str) else document.decode("utf-8")
        value = json.loads(
            text,
            object_pairs_hook=_build_object,
            parse_float=float if allow_nan else _parse_finite,
            parse_constant=float if allow_nan else _parse_finite,
        )
        if _depth(value) > _MAX_JSON_DEPTH:
            raise RecursionError
    except UnicodeDecodeError as error:
        fault = f"not UTF-8 at byte {error.start}"
    except json.JSONDecodeError as error:
        fault = f"{error.msg} at line {error.lineno}, column {error.colno}"
    except RecursionError:
        fault = f"nested more than {_MAX_JSON_DEPTH} deep"
    except ValueError as error:
        fault = str(error)
    else:
        return value
    raise ValueError(f"{source} is not valid JSON ({fault}); correct or replace it.")


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"key {twice[:80]!r} is given twice")
    return value


def _parse_finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number[:80]} is not a finite number")
    return value


def _depth(value: Any) -> int:
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(_depth, value.values() if isinstance(value, dict) else value), default=0)
