"""One run of a comparison, in a process of its own, started by the pool with the runs folder.

The first line on standard input is the run's config, as JSON. Standard input stays open for as long
as the run is wanted: when it ends, because its other end was closed or its process died, the run is
saved and stopped as if by SIGTERM. So no parent, however it ends, leaves a process behind.
"""

import os
import signal
import sys
import threading
from pathlib import Path

from configs.run_config import from_json
from runtime.command_line import exit_on_user_error
from runtime.process_settings import prepare_process

_STDIN = 0


def main() -> int:
    """Train the run; returns the exit status."""
    prepare_process()
    (runs,) = sys.argv[1:]
    with exit_on_user_error():
        config = from_json(_read_line(), "standard input")
        threading.Thread(target=_stop_at_end_of_input, daemon=True).start()
        from agents.training.command import run_training

        return run_training(config, Path(runs))


def _read_line() -> bytes:
    """Read by hand: a buffered reader would hold a lock that the interpreter needs at its end."""
    line = bytearray()
    while (byte := os.read(_STDIN, 1)) not in (b"\n", b""):
        line += byte
    return bytes(line)


def _stop_at_end_of_input() -> None:
    while os.read(_STDIN, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
