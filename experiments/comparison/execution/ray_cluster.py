"""The same plan on a Ray cluster: a task per run, in a folder that all nodes share.

Every node needs the project at the same path (or installed) and the folder of runs under the same
name, on a file system with working `flock`. A run whose node is lost is started again by Ray on
another one, where it goes on from its last checkpoint.
"""

import json
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from configs.run_config import RunConfig
from experiments.comparison.execution.pool import (
    SECONDS_BETWEEN_LOOKS,
    SECONDS_FOR_SAVING,
    Launch,
    LocalWorker,
)
from runtime.command_line import FAILED
from runtime.run_directory import RunDirectory

STOPPED = 143
SECONDS_FOR_AN_ANSWER = 10.0
RESTARTS_AFTER_LOSS = 3


class RayWorker:
    """A run as a task of a Ray cluster."""

    def __init__(self, ray: Any, task: Any, config: RunConfig, runs: Path) -> None:
        self._ray = ray
        self._result = task.remote(config.to_json(), str(runs.absolute()), str(Path.cwd()))

    def poll(self) -> int | None:
        """Its exit status; None while it goes on."""
        ready, _ = self._ray.wait([self._result], timeout=0)
        if not ready:
            return None
        try:
            return int(self._ray.get(self._result))
        except self._ray.exceptions.TaskCancelledError:
            return STOPPED
        except self._ray.exceptions.RayError:
            return FAILED

    def terminate(self) -> None:
        """Ask it to save and stop."""
        self._ray.cancel(self._result, force=False)

    def kill(self) -> None:
        """End it now; its own process saves and stops when the task is gone."""
        self._ray.cancel(self._result, force=True)


class RayCluster:
    """What a plan may use of a cluster."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        per_node = [int(node.get("CPU", 0)) for node in nodes]
        self.cores = sum(per_node)
        if not self.cores:
            raise ValueError("the Ray cluster has no CPUs; start its nodes with --num-cpus.")
        self.largest_node = max(per_node)  # its cores
        self._gpus = sum(node.get("GPU", 0) for node in nodes)

    def launcher(self, jobs: int, threads: int) -> Launch:
        """How runs of so many threads are started, so many at a time, sharing the GPUs."""
        task = self._ray.remote(
            num_cpus=threads,
            num_gpus=min(1.0, int(1e4 * self._gpus / jobs) / 1e4),
            max_retries=RESTARTS_AFTER_LOSS,
        )(train_in_task)
        return lambda config, runs: RayWorker(self._ray, task, config, runs)


@contextmanager
def connect(address: str) -> Iterator[RayCluster]:
    """Connect to a cluster, by its address or "auto".

    Raises:
        ValueError: If Ray is not installed or there is no such cluster; one line.
    """
    if not address.strip() or not address.isprintable():
        raise ValueError(f"--ray must be the address of a cluster, or auto, got {address!r}.")
    try:
        import ray
    except ImportError:
        raise ValueError('--ray needs Ray; install it with pip install -e ".[ray]".') from None
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"--ray {address}: no Ray cluster answers ({error}); start one with ray start --head."
        ) from None
    try:
        yield RayCluster(ray)
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Tell at once if nothing listens, where Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=SECONDS_FOR_AN_ANSWER).close()


def train_in_task(config_json: str, runs: str, folder: str) -> int:
    """What a task does: train one run in a process of its own; returns its exit status.

    A cancelled task is told by KeyboardInterrupt, and has its run saved.
    """
    config = RunConfig.from_mapping(json.loads(config_json), "the task's config")
    _wait_for(RunDirectory(Path(runs) / config.name))
    worker = LocalWorker(config, Path(runs), Path(folder))
    while (code := worker.poll()) is None:
        try:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        except KeyboardInterrupt:
            worker.terminate()
    return code


def _wait_for(directory: RunDirectory) -> None:
    """Wait until a process of a lost node has let go of a run; if it does not, training says so."""
    deadline = time.monotonic() + SECONDS_FOR_SAVING
    while time.monotonic() < deadline:
        try:
            with directory.lock():
                return
        except ValueError:
            time.sleep(1)
