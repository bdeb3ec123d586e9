import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(script: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
        | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


SPIN_COUNT = (
    "import os; from runtime.process_settings import prepare_process; prepare_process();"
    "print(os.environ['GOMP_SPINCOUNT'])"
)


def test_idle_arithmetic_threads_stop_spinning_early() -> None:
    assert run(SPIN_COUNT) == "10000\n"


def test_what_the_user_has_set_stays() -> None:
    assert run(SPIN_COUNT, GOMP_SPINCOUNT="7") == "7\n"


@pytest.mark.skipif(sys.platform != "linux", reason="the GNU C library's allocator")
@pytest.mark.parametrize(("prepared", "kept"), [("prepare_process();", True), ("", False)])
def test_freed_memory_is_kept_for_the_next_block(prepared: str, kept: bool) -> None:
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
    assert (int(run(script)) > size // 2) == kept
