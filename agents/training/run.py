"""Training one run, from its config to its final model, however often it is interrupted."""

import math
import shlex
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from agents.algorithms.device import find_device
from agents.algorithms.divergence import Divergence
from agents.algorithms.dqn import DQN
from agents.models.own_extractor import count_own_cost, find_fault
from agents.training.callbacks import (
    Checkpoints,
    EpisodeLog,
    TensorBoardRows,
    WatchdogFeeder,
)
from agents.training.checkpoints import (
    Agent,
    check_weights,
    cut_logs,
    make_or_restore,
    refill_replay,
    save_agent,
)
from agents.training.evaluation import PeriodicEvaluation
from agents.training.progress import Progress
from agents.training.tensorboard import EventFile
from agents.training.watchdog import Watchdog
from configs.protocols import load_protocol
from configs.run_config import (
    NetworkSettings,
    RunConfig,
    experiment_differences,
    find_length_fault,
)
from envs.atari_vec_env import AtariVecEnv
from envs.games import find_game
from runtime.command_line import align_columns, one_line
from runtime.files import write_atomically
from runtime.process_settings import choose_threads
from runtime.provenance import describe_start
from runtime.run_directory import RunDirectory
from runtime.stop_request import StopRequest, TrainingStopped


class Plan(NamedTuple):
    """What is to be done with a run."""

    is_finished: bool  # so, nothing
    config: RunConfig
    agent_steps: int = 0  # of a finished run


def plan_run(directory: RunDirectory, asked: RunConfig) -> Plan:
    """Compare what is asked with what is in a run's directory, which need not exist.

    Raises:
        ValueError: If the directory holds a run of other settings, a longer one, or one
            whose schedules depend on its length.
    """
    if not directory.exists():
        return Plan(False, asked)
    saved = directory.read_config()
    differing = experiment_differences(saved, asked)
    if differing:
        raise ValueError(
            f"{directory.path} holds a run of other settings ({', '.join(differing)}); choose "
            "another --runs folder, or delete it."
        )
    saved_total, asked_total = saved.run.total_agent_steps, asked.run.total_agent_steps
    status, is_packed = directory.read_status(), directory.is_packed()
    has_model = directory.final_path.exists() or is_packed
    has_ended = status is not None and status.state == "finished" and has_model
    if status is not None and has_ended and asked_total == saved_total:
        return Plan(True, saved, status.agent_steps)
    if is_packed and asked_total > saved_total:
        raise ValueError(
            f"{directory.path} is a packed run, without the agent that could be trained further; "
            "choose another --runs folder."
        )
    if fault := find_length_fault(saved, asked):
        raise ValueError(f"{directory.path} {fault}")
    if asked.execution.threads == 0:  # not asked for: the same number as before
        asked = asked.with_execution(threads=saved.execution.threads)
    return Plan(False, asked)


