"""Damaged, missing and foreign files of a run: what is used instead, and that nothing is lost."""

import hashlib
import io
import os
import shutil
import time
import zipfile
from pathlib import Path

import pytest

from agents.models.model_file import read_model_zip
from agents.training.checkpoints import cut_logs
from benchmarks.soak import compare_runs
from runtime.run_directory import RunStatus
from tests.refusals import refusal
from tests.short_runs import ShortRun, short_config
from tests.system.conftest import UPDATES


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_dead_writers_left_is_removed(stopped):
    run = stopped("a2c")
    name = "{}/.final.zip.0123456789abcdef.tmp"
    folders = (run.directory.path, run.directory.checkpoints_path)
    left = [Path(name.format(folder)) for folder in folders]
    for path in left:
        path.write_bytes(b"half")
    run.stop_after(1)
    assert not any(path.exists() for path in left)


def test_a_second_process_is_refused(stopped, capsys):
    run = stopped("a2c")
    path = run.directory.path
    with run.directory.lock():
        before = {file: file.stat().st_mtime_ns for file in contents(path)}
        time.sleep(0.01)
        assert run.command(capsys) == (
            2,
            f"error: {path} is being written by another process; wait for it or stop it.\n",
        )
        assert {file: file.stat().st_mtime_ns for file in contents(path)} == before
    run.stop_after(0)


# --- checkpoints ----------------------------------------------------------------------------------


def test_a_damaged_newest_checkpoint(stopped, capsys):
    run = stopped("a2c")
    before, newest = run.checkpoints()
    newest.write_bytes(newest.read_bytes()[:-1])
    run.stop_after(0)
    assert capsys.readouterr().out.splitlines()[:4] == [
        f"{newest} is damaged (its checksum is missing or wrong); use an earlier file. The "
        "checkpoint before it is used.",
        f"{newest.name} is kept as {newest.name}.damaged.",
        f"{run.config.name}: resumed at {int(before.stem):_} agent steps.",
        f"training  Breakout, a2c-{run.config.arm}, seed 0",
    ]


@pytest.mark.parametrize("stem", [None, "000000000299"])  # of which training gets, or not, beyond
def test_a_damaged_checkpoint_does_not_take_a_good_ones_place(stopped, uninterrupted, stem):
    run = stopped(uninterrupted.read_config().run.algo)
    before, newest = run.checkpoints()
    damaged = newest.rename(newest.with_stem(stem or newest.stem))
    damaged.write_bytes(b"")
    run.stop_after(3)  # less than an interval: the checkpoint is one of the stop
    kept, further = run.directory.list_checkpoints()[::-1]
    assert kept == before
    read_model_zip(further, ours=True)
    assert damaged.with_name(f"{damaged.name}.damaged").read_bytes() == b""
    assert compare_runs(uninterrupted, run.train()) == []


def test_no_good_checkpoint(stopped):
    run = stopped("a2c")
    for newest in run.checkpoints():
        newest.write_bytes(b"")
    assert run.refuse() == (
        f"no checkpoint in {run.directory.checkpoints_path} can be read; restore one from a copy, "
        f"or train with another --runs. Of the newest: {newest} is damaged (its checksum is "
        "missing or wrong); use an earlier file."
    )


@pytest.mark.parametrize("also_missing", [[], ["config_path"], ["status_path"], ["final_path"]])
@pytest.mark.parametrize("finished", [True, False])
def test_where_the_checkpoints_are_gone_nothing_is_erased(stopped, finished, also_missing):
    run = stopped("a2c")
    directory = run.directory
    if finished:
        directory.write_status("finished", 300)
        directory.final_path.touch()
    else:
        directory.write_status("running", 180)  # as after a kill
    shutil.rmtree(directory.checkpoints_path)
    for name in also_missing:
        getattr(directory, name).unlink(missing_ok=True)
    before = contents(directory.path)
    longer = ShortRun(run.runs, run.config.with_total_agent_steps(360))
    assert longer.refuse() == (
        f"{directory.path} was trained, but {directory.checkpoints_path}, from which it would go "
        "on, is empty or gone; restore it, or choose another --runs folder."
    )
    assert contents(directory.path) == before


