"""Scoring a trained agent: whole games from fresh starts, their returns, and a video of one.

Games are played exactly as the run's protocol presented them in training: where a lost life ends
the agent's episode, the presses between two lives are made and the stack of frames begins anew, so
the agent sees nothing it has not seen before. Only the books differ: a game is scored through all
its lives, in raw rewards.

Which games are played is settled before the first begins: game k has its own start and its own
random generator, and all that are begun are played to their end. Taking the first to finish would
favour short games.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from scipy.special import stdtrit
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.dqn.policies import CnnPolicy as DQNCnnPolicy
from torch.distributions import Categorical

from agents.build import extractor_arguments, find_device
from agents.checkpoints import newest_good_checkpoint
from agents.model_zip import (
    ModelFile,
    infer_architecture,
    load_policy_state,
    read_model_zip,
    verify_checksum,
)
from agents.video import find_ffmpeg, replay_game, write_video
from configs.files import remove_stale_temporaries, write_json
from configs.protocols import Protocol, load_protocol
from configs.provenance import describe_start
from configs.run_config import RunConfig, experiment_differences, from_mapping, load_config
from configs.run_directory import RunDirectory
from envs.emulated_game import FRAME_SIZE, EmulatedGame
from envs.frame_stack import STACKED_FRAMES
from envs.games import Game, find_game
from envs.seeding import game_seed

FORMAT_VERSION = 1
RETURNS_NAME, VIDEO_NAME = "returns.json", "game.mp4"
DEFAULT_PROTOCOL = "baselines"

# Part of what a game is, so not a setting: game k is number k // 8 of environment k % 8. The
# network always sees 8 stacks, as its arithmetic depends on their number in the last bit. With
# both fixed, a game is the same one however many are played.
GAMES_SIDE_BY_SIDE = 8

Policy = ActorCriticCnnPolicy | DQNCnnPolicy


# --- the agent ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class TrainedAgent:
    """An agent that can be evaluated.

    Attributes:
        policy: SB3's, with the trained weights.
        game: What it plays.
        protocol_name: How that is presented.
        config: Of the run that trained it; None for a model of somebody else.
        model_name: The file it came from, as seen from where it was looked for.
        trained_agent_steps: None if the model does not say.
        final_epsilon: The share of random actions that a DQN agent ended its training with; None
            for other agents, and if the model does not say.
    """

    policy: Policy
    game: Game
    protocol_name: str
    config: RunConfig | None
    model_name: str
    trained_agent_steps: int | None
    final_epsilon: float | None

    @property
    def name(self) -> str:
        """The run's name, `Pong/a2c-coordconv/seed0`, or the model's."""
        return self.model_name if self.config is None else self.config.name


def load_agent(
    path: Path, game_name: str | None, protocol_name: str | None, device: torch.device
) -> TrainedAgent:
    """Load the agent of a run directory or of a model file, without running anything in it.

    Args:
        path: A run's directory: its final model is taken, or while it is unfinished its newest
            good checkpoint. Or a model saved by this project or by SB3.
        game_name: What a model without a config plays; None for one with a config.
        protocol_name: How that was presented to it; None means `baselines`.
        device: Where the network goes.

    Raises:
        FileNotFoundError: If there is no such run or file.
        ValueError: If it is damaged, does not fit the game, or has a config beside a name given
            here; one line.
    """
    if path.is_dir():
        directory = RunDirectory(path)
        file = find_model(directory)
        config: RunConfig | None = load_config(directory.config_path)
    else:
        file = read_model_zip(path, with_optimizer=False)
        config = None
    if file.config is not None:
        saved = from_mapping(file.config, f"{file.path}: config.json")
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
        game = find_game(game_name)
        protocol_name = protocol_name or DEFAULT_PROTOCOL
    else:
        for flag, value in (("--game", game_name), ("--protocol", protocol_name)):
            if value is not None:
                raise ValueError(f"{path} knows what it was trained on; leave out {flag} {value}.")
        game = find_game(config.run.game)
        protocol_name = config.run.protocol
    policy = _make_policy(file, game, load_protocol(protocol_name), config)
    load_policy_state(policy, file.policy_state, source=str(file.path))
    policy.to(device)
    policy.set_training_mode(False)
    return TrainedAgent(
        policy=policy,
        game=game,
        protocol_name=protocol_name,
        config=config,
        model_name=str(file.path.relative_to(path)) if path.is_dir() else path.name,
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
        file, complaints = newest_good_checkpoint(directory)
        for complaint in complaints:
            print(f"{complaint} The checkpoint before it is used.", flush=True)
        if file is not None:
            print(
                f"{directory.path} is not finished ({status.state}); its checkpoint "
                f"{file.path.name} is evaluated.",
                flush=True,
            )
            return file
    if not directory.final_path.exists():
        raise FileNotFoundError(
            f"{directory.path} has no model yet; train it up to its first checkpoint."
        )
    verify_checksum(directory.final_path)
    return read_model_zip(directory.final_path, with_optimizer=False)


def _make_policy(
    file: ModelFile, game: Game, protocol: Protocol, config: RunConfig | None
) -> Policy:
    """The untrained policy that a model's weights belong in."""
    actions = EmulatedGame(game, protocol, 0, 0, "evaluation").action_count
    arguments: dict[str, Any]
    if config is not None:
        is_dqn = config.run.algo == "dqn"
        arguments = extractor_arguments(config.network)
    else:
        found = infer_architecture(file.policy_state, source=str(file.path))
        if found.frames != STACKED_FRAMES:
            raise ValueError(
                f"{file.path} sees {found.frames} frames at once; give an agent that sees "
                f"{STACKED_FRAMES}."
            )
        if found.actions != actions:
            raise ValueError(
                f"{file.path} chooses among {found.actions} actions, {game.name} has {actions}; "
                "name the game it was trained on with --game."
            )
        is_dqn = found.kind == "dqn"
        arguments = {
            "features_extractor_class": NatureCNN,
            "features_extractor_kwargs": {"features_dim": found.features_dim},
            "net_arch": [],
        }
        if not is_dqn:
            arguments["share_features_extractor"] = found.share_features_extractor
    policy_class: type[Policy] = DQNCnnPolicy if is_dqn else ActorCriticCnnPolicy
    return policy_class(
        spaces.Box(0, 255, (STACKED_FRAMES, FRAME_SIZE, FRAME_SIZE), dtype=np.uint8),
        spaces.Discrete(actions),
        lambda _: 0.0,  # the learning rate
        **arguments,
    )


