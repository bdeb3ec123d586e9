"""train.py as users type it, in processes of its own."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import train
from agents.models.model_file import read_model_zip
from configs.run_config import RunConfig, make_config
from envs.games import all_games
from runtime.run_directory import RunDirectory, RunStatus
from tests.processes import start, wait_for
from tests.short_runs import Interruption, ShortRun, command_line, short_config


@contextmanager
def started(arguments: list[str]) -> "Iterator[subprocess.Popen[str]]":
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    process = start("train.py", *arguments, env=environment, start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def processes_of_session(session: int) -> list[str]:
    """The commands of living processes; the session's number is that of its first process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().rpartition(")")
        except OSError:
            continue
        state, _, _, its_session, *_ = rest.split()
        if int(its_session) == session and state != "Z":
            found.append(name)
    return found


def test_killed_interrupted_and_gone_on(tmp_path):
    config = short_config(total_agent_steps=1_000_000)
    arguments = command_line(config, tmp_path)
    directory = RunDirectory(tmp_path / config.name)

    with started(arguments) as process:
        wait_for(lambda: directory.count_saved_steps() >= 240, process)
        process.kill()
        process.wait()
        assert processes_of_session(process.pid) == []
    with directory.lock():  # which the dead process does not hold
        pass
    killed = directory.read_status()
    assert killed is not None
    assert killed.state == "running"
    assert 0 < killed.agent_steps <= directory.count_saved_steps()

    before = directory.count_saved_steps()
    with started(arguments) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{config.name}: resumed at {before:_} agent steps.\n"
        wait_for(lambda: directory.count_saved_steps() > before, process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
        assert (process.returncode, err) == (130, "")
        assert out.endswith(f"{directory.path}: saved; the same command goes on from here.\n")
    state = directory.read_status()
    assert state == RunStatus(state="interrupted", agent_steps=directory.count_saved_steps())

    starts = json.loads(directory.provenance_path.read_text())["starts"]
    assert len(starts) == 2


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_the_exit_status_tells_what_stopped_it(tmp_path, monkeypatch, capsys, number, status):
    stop = Interruption(1)
    stop.signal = number
    monkeypatch.setattr("agents.training.command.StopRequest", lambda: stop)
    assert ShortRun(tmp_path, short_config()).command(capsys) == (status, "")


@pytest.mark.parametrize("algo", ["a2c", "dqn"])
def test_two_processes_train_the_same_agent(algo, tmp_path):
    """This one and another, whatever seeds Python's hashes, with two threads of arithmetic."""
    config = short_config(algo, total_agent_steps=120, coord_layers=[0], threads=2)
    runs = [ShortRun(tmp_path / number, config) for number in "12"]
    with started([*command_line(config, runs[0].runs), "--coordconv"]) as process:
        runs[1].train()
        out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert f"\n{runs[0].directory.path}: finished, 120 agent steps.\n" in out
    states = [read_model_zip(run.directory.final_path).policy_state for run in runs]
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


def test_a_game_that_its_protocol_cannot_start_leaves_nothing(tmp_path, refuse):
    line = refuse(train.main, ["--game", "Backgammon", "--runs", str(tmp_path)])
    assert line.startswith("error: Backgammon: FIRE is not action 1")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_gone_ends_it_quietly(unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    process = start("train.py", "--list-games", env=environment, stdout=writer)
    os.close(writer)
    _, err = process.communicate()
    assert (process.returncode, err) == (141, "")


def test_a_run_tells_what_is_trained_and_what_came_of_it(here, capsys):
    """Two environments of five steps each are ten agent steps; 40 are four of these updates."""
    config = short_config(total_agent_steps=31, n_steps=5)
    arguments, path = command_line(config, Path("a b")), f"a b/{config.name}"
    start = f"""\
training  Breakout, a2c-{config.arm}, seed 0
steps     31 agent steps, protocol baselines
folder    {path}
device    cpu, fp32
threads   1
watch     tensorboard --logdir 'a b'
"""
    end = f"""
mean return  no finished game
model        {path}/final.zip
evaluate     python evaluate.py '{path}' --video
"""
    assert train.main(arguments) == 0
    assert capsys.readouterr().out == f"{start}{path}: finished, 40 agent steps.{end}"
    before = {file: file.stat().st_mtime_ns for file in Path(path).rglob("*")}
    assert train.main(arguments) == 0
    longer = "; a larger --steps extends it"
    assert capsys.readouterr().out == f"{path}: finished, 40 agent steps{longer}.{end}"
    assert {file: file.stat().st_mtime_ns for file in Path(path).rglob("*")} == before


@pytest.fixture
def dry_run(capsys):
    """Runs `train.py --dry-run`: gives the config that it prints, and the line on stderr."""

    def dry_run(arguments: str) -> tuple[RunConfig, str]:
        assert train.main([*arguments.split(), "--dry-run"]) == 0
        captured = capsys.readouterr()
        return RunConfig.from_mapping(json.loads(captured.out), "output"), captured.err

    return dry_run


def test_dry_run_prints_the_config_and_writes_nothing(here, dry_run):
    printed, told = dry_run(
        "--game ms_pacman --algo dqn --coord-layers 0 2 --radius --coord-init zero --steps 1e6 "
        "--seed 3 --n-envs 4 --protocol machado --precision bf16 --device cpu "
        "--set learning_rate=2.5e-4"
    )
    expected = {
        "coord_layers": [0, 2],
        "with_radius": True,
        "coord_init": "zero",
        "total_agent_steps": 1_000_000,
        "seed": 3,
        "n_envs": 4,
        "protocol": "machado",
        "precision": "bf16",
        "device": "cpu",
        "learning_rate": 2.5e-4,
    }
    assert printed == make_config("MsPacman", "dqn", expected)
    assert told == f"would go to runs/{printed.name}\n"
    assert list(here.iterdir()) == []


def test_coordconv_alone_means_the_first_layer(dry_run):
    printed, _ = dry_run("--game Pong --coordconv")
    assert printed == make_config("Pong", "a2c", {"coord_layers": [0]})


def test_a_preset_a_multiple_and_the_home_folder(monkeypatch, dry_run):
    monkeypatch.setenv("HOME", "/nowhere")
    printed, told = dry_run(
        "--game Pong --algo A2C --preset zoo --steps 2M --runs=~/x --set n_steps=0.01k"
    )
    expected = {"total_agent_steps": 2_000_000, "n_steps": 10}
    assert printed == make_config("Pong", "a2c", expected, "zoo")
    assert told == "would go to /nowhere/x/Pong/a2c-cnn,preset=zoo,n_steps=10/seed0\n"


def test_list_games(capsys):
    assert train.main(["--list-games"]) == 0
    assert capsys.readouterr().out.splitlines() == list(all_games())
