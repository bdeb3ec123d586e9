"""A DQN run's replay buffer lies in files: what happens when they are damaged or gone."""

import os
import shutil
from pathlib import Path

import pytest

from benchmarks.soak import compare_runs
from runtime.run_directory import RunStatus
from tests.short_runs import ShortRun, short_config, train

CONSTANT_EPSILON = {"exploration_initial_eps": 0.1, "exploration_final_eps": 0.1}
REFILLING = (
    "the replay buffer is gone, as it is after the end of a run: refilling it with 40 agent "
    "steps.\n"
)


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


@pytest.mark.parametrize("damage", [shutil.rmtree, remove_file, shorten, lengthen, exchange, link])
def test_a_damaged_replay_memory_is_refilled_and_that_is_said(stopped, damage, capsys):
    run = stopped("dqn")
    directory = run.directory
    damage(directory.replay_path)
    target = directory.path / "a file of the same size"
    before = target.read_bytes() if target.exists() else None
    capsys.readouterr()
    run.stop_after(2)  # of which the refill takes one
    assert before is None or target.read_bytes() == before
    assert REFILLING in capsys.readouterr().out


def test_a_finished_runs_replay_memory_is_deleted_or_kept(tmp_path, capsys):
    config = short_config("dqn", keep_replay=True, **CONSTANT_EPSILON)
    directory = train(tmp_path, config)
    assert directory.replay_path.exists()
    forgetful = config.with_total_agent_steps(360).with_execution(keep_replay=False)
    capsys.readouterr()
    train(tmp_path, forgetful)
    told = capsys.readouterr().out
    assert told.startswith(f"{config.name}: resumed at 300 agent steps.\ntraining ")
    assert not directory.replay_path.exists()
    train(tmp_path, forgetful.with_total_agent_steps(420))
    told = capsys.readouterr().out
    assert told.startswith(f"{config.name}: resumed at 360 agent steps.\ntraining ")
    assert told.endswith(REFILLING)


def test_a_refill_can_be_interrupted(tmp_path):
    config = short_config("dqn", **CONSTANT_EPSILON)
    longer = config.with_total_agent_steps(400)
    train(tmp_path / "one", config)
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    expected = train(tmp_path / "one", longer)
    other = ShortRun(tmp_path / "other", longer)
    other.stop_after(0)
    assert other.directory.read_status() == RunStatus(state="interrupted", agent_steps=300)
    other.stop_after(1)  # refilled, and not trained to the next checkpoint
    assert compare_runs(expected, other.train()) == []


def test_a_replay_memory_from_before_the_first_checkpoint_is_not_used(whole, tmp_path):
    run = ShortRun(tmp_path, short_config("dqn"))
    run.die_after(14)
    assert run.directory.replay_path.exists()
    assert not run.directory.checkpoints_path.exists()
    assert compare_runs(whole("dqn"), run.train()) == []


def test_the_checkpoint_interval_of_a_replay_memory(stopped, whole):
    """Its files reach back over two intervals; they cannot grow in the middle of a run."""
    run = stopped("dqn")

    def every(agent_steps: int) -> ShortRun:
        config = run.config.with_execution(checkpoint_every_agent_steps=agent_steps)
        return ShortRun(run.runs, config)

    assert every(5_000).refuse() == (
        "`checkpoint_every_agent_steps` cannot be raised to 5_000: this run's replay buffer was "
        "made for a smaller one; leave it as it was."
    )
    assert compare_runs(whole("dqn"), every(30).train()) == []
