"""What a run will need of the machine, checked before it starts."""

import shutil
from pathlib import Path

from agents.algorithms.build import replay_slack
from agents.algorithms.replay_buffer import count_bytes
from configs.run_config import DQNHyperparameters, RunConfig
from runtime.run_directory import RunDirectory

CHECKPOINT_BYTES = 30_000_000  # of DQN, the larger one: two networks and Adam's two averages
KEPT_FILES = 4  # two checkpoints, a third being written, the final model
# Measured in float32 on a CPU: activations, gradients and observations of one sample of an update.
BYTES_PER_SAMPLE = 500_000
BYTES_PER_ENVIRONMENT = 1_200_000
LOG_BYTES_PER_AGENT_STEP = 0.5  # TensorBoard and episodes.csv, generously


def check_resources(directory: RunDirectory, config: RunConfig) -> None:
    """Refuse a run that would fill the disk or the memory.

    Raises:
        ValueError: One line, with what is needed, what there is and the remedy.
    """
    replay, memory = count_replay_bytes(config), count_memory(config)
    available = available_memory()
    if available is not None and memory > available:
        smaller = (
            "buffer_size, batch_size, n_envs or checkpoint_every_agent_steps"
            if isinstance(config.hyperparameters, DQNHyperparameters)
            else "n_envs or n_steps"
        )
        raise ValueError(
            f"{config.name} needs {_gigabytes(memory)} of memory, {_gigabytes(available)} are "
            f"available; set a smaller {smaller}."
        )
    written = sum(file.stat().st_size for file in directory.path.rglob("*") if file.is_file())
    logs = LOG_BYTES_PER_AGENT_STEP * config.run.total_agent_steps
    needed = replay + KEPT_FILES * CHECKPOINT_BYTES + int(logs) - written
    free = shutil.disk_usage(_nearest_existing(directory.path)).free
    if needed > free:
        raise ValueError(
            f"{directory.path} needs {_gigabytes(needed)} of disk, {_gigabytes(free)} are free; "
            "make room or choose another --runs folder."
        )


def count_memory(config: RunConfig) -> int:
    """Bytes that a run takes beside the program itself."""
    settings = config.hyperparameters
    samples = (
        settings.batch_size
        if isinstance(settings, DQNHyperparameters)
        else settings.n_envs * settings.n_steps
    )
    return (
        count_replay_bytes(config)
        + samples * BYTES_PER_SAMPLE
        + settings.n_envs * BYTES_PER_ENVIRONMENT
    )


def count_replay_bytes(config: RunConfig) -> int:
    """Bytes of a run's replay buffer, which lies on the disk and is mapped."""
    settings = config.hyperparameters
    if not isinstance(settings, DQNHyperparameters):
        return 0
    return count_bytes(settings.buffer_size, settings.n_envs, replay_slack(config))


def available_memory() -> int | None:
    """Bytes of memory that can be had without swapping; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["MemAvailable"].split()[0]) * 1024


def _nearest_existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def _gigabytes(count: int) -> str:
    return f"{count / 10**9:.2f} GB"
