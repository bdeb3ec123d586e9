"""A replay buffer that stores each frame once.

SB3's buffer stores the four frames of an observation and the four of the next one: 56 kB a
transition. Here each environment's frames are one long sequence in a ring, each episode's first
frame followed by one per step, and a transition is a place in it: 7 kB. Observations are put
together when sampled; frames from before the episode's start are zero, as in SB3's VecFrameStack.

The arrays can lie in files, which then are the saved replay buffer: a checkpoint only notes how
far they are filled. The rings are longer than the buffer by a slack, so what a checkpoint needs is
still there when a run that was killed goes on from it.
"""

import math
import os
import secrets
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3.common import buffers
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from agents.algorithms.device import to_device
from envs.frame_stack import (
    STACKED_FRAMES,
    drop_oldest,
    empty_stacks,
    frames_of,
    observations_of,
)
from runtime.files import naming_write_errors

# Every episode has one frame more than transitions. The rings have room for episodes of 20 agent
# steps on average; where they are shorter, the oldest transitions leave earlier.
FRAMES_PER_TRANSITION = 1.05

_Array = tuple[tuple[int, ...], np.dtype[Any]]  # shape and type


class Places(NamedTuple):
    """Transitions: their numbers since the start of the run, and their environments; each [B]."""

    numbers: npt.NDArray[np.int64]
    environments: npt.NDArray[np.int64]


