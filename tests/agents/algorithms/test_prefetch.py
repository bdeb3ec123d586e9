"""What is computed ahead of time is what would have been computed."""

from typing import Any

import pytest
import torch

from agents.algorithms.dqn import DQN
from agents.algorithms.prefetch import Prefetch
from agents.algorithms.replay_buffer import ReplayBuffer
from tests.agents.algorithms.test_dqn import make
from tests.agents.algorithms.test_replay_buffer import ACTIONS, OBSERVATIONS, Stream, fill


@pytest.fixture(autouse=True)
def _two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def sum_pixels(observations: torch.Tensor) -> torch.Tensor:
    return observations.flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize("n_envs", [1, 3])
def test_returns_the_batch_it_would_have_drawn(n_envs):
    """Begun or not, rightly guessed, wrongly guessed, or forgotten; the memory fills and wraps."""
    expected, actual = (
        ReplayBuffer(60 * n_envs, OBSERVATIONS, ACTIONS, "cpu", n_envs, seed=0) for _ in range(2)
    )
    streams = [Stream(n_envs, 0.02) for _ in range(2)]
    ahead = Prefetch(actual, sum_pixels)
    outcomes: list[Any] = []
    for turn in range(30):
        for replay, stream in zip((expected, actual), streams, strict=True):
            if replay is actual and turn > 0:
                # Every third turn is guessed for another number of steps.
                with ahead.one_thread():
                    ahead.begin(4, steps=4 if turn % 3 else 9)
                if turn % 5 == 0:
                    ahead.forget()
            fill(replay, stream, 4)
        plain = expected.sample(4)
        guess = ahead._guess
        batch, values = ahead.take(4)
        outcomes.append("none" if guess is None else batch is guess.batch)
        for name in ("observations", "actions", "next_observations", "dones", "rewards"):
            assert torch.equal(getattr(batch, name), getattr(plain, name)), name
        assert torch.equal(values, sum_pixels(plain.next_observations))
    assert set(outcomes) == {"none", True, False}


def test_computes_ahead_only_where_there_is_a_thread_for_it():
    replay = ReplayBuffer(60, OBSERVATIONS, ACTIONS, "cpu", seed=0)
    fill(replay, Stream(1, 0.0), 60)
    threads_seen = []

    def compute(observations):
        threads_seen.append(torch.get_num_threads())
        return sum_pixels(observations)

    ahead = Prefetch(replay, compute)
    ahead.begin(4, steps=0)
    ahead.take(4)
    with ahead.one_thread():
        assert torch.get_num_threads() == 1
        ahead.begin(4, steps=0)
    assert threads_seen == [1, 1]  # it was waited for
    ahead.take(4)
    assert len(threads_seen) == 2
    ahead.take(4)
    assert threads_seen == [1, 1, 1]
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    alone = Prefetch(replay, compute)
    alone.begin(4, steps=0)
    assert len(threads_seen) == 3  # nothing was begun
    alone.take(4)
    assert len(threads_seen) == 4


@pytest.mark.parametrize(("n_envs", "gradient_steps"), [(1, 1), (2, 2)])
def test_learns_the_same_bit_for_bit_whether_or_not_it_guesses(n_envs, gradient_steps, monkeypatch):
    """Target updates inside and between rollouts included; the guesses must be right sometimes."""

    def learn():
        model = make(
            DQN,
            "coordconv",
            n_envs,
            gradient_steps=gradient_steps,
            replay_buffer_class=ReplayBuffer,
            replay_buffer_kwargs={"seed": 0},
        )
        model.env.end_probability = 0.02
        model.learn(120 * n_envs, log_interval=None)
        return model

    right = []
    take = Prefetch.take

    def watch(ahead, batch_size):
        guess = ahead._guess
        batch, values = take(ahead, batch_size)
        right.append(guess is not None and guess.batch is batch)
        return batch, values

    monkeypatch.setattr(Prefetch, "take", watch)
    guessing = learn()
    assert len(right) == guessing._n_updates
    assert True in right
    assert False in right
    monkeypatch.setattr(ReplayBuffer, "foresee", lambda *_: None)
    waiting = learn()
    for ours, theirs in zip(guessing.q_net.parameters(), waiting.q_net.parameters(), strict=True):
        assert torch.equal(ours, theirs)
