import errno
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from configs.run_config import make_config
from runtime.run_directory import RunDirectory, RunStatus, check_folder, find_run
from tests.processes import start
from tests.refusals import refusal


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


def refuse_lock(directory: RunDirectory) -> str:
    return refusal(directory.lock().__enter__)


def test_a_directory_is_there_once_a_run_was_started(directory):
    assert not directory.exists()
    assert directory.read_status() is None
    with directory.lock():
        assert not directory.exists()
        directory.config_path.write_text("{}")
    assert directory.exists()


def test_a_run_that_is_not_named_after_its_settings_is_found_again(tmp_path):
    """If it is of exactly these; a longer one of them is the same run."""
    config = make_config("Pong", "a2c", {"learning_rate": 1e-3}, "zoo")
    plain = config.replace(variant=())
    assert find_run(config, tmp_path) == config
    path = RunDirectory(tmp_path / plain.name).config_path
    path.parent.mkdir(parents=True)
    path.write_text(plain.with_total_agent_steps(5).to_json())
    assert find_run(config, tmp_path) == plain
    for other in ({"seed": 1, "learning_rate": 1e-3}, {"learning_rate": 1e-4}):
        config_of_other = make_config("Pong", "a2c", other, "zoo")
        assert find_run(config_of_other, tmp_path) == config_of_other
    path = RunDirectory(tmp_path / config.name).config_path
    path.parent.mkdir(parents=True)
    path.write_text(config.to_json())
    assert find_run(config, tmp_path) == config


def test_the_lock_keeps_a_second_holder_out_until_it_is_freed(directory):
    with directory.lock():
        assert refuse_lock(directory) == (
            f"{directory.path} is being written by another process; wait for it or stop it."
        )
    with directory.lock():
        pass


def test_a_dead_process_and_its_children_hold_no_lock(directory):
    """A child does not inherit the lock, and may outlive its parent."""
    script = (
        "import subprocess, sys, time\nfrom pathlib import Path\n"
        "from runtime.run_directory import RunDirectory\n"
        "with RunDirectory(Path(sys.argv[1])).lock():\n"
        "    child = subprocess.Popen(['sleep', '600'], stdout=-3, stderr=-3)\n"
        "    print(child.pid, flush=True)\n"
        "    time.sleep(600)"
    )
    process = start("-c", script, str(directory.path))
    assert process.stdout is not None
    child = int(process.stdout.readline())
    assert "another process" in refuse_lock(directory)
    process.kill()
    process.communicate()
    try:
        assert Path(f"/proc/{child}").exists()
        with directory.lock():
            pass
    finally:
        os.kill(child, signal.SIGTERM)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_nobody_writes(directory, monkeypatch, number):
    def fail(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", fail)
    assert refuse_lock(directory) == (
        f"{directory.path} is on a file system without locks ({os.strerror(number)}); choose a "
        "--runs folder on another, such as a local disk."
    )


@pytest.mark.parametrize(
    "status",
    [
        RunStatus(state="running", agent_steps=0),
        RunStatus(state="failed", agent_steps=3, message="environment 1 failed: é"),
    ],
)
def test_status(directory, status):
    directory.path.mkdir()
    directory.write_status(status.state, status.agent_steps, status.message)
    assert directory.read_status() == status


GOOD = {"state": "running", "agent_steps": 5, "message": ""}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (GOOD | {"state": "asleep"}, "`state` must be one of running, interrupted, "),
        (GOOD | {"agent_steps": -1}, "`agent_steps` must be a whole number at least 0, got -1."),
        (GOOD | {"agent_steps": "5"}, "`agent_steps` must be a whole number at least 0, got '5'."),
        (GOOD | {"message": 3}, "`message` must be text, got 3."),
        (GOOD | {"mesage": ""}, "unknown setting 'mesage'; did you mean `message`?"),
    ],
)
def test_a_damaged_status(directory, values, message):
    directory.path.mkdir()
    directory.status_path.write_text(json.dumps(values))
    assert refusal(directory.read_status).startswith(f"{directory.status_path}: {message}")


@pytest.mark.parametrize("below", [("run",), ("new", "Pong", "run")])
def test_names_that_the_file_system_does_not_take_are_refused(tmp_path, below):
    (tmp_path / "run").mkdir()
    check_folder(tmp_path.joinpath(*below, "x" * 255))
    long = tmp_path.joinpath(*below, "é" * 128, "seed0")
    line = f"{'é' * 40}... is longer than a folder's name may be; give a shorter name, or fewer "
    line += "settings."
    assert refusal(check_folder, long) == line
    if below == ("run",):
        assert refusal(RunDirectory(long).exists) == line


def test_every_start_is_recorded(directory):
    directory.path.mkdir()
    directory.record_start({"threads": 1})
    directory.record_start({"threads": 2})
    content = json.loads(directory.provenance_path.read_text())
    assert content == {"starts": [{"threads": 1}, {"threads": 2}]}
