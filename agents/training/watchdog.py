"""Ends a process whose environments have stopped answering."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from runtime.command_line import FAILED


class Watchdog:
    """Watches that something goes on.

    An emulator that hangs cannot be interrupted, so the process is ended: what is on the disk is
    the last checkpoint, and the system frees the run's lock. `on_hang` is called before, and must
    not wait for what hangs. The time is counted in the watchdog's own waking moments: a process
    that was suspended has not hung.
    """

    def __init__(self, timeout_seconds: float, on_hang: Callable[[str], None]) -> None:
        self._timeout = timeout_seconds
        self._on_hang = on_hang
        self._fed = True
        self._rests = False
        self._finished = threading.Event()

    def feed(self) -> None:
        """Say that something happened, and will happen again."""
        self._rests = False
        self._fed = True

    def rest(self) -> None:
        """Say that nothing need happen until it is fed again."""
        self._rests = True

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Watch while the block runs."""
        self.feed()
        thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._finished.set()
            thread.join()

    def _run(self) -> None:
        tick = min(1.0, self._timeout / 4)
        silent = 0.0
        while not self._finished.wait(tick):
            silent = 0.0 if self._fed or self._rests else silent + tick
            self._fed = False
            if silent >= self._timeout:
                message = f"the environments have not answered for {self._timeout:g} s"
                try:
                    self._on_hang(message)
                finally:
                    try:
                        print(f"error: {message}; the same command goes on.", file=sys.stderr)
                        sys.stderr.flush()
                    finally:
                        os._exit(FAILED)
