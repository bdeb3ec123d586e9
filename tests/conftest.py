"""What holds for every test, and what many of them ask."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.process_settings import count_cores, prepare_process

prepare_process()  # before torch is imported, as the commands do: idle threads do not spin

import hypothesis  # noqa: E402
import torch  # noqa: E402

from tests import own_networks  # noqa: E402

# Networks here are small and tests may share the machine: threads that wait for each other cost
# more than they bring.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of the commands that tests start

# A deadline is of the wall clock, which other processes share.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")

# Shells without job control, and nohup, let what they start ignore these, and so would the commands
# that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` means: the cores that we may use, and no more than memory is safe for."""
    return min(count_cores(), 8)


@pytest.fixture(autouse=True)
def _validate_distributions() -> None:
    """`torch.compile` turns it off for the whole process."""
    torch.distributions.Distribution.set_default_validate_args(True)


@pytest.fixture
def refuse(capsys) -> Callable[[Any, list[str]], str]:
    """Runs a command that must be refused: gives its one line on stderr."""

    def refuse(command: Any, arguments: list[str]) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            command(arguments)
        captured = capsys.readouterr()
        assert stop.value.code == 2
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert captured.err.endswith("\n")
        return str(captured.err[:-1])

    return refuse


@pytest.fixture
def no_figures(monkeypatch) -> None:
    """Reports without drawing, which takes a second."""
    monkeypatch.setattr(
        "experiments.comparison.report.render.draw_figures", lambda *_: {"learning-curves": b""}
    )


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder, as the working directory."""
    monkeypatch.chdir(tmp_path)
    return Path(tmp_path)


@pytest.fixture
def nets(here, monkeypatch) -> Path:
    """A folder with a user's module of networks, as the current one; nothing is loaded yet."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (here / "mynets.py").write_text(own_networks.NETS)
    own_networks.forget(monkeypatch)
    return Path(here)
