"""A request to stop, made by Ctrl-C or SIGTERM and granted when the work can be saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether, and by which signal, the process was asked to stop."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Turn the first Ctrl-C or SIGTERM into a request; a second one acts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handled = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.getsignal(number) for number in handled}

        def request(number: int, _frame: FrameType | None) -> None:
            self.signal = signal.Signals(number)
            for each in handled:
                signal.signal(each, previous[each])

        for number in handled:
            signal.signal(number, request)
        try:
            yield
        finally:
            for number in handled:
                signal.signal(number, previous[number])
