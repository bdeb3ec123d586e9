"""Short runs that several tests start from."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.run_directory import RunDirectory
from tests.short_runs import ShortRun, short_config, train

UPDATES = {"a2c": 19, "dqn": 22}  # to 190 and 88 agent steps: between two checkpoints


@pytest.fixture(scope="package", params=["a2c", "dqn"])
def uninterrupted(request, tmp_path_factory) -> RunDirectory:
    return train(tmp_path_factory.mktemp("uninterrupted"), short_config(request.param))


@pytest.fixture
def fresh(uninterrupted, tmp_path) -> ShortRun:
    """The same run, not begun."""
    return ShortRun(tmp_path / "fresh", uninterrupted.read_config())


@pytest.fixture(scope="package")
def stopped_once(tmp_path_factory) -> dict[str, Path]:
    """Folders with runs that were stopped with two checkpoints on the disk."""
    folders = {algo: tmp_path_factory.mktemp("stopped") for algo in UPDATES}
    for algo, folder in folders.items():
        ShortRun(folder, short_config(algo)).stop_after(UPDATES[algo])
    return folders


@pytest.fixture
def stopped(stopped_once, tmp_path) -> Callable[..., ShortRun]:
    """Makes a copy of a stopped run."""

    def copy(algo: str) -> ShortRun:
        return ShortRun(
            Path(shutil.copytree(stopped_once[algo], tmp_path / "runs")), short_config(algo)
        )

    return copy


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder, as the working directory."""
    monkeypatch.chdir(tmp_path)
    return Path(tmp_path)
