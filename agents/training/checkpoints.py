"""Checkpoints: everything a run needs to go on as if it had never stopped.

A checkpoint is an SB3 model (`agents/models`) with three more members: `config.json`, what was
asked; `resume.json` and `resume.npz`, the state of all that is not the network: counters, random
generators, unfinished games, and how long the run's logs were.
"""

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.algorithms.a2c import A2C
from agents.algorithms.divergence import Divergence
from agents.algorithms.dqn import DQN
from agents.models.model_file import ModelFile, read_model_zip, write_model_zip
from agents.models.policy_state import load_policy_state
from configs.run_config import RunConfig
from envs.atari_vec_env import AtariVecEnv
from runtime.files import naming_write_errors, parse_json, remove_stale_temporaries
from runtime.run_directory import RunDirectory

KEPT_CHECKPOINTS = 2
LOG_PATTERNS = ("episodes.csv", "events.out.tfevents.*")

Agent = A2C | DQN
Array = np.ndarray[Any, Any]


def checkpoint_path(directory: RunDirectory, agent_steps: int) -> Path:
    """Where the checkpoint of a step lies."""
    return directory.checkpoints_path / f"{agent_steps:012d}.zip"


def save_checkpoint(
    directory: RunDirectory,
    config: RunConfig,
    agent: Agent,
    env: AtariVecEnv,
    logs: Mapping[str, Any],
) -> None:
    """Write a checkpoint, and delete all but the newest two and damaged ones that were newer.

    Args:
        directory: The run's directory.
        config: The run's config.
        agent: Between two updates.
        env: What it plays.
        logs: What the logs' callbacks go on from; JSON values.

    Raises:
        Divergence: If a weight is not finite; nothing is written.
    """
    check_weights(agent)
    assert isinstance(agent._last_obs, np.ndarray)
    assert agent._last_episode_starts is not None
    state = {
        "agent_steps": agent.num_timesteps,
        "updates": agent._n_updates,
        "episodes": agent._episode_num,
        "progress_remaining": agent._current_progress_remaining,
        "dqn": _dqn_state(agent) if isinstance(agent, DQN) else None,
        "environment": env.get_state(),
        "action_space_generator": agent.action_space.np_random.bit_generator.state,
        "numpy_generator": _numpy_generator_state(),
        "logs": {**logs, "file_sizes": _sync_logs(directory.path)},
    }
    arrays = {
        "last_observations": agent._last_obs,
        "last_episode_starts": np.asarray(agent._last_episode_starts),
        "torch_generator": torch.get_rng_state().numpy(),
    }
    if agent.device.type == "cuda":
        arrays["cuda_generator"] = torch.cuda.get_rng_state(agent.device).numpy()
    path = checkpoint_path(directory, agent.num_timesteps)
    with naming_write_errors(path):
        path.parent.mkdir(exist_ok=True)
    remove_stale_temporaries(path.parent)
    members = {"resume.json": json.dumps(state).encode(), "resume.npz": _to_npz(arrays)}
    save_agent(path, config, agent, members)
    kept = [older for older in _checkpoints(directory) if older <= path][:KEPT_CHECKPOINTS]
    for outdated in set(_checkpoints(directory)) - set(kept):
        outdated.unlink()


def check_weights(agent: Agent) -> None:
    """Tell a diverged agent.

    Raises:
        Divergence: If a weight is not finite.
    """
    for weights in agent.policy.parameters():
        finite = torch.isfinite(weights)
        if not finite.all():
            value = float(weights[~finite][0])
            raise Divergence("a weight", value, agent.num_timesteps)


def save_agent(
    path: Path, config: RunConfig, agent: Agent, members: Mapping[str, bytes] | None = None
) -> None:
    """Write an agent as an SB3 model with its config in it."""
    write_model_zip(path, agent, {"config.json": config.to_json().encode(), **(members or {})})


def newest_good_checkpoint(directory: RunDirectory) -> tuple[ModelFile | None, list[str]]:
    """The newest checkpoint that can be read, and one line about each newer one.

    Raises:
        ValueError: If there are checkpoints and none can be read.
    """
    complaints: list[str] = []
    paths = _checkpoints(directory)
    for path in paths:
        try:
            return read_model_zip(path, ours=True), complaints
        except (ValueError, FileNotFoundError) as error:
            complaints.append(str(error))
    if paths:
        raise ValueError(
            f"no checkpoint in {directory.checkpoints_path} can be read; restore one from a copy, "
            f"or train with another --runs. Of the newest: {complaints[0]}"
        )
    return None, complaints


def restore(file: ModelFile, agent: Agent, env: AtariVecEnv) -> dict[str, Any]:
    """Put an agent and its environment into the state of a checkpoint.

    A replay buffer whose files are not those of the checkpoint stays empty.

    Args:
        file: The checkpoint; its checksum vouches for what only this program writes and reads.
        agent: New, of the checkpoint's config.
        env: What it plays.

    Returns:
        What was given to `save_checkpoint` as `logs`, and the logs' `file_sizes` in bytes.

    Raises:
        EnvironmentFailure: If an emulator fails.
        ValueError: If the checkpoint does not fit the agent or its games cannot be rebuilt.
    """
    state = parse_json(file.read_member("resume.json"), f"{file.path}: resume.json")
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
    _set_numpy_generator_state(state["numpy_generator"])
    torch.set_rng_state(torch.from_numpy(arrays["torch_generator"]))
    if agent.device.type == "cuda" and "cuda_generator" in arrays:
        torch.cuda.set_rng_state(torch.from_numpy(arrays["cuda_generator"]), agent.device)
    logs: dict[str, Any] = state["logs"]
    return logs


def cut_logs(folder: Path, sizes: Mapping[str, int]) -> None:
    """Cut the logs of a run back to given sizes in bytes; logs without one are deleted.

    Args:
        folder: The run's directory.
        sizes: Bytes by file name, as a checkpoint has them.

    Raises:
        ValueError: If a log is missing or shorter than it was.
    """
    logs = {path.name: path for path in _log_files(folder)}
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


def _dqn_state(agent: DQN) -> dict[str, Any]:
    return {
        "environment_steps": agent._n_calls,
        "exploration_rate": agent.exploration_rate,
        "replay": agent.replay_buffer.get_state(),
    }


def _checkpoints(directory: RunDirectory) -> list[Path]:
    """Newest first."""
    return sorted(directory.checkpoints_path.glob("[0-9]*.zip"), reverse=True)


def _numpy_generator_state() -> list[Any]:
    kind, keys, position, has_gauss, cached_gaussian = np.random.get_state(legacy=True)  # noqa: NPY002
    return [kind, np.asarray(keys).tolist(), position, has_gauss, cached_gaussian]


def _set_numpy_generator_state(state: list[Any]) -> None:
    kind, keys, position, has_gauss, cached_gaussian = state
    np.random.set_state(  # noqa: NPY002
        (kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached_gaussian)
    )


def _to_npz(arrays: Mapping[str, Array]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()
