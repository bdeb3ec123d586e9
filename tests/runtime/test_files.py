import errno
import fcntl
import json
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.files import (
    FileWriteError,
    open_atomically,
    open_for_reading,
    parse_json,
    read_bytes,
    read_json,
    remove_stale_temporaries,
    write_atomically,
    write_json,
)
from tests.processes import start
from tests.refusals import refusal


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# --- writing --------------------------------------------------------------------------------------


def test_write_atomically_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "notes.txt"
    write_atomically(path, b"old")
    write_atomically(path, "naïve\n")
    assert path.read_bytes() == b"na\xc3\xafve\n"
    assert _names(tmp_path) == ["notes.txt"]


def test_open_atomically_honours_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "f", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o640


def test_open_atomically_syncs_the_data_then_renames_then_syncs_the_directory(
    tmp_path, monkeypatch
):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    calls = []
    sync, replace = os.fsync, os.replace

    def record_sync(descriptor: int) -> None:
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
        content = None if target.is_dir() else target.read_bytes()
        calls.append(("directory" if target.is_dir() else "file", content, path.read_bytes()))
        sync(descriptor)

    def record_replace(source: str, target: Path) -> None:
        calls.append(("replace", Path(source).read_bytes(), path.read_bytes()))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "replace", record_replace)
    write_atomically(path, b"new")
    assert calls == [
        ("file", b"new", b"old"),
        ("replace", b"new", b"old"),
        ("directory", None, b"new"),
    ]


@pytest.fixture
def old(tmp_path) -> Iterator[Path]:
    """A file whose writing fails in the test, alone in its folder: it must stay as it was."""
    path = tmp_path / "f"
    path.write_bytes(b"old")
    yield path
    assert path.read_bytes() == b"old"
    assert _names(tmp_path) == ["f"]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), OSError("odd")])
def test_a_failing_body_leaves_the_old_file_and_no_temporary(old, error):
    def write_half() -> None:
        with open_atomically(old) as stream:
            stream.write(b"half")
            raise error

    with pytest.raises(type(error)) as caught:
        write_half()
    assert caught.value is error


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "No space left on device); free some space"),
        (errno.EDQUOT, "Disk quota exceeded); free some space"),
        (errno.EIO, "Input/output error); check the disk"),
        (errno.EACCES, "Permission denied); choose a directory that you may write to"),
        (errno.EROFS, "Read-only file system); choose a directory that you may write to"),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_write_errors_name_the_path_and_the_remedy(old, monkeypatch, call, number, words):
    def fail(*arguments: object) -> None:
        names = [str(argument) for argument in arguments if not isinstance(argument, int)]
        raise OSError(number, os.strerror(number), *names[:1])

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(FileWriteError) as caught:
        write_atomically(old, b"new")
    assert str(caught.value) == f"{old} cannot be written ({words}."
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == number


def test_a_write_that_the_system_cuts_short_leaves_the_old_file(old):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        message = refusal(write_atomically, old, bytes(1 << 20), error=FileWriteError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    words = "File too large); raise the limit on file sizes"
    assert message == f"{old} cannot be written ({words}."


def test_the_path_that_cannot_be_written_is_named(tmp_path):
    """Also inside the writing of another."""
    path = tmp_path / "none" / "f"
    words = "No such file or directory); create its directory first"
    with pytest.raises(FileWriteError) as caught, open_atomically(tmp_path / "outer"):
        write_atomically(path, b"")
    assert str(caught.value) == f"{path} cannot be written ({words}."
    message = refusal(write_atomically, tmp_path, b"")
    assert message == f"{tmp_path} is a directory; give the path of a file."


def test_another_files_error_in_the_body_passes_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, open_atomically(tmp_path / "f"):
        (tmp_path / "absent").read_bytes()
    assert caught.value.filename == str(tmp_path / "absent")


def test_write_json_is_sorted_indented_and_ends_in_a_newline(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, 2.5], "a": None})
    text = '{\n  "a": null,\n  "b": [\n    1,\n    2.5\n  ]\n}\n'
    assert (tmp_path / "a.json").read_text() == text


def test_write_json_refuses_nan_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, float("nan"))
    assert read_json(path) == 1


# --- stale temporaries ----------------------------------------------------------------------------

