"""Full disks, damaged files and failing emulators: what a run does, and that nothing is lost."""

import contextlib
import errno
import hashlib
import io
import os
import pickle
import re
import resource
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import train as train_command
from agents.training.checkpoints import cut_logs, newest_good_checkpoint
from benchmarks.soak import compare_runs
from configs.run_config import RunConfig
from envs.atari_vec_env import AtariVecEnv
from envs.emulated_game import EmulatedGame, StepOutcome
from runtime.run_directory import RunDirectory, RunStatus
from runtime.stop_request import TrainingStopped
from tests.short_runs import Interruption, command_line, never, short_config, train

ROOT = Path(__file__).parents[2]
FULL = "(No space left on device); free some space."
A2C_UPDATES, DQN_UPDATES = 19, 22  # at 190 and 88 agent steps: between two checkpoints


@pytest.fixture(scope="module", params=["a2c", "dqn"])
def uninterrupted(request: Any, tmp_path_factory: Any) -> RunDirectory:
    return train(tmp_path_factory.mktemp("uninterrupted"), short_config(request.param))


@pytest.fixture(scope="module")
def interrupted_once(tmp_path_factory: Any) -> dict[str, Path]:
    """Folders with runs that were stopped with two checkpoints on the disk."""
    folders = {}
    for algo, updates in (("a2c", A2C_UPDATES), ("dqn", DQN_UPDATES)):
        folders[algo] = tmp_path_factory.mktemp("interrupted")
        with pytest.raises(TrainingStopped):
            train(folders[algo], short_config(algo), Interruption(updates))
    return folders


