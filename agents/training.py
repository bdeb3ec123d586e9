"""Training one run, from its config to its final model, however often it is interrupted."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from types import FrameType
from typing import Literal

import torch

from agents.build import find_device, make_agent
from agents.checkpoints import newest_good_checkpoint, restore, save_agent, save_checkpoint
from agents.divergence import Divergence
from agents.progress import Progress
from agents.recorder import RunRecorder, TrainingStopped, cut_logs
from configs.files import write_atomically
from configs.protocols import load_protocol
from configs.provenance import describe_start
from configs.run_config import RunConfig, experiment_differences, load_config, to_json
from configs.run_directory import RunDirectory
from envs.atari_vec_env import AtariVecEnv
from envs.games import find_game

Plan = Literal["start", "resume", "extend", "finished"]


class StopRequest:
    """Whether, and by which signal, the process was asked to stop."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Turn the first Ctrl-C or SIGTERM into a request; a second one acts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handled = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.getsignal(number) for number in handled}

        def request(number: int, _frame: FrameType | None) -> None:
            self.signal = signal.Signals(number)
            for each in handled:
                signal.signal(each, previous[each])

        for number in handled:
            signal.signal(number, request)
        try:
            yield
        finally:
            for number in handled:
                signal.signal(number, previous[number])


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
    saved = load_config(directory.config_path)
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
    finished = status is not None and status.state == "finished" and directory.final_path.exists()
    if finished and asked_total == saved_total:
        return "finished", saved
    if asked.execution.threads == 0:  # not asked for: the same number as before
        asked = asked.with_execution(
            replace(asked.execution, threads=saved.execution.threads)
        )
    return ("extend" if finished else "resume"), asked


def train_run(directory: RunDirectory, config: RunConfig, stop: StopRequest) -> None:
    """Train a run to its end, from its newest checkpoint if it has one.

    Args:
        directory: The run's directory.
        config: From `plan_run`.
        stop: Asked between updates.

    Raises:
        TrainingStopped: If asked to stop; a checkpoint is saved.
        Divergence: If a loss is not finite; the last checkpoint is kept.
        ValueError: If the run cannot go on as it is; one line.
    """
    device = find_device(config.execution.device)
    threads = config.execution.threads or os.cpu_count() or 1
    config = config.with_execution(replace(config.execution, threads=threads))
    torch.set_num_threads(threads)
    game, protocol = find_game(config.run.game), load_protocol(config.run.protocol)
    with directory.lock():
        checkpoint, complaints = newest_good_checkpoint(directory)
        for complaint in complaints:
            print(f"{complaint} The checkpoint before it is used.", flush=True)
        env = AtariVecEnv(game, protocol, config.hyperparameters.n_envs, config.run.seed)
        agent = make_agent(config, env, device)
        logs = None if checkpoint is None else restore(checkpoint, agent, env)
        done = agent.num_timesteps
        write_atomically(directory.config_path, to_json(config))
        directory.record_start(describe_start(str(device), threads, asdict(protocol)))
        progress = Progress(config.name, done, config.run.total_agent_steps)
        recorder = RunRecorder(
            config,
            directory,
            progress,
            lambda state: save_checkpoint(directory, config, agent, env, state),
            lambda: bool(stop),
        )
        if logs is None:
            cut_logs(directory.path, {})
        else:
            recorder.set_state(logs, done)
            progress.say(f"{config.name}: resumed at {done:_} agent steps.")
        agent.set_logger(recorder.open())
        directory.write_status("running", done)
        try:
            agent.learn(
                config.run.total_agent_steps - done,
                callback=recorder,
                log_interval=None,  # type: ignore[arg-type]
                reset_num_timesteps=checkpoint is None,
            )
            save_agent(directory.final_path, config, agent)
            directory.write_status("finished", agent.num_timesteps)
        except TrainingStopped:
            directory.write_status("interrupted", agent.num_timesteps)
            raise
        except Divergence as error:
            directory.write_status("diverged", agent.num_timesteps, str(error))
            raise
        finally:
            progress.close()
            recorder.close()
            env.close()