_WRITER = """
import sys
from pathlib import Path
from runtime.files import open_atomically
with open_atomically(Path(sys.argv[1])) as stream:
    stream.write(b"half")
    stream.flush()
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_only_temporaries_of_dead_writers_are_removed(tmp_path):
    bystanders = [".f.tmp", "f.0123456789abcdef.tmp", ".f.0123456789ABCDEF.tmp", "f"]
    for name in bystanders:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / ".d.0123456789abcdef.tmp").mkdir()
    bystanders.append(".d.0123456789abcdef.tmp")
    with start("-c", _WRITER, str(tmp_path / "model.zip"), stdin=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        (temporary,) = tmp_path.glob(".model.zip.*.tmp")
        remove_stale_temporaries(tmp_path)
        assert temporary.read_bytes() == b"half"
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert temporary.exists()
        remove_stale_temporaries(tmp_path)
        assert not temporary.exists()
    assert _names(tmp_path) == sorted(bystanders)


def test_a_temporary_removed_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    lock = fcntl.flock
    removed: list[Path] = []

    def remove_first(stream: IO[bytes], operation: int) -> None:
        if not removed:
            removed.extend(tmp_path.glob(".f.*.tmp"))
            removed[0].unlink()
        lock(stream, operation)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    write_atomically(tmp_path / "f", b"whole")
    assert len(removed) == 1
    assert (tmp_path / "f").read_bytes() == b"whole"
    assert _names(tmp_path) == ["f"]


# --- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        (b"", "Expecting value at line 1, column 1"),
        (b'{"a": 1,\n "b" 2}', "Expecting ':' delimiter at line 2, column 6"),
        (b"[1] x", "Extra data at line 1, column 5"),
        (b"\xef\xbb\xbf1", "Unexpected UTF-8 BOM (decode using utf-8-sig) at line 1, column 1"),
        (b'"\xff"', "not UTF-8 at byte 1"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8 at byte 0"),
        (b'{"a": 1, "b": 2, "a": 1}', "key 'a' is given twice"),
        (b'[{"x\\ny": 1, "x\\ny": 2}]', r"key 'x\ny' is given twice"),
        (b"[NaN]", "NaN is not a finite number"),
        (b"-Infinity", "-Infinity is not a finite number"),
        (b"[1e999]", "1e999 is not a finite number"),
        (b"[" * 65 + b"]" * 65, "nested more than 64 deep"),
        (b"[" * 100_000 + b"]" * 100_000, "nested more than 64 deep"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested more than 64 deep"),
    ],
    ids=lambda value: repr(value[:12]) if isinstance(value, bytes) else "",
)
def test_bad_json_gives_one_line(tmp_path, document, fault):
    path = tmp_path / "a.json"
    path.write_bytes(document)
    message = f"{path} is not valid JSON ({fault}); correct or replace it."
    assert refusal(read_json, path) == message


def test_json_of_64_levels_is_read():
    value = parse_json("[" * 64 + "]" * 64, "text")
    for _ in range(63):
        (value,) = value
    assert value == []


def test_nan_is_read_where_it_is_asked_for():
    value = parse_json(b"[NaN, Infinity, -1e999]", "text", allow_nan=True)
    assert repr(value) == "[nan, inf, -inf]"


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_parse_json_accepts_no_more_than_the_standard_library(document):
    try:
        value = parse_json(document, "text")
    except ValueError as error:
        message = str(error)
    else:
        assert value == json.loads(document.decode())
        return
    assert message.startswith("text is not valid JSON (")
    assert len(message.splitlines()) == 1


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)  # fmt: skip


@given(_values)
def test_parse_json_returns_what_was_written(value):
    assert parse_json(json.dumps(value), "text") == value


def test_files_over_the_limit_are_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"[1000]")
    assert read_bytes(path, max_bytes=6) == b"[1000]"
    message = f"{path} is larger than {{}} bytes; give another file."
    assert refusal(read_bytes, path, max_bytes=5) == message.format(5)
    os.truncate(path, 1 << 40)  # sparse: nothing is on disk
    assert refusal(read_json, path) == message.format("16,777,216")


def test_paths_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "absent", tmp_path / "file" / "below"):
        with pytest.raises(FileNotFoundError) as missing:
            read_bytes(path, max_bytes=1)
        assert str(missing.value) == f"{path} does not exist; check the path."
    for path, remedy in [
        (tmp_path, "is a directory; give the path of a file."),
        (tmp_path / "pipe", "is not a regular file; give the path of a file."),
        (Path("/dev/zero"), "is not a regular file; give the path of a file."),
    ]:
        assert refusal(open_for_reading, path) == f"{path} {remedy}"

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    path = tmp_path / "file"
    assert refusal(open_for_reading, path) == (
        f"{path} cannot be read (Permission denied); check the path."
    )
