"""Settings of the process that make training faster; they change no result.

Call `prepare_process` before torch is imported: the libraries read these variables when loaded.
"""

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of the GNU C library
_ONE_GIBIBYTE = 1 << 30


def prepare_process() -> None:
    """Let freed memory be used again, and idle arithmetic threads make room for emulators.

    By default the GNU C library returns every large block to the system when it is freed, and each
    update pays for fetching its pages again; and threads of OpenMP spin for milliseconds between
    two layers. What the user has set stays. docs/performance.md has what each is worth.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return  # another C library
    mallopt(_M_MMAP_THRESHOLD, _ONE_GIBIBYTE)
    mallopt(_M_TRIM_THRESHOLD, _ONE_GIBIBYTE)
