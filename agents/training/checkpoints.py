"""Checkpoints: everything a run needs to go on as if it had never stopped, saved and restored.

A checkpoint is an SB3 model (`agents/models`) with three more members: `config.json`, what was
asked; `resume.json` and `resume.npz`, the state of all that is not the network: counters, random
generators, unfinished games, and how long the run's logs were.
"""

import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.algorithms.a2c import A2C
from agents.algorithms.build import make_agent, replay_slack
from agents.algorithms.divergence import Divergence
from agents.algorithms.dqn import DQN
from agents.models.model_file import ModelFile, read_newest_checkpoint, write_model_zip
from agents.models.policy_state import load_policy_state
from agents.training.watchdog import Watchdog
from configs.run_config import RunConfig, experiment_differences, find_length_fault
from envs.atari_vec_env import AtariVecEnv
from runtime.command_line import shown_meanwhile
from runtime.files import naming_write_errors, parse_json, remove_stale_temporaries
from runtime.provenance import hash_source
from runtime.run_directory import RunDirectory
from runtime.stop_request import StopRequest, TrainingStopped

KEPT_CHECKPOINTS = 2
LOG_PATTERNS = ("episodes.csv", "evaluations.csv", "events.out.tfevents.*")
REBUILD_SECONDS_PER_ENVIRONMENT = 20  # far more than playing its saved actions again takes
REFILL_CHUNK_AGENT_STEPS = 256

Agent = A2C | DQN


def save_checkpoint(
    directory: RunDirectory,
    config: RunConfig,
    agent: Agent,
    env: AtariVecEnv,
    logs: Mapping[str, Any],
) -> None:
    """Write a checkpoint, and delete all but the newest two.

    Between two updates. What the logs' callbacks go on from, `logs`, are JSON values.

    Raises:
        Divergence: If a weight is not finite; nothing is written.
    """
    check_weights(agent)
    assert isinstance(agent._last_obs, np.ndarray)
    assert agent._last_episode_starts is not None
    kind, keys, *position = np.random.get_state(legacy=True)  # noqa: NPY002
    state = {
        "agent_steps": agent.num_timesteps,
        "updates": agent._n_updates,
        "episodes": agent._episode_num,
        "progress_remaining": agent._current_progress_remaining,
        "source": hash_source(),
        "environment": env.get_state(),
        "action_space_generator": agent.action_space.np_random.bit_generator.state,
        "numpy_generator": [kind, np.asarray(keys).tolist(), *position],
        "logs": {**logs, "file_sizes": _sync_logs(directory.path)},
    }
    if isinstance(agent, DQN):
        state["dqn"] = {
            "environment_steps": agent._n_calls,
            "exploration_rate": agent.exploration_rate,
            "replay": agent.replay_buffer.get_state(),
        }
    arrays = {
        "last_observations": agent._last_obs,
        "last_episode_starts": np.asarray(agent._last_episode_starts),
        "torch_generator": torch.get_rng_state().numpy(),
    }
    if agent.device.type == "cuda":
        arrays["cuda_generator"] = torch.cuda.get_rng_state(agent.device).numpy()
    npz = io.BytesIO()
    np.savez(npz, allow_pickle=False, **arrays)
    members = {"resume.json": json.dumps(state).encode(), "resume.npz": npz.getvalue()}
    path = directory.checkpoints_path / f"{agent.num_timesteps:012d}.zip"
    with naming_write_errors(path):
        path.parent.mkdir(exist_ok=True)
    remove_stale_temporaries(path.parent)
    save_agent(path, config, agent, members)
    for outdated in directory.list_checkpoints()[KEPT_CHECKPOINTS:]:
        outdated.unlink()


def check_weights(agent: Agent) -> None:
    """Raise Divergence if a weight is not finite."""
    for weights in agent.policy.parameters():
        finite = torch.isfinite(weights)
        if not finite.all():
            value = weights[~finite][0].item()
            raise Divergence("a weight", value, agent.num_timesteps)


def save_agent(
    path: Path, config: RunConfig, agent: Agent, members: Mapping[str, bytes] | None = None
) -> None:
    """Write an agent as an SB3 model with its config in it."""
    write_model_zip(path, agent, {"config.json": config.to_json().encode(), **(members or {})})


