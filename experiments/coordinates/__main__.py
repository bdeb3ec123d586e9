"""`python -m experiments.coordinates`."""

import sys

from runtime.command_line import exit_on_user_error
from runtime.process_settings import prepare_process

if __name__ == "__main__":
    prepare_process()  # before torch is loaded
    with exit_on_user_error():  # loading takes seconds, in which Ctrl-C is one line, too
        from experiments.coordinates.command import main

    sys.exit(main())