def test_every_checkpoint_is_on_record(tmp_path):
    """What a kill leaves: the status knows that there were checkpoints."""
    run = ShortRun(tmp_path, short_config())
    run.die_after(UPDATES["a2c"])
    assert run.directory.read_status() == RunStatus(state="running", agent_steps=180)


def test_a_checkpoint_of_another_run(stopped):
    """config.json was deleted to get around the refusal, or the folder copied."""
    run = stopped("a2c")
    run.directory.config_path.unlink()
    other = short_config(gamma=0.5).replace(variant=run.config.variant)
    assert ShortRun(run.runs, other).refuse() == (
        f"{run.checkpoints()[-1]} is of a run of other settings (gamma); delete "
        f"{run.directory.path} to start again."
    )


def replace_member(path: Path, name: str, content: bytes | None) -> None:
    """Change or remove a model file's member; its checksum is made to fit again."""
    with zipfile.ZipFile(path) as archive:
        members: dict[str, bytes | None] = {n: archive.read(n) for n in archive.namelist()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, value in (members | {name: content}).items():
            if value is not None:
                archive.writestr(member, value)
        archive.comment = b"sha256:" + b"0" * 64
    body = buffer.getvalue()[:-64]
    path.write_bytes(body + hashlib.sha256(body).hexdigest().encode())


NO_MEMBER = "cannot be loaded: it has no member {!r}; give an intact model saved by"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("resume.json", None, f" {NO_MEMBER.format('resume.json')} Stable-Baselines3."),
        ("resume.npz", None, f" {NO_MEMBER.format('resume.npz')} Stable-Baselines3."),
        ("config.json", None, ": config.json: a config must be a JSON object; restore the file."),
        (
            "resume.json",
            b"{}\xff",
            ": resume.json is not valid JSON (not UTF-8 at byte 2); correct or replace it.",
        ),
    ],
)
def test_a_checkpoint_with_a_wrong_member(stopped, name, content, message):
    run = stopped("a2c")
    newest = run.checkpoints()[-1]
    replace_member(newest, "another", b"")  # which does no harm
    run.stop_after(0)
    replace_member(newest, name, content)
    before = run.directory.config_path.read_bytes()
    assert run.refuse() == f"{newest}{message}"
    assert run.directory.config_path.read_bytes() == before


# --- logs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["episodes.csv", "events.out.tfevents.*"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: os.truncate(path, 10)])
def test_a_log_that_is_shorter_than_it_was(stopped, pattern, damage):
    run = stopped("a2c")
    folder = run.directory.path
    (path,) = folder.glob(pattern)
    damage(path)
    assert run.refuse() == (
        f"{path} is missing or was shortened; restore it, or delete {folder} to start again."
    )


def test_logs_are_cut_to_where_they_were(tmp_path):
    for name in ("episodes.csv", "events.out.tfevents.1.2", "events.out.tfevents.3.4", "notes.csv"):
        (tmp_path / name).write_bytes(b"0123456789")
    cut_logs(tmp_path, {"episodes.csv": 4, "events.out.tfevents.1.2": 10})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "episodes.csv": b"0123",
        "events.out.tfevents.1.2": b"0123456789",
        "notes.csv": b"0123456789",
    }


def test_a_log_that_is_a_link_cuts_nothing_elsewhere(tmp_path):
    (tmp_path / "elsewhere").write_text("kept")
    (tmp_path / "run").mkdir()
    link = tmp_path / "run" / "episodes.csv"
    link.symlink_to(tmp_path / "elsewhere")
    fault = f"{link} is a link; put the file itself in its place."
    assert refusal(cut_logs, tmp_path / "run", {"episodes.csv": 0}) == fault
    assert (tmp_path / "elsewhere").read_text() == "kept"


@pytest.mark.parametrize("name", ["config.json", "events.out.tfevents.1/../config.json"])
def test_a_checkpoint_cuts_nothing_but_logs(tmp_path, name):
    (tmp_path / "config.json").write_text("kept")
    (tmp_path / "episodes.csv").write_text("kept")
    with pytest.raises(ValueError, match="is missing or was shortened; restore it, or delete "):
        cut_logs(tmp_path, {name: 0})
    assert {path.read_text() for path in tmp_path.iterdir()} == {"kept"}
