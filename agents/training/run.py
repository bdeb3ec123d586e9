"""Training one run, from its config to its final model, however often it is interrupted."""

import math
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from typing import Literal

import torch

from agents.algorithms.build import make_agent, replay_slack
from agents.algorithms.device import find_device
from agents.algorithms.divergence import Divergence
from agents.algorithms.dqn import DQN
from agents.algorithms.replay_buffer import ReplayBuffer
from agents.models.model_file import ModelFile
from agents.training.callbacks import RunRecorder, TrainingStopped, cut_logs
from agents.training.checkpoints import (
    Agent,
    check_weights,
    newest_good_checkpoint,
    restore,
    save_agent,
    save_checkpoint,
)
from agents.training.progress import Progress
from agents.training.requirements import check_resources
from agents.training.watchdog import Watchdog
from configs.protocols import load_protocol
from configs.run_config import (
    RunConfig,
    experiment_differences,
    from_mapping,
    to_json,
)
from envs.atari_vec_env import AtariVecEnv
from envs.games import find_game
from runtime.command_line import one_line
from runtime.files import write_atomically
from runtime.provenance import describe_start
from runtime.run_directory import RunDirectory
from runtime.stop_request import StopRequest

REFILL_CHUNK_AGENT_STEPS = 256
REBUILD_SECONDS_PER_ENVIRONMENT = 20  # far more than playing its saved actions again takes

Plan = Literal["start", "resume", "extend", "finished"]


def plan_run(directory: RunDirectory, asked: RunConfig) -> tuple[Plan, RunConfig]:
    """Compare what is asked with what is in a run's directory.

    Args:
        directory: The run's directory, which need not exist.
        asked: The config of the command.

    Returns:
        What is to be done, and the config to do it with.

    Raises:
        ValueError: If the directory holds a run of other settings, or a longer one.
    """
    if not directory.exists():
        return "start", asked
    saved = directory.read_config()
    differing = experiment_differences(saved, asked)
    if differing:
        raise ValueError(
            f"{directory.path} holds a run of other settings ({', '.join(differing)}); choose "
            "another --runs folder, or delete it."
        )
    saved_total, asked_total = saved.run.total_agent_steps, asked.run.total_agent_steps
    if asked_total < saved_total:
        raise ValueError(
            f"{directory.path} is a run of {saved_total:_} agent steps, longer than the "
            f"{asked_total:_} asked for; ask for at least as many."
        )
    status = directory.read_status()
    finished = (
        status is not None
        and status.state == "finished"
        and (directory.final_path.exists() or directory.is_packed())
    )
    if finished and asked_total == saved_total:
        return "finished", saved
    if directory.is_packed():
        raise ValueError(
            f"{directory.path} is a packed run, without the agent that could be trained further; "
            "choose another --runs folder."
        )
    if asked.execution.threads == 0:  # not asked for: the same number as before
        asked = asked.with_execution(replace(asked.execution, threads=saved.execution.threads))
    return ("extend" if finished else "resume"), asked


def train_run(directory: RunDirectory, config: RunConfig, stop: StopRequest) -> int:
    """Train a run to its end, from its newest checkpoint if it has one.

    Args:
        directory: The run's directory.
        config: From `plan_run`.
        stop: Asked between updates.

    Returns:
        The agent steps trained: those asked for, and what the last round of updates went beyond.

    Raises:
        TrainingStopped: If asked to stop; a checkpoint is saved.
        Divergence: If a loss or a weight is not finite; the last checkpoint is kept.
        ValueError: If the run cannot go on as it is; one line.
    """
    device = find_device(config.execution.device)
    game, protocol = find_game(config.run.game), load_protocol(config.run.protocol)
    threads = config.execution.threads or os.cpu_count() or 1
    config = config.with_execution(replace(config.execution, threads=threads))
    total_agent_steps = config.run.total_agent_steps
    torch.set_num_threads(threads)
    check_resources(directory, config)
    with ExitStack() as stack:
        # Before anything is written: not every protocol can start every game.
        env = AtariVecEnv(game, protocol, config.hyperparameters.n_envs, config.run.seed)
        stack.callback(env.close)
        stack.enter_context(directory.lock())
        checkpoint, complaints = newest_good_checkpoint(directory)
        for complaint in complaints:
            print(f"{complaint} The checkpoint before it is used.", flush=True)
        if checkpoint is not None:
            _check_origin(checkpoint, config, directory)
        elif directory.replay_path.exists():
            shutil.rmtree(directory.replay_path)
        agent = make_agent(config, env, device, directory.replay_path)
        logs = None
        if checkpoint is not None:
            with _watch_rebuilding(directory, config, checkpoint):
                logs = restore(checkpoint, agent, env)
        done = agent.num_timesteps
        if isinstance(agent, DQN):
            _check_slack(agent.replay_buffer, config)

        progress = Progress(config.name, done, total_agent_steps)
        stack.callback(progress.close)
        watchdog = Watchdog(
            config.execution.hang_timeout_seconds,
            lambda message: directory.write_status("failed", recorder.saved_agent_steps, message),
        )
        recorder = RunRecorder(
            config,
            directory,
            progress,
            save=lambda state: save_checkpoint(directory, config, agent, env, state),
            stop_requested=lambda: bool(stop),
            on_environment_step=watchdog.feed,
        )
        if logs is None:
            cut_logs(directory.path, {})
        else:
            recorder.set_state(logs, done)
            progress.say(f"{config.name}: resumed at {done:_} agent steps.")
        write_atomically(directory.config_path, to_json(config))
        directory.record_start(describe_start(str(device), threads, asdict(protocol)))
        directory.write_status("running", done)
        stack.callback(recorder.close)
        agent.set_logger(recorder.open())
        stack.enter_context(watchdog.watch())
        with _record_outcome(directory, agent, recorder):
            if (
                isinstance(agent, DQN)
                and 0 < done < total_agent_steps
                and agent.replay_buffer.size() == 0
            ):
                _refill_replay(agent, env, progress, watchdog, stop)
            _learn(agent, total_agent_steps - done, recorder, is_new=checkpoint is None)
            save_agent(directory.final_path, config, agent)
            if not config.execution.keep_replay and directory.replay_path.exists():
                shutil.rmtree(directory.replay_path)
        return agent.num_timesteps


