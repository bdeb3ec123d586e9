"""Evaluation during training: what it leaves behind, and that it changes nothing else."""

import csv
from collections.abc import Callable

import pytest
import torch

from agents.algorithms.device import find_device
from agents.evaluation.agent import load_agent
from agents.evaluation.games import play_games
from agents.models.model_file import read_model_zip
from agents.training.evaluation import SEED
from benchmarks.soak import compare_runs, read_scalars
from runtime.run_directory import RunDirectory, RunStatus
from runtime.stop_request import StopRequest, TrainingStopped
from tests.saved_agents import change_protocols
from tests.short_runs import ShortRun, short_config, train


class StopIf(StopRequest):
    """Asks to stop from the first time on that a condition holds."""

    def __init__(self, condition: Callable[[], bool]) -> None:
        super().__init__()
        self._condition = condition
        self._stopped = False

    def __bool__(self) -> bool:
        self._stopped = self._stopped or self._condition()
        return self._stopped


def read_rows(directory: RunDirectory) -> list[dict[str, str]]:
    with directory.evaluations_path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("algo", ["a2c", "dqn"])
def test_evaluating_changes_nothing_of_what_is_learned_and_goes_on_after_stops(
    tmp_path, monkeypatch, algo
):
    change_protocols(monkeypatch, max_frames_per_game=240)
    plain = train(tmp_path / "plain", short_config(algo))
    config = short_config(algo, evaluate_every_agent_steps=150, evaluation_games=2)
    alone = train(tmp_path / "alone", config)
    assert compare_runs(plain, alone) == ["TensorBoard scalars"]
    rows, scalars = read_rows(alone), read_scalars(alone)
    steps = ("150", "300") if algo == "a2c" else ("152", "300")  # between two updates
    assert [(row["agent_steps"], row["games"]) for row in rows] == [(step, "2") for step in steps]
    for tag, column in (("reward", "mean_return"), ("ep_length", "mean_length_frames")):
        shown = [float.fromhex(value) for _, value in scalars.pop(f"eval/mean_{tag}")]
        assert shown == [float(row[column]) for row in rows]
    assert scalars == read_scalars(plain)

    best = load_agent(alone.best_path, None, None, find_device("cpu"))
    epsilon = 0.01 if algo == "dqn" else None
    games = play_games(best.policy, best.game, best.protocol, 2, SEED, epsilon)
    returns = [game.raw_return for _, game in games]
    assert sum(returns) / 2 == max(float(row["mean_return"]) for row in rows)

    run = ShortRun(tmp_path / "stopped", config)
    asked: list[int] = []

    def in_the_middle() -> bool:
        """Up to there the run asks between two updates, less than 60 times."""
        asked.append(0)
        return len(asked) > 60

    def die_after_the_first() -> bool:
        if run.directory.evaluations_path.exists():
            raise KeyboardInterrupt
        return False

    with pytest.raises(TrainingStopped):
        run.train(StopIf(in_the_middle))
    assert run.directory.read_status() == RunStatus(
        state="interrupted", agent_steps=int(rows[0]["agent_steps"])
    )
    assert not run.directory.evaluations_path.exists()
    with pytest.raises(KeyboardInterrupt):
        run.train(StopIf(die_after_the_first))
    assert len(read_rows(run.directory)) == 1
    assert compare_runs(alone, run.train()) == []
    assert read_rows(run.directory) == rows
    one, other = (read_model_zip(d.best_path).policy_state for d in (alone, run.directory))
    assert all(torch.equal(one[name], other[name]) for name in one)
