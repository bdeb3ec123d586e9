"""What runs will need of the disk and the memory, checked before they start."""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from heapq import nlargest
from pathlib import Path

from agents.algorithms.build import replay_slack
from agents.algorithms.replay_buffer import count_bytes
from configs.run_config import DQNHyperparameters, RunConfig
from runtime.process_settings import list_control_groups

CHECKPOINT_BYTES = 30_000_000  # of DQN, the larger one: two networks and Adam's two averages
KEPT_FILES = 4  # two checkpoints, a third being written, the final model
# Measured in float32 on a CPU: activations, gradients and observations of one sample of an update.
BYTES_PER_SAMPLE = 500_000
BYTES_PER_ENVIRONMENT = 1_200_000
LOG_BYTES_PER_AGENT_STEP = 0.5  # TensorBoard and episodes.csv, generously


@dataclass(frozen=True)
class Needs:
    """Bytes that runs will take, and that there are; None where the system does not tell."""

    disk: int
    free_disk: int
    memory: int
    available_memory: int | None


def count_needs(
    configs: Sequence[RunConfig], runs: Path, jobs: int, process_bytes: int = 0
) -> Needs:
    """Count what unfinished runs below a folder are yet to take.

    As many as `jobs` train at a time, at worst the largest, and have their replay buffers on the
    disk, each in a process that takes `process_bytes` of memory before it trains.
    """
    kept, replays, written = 0, [], 0
    for config in configs:
        logs = int(LOG_BYTES_PER_AGENT_STEP * config.run.total_agent_steps)
        files_kept = KEPT_FILES + bool(config.execution.evaluate_every_agent_steps)  # the best
        kept += files_kept * CHECKPOINT_BYTES + logs
        replays.append(_count_replay_bytes(config))
        for file in (runs / config.name).rglob("*"):
            with suppress(FileNotFoundError):  # of a run that is training
                written += file.stat().st_size if file.is_file() else 0
    if not any(config.execution.keep_replay for config in configs):
        replays = nlargest(jobs, replays)
    existing = next(folder for folder in (runs, *runs.absolute().parents) if folder.exists())
    return Needs(
        disk=max(kept + sum(replays) - written, 0),
        free_disk=shutil.disk_usage(existing).free,
        memory=sum(nlargest(jobs, (process_bytes + _count_memory(config) for config in configs))),
        available_memory=_read_available_memory(),
    )


def check_needs(
    configs: Sequence[RunConfig], runs: Path, jobs: int = 1, process_bytes: int = 0
) -> None:
    """Refuse by a ValueError runs that would fill the disk or the memory; see `count_needs`."""
    needs = count_needs(configs, runs, jobs, process_bytes)
    if needs.available_memory is not None and needs.memory > needs.available_memory:
        who, remedy = f"{min(jobs, len(configs))} jobs need", "give fewer --jobs"
        if jobs == 1 or len(configs) == 1:
            largest = max(configs, key=_count_memory)
            settings = "n_envs or n_steps"
            if isinstance(largest.hyperparameters, DQNHyperparameters):
                settings = "buffer_size, batch_size, n_envs or checkpoint_every_agent_steps"
            who, remedy = f"{largest.name} needs", f"set a smaller {settings}"
        raise ValueError(
            f"{who} {_gigabytes(needs.memory)} of memory, "
            f"{_gigabytes(needs.available_memory)} are available; {remedy}."
        )
    if needs.disk > needs.free_disk:
        who = str(runs / configs[0].name) if len(configs) == 1 else "the plan"
        raise ValueError(
            f"{who} needs {_gigabytes(needs.disk)} of disk, {_gigabytes(needs.free_disk)} are "
            "free; make room or choose another --runs folder."
        )


def _count_memory(config: RunConfig) -> int:
    """Bytes that a run takes beside the program itself."""
    settings = config.hyperparameters
    samples = (
        settings.batch_size
        if isinstance(settings, DQNHyperparameters)
        else settings.n_envs * settings.n_steps
    )
    return (
        _count_replay_bytes(config)
        + samples * BYTES_PER_SAMPLE
        + settings.n_envs * BYTES_PER_ENVIRONMENT
    )


def _count_replay_bytes(config: RunConfig) -> int:
    """Bytes of a run's replay buffer, which lies on the disk and is mapped."""
    settings = config.hyperparameters
    if not isinstance(settings, DQNHyperparameters):
        return 0
    return count_bytes(settings.buffer_size, settings.n_envs, replay_slack(config))


def _read_available_memory(root: Path = Path("/")) -> int | None:
    """Bytes of memory that can be had without swapping; None where the system does not tell.

    That of the machine, or what a container's or batch job's limit (control groups, v1 and v2)
    leaves of it: files in the cache count as used there, and make room when it is wanted.
    """
    available = []
    with suppress(OSError, LookupError, ValueError):
        available.append(1024 * _read_fields(root / "proc/meminfo")["MemAvailable:"])
    for group in list_control_groups("memory", root):
        for limit, used in (("max", "current"), ("limit_in_bytes", "usage_in_bytes")):
            with suppress(OSError, LookupError, ValueError):  # it has none, or "max"
                most, held = (
                    int((group / f"memory.{name}").read_text(encoding="ascii"))
                    for name in (limit, used)
                )
                cached = _read_fields(group / "memory.stat")
                held -= cached["inactive_file"] + cached["active_file"]
                available.append(max(most - held, 0))
    return min(available, default=None)


def _read_fields(path: Path) -> dict[str, int]:
    """The first number of each line of one of the kernel's files, by the word before it."""
    lines = path.read_text(encoding="ascii").splitlines()
    return {name: int(value) for name, value, *_ in map(str.split, lines)}


def _gigabytes(count: int) -> str:
    return f"{count / 10**9:.2f} GB"
