"""The soak and the watch over memory in small; the long ones are run by hand."""

from dataclasses import replace

import pytest
import torch

from agents.training.tensorboard import EventFile
from benchmarks.soak import (
    CASES,
    SoakFailure,
    are_equal,
    check_games,
    read_scalars,
    soak,
    watch_growth,
)
from runtime.run_directory import RunDirectory


@pytest.mark.parametrize(("case", "kills"), [(CASES[1], 1), (CASES[2], 2)])
def test_killed_runs_end_as_if_they_had_not_been(case, kills, tmp_path):
    steps = 10 * case.checkpoint_every
    killed_at = soak(replace(case, n_envs=2), tmp_path, kills=kills, steps=steps)
    assert 0 < killed_at[0] <= killed_at[-1] < steps


def test_runs_in_which_no_game_ends_prove_nothing(tmp_path):
    (tmp_path / "episodes.csv").write_text("head\n10,0,1,400,100,0,1.0\n20,3,1,400,100,0,2.0\n")
    message = r"^a2c-coordconv: environments \[1, 2\] finished no game; train longer$"
    with pytest.raises(SoakFailure, match=message):
        check_games(CASES[1], RunDirectory(tmp_path))


def test_memory_files_and_threads_do_not_grow(tmp_path):
    """The replay buffer wraps more than three times, its files once."""
    _, (memory, open_files, threads) = watch_growth(CASES[2], tmp_path, 3_000, buffer_size=200)
    assert memory > 100e6
    assert open_files > 3
    assert threads >= 2


def test_scalars_are_read_to_the_bit(tmp_path):
    file = EventFile(tmp_path)
    for step, value in ((1, 0.5), (2, float("nan"))):
        file.write({"time/fps": 3, "train/loss": value}, {"time/fps": (), "train/loss": ()}, step)
    file.close()
    scalars = read_scalars(RunDirectory(tmp_path))
    assert scalars == {"train/loss": [(1, "0x1.0000000000000p-1"), (2, "nan")]}


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ({"a": [torch.zeros(2)]}, {"a": [torch.zeros(2)]}, True),
        ({"a": [torch.zeros(2)]}, {"a": [torch.tensor([0.0, 1e-45])]}, False),
        ({"a": [torch.zeros(2)]}, {"a": [torch.zeros(3)]}, False),
        ({"a": [torch.zeros(2)]}, {"a": []}, False),
        ({"a": 1}, {"b": 1}, False),
        ({"a": 1.0}, {"a": 1.0}, True),
        ({"a": None}, {"a": 1.0}, False),
    ],
)
def test_states_are_compared_to_the_bit(one, other, equal):
    assert are_equal(one, other) == equal