@pytest.fixture
def interrupted(interrupted_once: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Makes a folder with a copy of a stopped run."""

    def copy(algo: str) -> Path:
        return Path(shutil.copytree(interrupted_once[algo], tmp_path / "runs"))

    return copy


def algo_of(directory: RunDirectory) -> str:
    return directory.path.parent.name.partition("-")[0]


def run_directory(runs: Path, config: RunConfig) -> RunDirectory:
    return RunDirectory(runs / config.name)


def checkpoints(directory: RunDirectory) -> list[Path]:
    return sorted(directory.checkpoints_path.iterdir())


def refuse(runs: Path, config: RunConfig) -> str:
    """The one line that training is refused with."""
    with pytest.raises((ValueError, OSError)) as error:
        train(runs, config)
    assert "\n" not in str(error.value)
    return str(error.value)


def run_command(runs: Path, config: RunConfig, capsys: Any) -> tuple[int, str]:
    """train.py's exit status and what it wrote on stderr."""
    capsys.readouterr()
    try:
        status = train_command.main(command_line(config, runs))
    except SystemExit as stop:
        status = int(stop.code or 0)
    return status, capsys.readouterr().err


# --- a full disk ----------------------------------------------------------------------------------


def fill_disk(monkeypatch: pytest.MonkeyPatch) -> bool:
    """Let nothing be written whole any more; returns False, for an `Interruption` to go on."""

    def fail(descriptor: int, *_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    monkeypatch.setattr(os, "posix_fallocate", fail)
    return False


def test_a_disk_that_fills_up_stops_the_run_and_harms_nothing(
    uninterrupted, tmp_path, monkeypatch, capsys
):
    config = short_config(algo_of(uninterrupted))
    directory = run_directory(tmp_path, config)
    begun = Interruption(A2C_UPDATES, lambda: fill_disk(monkeypatch))
    monkeypatch.setattr(
        "agents.training.command.StopRequest", type("Begun", (_Signals,), {"stop": begun})
    )
    status, err = run_command(tmp_path, config, capsys)
    assert status == 2
    assert re.fullmatch(rf"error: {directory.path}/\S+ cannot be written {re.escape(FULL)}\n", err)
    checkpoint, complaints = newest_good_checkpoint(directory)
    assert checkpoint is not None
    assert complaints == []
    assert not list(directory.path.rglob("*.tmp"))
    monkeypatch.undo()
    assert compare_runs(uninterrupted, train(tmp_path, config)) == []


class _Signals:
    """In the place of StopRequest, with an `Interruption` behind it."""

    stop: Interruption

    def __bool__(self) -> bool:
        return bool(self.stop)

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        yield


def test_episodes_that_find_no_room(interrupted, monkeypatch, capsys):
    """/dev/full gives the system's own error."""
    config = short_config()
    runs = interrupted("a2c")
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "episodes_path", property(lambda _: Path("/dev/full")))
        status, err = run_command(runs, config, capsys)
    assert (status, err) == (2, f"error: /dev/full cannot be written {FULL}\n")
    state = run_directory(runs, config).read_status()
    assert state is not None
    assert state.state == "failed"
    assert state.message == f"/dev/full cannot be written {FULL}"
    assert train(runs, config).read_status() == RunStatus(state="finished", agent_steps=300)


def test_tensorboard_rows_that_find_no_room(uninterrupted, tmp_path):
    config = short_config(algo_of(uninterrupted))
    folder = run_directory(tmp_path, config).path
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit() -> bool:
        (events,) = folder.glob("events.*")
        resource.setrlimit(resource.RLIMIT_FSIZE, (events.stat().st_size, limits[1]))
        return False

    try:
        with pytest.raises(OSError, match="cannot be written") as error:
            train(tmp_path, config, Interruption(A2C_UPDATES, limit))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert re.fullmatch(
        rf"{folder}/events\.out\.tfevents\.\S+ cannot be written \(File too large\); raise the "
        r"limit on file sizes\.",
        str(error.value),
    )
    assert compare_runs(uninterrupted, train(tmp_path, config)) == []


def test_a_replay_memory_that_finds_no_room(tmp_path, monkeypatch):
    config = short_config("dqn")
    frames = run_directory(tmp_path, config).replay_path / "frames.bin"
    with monkeypatch.context() as patch:
        fill_disk(patch)
        assert refuse(tmp_path, config) == f"{frames} cannot be written {FULL}"
    assert train(tmp_path, config).read_status() == RunStatus(state="finished", agent_steps=300)


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


def test_a_disk_that_is_really_full(uninterrupted, small_disk):
    config = short_config(algo_of(uninterrupted))
    filler = small_disk / "filler"

    def fill() -> bool:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        return False

    with pytest.raises(OSError, match=rf"^\S+ cannot be written {re.escape(FULL)}$"):
        train(small_disk, config, Interruption(A2C_UPDATES, fill))
    filler.unlink()
    checkpoint, complaints = newest_good_checkpoint(run_directory(small_disk, config))
    assert checkpoint is not None
    assert complaints == []
    assert compare_runs(uninterrupted, train(small_disk, config)) == []


def test_what_dead_writers_left_is_removed(interrupted):
    config = short_config()
    runs = interrupted("a2c")
    directory = run_directory(runs, config)
    left = [
        folder / f".{name}.0123456789abcdef.tmp"
        for folder, name in (
            (directory.path, "final.zip"),
            (directory.checkpoints_path, "000000000120.zip"),
        )
    ]
    for path in left:
        path.write_bytes(b"half")
    train(runs, config)
    assert not any(path.exists() for path in left)


# --- checkpoints ----------------------------------------------------------------------------------

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "without its last byte": lambda content: content[:-1],
    "with another byte": lambda content: (
        content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]
    ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_newest_checkpoint(interrupted, damage, capsys):
    config = short_config()
    runs = interrupted("a2c")
    directory = run_directory(runs, config)
    before, newest = checkpoints(directory)
    newest.write_bytes(damage(newest.read_bytes()))
    with pytest.raises(TrainingStopped):
        train(runs, config, Interruption(0))
    assert capsys.readouterr().out == (
        f"{newest} is damaged (its checksum is missing or wrong); use an earlier file. The "
        "checkpoint before it is used.\n"
        f"{config.name}: resumed at {int(before.stem):_} agent steps.\n"
    )


def test_a_damaged_checkpoint_does_not_take_a_good_ones_place(interrupted, uninterrupted):
    """It goes with the next good one, so that two good ones are kept."""
    algo = algo_of(uninterrupted)
    config = short_config(algo)
    runs = interrupted(algo)
    directory = run_directory(runs, config)
    before, newest = checkpoints(directory)
    newest.rename(newest.with_stem("000000000299")).write_bytes(b"")
    updates = 3  # less than an interval: the checkpoint is one of the stop
    with pytest.raises(TrainingStopped):
        train(runs, config, Interruption(updates))
    assert len(checkpoints(directory)) == 2
    assert checkpoints(directory)[0] == before
    assert newest_good_checkpoint(directory)[1] == []
    assert compare_runs(uninterrupted, train(runs, config)) == []


def test_no_good_checkpoint(interrupted):
    config = short_config()
    runs = interrupted("a2c")
    directory = run_directory(runs, config)
    for newest in checkpoints(directory):
        newest.write_bytes(b"")
    assert refuse(runs, config) == (
        f"no checkpoint in {directory.checkpoints_path} can be read; restore one from a copy, or "
        f"train with another --runs. Of the newest: {newest} is damaged (its checksum is missing "
        "or wrong); use an earlier file."
    )


@pytest.mark.parametrize("also_missing", [[], ["config_path"], ["status_path"], ["final_path"]])
@pytest.mark.parametrize("finished", [True, False])
def test_where_the_checkpoints_are_gone_nothing_is_erased(interrupted, finished, also_missing):
    config = short_config()
    runs = interrupted("a2c")
    directory = run_directory(runs, config)
    if finished:
        train(runs, config)
    else:
        directory.write_status("running", 180)  # as after a kill
    shutil.rmtree(directory.checkpoints_path)
    for name in also_missing:
        getattr(directory, name).unlink(missing_ok=True)
    before = {path: path.read_bytes() for path in directory.path.rglob("*") if path.is_file()}
    assert refuse(runs, config.with_total_agent_steps(360)) == (
        f"{directory.path} was trained, but {directory.checkpoints_path}, from which it would go "
        "on, is empty or gone; restore it, or choose another --runs folder."
    )
    assert {
        path: path.read_bytes() for path in directory.path.rglob("*") if path.is_file()
    } == before


def test_every_checkpoint_is_on_record(tmp_path):
    """What a kill leaves: the status knows that there were checkpoints."""
    config = short_config()

    def die() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, config, Interruption(A2C_UPDATES, die))
    assert run_directory(tmp_path, config).read_status() == RunStatus(
        state="running", agent_steps=180
    )


