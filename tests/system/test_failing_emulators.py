"""Emulators that fail or hang, and losses that are not finite, end a run with one line."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from agents.training.checkpoints import save_agent, save_checkpoint
from agents.training.watchdog import Watchdog
from benchmarks.soak import compare_runs
from envs.atari_vec_env import AtariVecEnv
from envs.emulated_game import EmulatedGame, StepOutcome
from runtime.run_directory import RunStatus
from tests.processes import start
from tests.saved_agents import change_protocols
from tests.short_runs import ShortRun, command_line, short_config, train

ON_FIRE = "the emulator is on fire"
NO_FRAME = "a frame is {}, not uint8 of shape (84, 84)"


def burn(*_: Any) -> Any:
    raise RuntimeError("the emulator\nis on fire")


def with_frame(change: Callable[[Any], Any]) -> Callable[[StepOutcome], StepOutcome]:
    return lambda outcome: replace(outcome, frame=change(outcome.frame))


def show_little(game: EmulatedGame) -> None:
    game.first_frame = np.zeros((3, 3), np.uint8)


def line_of(run: ShortRun, environment: int, fault: str) -> str:
    return (
        f"{run.config.name}: environment {environment} failed: {fault}; the same command goes on "
        "from the last checkpoint.\n"
    )


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


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (burn, ON_FIRE),
        (with_frame(lambda frame: frame[:, :83]), NO_FRAME.format("uint8 of shape (84, 83)")),
        (
            with_frame(lambda frame: frame.astype(np.float32)),
            NO_FRAME.format("float32 of shape (84, 84)"),
        ),
        (with_frame(lambda _: None), "'NoneType' object has no attribute 'shape'"),
        (lambda _: None, "'NoneType' object has no attribute 'frame'"),
    ],
)
def test_a_failing_emulator_ends_the_run_with_one_line(
    tmp_path, monkeypatch, capsys, answer, fault
):
    run = ShortRun(tmp_path, short_config())
    misbehave(monkeypatch, answer)
    assert run.command(capsys) == (1, line_of(run, 1, fault))
    saved = int(run.newest_checkpoint().path.stem)
    assert run.directory.read_status() == RunStatus(
        state="failed", agent_steps=saved, message=f"environment 1 failed: {fault}"
    )


@pytest.mark.parametrize(
    ("method", "replacement", "fault"),
    [
        ("__init__", burn, ON_FIRE),
        ("start", burn, ON_FIRE),
        ("start", show_little, NO_FRAME.format("uint8 of shape (3, 3)")),
    ],
)
def test_an_emulator_that_fails_at_the_start_ends_the_run_with_one_line(
    tmp_path, monkeypatch, capsys, method, replacement, fault
):
    monkeypatch.setattr(EmulatedGame, method, replacement)
    run = ShortRun(tmp_path, short_config(n_envs=1))
    assert run.command(capsys) == (1, line_of(run, 0, fault))


def test_after_failures_the_run_goes_on(uninterrupted, fresh, monkeypatch, capsys):
    """Of an emulator while it trains, and of one while its games are rebuilt."""
    with monkeypatch.context() as patch:
        misbehave(patch, burn)
        assert fresh.command(capsys) == (1, line_of(fresh, 1, ON_FIRE))
    with monkeypatch.context() as patch:
        patch.setattr(EmulatedGame, "_receive", burn)
        assert fresh.command(capsys) == (1, line_of(fresh, 0, ON_FIRE))
    assert compare_runs(uninterrupted, fresh.train()) == []


# --- emulators that stop answering ----------------------------------------------------------------

HANGING = """\
import sys, time, train, agents.training.checkpoints
from envs.emulated_game import EmulatedGame
agents.training.checkpoints.REBUILD_SECONDS_PER_ENVIRONMENT = 0.5
receive, asked = EmulatedGame._receive, []
def hang(game):
    asked.append(game)
    if len(asked) > {answers}:
        time.sleep(1000)
    return receive(game)
