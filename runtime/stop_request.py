"""A request to stop, made by Ctrl-C, SIGTERM or SIGHUP and granted when the work can be saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SIGNAL_BASE = 128  # a shell's exit status for a process that a signal ended


class TrainingStopped(Exception):
    """Training was asked to stop, and what it has learned is saved."""


class StopRequest:
    """Whether, and by which signal, the process was asked to stop."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Turn the first Ctrl-C, SIGTERM or SIGHUP into a request.

        A second Ctrl-C or SIGTERM acts at once. A closed terminal sends SIGHUP more than once, and
        what ends the session may send SIGTERM after it: neither says that anyone is in a hurry.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.getsignal(number) for number in STOPPING_SIGNALS}

        def request(number: int, _frame: FrameType | None) -> None:
            self.signal = self.signal or signal.Signals(number)
            if number != signal.SIGHUP:
                for each in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(each, previous[each])

        for number in STOPPING_SIGNALS:
            if number != signal.SIGHUP or previous[number] != signal.SIG_IGN:  # by nohup
                signal.signal(number, request)
        try:
            yield
        finally:
            for number in STOPPING_SIGNALS:
                signal.signal(number, previous[number])