def _read_count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _read_share(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and 0 <= value <= 1 else None


# --- playing --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlayedGame:
    """One scored game.

    Attributes:
        seed: What the emulator was seeded with at its start.
        actions: All of them, those between two lives included; one byte each.
        raw_return: Sum of the unclipped rewards.
        length_frames: Emulated frames, as `envs.emulated_game.FinishedGame` counts them.
        time_limit: Whether the frame limit ended it, not the game itself.
    """

    seed: int
    actions: bytes
    raw_return: int
    length_frames: int
    time_limit: bool


class RecordedGame(EmulatedGame):
    """Successive evaluation games of one environment, each freshly seeded, with their actions."""

    def __init__(self, game: Game, protocol: Protocol, seed: int, environment: int) -> None:
        super().__init__(game, protocol, seed, environment, "evaluation", 0)
        self.sent = bytearray()

    def send(self, action: int) -> None:
        """Hand an action to the emulator, and note it."""
        self.sent.append(action)
        super().send(action)


def play_games(
    agent: TrainedAgent, games: int, seed: int, epsilon: float | None
) -> Iterator[tuple[int, PlayedGame]]:
    """Play games 0 to `games` - 1 to their end.

    Args:
        agent: Who plays.
        games: How many.
        seed: With a game's number it sets the game's start and the agent's random draws.
        epsilon: Share of uniformly random actions, the others being the best by the agent's
            scores; None samples from an actor's own probabilities.

    Yields:
        A game's number and the game, in the order they end.
    """
    protocol = load_protocol(agent.protocol_name)
    environments = [
        RecordedGame(agent.game, protocol, seed, environment)
        for environment in range(min(games, GAMES_SIDE_BY_SIDE))
    ]
    stacks = np.zeros((GAMES_SIDE_BY_SIDE, STACKED_FRAMES, FRAME_SIZE, FRAME_SIZE), dtype=np.uint8)
    # The number of the game each environment is playing; it plays every eighth.
    playing = dict(enumerate(range(len(environments))))
    generators = [make_generator(seed, number) for number in playing.values()]
    for environment, recorded in enumerate(environments):
        recorded.start()
        stacks[environment, -1] = recorded.first_frame
    while playing:
        scores = score_actions(agent.policy, stacks)
        for environment in playing:
            action = choose_action(scores[environment], epsilon, generators[environment])
            environments[environment].send(action)
        stacks[:, :-1] = stacks[:, 1:]
        ended = []
        for environment in playing:
            outcome = environments[environment].receive()
            stacks[environment, -1] = outcome.frame
            if outcome.ended:
                ended.append(environment)
        while restarting := [e for e in ended if environments[e].restarting]:
            for environment in restarting:
                environments[environment].continue_restart()
        for environment in ended:
            recorded = environments[environment]
            stacks[environment, :-1] = 0
            stacks[environment, -1] = recorded.first_frame
            while recorded.unreported:
                finished = recorded.unreported.pop(0)
                actions = bytes(recorded.sent[: finished.length_agent_steps])
                del recorded.sent[: finished.length_agent_steps]
                number = playing[environment]
                yield (
                    number,
                    PlayedGame(
                        seed=find_game_seed(seed, number),
                        actions=actions,
                        raw_return=finished.raw_return,
                        length_frames=finished.length_frames,
                        time_limit=finished.time_limit,
                    ),
                )
                playing[environment] += GAMES_SIDE_BY_SIDE
                generators[environment] = make_generator(seed, playing[environment])
                if playing[environment] >= games:
                    del playing[environment]
                    break


def find_game_seed(seed: int, number: int) -> int:
    """The emulator's seed for a game; no training game has it."""
    environment, number_there = number % GAMES_SIDE_BY_SIDE, number // GAMES_SIDE_BY_SIDE
    return game_seed(seed, environment, number_there, "evaluation")


def make_generator(seed: int, number: int) -> np.random.Generator:
    """The generator that the actions of a game are drawn with."""
    return np.random.default_rng([seed, number, 1])


@torch.no_grad()
def score_actions(policy: Policy, stacks: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """An actor's log-probabilities, or a DQN network's values.

    Args:
        policy: SB3's.
        stacks: uint8 [B, 4, 84, 84].

    Returns:
        float64 [B, actions].
    """
    observations = torch.from_numpy(stacks).to(policy.device)
    if isinstance(policy, ActorCriticCnnPolicy):
        distribution = policy.get_distribution(observations).distribution
        assert isinstance(distribution, Categorical)
        scores = distribution.logits
    else:
        scores = policy.q_net(observations)
    return scores.double().cpu().numpy()


def choose_action(
    scores: npt.NDArray[np.float64], epsilon: float | None, generator: np.random.Generator
) -> int:
    """Choose one action.

    Args:
        scores: float64 [actions].
        epsilon: As for `play_games`.
        generator: What is drawn from: one number to sample, one or two for epsilon, none if it is
            zero.
    """
    if epsilon is None:
        probabilities = np.exp(scores - scores.max())
        return int(generator.choice(len(scores), p=probabilities / probabilities.sum()))
    if epsilon > 0 and generator.random() < epsilon:
        return int(generator.integers(len(scores)))
    return int(scores.argmax())


# --- reporting ------------------------------------------------------------------------------------


def summarise_returns(returns: Sequence[int]) -> dict[str, Any]:
    """Mean, sample standard deviation, and Student's 95 % interval of the mean.

    The last two are None for a single game.
    """
    count = len(returns)
    mean = sum(returns) / count
    if count == 1:
        return {"mean_return": mean, "standard_deviation": None, "interval_95": None}
    deviation = math.sqrt(sum((value - mean) ** 2 for value in returns) / (count - 1))
    margin = float(stdtrit(count - 1, 0.975)) * deviation / math.sqrt(count)
    return {
        "mean_return": mean,
        "standard_deviation": deviation,
        "interval_95": [mean - margin, mean + margin],
    }


def find_median_game(returns: Sequence[int]) -> int:
    """The first game with the median return; of two medians, the lower."""
    return returns.index(sorted(returns)[(len(returns) - 1) // 2])


def evaluate(
    path: Path,
    *,
    games: int,
    seed: int,
    deterministic: bool,
    with_video: bool,
    folder: Path | None,
    game_name: str | None,
    protocol_name: str | None,
    device_name: str,
) -> None:
    """Evaluate an agent, and write `returns.json` and the video.

    An actor samples its actions unless `deterministic`. A DQN agent acts at random in the share of
    steps it ended its training with (SB3's `exploration_final_eps`; what SB3's own `predict` does,
    and so rl-baselines3-zoo), or never if `deterministic`.

    Args:
        path: A run's directory or a model file.
        games: How many to play.
        seed: Of the games' starts and the agent's draws.
        deterministic: Whether the agent always takes what it holds best.
        with_video: Whether to write the video of the game with the median return.
        folder: Where the files go; None: `evaluation` in the run's directory, or
            `<name>-evaluation` beside the model.
        game_name: As for `load_agent`.
        protocol_name: Likewise.
        device_name: As for `agents.build.find_device`.

    Raises:
        OSError: If something is not there or cannot be written; one line.
        ValueError: If the agent cannot be evaluated as asked; one line.
    """
    device = find_device(device_name)
    # More threads gain little with 8 stacks, and lose much beside a training; and with one, what
    # is played does not depend on the number of cores.
    torch.set_num_threads(1)
    if with_video:
        find_ffmpeg()
    agent = load_agent(path, game_name, protocol_name, device)
    epsilon = _find_epsilon(agent, path, deterministic)
    if folder is None and path.is_dir():
        folder = RunDirectory(path).evaluation_path
    elif folder is None:
        folder = path.with_name(f"{path.stem}-evaluation")
    with _prepare_folder(folder):
        played: dict[int, PlayedGame] = {}
        for number, game in play_games(agent, games, seed, epsilon):
            played[number] = game
            print(
                f"{agent.name}: game {number}: return {game.raw_return:_} in "
                f"{game.length_frames:_} frames ({len(played)} of {games} played)",
                flush=True,
            )
        ordered = [played[number] for number in range(games)]
        report = _describe_agent(agent, epsilon, seed, device) | _describe_games(agent, ordered)
        (folder / VIDEO_NAME).unlink(missing_ok=True)  # it shows a game of an earlier evaluation
        write_json(folder / RETURNS_NAME, report | {"video": None})
        if with_video:
            report["video"] = _write_video(agent, ordered, folder / VIDEO_NAME)
            write_json(folder / RETURNS_NAME, report)
    print(format_table(report))
    print(f"written: {folder / RETURNS_NAME}")


def format_table(report: dict[str, Any]) -> str:
    """The closing line of an evaluation, under its heading."""
    interval, score = report["interval_95"], report["human_normalised_score"]
    deviation, steps = report["standard_deviation"], report["trained_agent_steps"]
    columns = {
        "game": report["game"],
        "agent": report["model"]
        if report["run"] is None
        else f"{report['algo']}-{report['arm']}/seed{report['run_seed']}",
        "trained": "unknown" if steps is None else f"{steps:_}",
        "games": str(len(report["returns"])),
        "mean return": f"{report['mean_return']:.1f}",
        "std": "-" if deviation is None else f"{deviation:.1f}",
        "95 % interval": "-" if interval is None else f"{interval[0]:.1f} to {interval[1]:.1f}",
        "human-normalised": "-" if score is None else f"{score:.3f}",
    }
    widths = [max(len(name), len(value)) for name, value in columns.items()]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in (columns.keys(), columns.values())
    )


def _find_epsilon(agent: TrainedAgent, path: Path, deterministic: bool) -> float | None:
    """The share of random actions; None where an actor samples."""
    if deterministic:
        return 0.0
    if isinstance(agent.policy, ActorCriticCnnPolicy):
        return None
    if agent.final_epsilon is None:
        raise ValueError(f"{path} does not say its exploration_final_eps; add --deterministic.")
    return agent.final_epsilon


def _describe_agent(
    agent: TrainedAgent, epsilon: float | None, seed: int, device: torch.device
) -> dict[str, Any]:
    config = agent.config
    protocol = asdict(load_protocol(agent.protocol_name))
    is_dqn = isinstance(agent.policy, DQNCnnPolicy)
    return {
        "format_version": FORMAT_VERSION,
        "run": None if config is None else config.name,
        "game": agent.game.name,
        "algo": ("dqn" if is_dqn else None) if config is None else config.run.algo,
        "arm": None if config is None else config.arm,
        "run_seed": None if config is None else config.run.seed,
        "model": agent.model_name,
        "trained_agent_steps": agent.trained_agent_steps,
        "protocol": agent.protocol_name,
        "evaluation_seed": seed,
        "deterministic": epsilon == 0,
        "epsilon": epsilon,  # null: actions are sampled from the policy
        "provenance": describe_start(str(device), torch.get_num_threads(), protocol),
    }


def _describe_games(agent: TrainedAgent, played: Sequence[PlayedGame]) -> dict[str, Any]:
    returns = [game.raw_return for game in played]
    summary = summarise_returns(returns)
    return summary | {
        "human_normalised_score": agent.game.human_normalised_score(summary["mean_return"]),
        "returns": returns,
        "length_frames": [game.length_frames for game in played],
        "time_limit": [game.time_limit for game in played],
        "game_seeds": [game.seed for game in played],
    }


def _write_video(agent: TrainedAgent, played: Sequence[PlayedGame], path: Path) -> dict[str, Any]:
    number = find_median_game([game.raw_return for game in played])
    game = played[number]
    print(
        f"{agent.name}: writing {path}, game {number} with the median return "
        f"{game.raw_return:_}, {game.length_frames:_} frames",
        flush=True,
    )
    frames = replay_game(
        agent.game,
        load_protocol(agent.protocol_name),
        seed=game.seed,
        actions=game.actions,
        raw_return=game.raw_return,
        length_frames=game.length_frames,
    )
    write_video(path, frames)
    return {
        "file": path.name,
        "shows": "the game with the median return",
        "game": number,
        "return": game.raw_return,
        "length_frames": game.length_frames,
    }


@contextmanager
def _prepare_folder(folder: Path) -> Iterator[None]:
    """Make a folder that can be written to; one that stays empty is removed again."""
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"cannot write to {folder} ({error.strerror}); choose another folder with --out."
        ) from error
    remove_stale_temporaries(folder)
    try:
        yield
    finally:
        if is_new:
            with suppress(OSError):
                folder.rmdir()
