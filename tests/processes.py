"""Python in processes of its own, for what a process does to itself or a signal to it."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class _Process(subprocess.Popen[str]):
    """A process that does not outlive a `with` block, even one that a failing test leaves."""

    def __exit__(self, *fault: Any) -> None:
        self.kill()
        super().__exit__(*fault)


def start(*arguments: str, **options: Any) -> "subprocess.Popen[str]":
    """Start Python in the project's folder; what it writes can be read."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return _Process([sys.executable, *arguments], cwd=ROOT, text=True, **(pipes | options))


def run_script(script: str, **options: Any) -> str:
    """What a script prints that must succeed."""
    with start("-c", script, **options) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return str(out)


def wait_for(
    condition: Callable[[], object], process: "subprocess.Popen[str] | None" = None
) -> None:
    """Wait until something is so; fail if the process that brings it about has ended."""
    deadline = time.monotonic() + 900
    while not condition():
        assert process is None or process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
