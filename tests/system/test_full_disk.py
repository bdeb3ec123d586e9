"""A disk that fills up stops a run with one line, and nothing that was written is harmed."""

import contextlib
import errno
import os
import re
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.soak import compare_runs
from runtime.run_directory import RunDirectory
from tests.short_runs import Interruption, ShortRun, short_config
from tests.system.conftest import UPDATES

FULL = "cannot be written (No space left on device); free some space."


def fill_disk(monkeypatch: pytest.MonkeyPatch) -> bool:
    """Let nothing be written whole any more; returns False, for an `Interruption` to go on."""

    def fail(descriptor: int, *_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    monkeypatch.setattr(os, "posix_fallocate", fail)
    return False


def test_a_disk_that_fills_up_stops_the_run_and_harms_nothing(
    uninterrupted, fresh, monkeypatch, capsys
):
    begun = Interruption(UPDATES["a2c"], lambda: fill_disk(monkeypatch))
    monkeypatch.setattr("agents.training.command.StopRequest", lambda: begun)
    status, err = fresh.command(capsys)
    assert status == 2
    assert re.fullmatch(rf"error: {fresh.directory.path}/\S+ {re.escape(FULL)}\n", err)
    fresh.newest_checkpoint()
    assert not list(fresh.runs.rglob("*.tmp"))
    monkeypatch.undo()
    assert compare_runs(uninterrupted, fresh.train()) == []


def test_episodes_that_find_no_room(stopped, monkeypatch, capsys):
    """/dev/full gives the system's own error."""
    run = stopped("a2c")
    full = property(lambda _: Path("/dev/full"), lambda *_: None)
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "episodes_path", full, raising=False)
        assert run.command(capsys) == (2, f"error: /dev/full {FULL}\n")
    state = run.directory.read_status()
    assert (state.state, state.message) == ("failed", f"/dev/full {FULL}")
    run.stop_after(1)


def test_tensorboard_rows_that_find_no_room(whole, tmp_path):
    run = ShortRun(tmp_path, short_config())
    folder = run.directory.path
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit() -> bool:
        (events,) = folder.glob("events.*")
        resource.setrlimit(resource.RLIMIT_FSIZE, (events.stat().st_size, limits[1]))
        return False

    message = (
        rf"^{folder}/events\.out\.tfevents\.\S+ cannot be written \(File too large\); raise the "
        r"limit on file sizes\.$"
    )
    try:
        with pytest.raises(OSError, match=message):
            run.train(Interruption(UPDATES["a2c"], limit))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert compare_runs(whole("a2c"), run.train()) == []


def test_a_replay_memory_that_finds_no_room(tmp_path, monkeypatch):
    run = ShortRun(tmp_path, short_config("dqn"))
    with monkeypatch.context() as patch:
        fill_disk(patch)
        assert run.refuse() == f"{run.directory.replay_path / 'frames.bin'} {FULL}"
    run.stop_after(1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200m", "none", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("may not mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_is_really_full(whole, small_disk):
    run = ShortRun(small_disk, short_config("dqn"))
    filler = small_disk / "filler"

    def fill() -> bool:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        return False

    with pytest.raises(OSError, match=rf"^\S+ {re.escape(FULL)}$"):
        run.train(Interruption(UPDATES["a2c"], fill))
    filler.unlink()
    run.newest_checkpoint()
    assert compare_runs(whole("dqn"), run.train()) == []
