"""What a run ran on: versions, source, machine, command line. No environment variables."""

import ast
import hashlib
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from configs.settings import load_preset

_ROOT = Path(__file__).parent.parent
_LEARNING_ROOMS = ("envs", "policies", "agents/algorithms")  # the others change no result
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
        "gpu": _gpu(device) if device.startswith("cuda") else None,
        "threads": threads,
        "protocol": protocol,
    }


@cache  # of what the process began with, whatever is edited meanwhile
def hash_source() -> str:
    """The version of the source that decides what an agent learns, by `hash_modules`."""
    return hash_modules(*_LEARNING_ROOMS, begin=repr(load_preset("protocols")))


@cache
def hash_modules(*places: str, begin: str = "") -> str:
    """The SHA-256 of a text and of modules, files or whole folders; its first 12 digits.

    Comments, docstrings and layout do not count. Python versions may write the same source
    differently and so give another hash.
    """
    digest, found = hashlib.sha256(begin.encode()), set[Path]()
    for place in places:
        path = _ROOT / place
        found.update(path.rglob("*.py") if path.is_dir() else [path])
    for path in sorted(found):
        digest.update(path.relative_to(_ROOT).as_posix().encode() + b"\0")
        digest.update(strip_comments(path.read_text(encoding="utf-8")).encode() + b"\0")
    return digest.hexdigest()[:12]


def strip_comments(source: str) -> str:
    """Python source without comments and docstrings, in one layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The source's commit, with "+changes" if files differ from it; None if it is no checkout."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"],
            cwd=_ROOT,
            env=os.environ | {"GIT_CEILING_DIRECTORIES": str(_ROOT.parent)},
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def _gpu(device: str) -> str:
    """The name of a GPU, such as "NVIDIA H100 80GB HBM3"."""
    import torch  # here, as `prepare_process` comes before it

    return torch.cuda.get_device_name(device)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
