import os
import sys

import pytest

from runtime.process_settings import choose_threads, count_cores
from tests.processes import run_script

SPIN_COUNT = (
    "import os; from runtime.process_settings import prepare_process; prepare_process();"
    "print(os.environ['GOMP_SPINCOUNT'])"
)


def test_idle_arithmetic_threads_stop_spinning_early_unless_the_user_says_how_long():
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    assert run_script(SPIN_COUNT, env=environment) == "10000\n"
    assert run_script(SPIN_COUNT, env=environment | {"GOMP_SPINCOUNT": "7"}) == "7\n"


@pytest.mark.skipif(sys.platform != "linux", reason="the GNU C library's allocator")
@pytest.mark.parametrize(("prepared", "kept"), [("prepare_process();", True), ("", False)])
def test_freed_memory_is_kept_for_the_next_block(prepared, kept):
    """64 MB are taken, written and freed; then the process has them still, or has not."""
    size = 64 << 20
    script = (
        "from runtime.process_settings import prepare_process; from pathlib import Path\n"
        f"{prepared}\n"
        "def anonymous():\n"
        "    lines = Path('/proc/self/status').read_text().splitlines()\n"
        "    return next(int(l.split()[1]) for l in lines if l.startswith('RssAnon')) * 1024\n"
        "before = anonymous()\n"
        f"block = b'x' * {size}\n"
        "del block\n"
        "print(anonymous() - before)"
    )
    assert (int(run_script(script)) > size // 2) == kept


V2 = "0::/a/b\n"
V1 = "7:memory:/docker/1\n4:cpu,cpuacct:/docker/1\n0::/\n"


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        (None, {}, 8),  # no control groups
        (V2, {}, 8),
        (V2, {"a/b/cpu.max": "max 100000\n"}, 8),
        (V2, {"a/b/cpu.max": "250000 100000\n"}, 2),
        (V2, {"a/b/cpu.max": "50000 100000\n"}, 1),
        (V2, {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
        ("0::/outside/1\n", {"cpu.max": "400000 100000\n"}, 4),  # a container's own root
        (V2, {"a/b/cpu.max": "1600000 100000\n"}, 8),  # more than the affinity allows
        (V2, {"a/b/cpu.max": "damaged\n"}, 8),
        (V1, {"cpu/docker/1/cpu.cfs_quota_us": "-1", "cpu/docker/1/cpu.cfs_period_us": "9"}, 8),
        (V1, {"cpu/docker/1/cpu.cfs_quota_us": "18", "cpu/docker/1/cpu.cfs_period_us": "9"}, 2),
        (V1, {"cpu/cpu.cfs_quota_us": "27\n", "cpu/cpu.cfs_period_us": "9\n"}, 3),
    ],
)
def test_cores_are_those_allotted(tmp_path, monkeypatch, groups, files, cores):
    monkeypatch.setattr(os, "process_cpu_count", lambda: 8, raising=False)
    for name, content in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    if groups is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(groups)
    assert count_cores(tmp_path) == cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="sets it")
def test_the_affinity_counts():
    first = min(os.sched_getaffinity(0))
    script = (
        f"import os; os.sched_setaffinity(0, [{first}]); "
        "from runtime.process_settings import count_cores; print(count_cores())"
    )
    assert run_script(script) == "1\n"


ANOTHER = "--set threads=N is another number"


@pytest.mark.parametrize(
    ("asked", "cores", "variable", "load", "threads", "line"),
    [
        (0, 2, None, 0.2, 2, f"2 (cores: 2); {ANOTHER}"),
        (0, 2, None, 1.2, 1, f"1 (cores: 2, load: 1.2); {ANOTHER}"),
        (0, 2, None, 9.0, 1, f"1 (cores: 2, load: 9.0); {ANOTHER}"),
        (0, 16, None, 9.6, 4, f"4 (cores: 16); {ANOTHER}"),
        (0, 1, None, 0.0, 1, f"1 (cores: 1); {ANOTHER}"),
        (0, 3, None, 60.0, 3, f"3 (cores: 3); {ANOTHER}"),
        (0, 16, "1", 0.0, 1, f"1 (OMP_NUM_THREADS=1); {ANOTHER}"),
        (0, 16, "8,2", 0.0, 8, f"8 (OMP_NUM_THREADS=8); {ANOTHER}"),
        (0, 2, "many", 0.0, 2, f"2 (cores: 2); {ANOTHER}"),
        (2, 2, "1", 9.0, 2, "2"),
        (64, 2, None, 0.0, 64, "64 for 2 cores; --set threads=2 may be faster"),
    ],
)
def test_how_many_threads_and_why(monkeypatch, asked, cores, variable, load, threads, line):
    """On a machine of as many cores; three of them are a part of it."""
    monkeypatch.setattr("runtime.process_settings.count_cores", lambda: cores)
    monkeypatch.setattr(os, "cpu_count", lambda: 64 if cores == 3 else cores)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert choose_threads(asked) == (threads, line)