def train_run(directory: RunDirectory, config: RunConfig, stop: StopRequest) -> int:
    """Train a run to its end, from its newest checkpoint if it has one.

    The config is from `plan_run`; `stop` is asked between updates.

    Returns:
        The agent steps trained: those asked for, and what the last round of updates went beyond.

    Raises:
        TrainingStopped: If asked to stop; a checkpoint is saved.
        Divergence: If a loss or a weight is not finite; the last checkpoint is kept.
        ValueError: If the run cannot go on as it is, or the user's own network fails; one line.
    """
    device = find_device(config.execution.device)
    game, protocol = find_game(config.run.game), load_protocol(config.run.protocol)
    threads, told_threads = choose_threads(config.execution.threads)
    config = config.with_execution(threads=threads)
    torch.set_num_threads(threads)
    # Before the agent's generators are seeded or restored: an extractor is made for it.
    cost = {"network_cost": count_own_cost(config.network)} if config.network.extractor else {}
    with ExitStack() as stack:
        # Before anything is written: not every protocol can start every game.
        env = AtariVecEnv(game, protocol, config.hyperparameters.n_envs, config.run.seed)
        stack.callback(env.close)
        stack.enter_context(directory.lock())
        agent, logs = make_or_restore(directory, config, env, device)
        done, total = agent.num_timesteps, config.run.total_agent_steps

        _tell_start(directory, config, device, told_threads)
        if obstacle := agent.find_obstacle():
            print(f"{config.name}: SB3's own passes are used: {obstacle}.", flush=True)
        cut_logs(directory.path, logs["file_sizes"])
        circumstances = describe_start(str(device), threads, protocol.model_dump())
        directory.record_start(circumstances | cost)
        # Before the config: a finished run that is made longer is not finished at the new length.
        directory.write_status("running", done)
        write_atomically(directory.config_path, config.to_json())

        episodes = EpisodeLog(directory.episodes_path, **logs["episodes"])
        stack.callback(episodes.close)
        events = EventFile(directory.path, first_step=done + 1)
        stack.callback(events.close)
        agent.set_logger(Logger(None, [events]))
        rows = TensorBoardRows(config, episodes, events, **logs["rows"])
        watchdog = Watchdog(
            config.execution.hang_timeout_seconds,
            lambda message: checkpoints.record("failed", message),
        )
        so_far = logs.get("evaluation", {})
        if so_far.get("best_mean_return") is not None and not directory.best_path.exists():
            print(f"{directory.best_path} is gone: the best agent is looked for anew.", flush=True)
            so_far["best_mean_return"] = None
        evaluation = PeriodicEvaluation(directory, config, events, stop, watchdog, **so_far)
        kept = {
            "episodes": episodes.get_state,
            "rows": rows.get_state,
            "evaluation": evaluation.get_state,
        }
        checkpoints = Checkpoints(directory, config, env, kept, stop, saved_agent_steps=done)
        stack.enter_context(watchdog.watch())
        with _record_outcome(checkpoints, config.network):
            if isinstance(agent, DQN) and 0 < done < total and agent.replay_buffer.size() == 0:
                refill_replay(agent, env, watchdog, stop)
            progress = Progress(done, total, episodes)
            stack.callback(progress.close)
            callbacks: list[BaseCallback] = [episodes, progress, rows, evaluation, checkpoints]
            callbacks.append(WatchdogFeeder(watchdog))
            _learn(agent, total - done, callbacks, is_new=done == 0)
            save_agent(directory.final_path, config, agent)
            if not config.execution.keep_replay:
                # On NFS what is still mapped leaves its folder behind until the process ends.
                shutil.rmtree(directory.replay_path, ignore_errors=True)
        return agent.num_timesteps


def _tell_start(
    directory: RunDirectory, config: RunConfig, device: torch.device, threads: str
) -> None:
    """Say what is trained, where and with what, and how to watch it."""
    run = config.run
    rows = {
        "training": f"{run.game}, {run.algo}-{config.arm}, seed {run.seed}",
        "steps": f"{run.total_agent_steps:_} agent steps, protocol {run.protocol}",
        "folder": str(directory.path),
        "device": f"{device}, {run.precision}",
        "threads": threads,
        "watch": f"tensorboard --logdir {shlex.quote(str(directory.path.parents[2]))}",
    }
    print("\n".join(align_columns(list(rows.items()), left=2)), flush=True)


@contextmanager
def _record_outcome(checkpoints: Checkpoints, network: NetworkSettings) -> Iterator[None]:
    """Write down how what is done inside ends; a fault of a user's own network is one line."""
    try:
        yield
    except TrainingStopped:
        checkpoints.record("interrupted")
        raise
    except Divergence as error:
        checkpoints.record("diverged", str(error))
        raise
    except (Exception, SystemExit) as error:  # a user's network may do anything
        fault = find_fault(error, network)
        with suppress(OSError):  # a full disk has no room for the status either
            checkpoints.record("failed", fault or one_line(error))
        if fault is None:
            raise
        raise ValueError(fault) from error
    checkpoints.record("finished")


def _learn(agent: Agent, agent_steps: int, callbacks: list[BaseCallback], *, is_new: bool) -> None:
    """Let the agent learn; Divergence if a loss, a weight or a probability is not finite."""
    try:
        agent.learn(agent_steps, callbacks, log_interval=None, reset_num_timesteps=is_new)
    except (RuntimeError, ValueError) as error:
        check_weights(agent)
        # What is said of probabilities that are not finite: by torch's `multinomial` and
        # `Categorical`, and by NumPy, which draws the actions of an evaluation.
        told = ("probability tensor", "Expected parameter logits", "Probabilities contain NaN")
        if any(words in str(error) for words in told):
            raise Divergence("an action's probability", math.nan, agent.num_timesteps) from error
        raise