EmulatedGame._receive = hang
sys.exit(train.main({arguments!r}))
"""


def check_hanging(run: ShortRun, answers: int, seconds: int) -> None:
    """Run train.py with emulators that stop answering after so many answers."""
    arguments = [*command_line(run.config, run.runs), "--set=hang_timeout_seconds=4"]
    script = HANGING.format(answers=answers, arguments=arguments)
    with start("-c", script) as process:
        _, err = process.communicate(timeout=300)
    message = f"the environments have not answered for {seconds} s"
    assert (process.returncode, err) == (1, f"error: {message}; the same command goes on.\n")
    saved = int(run.newest_checkpoint().path.stem)
    assert run.directory.read_status() == RunStatus(
        state="failed", agent_steps=saved, message=message
    )
    with run.directory.lock():  # which the dead process does not hold
        pass


def test_a_hanging_emulator_ends_the_run_with_one_line(tmp_path):
    check_hanging(ShortRun(tmp_path, short_config()), answers=200, seconds=4)


def test_an_emulator_that_hangs_while_games_are_rebuilt_ends_the_run_too(stopped):
    run = stopped("dqn")
    check_hanging(run, answers=20, seconds=5)
    run.stop_after(0)


def test_a_slow_disk_is_no_hanging_emulator(tmp_path, monkeypatch):
    watching, while_saving = [], []

    class Recorded(Watchdog):
        def feed(self) -> None:
            watching.append(True)

        def rest(self) -> None:
            watching.append(False)

    def save(write: Callable[..., None], *arguments: Any) -> None:
        while_saving.append(watching[-1])
        write(*arguments)

    change_protocols(monkeypatch, max_frames_per_game=240)
    monkeypatch.setattr("agents.training.run.Watchdog", Recorded)
    room = "agents.training"
    monkeypatch.setattr(f"{room}.callbacks.save_checkpoint", partial(save, save_checkpoint))
    monkeypatch.setattr(f"{room}.evaluation.save_agent", partial(save, save_agent))
    train(tmp_path, short_config(evaluate_every_agent_steps=150, evaluation_games=1))
    assert len(while_saving) > 3
    assert not any(while_saving)
    assert any(watching)


# --- divergence -----------------------------------------------------------------------------------


@pytest.mark.parametrize("algo", ["a2c", "dqn"])
def test_divergence_keeps_the_last_good_checkpoint(tmp_path, monkeypatch, capsys, algo):
    """Rewards of NaN make the loss NaN."""
    run = ShortRun(tmp_path, short_config(algo))
    step_wait = AtariVecEnv.step_wait
    steps = 0

    def poison(env: AtariVecEnv) -> Any:
        nonlocal steps
        steps += 1
        observations, rewards, dones, infos = step_wait(env)
        return observations, rewards * (np.nan if steps > 100 else 1), dones, infos

    monkeypatch.setattr(AtariVecEnv, "step_wait", poison)
    status, err = run.command(capsys)
    assert status == 1
    found = re.fullmatch(
        rf"{run.config.name}: (diverged at (\d+) agent steps: the loss is nan; try a smaller "
        r"learning_rate\.)\n",
        err,
    )
    assert found
    checkpoint = run.newest_checkpoint()
    saved = int(checkpoint.path.stem)
    assert 60 <= saved <= int(found[2])
    assert int(found[2]) > 200
    assert run.directory.read_status() == RunStatus(
        state="diverged", agent_steps=saved, message=found[1]
    )
    assert all(torch.isfinite(tensor).all() for tensor in checkpoint.policy_state.values())


@pytest.mark.parametrize("algo", ["a2c", "dqn"])
def test_the_largest_learning_rate_diverges(tmp_path, capsys, algo):
    run = ShortRun(tmp_path, short_config(algo, total_agent_steps=120, learning_rate=1e30))
    status, err = run.command(capsys, "--set=learning_rate=1e30")
    assert status == 1
    assert re.fullmatch(
        rf"{re.escape(run.config.name)}: diverged at \d+ agent steps: "
        r"(the loss|a weight|an action's probability) is -?(inf|nan); try a smaller "
        r"learning_rate\.\n",
        err,
    )
    assert run.directory.list_checkpoints() == []
