"""`python -m experiments.coordinates`."""

import sys

from runtime.process_settings import prepare_process

if __name__ == "__main__":
    prepare_process()  # before torch is loaded
    from experiments.coordinates.command import main

    sys.exit(main())
