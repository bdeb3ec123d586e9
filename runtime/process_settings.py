"""What the process may use of the machine, and settings that make training faster.

Call `prepare_process` before torch is imported: the libraries read these variables when loaded.
"""

import ctypes
import math
import os
from pathlib import Path, PurePosixPath

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of the GNU C library
_ONE_GIBIBYTE = 1 << 30
# Measured with two, which are faster than one where both cores are free, and far slower where other
# programs want one. Batches of 32 to 80 samples leave little for many, and much waiting.
_MOST_THREADS = 4


def prepare_process() -> None:
    """Let freed memory be used again, and idle arithmetic threads make room for emulators.

    By default the GNU C library returns every large block to the system when it is freed, and each
    update pays for fetching its pages again; and threads of OpenMP spin for milliseconds between
    two layers. A GOMP_SPINCOUNT that the user has set stays. docs/performance.md has what each is
    worth.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return  # another C library
    # Older ones refuse more than 32 MiB; to set the other alone would keep this one at 128 KiB.
    if any(mallopt(_M_MMAP_THRESHOLD, limit) for limit in (_ONE_GIBIBYTE, _ONE_GIBIBYTE >> 5)):
        mallopt(_M_TRIM_THRESHOLD, _ONE_GIBIBYTE)


def count_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use: fewer than the machine's under taskset, SLURM, a container.

    `root` is that of the file system that has /proc and /sys.
    """
    affinity = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    count = getattr(os, "process_cpu_count", lambda: len(affinity(0)))  # from Python 3.13 on
    # Of the control groups of Linux, v1 or v2: seconds of processor time a second.
    quotas = map(_read_quota, list_control_groups("cpu", root))
    return max(int(min(count(), *quotas, math.inf)), 1)


def choose_threads(asked: int) -> tuple[int, str]:
    """How many threads compute the network, and what to tell of that; 0 were not asked for."""
    cores = count_cores()
    if asked > cores:
        return asked, f"{asked} for {cores} cores; --set threads={cores} may be faster"
    if asked:
        return asked, str(asked)
    limit = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if limit.isdecimal() and int(limit):
        threads, reason = min(cores, int(limit)), f"OMP_NUM_THREADS={limit}"
    else:
        threads, reason = min(cores, _MOST_THREADS), f"cores: {cores}"
        # Of the whole machine: it tells nothing of a part of it that is ours alone.
        load = os.getloadavg()[0] if cores == os.cpu_count() else 0.0
        if round(cores - load) < threads:
            threads, reason = max(round(cores - load), 1), f"{reason}, load: {load:.1f}"
    return threads, f"{threads} ({reason}); --set threads=N is another number"


def list_control_groups(controller: str, root: Path = Path("/")) -> list[Path]:
    """The folders of the control groups whose limits of a controller, such as "cpu", are ours."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []  # another system
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (controller if controllers else "")
        # A container sees its own group as the root of the mount, but may see its outer path here.
        groups = [path, *map(str, PurePosixPath(path).parents)]
        folders += [mount / group.strip("/") for group in groups]
    return folders


def _read_quota(group: Path) -> float:
    """The limit of one control group, in cores."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = (
                (group / f"cpu.cfs_{name}_us").read_text(encoding="ascii")
                for name in ("quota", "period")
            )
        cores = int(quota) / int(period)
    except (OSError, ValueError):  # it has none, or "max"
        return math.inf
    return cores if cores > 0 else math.inf
