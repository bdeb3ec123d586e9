"""What a run ran on: versions, source, machine. No environment variables, no user names."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from runtime.source_version import hash_source

_PACKAGES = ("torch", "stable-baselines3", "gymnasium", "ale-py", "numpy", "opencv-python-headless")


def describe_start(device: str, threads: int, protocol: dict[str, Any]) -> dict[str, Any]:
    """One start's circumstances, for `RunDirectory.record_start`."""
    return {
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "argv": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "commit": _commit(),
        "source": hash_source(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "device": device,
        "threads": threads,
        "protocol": protocol,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The source's commit, with "+changes" if files differ from it; None outside a checkout."""
    source = Path(__file__).parent.parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"],
            cwd=source,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
