"""The next update's batch, and its target values, while the agent acts.

Acting in one environment keeps one core busy, and neither the target network nor what the replay
buffer holds changes meanwhile, but for the newest transitions. So a thread of its own can compute
the target values of the batch that the next update will draw. What will be drawn is foreseen; what
is drawn in the end decides, and a wrong guess costs time alone.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor

from agents.algorithms.replay_buffer import Places, ReplayBuffer


class _Guess(NamedTuple):
    places: Places
    batch: ReplayBufferSamples
    values: Future[Tensor]


class Prefetch:
    """Draws batches and computes their target values, ahead of time if there is a thread for it.

    The values are always computed by one thread, ahead of time or not, so they are the same bit for
    bit; acting, too, has one thread meanwhile. That suits a batch of 32 and few environments. With
    one thread in all, or on a GPU, nothing is done ahead.

    Args:
        replay: Where batches come from.
        compute_values: From next observations [B, 4, rows, columns] to [B, 1].
    """

    def __init__(self, replay: ReplayBuffer, compute_values: Callable[[Tensor], Tensor]) -> None:
        self._replay = replay
        self._compute_values = compute_values
        self._guess: _Guess | None = None
        self._worker: ThreadPoolExecutor | None = None
        if replay.device.type == "cpu" and torch.get_num_threads() > 1:
            self._worker = ThreadPoolExecutor(1)
            with self.one_thread():
                # A thread takes over the process's number of threads when it first asks for it.
                self._worker.submit(torch.get_num_threads).result()

    @contextmanager
    def one_thread(self) -> Iterator[None]:
        """Compute with one thread beside this object's own, if it has one.

        What was begun within is finished when it ends.
        """
        threads = torch.get_num_threads()
        if self._worker is None:
            yield
            return
        torch.set_num_threads(1)
        try:
            yield
        finally:
            if self._guess is not None:
                wait([self._guess.values])
            torch.set_num_threads(threads)

    def begin(self, batch_size: int, steps: int) -> None:
        """Begin with what `take` will be asked for after so many steps of the environments."""
        self.forget()
        if self._worker is None:
            return
        places = self._replay.foresee(batch_size, steps)
        if places is not None:
            batch = self._replay.gather(*places)
            values = self._worker.submit(self._compute_values, batch.next_observations)
            self._guess = _Guess(places, batch, values)

    def forget(self) -> None:
        """Let go of what was begun: the target network is about to change."""
        if self._guess is not None:
            self._guess.values.result()
            self._guess = None

    def take(self, batch_size: int) -> tuple[ReplayBufferSamples, Tensor]:
        """Draw a batch; returns it with its target values [B, 1]."""
        places = self._replay.draw(batch_size)
        guess, self._guess = self._guess, None
        if guess is not None:
            values = guess.values.result()
            if all(map(np.array_equal, guess.places, places)):
                return guess.batch, values
        batch = self._replay.gather(*places)
        if self._worker is None:
            return batch, self._compute_values(batch.next_observations)
        return batch, self._worker.submit(self._compute_values, batch.next_observations).result()