@contextmanager
def _record_outcome(directory: RunDirectory, agent: Agent, recorder: RunRecorder) -> Iterator[None]:
    """Write down how what is done inside ends."""
    try:
        yield
    except TrainingStopped:
        directory.write_status("interrupted", agent.num_timesteps)
        raise
    except Divergence as error:
        directory.write_status("diverged", recorder.saved_agent_steps, str(error))
        raise
    except Exception as error:
        with suppress(OSError):  # a full disk has no room for the status either
            directory.write_status("failed", recorder.saved_agent_steps, one_line(error))
        raise
    directory.write_status("finished", agent.num_timesteps)


def _learn(agent: Agent, agent_steps: int, recorder: RunRecorder, *, is_new: bool) -> None:
    """Let the agent learn.

    Raises:
        Divergence: If a loss, a weight or an action's probability is not finite.
    """
    try:
        agent.learn(
            agent_steps,
            callback=recorder,
            log_interval=None,  # type: ignore[arg-type]
            reset_num_timesteps=is_new,
        )
    except RuntimeError as error:
        check_weights(agent)
        if "probability tensor" in str(error):  # torch.multinomial of what is not finite
            raise Divergence("an action's probability", math.nan, agent.num_timesteps) from error
        raise


def _check_origin(checkpoint: ModelFile, config: RunConfig, directory: RunDirectory) -> None:
    """Refuse a checkpoint of another run."""
    saved = from_mapping(checkpoint.config, f"{checkpoint.path}: config.json")
    differing = experiment_differences(saved, config)
    if differing:
        raise ValueError(
            f"{checkpoint.path} is of a run of other settings ({', '.join(differing)}); delete "
            f"{directory.path} to start again."
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


def _check_slack(replay: ReplayBuffer, config: RunConfig) -> None:
    """Refuse longer intervals than the replay buffer's files can go back over."""
    if replay.slack_transitions // replay.n_envs < replay_slack(config) // replay.n_envs:
        raise ValueError(
            "`checkpoint_every_agent_steps` cannot be raised to "
            f"{config.execution.checkpoint_every_agent_steps:_}: this run's replay buffer was "
            "made for a smaller one; leave it as it was."
        )


def _refill_replay(
    agent: DQN, env: AtariVecEnv, progress: Progress, watchdog: Watchdog, stop: StopRequest
) -> None:
    """Fill a replay buffer that is gone, as that of a finished run is.

    The agent plays as it would at this point of its training, without learning; these agent steps
    are not counted, nor are their games recorded.

    Raises:
        TrainingStopped: If asked to stop.
    """
    steps = min(agent.learning_starts, agent.buffer_size)
    progress.say(
        "the replay buffer is gone, as it is after the end of a run: refilling it with "
        f"{steps:_} agent steps."
    )
    for first in range(0, steps, REFILL_CHUNK_AGENT_STEPS):
        if stop:
            raise TrainingStopped
        agent.play_without_learning(env, min(REFILL_CHUNK_AGENT_STEPS, steps - first))
        watchdog.feed()