def test_a_checkpoint_of_another_run(interrupted):
    """config.json was deleted to get around the refusal, or the folder copied."""
    config = short_config(gamma=0.5)
    runs = interrupted("a2c")
    directory = run_directory(runs, config)
    directory.config_path.unlink()
    newest = checkpoints(directory)[-1]
    assert refuse(runs, config) == (
        f"{newest} is of a run of other settings (gamma); delete {directory.path} to start again."
    )


def edit_checkpoint(path: Path, edit: Callable[[dict[str, bytes]], None]) -> None:
    """Change a model file's members; its checksum is made to fit again."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    edit(members)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.comment = b"sha256:" + b"0" * 64
    body = buffer.getvalue()[:-64]
    path.write_bytes(body + hashlib.sha256(body).hexdigest().encode())


def without(name: str) -> Callable[[dict[str, bytes]], None]:
    return lambda members: members.__delitem__(name)


def content(name: str, value: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda members: members.__setitem__(name, value)


NO_MODEL = "give an intact model saved by Stable-Baselines3."


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda members: None, None),  # the edit itself does no harm
        (
            without("resume.json"),
            f"{{path}} cannot be loaded: it has no member 'resume.json'; {NO_MODEL}",
        ),
        (
            without("resume.npz"),
            f"{{path}} cannot be loaded: it has no member 'resume.npz'; {NO_MODEL}",
        ),
        (
            without("config.json"),
            "{path}: config.json: a config must be a JSON object; restore the file.",
        ),
        (
            content("resume.json", b""),
            "{path}: resume.json is not valid JSON (Expecting value at line 1, column 1); correct "
            "or replace it.",
        ),
        (
            content("resume.json", b"[" * 10**5),
            "{path}: resume.json is not valid JSON (nested more than 64 deep); correct or replace "
            "it.",
        ),
        (
            content("resume.json", b"{}\xff"),
            "{path}: resume.json is not valid JSON (not UTF-8 at byte 2); correct or replace it.",
        ),
        (
            content("resume.json", pickle.dumps(0)),
            "{path}: resume.json is not valid JSON (not UTF-8 at byte 0); correct or replace it.",
        ),
    ],
)
def test_a_checkpoint_with_a_wrong_member(interrupted, edit, message):
    config = short_config()
    runs = interrupted("a2c")
    newest = checkpoints(run_directory(runs, config))[-1]
    edit_checkpoint(newest, edit)
    if message is None:
        with pytest.raises(TrainingStopped):
            train(runs, config, Interruption(0))
        return
    before = run_directory(runs, config).config_path.read_bytes()
    assert refuse(runs, config) == message.replace("{path}", str(newest))
    assert run_directory(runs, config).config_path.read_bytes() == before


# --- logs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["episodes.csv", "events.out.tfevents.*"])
@pytest.mark.parametrize("damage", ["missing", "shortened"])
def test_a_log_that_is_shorter_than_it_was(interrupted, pattern, damage):
    config = short_config()
    runs = interrupted("a2c")
    folder = run_directory(runs, config).path
    (path,) = folder.glob(pattern)
    if damage == "missing":
        path.unlink()
    else:
        os.truncate(path, 10)
    assert refuse(runs, config) == (
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


@pytest.mark.parametrize("name", ["config.json", "events.out.tfevents.1/../config.json"])
def test_a_checkpoint_cuts_nothing_but_logs(tmp_path, name):
    (tmp_path / "config.json").write_text("kept")
    (tmp_path / "episodes.csv").write_text("kept")
    with pytest.raises(ValueError, match="is missing or was shortened; restore it, or delete "):
        cut_logs(tmp_path, {name: 0})
    assert {path.read_text() for path in tmp_path.iterdir()} == {"kept"}


CONSTANT_EPSILON = {"exploration_initial_eps": 0.1, "exploration_final_eps": 0.1}


# --- the replay buffer ----------------------------------------------------------------------------


def refilling(directory: RunDirectory) -> str:
    return (
        "the replay buffer is gone, as it is after the end of a run: refilling it with 40 agent "
        "steps.\n"
    )


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def remove_file(folder: Path) -> None:
    (folder / "actions.bin").unlink()


def shorten(folder: Path) -> None:
    os.truncate(folder / "frames.bin", 100)


def lengthen(folder: Path) -> None:
    os.truncate(folder / "rewards.bin", 10**6)


def exchange(folder: Path) -> None:
    (folder / "identity.bin").write_bytes(bytes(8))


def link(folder: Path) -> None:
    """As in a folder from a stranger: training would write where the link points."""
    target = folder.parent / "a file of the same size"
    shutil.copy(folder / "rewards.bin", target)
    (folder / "rewards.bin").unlink()
    (folder / "rewards.bin").symlink_to(target)


@pytest.mark.parametrize("damage", [remove_folder, remove_file, shorten, lengthen, exchange, link])
def test_a_damaged_replay_memory_is_refilled_and_that_is_said(interrupted, damage, capsys):
    config = short_config("dqn")
    runs = interrupted("dqn")
    directory = run_directory(runs, config)
    damage(directory.replay_path)
    target = directory.path / "a file of the same size"
    before = target.read_bytes() if target.exists() else None
    train(runs, config)
    assert before is None or target.read_bytes() == before
    assert refilling(directory) in capsys.readouterr().out
    assert directory.read_status() == RunStatus(state="finished", agent_steps=300)
    assert not directory.replay_path.exists()


def test_a_finished_runs_replay_memory_is_deleted_or_kept(tmp_path, capsys):
    config = short_config("dqn", keep_replay=True, **CONSTANT_EPSILON)
    directory = train(tmp_path, config)
    assert directory.replay_path.exists()
    extended = config.with_total_agent_steps(360)
    forgetful = extended.with_execution(keep_replay=False)
    capsys.readouterr()
    train(tmp_path, forgetful)
    assert capsys.readouterr().out == f"{config.name}: resumed at 300 agent steps.\n"
    assert not directory.replay_path.exists()
    train(tmp_path, forgetful.with_total_agent_steps(420))
    assert capsys.readouterr().out == (
        f"{config.name}: resumed at 360 agent steps.\n" + refilling(directory)
    )


def test_a_refill_can_be_interrupted(tmp_path):
    config = short_config("dqn", **CONSTANT_EPSILON)
    longer = config.with_total_agent_steps(400)
    one, other = tmp_path / "one", tmp_path / "other"
    train(one, config)
    shutil.copytree(one, other)
    train(one, longer)

    directory = run_directory(other, config)
    with pytest.raises(TrainingStopped):
        train(other, longer, Interruption(0))
    assert directory.read_status() == RunStatus(state="interrupted", agent_steps=300)
    with pytest.raises(TrainingStopped):  # refilled, and not trained to the next checkpoint
        train(other, longer, Interruption(1))
    assert compare_runs(run_directory(one, config), train(other, longer)) == []


def test_a_replay_memory_from_before_the_first_checkpoint_is_not_used(tmp_path):
    config = short_config("dqn")
    expected = train(tmp_path / "expected", config)

    def die() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "actual", config, Interruption(14, die))
    directory = run_directory(tmp_path / "actual", config)
    assert directory.replay_path.exists()
    assert not directory.checkpoints_path.exists()
    assert compare_runs(expected, train(tmp_path / "actual", config)) == []


def test_the_checkpoint_interval_of_a_replay_memory(interrupted, tmp_path):
    """Its files reach back over two intervals; they cannot grow in the middle of a run."""
    config = short_config("dqn")
    runs = interrupted("dqn")

    def every(agent_steps: int) -> RunConfig:
        return config.with_execution(checkpoint_every_agent_steps=agent_steps)

    assert refuse(runs, every(5_000)) == (
        "`checkpoint_every_agent_steps` cannot be raised to 5_000: this run's replay buffer was "
        "made for a smaller one; leave it as it was."
    )
    expected = train(tmp_path / "expected", config)
    assert compare_runs(expected, train(runs, every(30))) == []


# --- emulators ------------------------------------------------------------------------------------


def misbehave(monkeypatch: pytest.MonkeyPatch, answer: Callable[[StepOutcome], Any]) -> None:
    """Let environment 1 give other answers after 200 steps."""
    receive = EmulatedGame.receive
    asked = 0

    def answer_wrongly(game: EmulatedGame) -> Any:
        nonlocal asked
        outcome = receive(game)
        asked += game._environment == 1
        return answer(outcome) if asked > 100 and game._environment == 1 else outcome

    monkeypatch.setattr(EmulatedGame, "receive", answer_wrongly)


def burn(_: StepOutcome) -> Any:
    raise RuntimeError("the emulator\nis on fire")


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (burn, "the emulator is on fire"),
        (
            lambda outcome: replace(outcome, frame=outcome.frame[:, :83]),
            "a frame is uint8 of shape (84, 83), not uint8 of shape (84, 84)",
        ),
        (
            lambda outcome: replace(outcome, frame=outcome.frame.astype(np.float32)),
            "a frame is float32 of shape (84, 84), not uint8 of shape (84, 84)",
        ),
        (
            lambda outcome: replace(outcome, frame=None),
            "'NoneType' object has no attribute 'shape'",
        ),
        (lambda outcome: None, "'NoneType' object has no attribute 'frame'"),
    ],
)
def test_a_failing_emulator_ends_the_run_with_one_line(
    tmp_path, monkeypatch, capsys, answer, fault
):
    config = short_config()
    directory = run_directory(tmp_path, config)
    misbehave(monkeypatch, answer)
    status, err = run_command(tmp_path, config, capsys)
    assert status == 1
    assert err == (
        f"{config.name}: environment 1 failed: {fault}; the same command goes on from the last "
        "checkpoint.\n"
    )
    checkpoint, complaints = newest_good_checkpoint(directory)
    assert checkpoint is not None
    assert complaints == []
    saved = int(checkpoint.path.stem)
    assert directory.read_status() == RunStatus(
        state="failed", agent_steps=saved, message=f"environment 1 failed: {fault}"
    )


def fail_always(*_: Any) -> Any:
    raise RuntimeError("the emulator\nis on fire")


def show_little(game: EmulatedGame) -> None:
    game.first_frame = np.zeros((3, 3), np.uint8)


@pytest.mark.parametrize(
    ("method", "replacement", "fault"),
    [
        ("__init__", fail_always, "the emulator is on fire"),
        ("start", fail_always, "the emulator is on fire"),
        (
            "start",
            show_little,
            "a frame is uint8 of shape (3, 3), not uint8 of shape (84, 84)",
        ),
    ],
)
def test_an_emulator_that_fails_at_the_start_ends_the_run_with_one_line(
    tmp_path, monkeypatch, capsys, method, replacement, fault
):
    monkeypatch.setattr(EmulatedGame, method, replacement)
    config = short_config(n_envs=1)
    line = (
        f"{config.name}: environment 0 failed: {fault}; the same command goes on from the last "
        "checkpoint.\n"
    )
    assert run_command(tmp_path, config, capsys) == (1, line)


def test_an_emulator_that_fails_while_games_are_rebuilt(
    interrupted, uninterrupted, monkeypatch, capsys
):
    config = short_config(algo_of(uninterrupted))
    runs = interrupted(config.run.algo)
    with monkeypatch.context() as patch:
        patch.setattr(EmulatedGame, "_receive", fail_always)
        status, err = run_command(runs, config, capsys)
    assert status == 1
    assert err == (
        f"{config.name}: environment 0 failed: the emulator is on fire; the same command goes on "
        "from the last checkpoint.\n"
    )
    assert compare_runs(uninterrupted, train(runs, config)) == []


def test_after_the_failure_the_run_goes_on(uninterrupted, tmp_path, monkeypatch, capsys):
    config = short_config(algo_of(uninterrupted))
    with monkeypatch.context() as patch:
        misbehave(patch, burn)
        assert run_command(tmp_path, config, capsys)[0] == 1
    assert compare_runs(uninterrupted, train(tmp_path, config)) == []


def run_with_hanging_emulator(
    runs: Path, config: RunConfig, after: int
) -> "subprocess.CompletedProcess[str]":
    """train.py, whose emulators stop answering after so many answers."""
    arguments = [*command_line(config, runs), "--set=hang_timeout_seconds=2"]
    script = (
        "import sys, time, train, agents.training.resume\n"
        "from envs.emulated_game import EmulatedGame\n"
        "agents.training.resume.REBUILD_SECONDS_PER_ENVIRONMENT = 0.5\n"
        "receive, asked = EmulatedGame._receive, []\n"
        "def hang(game):\n"
        "    asked.append(game)\n"
        f"    if len(asked) > {after}:\n        time.sleep(1000)\n"
        "    return receive(game)\n"
        "EmulatedGame._receive = hang\n"
        f"sys.exit(train.main({arguments!r}))"
    )
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def check_hung(
    done: "subprocess.CompletedProcess[str]", directory: RunDirectory, seconds: int
) -> None:
    message = f"the environments have not answered for {seconds} s"
    assert done.returncode == 1
    assert done.stderr == f"error: {message}; the same command goes on.\n"
    checkpoint, _ = newest_good_checkpoint(directory)
    assert checkpoint is not None
    assert directory.read_status() == RunStatus(
        state="failed", agent_steps=int(checkpoint.path.stem), message=message
    )
    with directory.lock():  # which the dead process does not hold
        pass


def test_a_hanging_emulator_ends_the_run_with_one_line(tmp_path):
    config = short_config()
    done = run_with_hanging_emulator(tmp_path, config, after=200)
    check_hung(done, run_directory(tmp_path, config), 2)


def test_an_emulator_that_hangs_while_games_are_rebuilt_ends_the_run_too(
    interrupted, uninterrupted
):
    algo = algo_of(uninterrupted)
    config = short_config(algo)
    runs = interrupted(algo)
    check_hung(run_with_hanging_emulator(runs, config, after=20), run_directory(runs, config), 3)
    assert compare_runs(uninterrupted, train(runs, config)) == []


@pytest.mark.parametrize("algo", ["a2c", "dqn"])
def test_divergence_keeps_the_last_good_checkpoint(tmp_path, monkeypatch, capsys, algo):
    """Rewards of NaN make the loss NaN."""
    config = short_config(algo)
    directory = run_directory(tmp_path, config)
    step_wait = AtariVecEnv.step_wait
    steps = 0

    def poison(env: AtariVecEnv) -> Any:
        nonlocal steps
        steps += 1
        observations, rewards, dones, infos = step_wait(env)
        return observations, rewards * (np.nan if steps > 100 else 1), dones, infos

    monkeypatch.setattr(AtariVecEnv, "step_wait", poison)
    status, err = run_command(tmp_path, config, capsys)
    assert status == 1
    found = re.fullmatch(
        rf"{config.name}: (diverged at (\d+) agent steps: the loss is nan; try a smaller "
        r"learning_rate\.)\n",
        err,
    )
    assert found
    assert int(found[2]) > 200
    checkpoint, _ = newest_good_checkpoint(directory)
    assert checkpoint is not None
    saved = int(checkpoint.path.stem)
    assert 60 <= saved <= int(found[2])
    assert directory.read_status() == RunStatus(
        state="diverged", agent_steps=saved, message=found[1]
    )
    assert all(torch.isfinite(tensor).all() for tensor in checkpoint.policy_state.values())


@pytest.mark.parametrize("algo", ["a2c", "dqn"])
def test_the_largest_learning_rate_diverges(tmp_path, capsys, algo):
    config = short_config(algo, total_agent_steps=120)
    arguments = [*command_line(config, tmp_path), "--set=learning_rate=1e30"]
    assert train_command.main(arguments) == 1
    assert re.fullmatch(
        rf"{config.name}: diverged at \d+ agent steps: "
        r"(the loss|a weight|an action's probability) is -?(inf|nan); try a smaller "
        r"learning_rate\.\n",
        capsys.readouterr().err,
    )
    assert newest_good_checkpoint(run_directory(tmp_path, config)) == (None, [])


# --- two processes --------------------------------------------------------------------------------


def test_a_second_process_is_refused(interrupted, capsys):
    config = short_config()
    runs = interrupted("a2c")
    directory = run_directory(runs, config)
    with directory.lock():
        before = {
            path: path.stat().st_mtime_ns for path in directory.path.rglob("*") if path.is_file()
        }
        time.sleep(0.01)
        status, err = run_command(runs, config, capsys)
        after = {
            path: path.stat().st_mtime_ns for path in directory.path.rglob("*") if path.is_file()
        }
    assert status == 2
    assert err == (
        f"error: {directory.path} is being written by another process; wait for it or stop it.\n"
    )
    assert after == before
    train(runs, config, never())
