"""Going on from a run's newest checkpoint, or finding that there is none and starting."""

import shutil
from contextlib import AbstractContextManager
from typing import Any

import torch

from agents.algorithms.build import make_agent, replay_slack
from agents.algorithms.dqn import DQN
from agents.models.model_file import ModelFile, read_newest_checkpoint
from agents.training.checkpoints import Agent, restore
from agents.training.watchdog import Watchdog
from configs.run_config import RunConfig, experiment_differences
from envs.atari_vec_env import AtariVecEnv
from runtime.run_directory import RunDirectory
from runtime.stop_request import StopRequest, TrainingStopped

REBUILD_SECONDS_PER_ENVIRONMENT = 20  # far more than playing its saved actions again takes
REFILL_CHUNK_AGENT_STEPS = 256


def make_or_restore(
    directory: RunDirectory, config: RunConfig, env: AtariVecEnv, device: torch.device
) -> tuple[Agent, dict[str, Any]]:
    """A new run's agent, or that of the newest checkpoint, and what its logs go on from.

    Raises:
        EnvironmentFailure: If an emulator fails.
        ValueError: If the checkpoint is of another run, damaged, or gone; nothing was changed.
    """
    checkpoint = read_newest_checkpoint(directory)
    if checkpoint is None:
        _check_nothing_is_lost(directory)
        if directory.replay_path.exists():
            shutil.rmtree(directory.replay_path)
        agent = make_agent(config, env, device, directory.replay_path)
        return agent, {"episodes": {}, "rows": {}, "file_sizes": {}}
    changed_threads = _check_origin(checkpoint, config, directory)
    agent = make_agent(config, env, device, directory.replay_path)
    with _watch_rebuilding(directory, config, checkpoint):
        logs = restore(checkpoint, agent, env)
    if isinstance(agent, DQN):
        _check_slack(agent, config)
    print(
        f"{config.name}: resumed at {agent.num_timesteps:_} agent steps.{changed_threads}",
        flush=True,
    )
    return agent, logs


def _check_nothing_is_lost(directory: RunDirectory) -> None:
    """Refuse to start at 0, and so to erase what is left, where training had been saved."""
    status = directory.read_status()
    saved = directory.episodes_path.exists() if status is None else status.agent_steps > 0
    if saved or directory.final_path.exists() or directory.is_packed():
        raise ValueError(
            f"{directory.path} was trained, but {directory.checkpoints_path}, from which it would "
            "go on, is empty or gone; restore it, or choose another --runs folder."
        )


def refill_replay(agent: DQN, env: AtariVecEnv, watchdog: Watchdog, stop: StopRequest) -> None:
    """Fill a replay buffer that is gone, as that of a finished run is.

    The agent plays as it would at this point of its training, without learning; these agent steps
    are not counted, nor are their games recorded.

    Raises:
        TrainingStopped: If asked to stop.
    """
    steps = min(agent.learning_starts, agent.buffer_size)
    print(
        "the replay buffer is gone, as it is after the end of a run: refilling it with "
        f"{steps:_} agent steps.",
        flush=True,
    )
    for first in range(0, steps, REFILL_CHUNK_AGENT_STEPS):
        if stop:
            raise TrainingStopped
        agent.play_without_learning(env, min(REFILL_CHUNK_AGENT_STEPS, steps - first))
        watchdog.feed()


def _check_origin(checkpoint: ModelFile, config: RunConfig, directory: RunDirectory) -> str:
    """Refuse a checkpoint of another run; returns what is to be said of one with other threads."""
    saved = RunConfig.from_mapping(checkpoint.config, f"{checkpoint.path}: config.json")
    differing = experiment_differences(saved, config)
    if differing:
        raise ValueError(
            f"{checkpoint.path} is of a run of other settings ({', '.join(differing)}); delete "
            f"{directory.path} to start again."
        )
    before, now = saved.execution.threads, config.execution.threads
    if before == now:
        return ""
    return (
        f" `threads` is {now}, and was {before}: from here on the weights are not, to the last "
        "bit, those of a run without the change."
    )


def _watch_rebuilding(
    directory: RunDirectory, config: RunConfig, checkpoint: ModelFile
) -> AbstractContextManager[None]:
    """End the process if the unfinished games of a checkpoint are not rebuilt in time."""
    execution, environments = config.execution, config.hyperparameters.n_envs
    return Watchdog(
        execution.hang_timeout_seconds + REBUILD_SECONDS_PER_ENVIRONMENT * environments,
        lambda message: directory.write_status("failed", int(checkpoint.path.stem), message),
    ).watch()


def _check_slack(agent: DQN, config: RunConfig) -> None:
    """Refuse longer intervals than the replay buffer's files can go back over."""
    replay = agent.replay_buffer
    if replay.slack_transitions // replay.n_envs < replay_slack(config) // replay.n_envs:
        raise ValueError(
            "`checkpoint_every_agent_steps` cannot be raised to "
            f"{config.execution.checkpoint_every_agent_steps:_}: this run's replay buffer was "
            "made for a smaller one; leave it as it was."
        )
