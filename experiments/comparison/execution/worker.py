"""One run of a comparison, in a process of its own, started by the pool.

Its arguments are the runs folder, the folder where a network of the user's own is looked for, and
the run's config, as JSON. Standard input stays open for as long as the run is wanted: when it ends,
because its other end was closed or its process died, the run is saved and stopped as if by SIGTERM.
So no parent, however it ends, leaves a process behind.

Unlike a command that a user watches, it is in no hurry when told twice: a batch system tells every
process, and then the parent tells its workers. Only SIGKILL ends it unsaved.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from configs.run_config import RunConfig
from runtime.command_line import exit_on_user_error
from runtime.process_settings import prepare_process
from runtime.stop_request import SIGNAL_BASE, STOPPING_SIGNALS, StopRequest

_STDIN = 0


def main() -> int:
    """Train the run; returns the exit status."""
    stop = StopRequest()

    def ask(number: int, _frame: FrameType | None) -> None:
        stop.signal = stop.signal or signal.Signals(number)

    for number in STOPPING_SIGNALS:
        signal.signal(number, ask)
    prepare_process()
    runs, folder, config_json = sys.argv[1:]
    with exit_on_user_error():
        config = RunConfig.from_mapping(json.loads(config_json), "the worker's config")
        threading.Thread(target=_stop_at_end_of_input, daemon=True).start()
        from agents.models.own_extractor import load_extractor
        from agents.training.command import run_training

        sys.path.append(folder)
        load_extractor(config.network)
        if stop.signal is not None:
            return SIGNAL_BASE + stop.signal
        return run_training(config, Path(runs), stop)


def _stop_at_end_of_input() -> None:
    while os.read(_STDIN, 1024):  # a buffered reader's lock would hold up the interpreter's end
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
