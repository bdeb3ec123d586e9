import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common import buffers

from agents.algorithms.replay_buffer import ReplayBuffer, count_bytes
from tests.refusals import refusal

ROWS, COLUMNS = 3, 2
OBSERVATIONS = spaces.Box(0, 255, (4, ROWS, COLUMNS), np.uint8)
ACTIONS = spaces.Discrete(7)


class Stream:
    """Random transitions as a vector environment gives them, with stacks cleared at starts."""

    def __init__(self, n_envs: int, end_probability: float, seed: int = 0):
        self.random = np.random.default_rng(seed)
        self.n_envs, self.end_probability = n_envs, end_probability
        self.obs = np.zeros((n_envs, 4, ROWS, COLUMNS), np.uint8)
        self.obs[:, -1] = self._frames()

    def _frames(self):
        return self.random.integers(1, 256, (self.n_envs, ROWS, COLUMNS), dtype=np.uint8)

    def step(self):
        """obs, next_obs, action, reward, done, infos: what SB3 gives a replay buffer."""
        next_obs = np.concatenate([self.obs[:, 1:], self._frames()[:, None]], axis=1)
        action = self.random.integers(0, 7, self.n_envs)
        reward = self.random.normal(size=self.n_envs).astype(np.float32)
        done = self.random.random(self.n_envs) < self.end_probability
        time_limits = done & (self.random.random(self.n_envs) < 0.5)
        infos = [{"TimeLimit.truncated": bool(limit)} for limit in time_limits]
        transition = (self.obs, next_obs, action, reward, done, infos)
        following = next_obs.copy()
        following[done] = 0
        following[done, -1] = self._frames()[done]
        self.obs = following
        return transition


def fill(replay: ReplayBuffer, stream: Stream, steps: int) -> None:
    for _ in range(steps):
        replay.add(*stream.step())


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("end_probability", [0.0, 0.02, 0.04])
@pytest.mark.parametrize("steps", [1, 3, 59, 60, 61, 500])
def test_holds_what_a_plain_buffer_holds(n_envs, end_probability, steps):
    """At episode ends, time limits and wrap-around; 60 transitions an environment."""
    replay = ReplayBuffer(60 * n_envs, OBSERVATIONS, ACTIONS, "cpu", n_envs)
    plain = buffers.ReplayBuffer(60 * n_envs, OBSERVATIONS, ACTIONS, "cpu", n_envs)
    stream = Stream(n_envs, end_probability)
    for _ in range(steps):
        transition = stream.step()
        replay.add(*transition)
        plain.add(*transition)
    size = replay.size()
    assert size <= min(steps, 60)
    assert size >= min(steps, 60) - 8  # short episodes leave earlier
    if end_probability == 0:
        assert size == min(steps, 60)
    numbers = np.arange(steps - size, steps)
    slots = numbers % 60
    for environment in range(n_envs):
        batch = replay.gather(numbers, np.full(size, environment))
        np.testing.assert_array_equal(batch.observations, plain.observations[slots, environment])
        np.testing.assert_array_equal(
            batch.next_observations, plain.next_observations[slots, environment]
        )
        np.testing.assert_array_equal(batch.actions[:, 0], plain.actions[slots, environment, 0])
        np.testing.assert_array_equal(batch.rewards[:, 0], plain.rewards[slots, environment])
        terminal = plain.dones[slots, environment] * (1 - plain.timeouts[slots, environment])
        np.testing.assert_array_equal(batch.dones[:, 0], terminal)
        assert batch.observations.dtype == torch.uint8


def test_samples_every_transition_equally_often():
    replay = ReplayBuffer(8, OBSERVATIONS, ACTIONS, "cpu", 2, seed=0)
    stream = Stream(2, 0.0)
    for number in range(11):
        obs, next_obs, action, _, done, infos = stream.step()
        reward = np.array([number, number + 100.0], np.float32)
        replay.add(obs, next_obs, action, reward, done, infos)
    values, counts = np.unique(replay.sample(8000).rewards.numpy(), return_counts=True)
    assert values.tolist() == [7, 8, 9, 10, 107, 108, 109, 110]
    assert counts.min() > 880  # 1000 expected, standard deviation 30
    assert counts.max() < 1120