class ReplayBuffer(buffers.ReplayBuffer):
    """In the place of SB3's ReplayBuffer, for stacked Atari frames, each stored once.

    Args:
        buffer_size: Transitions to keep, over all environments.
        observation_space: Box [4, rows, columns] uint8, the newest frame last.
        action_space: Discrete, up to 256 actions.
        device: Where sampled tensors go.
        n_envs: Number of environments.
        folder: Where the arrays are kept as files, or None for memory alone.
        slack_transitions: How far back, in transitions, `set_state` can reach. Files that are
            there keep theirs.
        seed: Of the sampling; None to follow NumPy's global generator, which SB3 seeds.
        optimize_memory_usage: Must be False; SB3 passes it.

    Raises:
        ValueError: If observations or actions are of another kind.
        FileWriteError: If the disk has no room for the files.
    """

    handle_timeout_termination = True

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        *,
        folder: Path | None = None,
        slack_transitions: int = 0,
        seed: int | None = None,
        optimize_memory_usage: bool = False,
    ) -> None:
        obstacle = self.find_obstacle(observation_space, action_space)
        if optimize_memory_usage:
            obstacle = "`optimize_memory_usage` must be False, since each frame is stored once"
        if obstacle is not None:
            raise ValueError(f"{obstacle}; or give SB3's `replay_buffer_class`.")
        # Not SB3's, which makes the arrays of a buffer of whole observations.
        buffers.BaseBuffer.__init__(
            self, buffer_size, observation_space, action_space, device, n_envs
        )
        shape = self.obs_shape
        self.buffer_size = max(buffer_size // n_envs, 1)  # transitions per environment
        self._frame_shape = shape[1:]
        if seed is None:  # follow NumPy's generator, which SB3 seeds
            seed = zlib.crc32(repr(np.random.get_state(legacy=False)).encode())  # noqa: NPY002
        self.random = np.random.default_rng(seed)
        pixels = shape[1] * shape[2]
        slack = slack_transitions // n_envs
        if folder is not None:
            kept = _slack_of(folder, n_envs, self.buffer_size, pixels)
            if kept is None:
                folder.mkdir(parents=True, exist_ok=True)
                for path in folder.glob("*.bin"):
                    path.unlink()
            else:
                slack = kept
        self.slack_transitions = slack * n_envs
        layout = _layout(n_envs, self.buffer_size, slack, pixels)
        arrays = {name: _open_array(folder, name, *layout[name]) for name in layout}
        self._frames, self._ages = arrays["frames"], arrays["ages"]
        self._places, self._actions = arrays["places"], arrays["actions"]
        self._rewards, self._terminals = arrays["rewards"], arrays["terminals"]
        self._written = arrays["written"]  # frames, ever
        self._identity = arrays["identity"]
        self._arrays = arrays
        self._frame_capacity, _ = ring_lengths(self.buffer_size, slack)
        # Numbers count from the start of the run, and are taken modulo the rings' lengths.
        self._frame_count = np.zeros(n_envs, dtype=np.int64)
        self._transition_count = 0
        self._oldest = np.zeros(n_envs, dtype=np.int64)  # transition
        self._in_episode = np.zeros(n_envs, dtype=bool)
        self._last_next_obs: npt.NDArray[np.uint8] | None = None

    @staticmethod
    def find_obstacle(
        observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
    ) -> str | None:
        """Say which of the spaces this cannot hold; None if it can hold both."""
        shape = observation_space.shape or ()
        if len(shape) != 3 or shape[0] != STACKED_FRAMES or observation_space.dtype != np.uint8:
            return (
                f"`observation_space` must be uint8 [{STACKED_FRAMES}, rows, columns], "
                f"got {observation_space}"
            )
        if not isinstance(action_space, spaces.Discrete) or action_space.n > 256:
            return f"`action_space` must be Discrete up to 256, got {action_space}"
        return None

    def reset(self) -> None:
        """Let go of all transitions."""
        self._transition_count = 0
        self._frame_count[:] = self._oldest[:] = 0
        self._in_episode[:] = False

    def size(self) -> int:
        """Transitions per environment that can be sampled."""
        return int(self._transition_count - self._oldest.max())

    def add(
        self,
        obs: npt.NDArray[np.uint8],
        next_obs: npt.NDArray[np.uint8],
        action: npt.NDArray[Any],
        reward: npt.NDArray[Any],
        done: npt.NDArray[np.bool_],
        infos: list[dict[str, Any]],
    ) -> None:
        """Store one transition of every environment.

        Args:
            obs: uint8 [n_envs, 4, rows, columns]; where it is not the last `next_obs`, an
                episode begins.
            next_obs: Likewise; at an episode's end, its last observation.
            action: [n_envs].
            reward: [n_envs].
            done: [n_envs]; whether the episode ended.
            infos: `TimeLimit.truncated` tells an end that is none of the game's.

        Raises:
            ValueError: If the observations are no stacks of frames.
        """
        number = self._transition_count
        if number == 0:  # whatever the files held is not this buffer's
            self._written[:] = 0
            self._identity[:] = secrets.randbits(62)
        for index in range(self.n_envs):
            last = self._last_next_obs
            goes_on = last is None or np.array_equal(last[index], obs[index])
            if not (self._in_episode[index] and goes_on):
                self._begin_episode(index, obs[index], next_obs[index])
            newest = int(self._frame_count[index]) - 1
            slot = number % self._places.shape[1]
            self._places[index, slot] = newest
            self._actions[index, slot] = action[index]
            self._rewards[index, slot] = reward[index]
            time_limit = infos[index].get("TimeLimit.truncated", False)
            self._terminals[index, slot] = bool(done[index]) and not time_limit
            age = int(self._ages[index, newest % self._ages.shape[1]])
            self._push_frame(index, next_obs[index, -1], min(age + 1, STACKED_FRAMES))
            self._in_episode[index] = not done[index]
        self._transition_count = number + 1
        self._last_next_obs = next_obs
        for index in range(self.n_envs):
            self._forget(index)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """Draw transitions uniformly, with replacement.

        Args:
            batch_size: B.
            env: Must be None; frames are not normalised.

        Returns:
            Observations uint8 [B, 4, rows, columns]; actions int64, rewards and dones (1 only at a
            game's own end) float32 [B, 1].
        """
        if env is not None:
            raise ValueError("`env` must be None, since frames are not normalised.")
        return self.gather(*self.draw(batch_size))

    def draw(self, batch_size: int) -> Places:
        """Draw transitions uniformly, with replacement, for `gather`."""
        return self._draw(batch_size, self.size(), self._transition_count)

    def foresee(self, batch_size: int, steps: int) -> Places | None:
        """What `draw` will return after so many more steps of the environments.

        None if that has transitions which are not there yet. A guess where episodes are so short
        that transitions leave before the buffer is full. The generator stays as it is.
        """
        state = self.random.bit_generator.state
        size = min(self.size() + steps, self.buffer_size)
        places = self._draw(batch_size, size, self._transition_count + steps)
        self.random.bit_generator.state = state
        known = places.numbers < self._transition_count
        return places if known.all() else None

    def _draw(self, batch_size: int, size: int, transition_count: int) -> Places:
        ages = self.random.integers(size, size=batch_size)
        environments = self.random.integers(self.n_envs, size=batch_size)
        return Places(transition_count - 1 - ages, environments)

    def gather(
        self, numbers: npt.NDArray[np.int64], environments: npt.NDArray[np.int64]
    ) -> ReplayBufferSamples:
        """Put transitions together, by their number since the start of the run.

        Args:
            numbers: [B].
            environments: [B].

        Returns:
            See `sample`. The observations' channels come last in memory.
        """
        slots = numbers % self._places.shape[1]
        places = self._places[environments, slots]
        ring = self._frames.shape[1]
        ages = self._ages[environments, places % ring].astype(np.int64)
        window = (places[:, None] + np.arange(1 - STACKED_FRAMES, 2)) % ring
        frames = self._frames[environments[:, None], window]
        # How many frames each is before the observation's newest.
        behind = np.arange(STACKED_FRAMES, -1, -1) - 1
        frames[behind > ages[:, None]] = 0
        stacks = empty_stacks(len(numbers), *self._frame_shape)
        channels = frames_of(stacks).reshape(len(numbers), -1, STACKED_FRAMES)
        for channel in range(STACKED_FRAMES):
            channels[..., channel] = frames[:, channel]
        next_stacks = stacks.copy()
        drop_oldest(next_stacks)
        frames_of(next_stacks)[..., -1] = frames[:, -1].reshape(stacks.shape)
        return ReplayBufferSamples(
            observations=to_device(observations_of(stacks), self.device),
            actions=to_device(
                self._actions[environments, slots, None].astype(np.int64), self.device
            ),
            next_observations=to_device(observations_of(next_stacks), self.device),
            dones=to_device(
                self._terminals[environments, slots, None].astype(np.float32), self.device
            ),
            rewards=to_device(self._rewards[environments, slots, None], self.device),
        )

    def get_state(self) -> dict[str, Any]:
        """How far the arrays are filled; JSON values. The files are on the disk when it returns."""
        for array in self._arrays.values():
            if isinstance(array, np.memmap):
                array.flush()
        return {
            "identity": int(self._identity[0]),
            "frame_count": self._frame_count.tolist(),
            "transition_count": self._transition_count,
            "oldest": self._oldest.tolist(),
            "in_episode": self._in_episode.tolist(),
            "random": self.random.bit_generator.state,
        }

    def holds(self, state: Mapping[str, Any]) -> bool:
        """Whether the files are those of a saved state, and not overwritten too far since.

        At least one frame is written for every transition, so the ring of transitions has room
        for as many frames as its slack.
        """
        frame_count = np.array(state["frame_count"], dtype=np.int64)
        if frame_count.shape != (self.n_envs,) or state["identity"] != int(self._identity[0]):
            return False
        ahead = self._written - frame_count
        return bool(ahead.min() >= 0 and ahead.max() <= self.slack_transitions // self.n_envs)

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state of these files.

        Raises:
            ValueError: If the files do not hold it.
        """
        if not self.holds(state):
            raise ValueError(
                "the replay buffer is not the one of this checkpoint; delete the run's replay "
                "folder to refill it."
            )
        self._frame_count = np.array(state["frame_count"], dtype=np.int64)
        self._transition_count = int(state["transition_count"])
        self._oldest = np.array(state["oldest"], dtype=np.int64)
        self._in_episode = np.array(state["in_episode"], dtype=bool)
        self._last_next_obs = None
        self.random.bit_generator.state = state["random"]

    def _begin_episode(
        self, index: int, obs: npt.NDArray[np.uint8], next_obs: npt.NDArray[np.uint8]
    ) -> None:
        if not np.array_equal(next_obs[:-1], obs[1:]):
            raise ValueError(
                "`env` must give stacks of its last frames, the newest last, for this replay "
                "buffer; give the agent `replay_buffer_class="
                "stable_baselines3.common.buffers.ReplayBuffer`."
            )
        # Not from its start, or padded otherwise than by black: the older frames count too.
        frames = obs if obs[:-1].any() else obs[-1:]
        for age, frame in enumerate(frames):
            self._push_frame(index, frame, age)

    def _push_frame(self, index: int, frame: npt.NDArray[np.uint8], age: int) -> None:
        number = int(self._frame_count[index])
        slot = number % self._frames.shape[1]
        self._frames[index, slot] = frame.reshape(-1)
        self._ages[index, slot] = age
        self._frame_count[index] = number + 1
        self._written[index] = max(int(self._written[index]), number + 1)

    def _forget(self, index: int) -> None:
        """Let go of transitions beyond the memory's size, or whose frames are gone."""
        oldest = max(int(self._oldest[index]), self._transition_count - self.buffer_size)
        first_kept_frame = int(self._frame_count[index]) - self._frame_capacity
        while True:
            place = int(self._places[index, oldest % self._places.shape[1]])
            age = int(self._ages[index, place % self._ages.shape[1]])
            if place - min(age, STACKED_FRAMES - 1) >= first_kept_frame:
                break
            oldest += 1
        self._oldest[index] = oldest


def ring_lengths(transitions: int, slack_transitions: int) -> tuple[int, tuple[int, int]]:
    """Frames kept, and the lengths of the rings of frames and of transitions, per environment."""
    frames = int(transitions * FRAMES_PER_TRANSITION) + 2 * STACKED_FRAMES
    slack_frames = int(slack_transitions * FRAMES_PER_TRANSITION) + 2 * STACKED_FRAMES
    return frames, (frames + slack_frames, transitions + slack_transitions)


def count_bytes(
    buffer_size: int, n_envs: int, slack_transitions: int, frame_bytes: int = 84 * 84
) -> int:
    """What the arrays of a replay buffer take."""
    _, (frames, transitions) = ring_lengths(
        max(buffer_size // n_envs, 1), slack_transitions // n_envs
    )
    return n_envs * (frames * (frame_bytes + 1) + transitions * (8 + 1 + 4 + 1) + 8) + 8


def _layout(n_envs: int, transitions: int, slack: int, pixels: int) -> dict[str, _Array]:
    """Shapes and types of all arrays, by name; transitions and slack are per environment."""
    _, (frame_ring, transition_ring) = ring_lengths(transitions, slack)
    return {
        "frames": ((n_envs, frame_ring, pixels), np.dtype(np.uint8)),
        "ages": ((n_envs, frame_ring), np.dtype(np.uint8)),
        "places": ((n_envs, transition_ring), np.dtype(np.int64)),
        "actions": ((n_envs, transition_ring), np.dtype(np.uint8)),
        "rewards": ((n_envs, transition_ring), np.dtype(np.float32)),
        "terminals": ((n_envs, transition_ring), np.dtype(np.uint8)),
        "written": ((n_envs,), np.dtype(np.int64)),
        "identity": ((1,), np.dtype(np.int64)),
    }


def _slack_of(folder: Path, n_envs: int, transitions: int, pixels: int) -> int | None:
    """The slack of the files in a folder; None if they are not one whole replay buffer."""
    files = [path for path in folder.glob("*.bin") if path.is_file() and not path.is_symlink()]
    sizes = {path.stem: path.stat().st_size for path in files}
    slack = sizes.get("actions", 0) // n_envs - transitions
    layout = _layout(n_envs, transitions, max(slack, 0), pixels)
    expected = {name: math.prod(shape) * dtype.itemsize for name, (shape, dtype) in layout.items()}
    return slack if sizes == expected else None


def _open_array(
    folder: Path | None, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> npt.NDArray[Any]:
    """Zeros in memory, or a file's content; a new file is given its full room on the disk."""
    if folder is None:
        return np.zeros(shape, dtype=dtype)
    path = folder / f"{name}.bin"
    if not path.exists():
        # Room must be there before it is mapped: a full disk would end the process otherwise.
        with naming_write_errors(path), path.open("wb") as file:
            size = math.prod(shape) * dtype.itemsize
            if sys.platform == "darwin":  # has no such call
                file.truncate(size)
            else:
                os.posix_fallocate(file.fileno(), 0, size)
    return np.memmap(path, dtype=dtype, mode="r+", shape=shape)
