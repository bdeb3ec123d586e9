"""Short runs that several tests start from."""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from runtime.run_directory import RunDirectory
from tests.short_runs import ShortRun, short_config, train

UPDATES = {"a2c": 19, "dqn": 22}  # to 190 and 88 agent steps: between two checkpoints


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> Callable[[str], RunDirectory]:
    """Trains a run of an algorithm to its end, once."""

    @functools.cache
    def whole(algo: str) -> RunDirectory:
        return train(tmp_path_factory.mktemp("whole"), short_config(algo))

    return whole


@pytest.fixture(params=["a2c", "dqn"])
def uninterrupted(request, whole) -> RunDirectory:
    return cast(RunDirectory, whole(request.param))


@pytest.fixture
def fresh(uninterrupted, tmp_path) -> ShortRun:
    """The same run, not begun."""
    return ShortRun(tmp_path / "fresh", uninterrupted.read_config())


@pytest.fixture(scope="session")
def stopped_once(tmp_path_factory) -> Callable[[str], Path]:
    """Trains a run until it is stopped with two checkpoints on the disk, once."""

    @functools.cache
    def stopped_once(algo: str) -> Path:
        runs = Path(tmp_path_factory.mktemp("stopped"))
        ShortRun(runs, short_config(algo)).stop_after(UPDATES[algo])
        return runs

    return stopped_once


@pytest.fixture
def stopped(stopped_once, tmp_path) -> Callable[[str], ShortRun]:
    """Makes a copy of a stopped run."""

    def copy(algo: str) -> ShortRun:
        runs = Path(shutil.copytree(stopped_once(algo), tmp_path / "runs"))
        return ShortRun(runs, short_config(algo))

    return copy