def test_goes_back_to_a_saved_state_of_its_files(tmp_path):
    """What was stored after the state was saved, up to as many frames as the slack, is harmless."""

    def make():
        return ReplayBuffer(
            50, OBSERVATIONS, ACTIONS, "cpu", folder=tmp_path, slack_transitions=30, seed=5
        )

    replay, stream = make(), Stream(1, 0.05)
    fill(replay, stream, 140)
    state = replay.get_state()
    expected = replay.sample(64)
    fill(replay, stream, 27)
    rebuilt = make()
    rebuilt.set_state(state)
    again = rebuilt.sample(64)
    assert torch.equal(again.observations, expected.observations)
    assert torch.equal(again.next_observations, expected.next_observations)
    assert torch.equal(again.rewards, expected.rewards)


def test_refuses_a_state_its_files_have_moved_past(tmp_path):
    replay = ReplayBuffer(50, OBSERVATIONS, ACTIONS, "cpu", folder=tmp_path, slack_transitions=30)
    stream = Stream(1, 0.0)
    fill(replay, stream, 60)
    state = replay.get_state()
    fill(replay, stream, 31)
    message = (
        "the replay buffer is not the one of this checkpoint; delete the run's replay folder to "
        "refill it."
    )
    assert refusal(replay.set_state, state) == message


@pytest.mark.parametrize(("buffer_size", "gigabytes"), [(1_000_000, 7.5), (100_000, 0.75)])
def test_fits_in_the_memory_promised(buffer_size, gigabytes):
    assert count_bytes(buffer_size, 1, 0) <= gigabytes * 1e9


def test_takes_the_bytes_it_says(tmp_path):
    ReplayBuffer(50, OBSERVATIONS, ACTIONS, "cpu", 2, folder=tmp_path, slack_transitions=30)
    taken = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert taken == count_bytes(50, 2, 30, frame_bytes=ROWS * COLUMNS)


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        (
            spaces.Box(0, 255, (3, 84, 84), np.uint8),
            ACTIONS,
            "`observation_space` must be uint8 [4, rows, columns], "
            "got Box(0, 255, (3, 84, 84), uint8)",
        ),
        (
            OBSERVATIONS,
            spaces.Discrete(257),
            "`action_space` must be Discrete up to 256, got Discrete(257)",
        ),
    ],
)
def test_refuses_other_spaces(observations, actions, message):
    line = refusal(ReplayBuffer, 10, observations, actions, "cpu")
    assert line == f"{message}; or give SB3's `replay_buffer_class`."


def test_holds_stacks_of_episodes_that_begin_or_end_anywhere():
    """Reset from outside between two transitions, and begun within an episode."""
    stream = Stream(1, 0.0)
    transitions = [stream.step() for _ in range(9)]
    chosen = [*transitions[4:6], *transitions[7:9]]  # the seventh was played elsewhere
    replay = ReplayBuffer(60, OBSERVATIONS, ACTIONS, "cpu")
    for transition in chosen:
        replay.add(*transition)
    batch = replay.gather(np.arange(4), np.zeros(4, int))
    for index, (obs, next_obs, *_) in enumerate(chosen):
        np.testing.assert_array_equal(batch.observations[index], obs[0])
        np.testing.assert_array_equal(batch.next_observations[index], next_obs[0])


def test_refuses_observations_that_are_no_stacks():
    replay = ReplayBuffer(60, OBSERVATIONS, ACTIONS, "cpu")
    obs, _, *rest = Stream(1, 0.0).step()
    message = (
        "`env` must give stacks of its last frames, the newest last, for this replay buffer; give "
        "the agent `replay_buffer_class=stable_baselines3.common.buffers.ReplayBuffer`."
    )
    assert refusal(replay.add, obs, obs, *rest) == message