def make_or_restore(
    directory: RunDirectory, config: RunConfig, env: AtariVecEnv, device: torch.device
) -> tuple[Agent, dict[str, Any]]:
    """A new run's agent, or that of the newest checkpoint, and what its logs go on from.

    Damaged checkpoints that are newer are renamed, so that they take no good one's place.

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
    saved = _check_origin(checkpoint, config, directory)
    agent = make_agent(config, env, device, directory.replay_path)
    rebuilding = Watchdog(
        config.execution.hang_timeout_seconds + REBUILD_SECONDS_PER_ENVIRONMENT * env.num_envs,
        lambda message: directory.write_status("failed", int(checkpoint.path.stem), message),
    )
    told = "going on: the unfinished games are played again, up to where they were"
    with rebuilding.watch(), shown_meanwhile(told):
        state = _restore(checkpoint, agent, env)
    if isinstance(agent, DQN):
        _check_slack(agent, config)
    for path in directory.list_checkpoints():
        if path > checkpoint.path:
            set_aside = path.with_name(f"{path.name}.damaged")
            with naming_write_errors(set_aside):
                path.rename(set_aside)
            print(f"{path.name} is kept as {set_aside.name}.", flush=True)
    print(f"{config.name}: resumed at {agent.num_timesteps:_} agent steps.", flush=True)
    for change in _find_changes(saved, config, state.get("source")):
        print(
            f"{change}: from here on the weights are not those of a run without the change.",
            flush=True,
        )
    return agent, state["logs"]


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


def _check_origin(checkpoint: ModelFile, config: RunConfig, directory: RunDirectory) -> RunConfig:
    """Refuse a checkpoint of another run; returns its config."""
    saved = RunConfig.from_mapping(checkpoint.config, f"{checkpoint.path}: config.json")
    differing = experiment_differences(saved, config)
    if differing:
        raise ValueError(
            f"{checkpoint.path} is of a run of other settings ({', '.join(differing)}); delete "
            f"{directory.path} to start again."
        )
    if fault := find_length_fault(saved, config):  # what is in config.json may be gone
        raise ValueError(f"{checkpoint.path} {fault}")
    return saved


def _find_changes(saved: RunConfig, config: RunConfig, source: str | None) -> Iterator[str]:
    """What changes the weights to come, if only in their last bits, though it is the same run.

    `source` is the version of the learning code it was trained by; older checkpoints have none.
    """
    before, now = saved.execution.threads, config.execution.threads
    if before != now:
        yield f"`threads` is {now}, and was {before}"
    if source not in (None, hash_source()):
        yield f"the learning code is version {hash_source()}, and was {source}"


def _check_slack(agent: DQN, config: RunConfig) -> None:
    """Refuse longer intervals than the replay buffer's files can go back over."""
    replay = agent.replay_buffer
    if replay.slack_transitions // replay.n_envs < replay_slack(config) // replay.n_envs:
        raise ValueError(
            "`checkpoint_every_agent_steps` cannot be raised to "
            f"{config.execution.checkpoint_every_agent_steps:_}: this run's replay buffer was "
            "made for a smaller one; leave it as it was."
        )


def _restore(file: ModelFile, agent: Agent, env: AtariVecEnv) -> dict[str, Any]:
    """Put a new agent and its new environment into the state of a checkpoint.

    The file's checksum vouches for what only this program writes and reads. A replay buffer whose
    files are not those of the checkpoint stays empty. Raises as `make_or_restore` does.

    Returns:
        The checkpoint's `resume.json`: as `logs` what was given to `save_checkpoint`, and the logs'
        `file_sizes` in bytes; as `source` the version of the code that wrote it.
    """
    state: dict[str, Any] = parse_json(file.read_member("resume.json"), f"{file.path}: resume.json")
    arrays = dict(np.load(io.BytesIO(file.read_member("resume.npz")), allow_pickle=False))
    load_policy_state(agent.policy, file.policy_state, source=str(file.path))
    assert agent.policy.optimizer is not None
    assert file.optimizer_state is not None
    agent.policy.optimizer.load_state_dict(file.optimizer_state)
    agent.num_timesteps = state["agent_steps"]
    agent._n_updates = state["updates"]
    agent._episode_num = state["episodes"]
    agent._current_progress_remaining = state["progress_remaining"]
    if isinstance(agent, DQN):
        saved, replay = state["dqn"], agent.replay_buffer
        agent._n_calls = saved["environment_steps"]
        agent.exploration_rate = saved["exploration_rate"]
        if replay.holds(saved["replay"]):
            replay.set_state(saved["replay"])
    env.set_state(state["environment"], arrays["last_observations"])
    agent._last_obs = arrays["last_observations"]
    agent._last_episode_starts = arrays["last_episode_starts"]
    agent.action_space.np_random.bit_generator.state = state["action_space_generator"]
    np.random.set_state(state["numpy_generator"])  # noqa: NPY002
    torch.set_rng_state(torch.from_numpy(arrays["torch_generator"]))
    if agent.device.type == "cuda" and "cuda_generator" in arrays:
        torch.cuda.set_rng_state(torch.from_numpy(arrays["cuda_generator"]), agent.device)
    return state


def cut_logs(folder: Path, sizes: Mapping[str, int]) -> None:
    """Cut the logs of a run back to the bytes a checkpoint has by their names; delete others.

    Raises:
        ValueError: If a log is missing, shorter than it was, or a link to somewhere else.
    """
    logs = {path.name: path for path in _log_files(folder)}
    for path in logs.values():
        if path.is_symlink():
            raise ValueError(f"{path} is a link; put the file itself in its place.")
    for name, size in sizes.items():
        if name not in logs or logs[name].stat().st_size < size:
            raise ValueError(
                f"{folder / name} is missing or was shortened; restore it, or delete {folder} to "
                "start again."
            )
    for name, path in logs.items():
        if name in sizes:
            os.truncate(path, sizes[name])
        else:
            path.unlink()


def _sync_logs(folder: Path) -> dict[str, int]:
    """Put all that was logged on the disk; the logs' sizes in bytes, by name."""
    sizes = {}
    for path in _log_files(folder):
        with naming_write_errors(path), path.open("rb") as file:
            os.fsync(file.fileno())
            sizes[path.name] = path.stat().st_size
    return sizes


def _log_files(folder: Path) -> list[Path]:
    """The files of a run that grow by appending, in order of name."""
    return sorted(path for pattern in LOG_PATTERNS for path in folder.glob(pattern))
