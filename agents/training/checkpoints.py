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
from agents.models.model_file import ModelFile, write_model_zip
from agents.models.policy_state import load_policy_state
from configs.run_config import RunConfig
from envs.atari_vec_env import AtariVecEnv
from runtime.files import naming_write_errors, parse_json, remove_stale_temporaries
from runtime.run_directory import RunDirectory

KEPT_CHECKPOINTS = 2
LOG_PATTERNS = ("episodes.csv", "evaluations.csv", "events.out.tfevents.*")

Agent = A2C | DQN


def save_checkpoint(
    directory: RunDirectory,
    config: RunConfig,
    agent: Agent,
    env: AtariVecEnv,
    logs: Mapping[str, Any],
) -> None:
    """Write a checkpoint, and delete all but the newest two and damaged ones that were newer.

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
    checkpoints = directory.list_checkpoints()
    kept = [older for older in checkpoints if older <= path][:KEPT_CHECKPOINTS]
    for outdated in set(checkpoints) - set(kept):
        outdated.unlink()


def check_weights(agent: Agent) -> None:
    """Tell a diverged agent.

    Raises:
        Divergence: If a weight is not finite.
    """
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


def restore(file: ModelFile, agent: Agent, env: AtariVecEnv) -> dict[str, Any]:
    """Put an agent and its environment into the state of a checkpoint.

    A replay buffer whose files are not those of the checkpoint stays empty.

    Args:
        file: The checkpoint; its checksum vouches for what only this program writes and reads.
        agent: New, of the checkpoint's config.
        env: New.

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
    np.random.set_state(state["numpy_generator"])  # noqa: NPY002
    torch.set_rng_state(torch.from_numpy(arrays["torch_generator"]))
    if agent.device.type == "cuda" and "cuda_generator" in arrays:
        torch.cuda.set_rng_state(torch.from_numpy(arrays["cuda_generator"]), agent.device)
    logs: dict[str, Any] = state["logs"]
    return logs


def cut_logs(folder: Path, sizes: Mapping[str, int]) -> None:
    """Cut the logs of a run back to the bytes a checkpoint has by their names; delete others.

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
