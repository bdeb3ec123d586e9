"""Agents that have been trained, loaded from a run's directory or a model file to be played."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.dqn.policies import CnnPolicy as DQNCnnPolicy

from agents.algorithms.build import extractor_arguments
from agents.evaluation.games import Policy
from agents.models.architecture import infer_architecture
from agents.models.model_file import ModelFile, read_model_zip, read_newest_checkpoint
from agents.models.own_extractor import OBSERVATIONS, load_extractor
from agents.models.policy_state import load_policy_state
from configs.protocols import Protocol, load_protocol
from configs.run_config import RunConfig, experiment_differences
from envs.frame_stack import STACKED_FRAMES
from envs.games import Game, find_game
from runtime.files import exists
from runtime.run_directory import RunDirectory

DEFAULT_PROTOCOL = "baselines"
ALL_ACTIONS = 18  # what the emulator's full_action_space gives every game


@dataclass(frozen=True, eq=False)
class TrainedAgent:
    """An agent that can be evaluated."""

    policy: Policy  # SB3's, with the trained weights
    game: Game
    protocol_name: str
    protocol: Protocol
    config: RunConfig | None  # of the run that trained it; None for a model of somebody else
    model_name: str  # the file it came from, as seen from where it was looked for
    trained_agent_steps: int | None  # None if the model does not say
    # Share of random actions that a DQN agent ended its training with; None for other agents, and
    # if the model does not say.
    final_epsilon: float | None

    @property
    def name(self) -> str:
        """The run's name, `Pong/a2c-coordconv/seed0`, or the model's."""
        return self.model_name if self.config is None else self.config.name


def load_agent(
    path: Path,
    game_name: str | None,
    protocol_name: str | None,
    device: torch.device,
    extractor: str | None = None,
) -> TrainedAgent:
    """Load the agent of a run directory or of a model file, without running anything in it.

    Args:
        path: A run's directory, of which `find_model` takes the model; or a model saved by this
            project or by SB3, which adds `.zip` to a name without it.
        game_name: What a model without a config plays; None for one with a config.
        protocol_name: How that was presented to it; None means `baselines`.
        device: Where the network goes.
        extractor: The features extractor of the user's own that the agent was trained with, as
            `module:Class`: only if it is named here is it imported.

    Raises:
        FileNotFoundError: If there is no such run or file.
        ValueError: If it is damaged, does not fit the game, or has a config beside a name given
            here; one line.
    """
    if not exists(path) and path.with_name(f"{path.name}.zip").is_file():
        path = path.with_name(f"{path.name}.zip")
    directory = RunDirectory(path) if path.is_dir() else None
    file = read_model_zip(path) if directory is None else find_model(directory)
    config = None if directory is None else directory.read_config()
    if file.config is not None:
        saved = RunConfig.from_mapping(file.config, f"{file.path}: config.json")
        differing = experiment_differences(saved, config or saved)
        if differing:
            raise ValueError(
                f"{file.path} is of another run than {path} ({', '.join(differing)} differ); "
                "evaluate the model file itself."
            )
        config = saved
    if config is None:
        if game_name is None:
            raise ValueError(f"{path} does not say its game; add --game, such as --game Pong.")
    else:
        for flag, value in (("--game", game_name), ("--protocol", protocol_name)):
            if value is not None:
                raise ValueError(f"{path} knows what it was trained on; leave out {flag} {value}.")
        game_name, protocol_name = config.run.game, config.run.protocol
    game, protocol_name = find_game(game_name), protocol_name or DEFAULT_PROTOCOL
    protocol = load_protocol(protocol_name)
    own = "" if config is None else config.network.extractor
    if config is not None and own and extractor == own:
        config = config.replace(network=load_extractor(config.network))
    elif extractor is not None:
        whose = f"of {own}, not" if own else "not"
        raise ValueError(
            f"{path} is {whose} of {extractor}; "
            + (f"give --extractor {own}." if own else "leave out --extractor.")
        )
    policy = _make_policy(file, game, config)
    load_policy_state(policy, file.policy_state, source=str(file.path))
    policy.to(device)
    policy.set_training_mode(False)
    return TrainedAgent(
        policy=policy,
        game=game,
        protocol_name=protocol_name,
        protocol=protocol,
        config=config,
        model_name=path.name if directory is None else str(file.path.relative_to(path)),
        trained_agent_steps=_read_count(file.sb3_data.get("num_timesteps")),
        final_epsilon=_read_share(file.sb3_data.get("exploration_final_eps"))
        if isinstance(policy, DQNCnnPolicy)
        else None,
    )


def find_model(directory: RunDirectory) -> ModelFile:
    """A finished run's model, or an unfinished one's newest good checkpoint.

    Raises:
        FileNotFoundError: If there is no such run, or it has no model yet.
        ValueError: If its model is damaged.
    """
    if not directory.exists():
        raise FileNotFoundError(
            f"{directory.path} is not a run's directory: it has no config.json; give one, such as "
            "runs/Pong/a2c-coordconv/seed0, or a model's .zip file."
        )
    status = directory.read_status()
    if status is not None and status.state != "finished":
        file = read_newest_checkpoint(directory)
        if file is not None:
            print(
                f"{directory.path} is not finished ({status.state}); its checkpoint "
                f"{file.path.name} is used.",
                flush=True,
            )
            return file
    if not directory.final_path.exists():
        if directory.is_packed():
            fault = "is a packed run, without its agent; give the run it was packed from."
        elif status is not None and status.state == "finished":
            fault = f"is finished, but {directory.final_path.name} is missing; restore the file."
        else:
            fault = "has no model yet; train it up to its first checkpoint."
        raise FileNotFoundError(f"{directory.path} {fault}")
    return read_model_zip(directory.final_path, ours=True)


def _make_policy(file: ModelFile, game: Game, config: RunConfig | None) -> Policy:
    """The untrained policy that a model's weights belong in."""
    actions = game.count_actions()
    arguments: dict[str, Any]
    if config is not None:
        is_dqn = config.run.algo == "dqn"
        arguments = extractor_arguments(config.network)
    else:
        found = infer_architecture(file)
        if found.frames != STACKED_FRAMES:
            raise ValueError(
                f"{file.path} sees {found.frames} channels at once; give an agent that sees "
                f"{STACKED_FRAMES} frames and no coordinates, or a run of this project."
            )
        if found.actions != actions:
            remedy = "name the game it was trained on with --game"
            if found.actions == ALL_ACTIONS:
                remedy += ", or give an agent trained without full_action_space"
            raise ValueError(
                f"{file.path} chooses among {found.actions} actions, {game.name} has {actions}; "
                f"{remedy}."
            )
        is_dqn = found.is_dqn
        arguments = {
            "features_extractor_class": NatureCNN,
            "features_extractor_kwargs": {"features_dim": found.features_dim},
            "net_arch": [],
            "normalize_images": found.normalize_images,
        }
        if not is_dqn:
            arguments["share_features_extractor"] = found.share_features_extractor
    policy_class: type[Policy] = DQNCnnPolicy if is_dqn else ActorCriticCnnPolicy
    return policy_class(
        OBSERVATIONS,
        spaces.Discrete(actions),
        lambda _: 0.0,  # the learning rate
        **arguments,
    )


def _read_count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _read_share(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and 0 <= value <= 1 else None
