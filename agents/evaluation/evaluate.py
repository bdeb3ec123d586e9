"""Scoring a trained agent: the returns of whole games, their mean and interval, a video of one."""

import math
import os
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import fmean, median_low, stdev
from tempfile import TemporaryFile
from typing import Any

import torch
from scipy.special import stdtrit
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from stable_baselines3.dqn.policies import CnnPolicy as DQNCnnPolicy

from agents.evaluation.agent import TrainedAgent
from agents.evaluation.games import PlayedGame, play_games
from agents.evaluation.video import find_ffmpeg, replay_game, write_gif, write_video
from runtime.command_line import align_columns
from runtime.files import exists, read_json, remove_stale_temporaries, write_json
from runtime.provenance import describe_start
from runtime.run_directory import RunDirectory

FORMAT_VERSION = 1
RETURNS_NAME = "returns.json"
QUIET_SECONDS, QUIET_SECONDS_ON_A_TERMINAL = 30, 5  # without a line, at most
# What can be made of the game with the median return, by its flag.
PICTURES = {"video": ("game.mp4", write_video), "gif": ("game.gif", write_gif)}


def summarise_returns(returns: Sequence[int]) -> dict[str, Any]:
    """Mean, sample standard deviation, and Student's 95 % interval of the mean.

    The last two are None for a single game. Equal returns have no interval either, as they do not
    show how much others vary; `no_interval_because` says so.
    """
    count, mean = len(returns), fmean(returns)
    deviation = stdev(returns) if count > 1 else None
    summary = {"mean_return": mean, "standard_deviation": deviation}
    if not deviation:
        reason = "one game" if deviation is None else "all returns are equal"
        return summary | {"interval_95": None, "no_interval_because": reason}
    margin = float(stdtrit(count - 1, 0.975)) * deviation / math.sqrt(count)
    interval = [mean - margin, mean + margin]
    return summary | {"interval_95": interval, "no_interval_because": None}


def find_median_game(returns: Sequence[int]) -> int:
    """The first game with the median return; of two medians, the lower."""
    return returns.index(median_low(returns))


def evaluate(
    agent: TrainedAgent,
    folder: Path,
    *,
    games: int,
    seed: int,
    deterministic: bool,
    pictures: Collection[str],
) -> None:
    """Play games, and write `returns.json` and `pictures` of the one with the median return.

    With `deterministic` the agent always takes what it holds best. Else an actor samples its
    actions, and a DQN agent acts at random in the share of steps it ended its training with (SB3's
    `exploration_final_eps`; what SB3's own `predict` does, and so rl-baselines3-zoo).

    Raises:
        OSError, ValueError: If it cannot be done as asked; one line.
    """
    # More threads gain little with 8 stacks, and lose much beside a training; and with one, what
    # is played does not depend on the number of cores.
    torch.set_num_threads(1)
    if pictures:
        find_ffmpeg()
    epsilon = _find_epsilon(agent, deterministic)
    with _prepare_folder(folder):
        _check_earlier(agent, folder)
        played = _play(agent, games, seed, epsilon)
        report = _describe_agent(agent, epsilon, seed) | {"deterministic": deterministic}
        report |= _describe_games(agent, epsilon, played, deterministic=deterministic)
        report |= dict.fromkeys(PICTURES)
        for name, _ in PICTURES.values():  # they show a game of an earlier evaluation
            (folder / name).unlink(missing_ok=True)
        write_json(folder / RETURNS_NAME, report)
        written = [RETURNS_NAME]
        for kind in pictures:
            report[kind] = _write_picture(agent, played, folder, kind)
            write_json(folder / RETURNS_NAME, report)
            written.append(report[kind]["file"])
    print(format_table(report))
    for name in written:
        print(f"written: {folder / name}")


def _play(agent: TrainedAgent, games: int, seed: int, epsilon: float | None) -> list[PlayedGame]:
    """Play: a line for the agent, for every game and, where none ends for long, on the longest."""
    protocol = agent.protocol
    quiet_seconds = QUIET_SECONDS_ON_A_TERMINAL if os.isatty(1) else QUIET_SECONDS
    told = time.monotonic()
    played: dict[int, PlayedGame] = {}
    print(f"playing: {agent.name}", flush=True)

    def tell(text: str) -> None:
        nonlocal told
        told = time.monotonic()
        print(f"{text} ({len(played)} of {games} played)", flush=True)

    def tell_step(agent_steps: int) -> None:
        if time.monotonic() - told >= quiet_seconds:
            frames = agent_steps * protocol.frames_per_agent_step
            tell(f"a game is at {frames:_} of at most {protocol.max_frames_per_game:_} frames")

    for number, game in play_games(
        agent.policy, agent.game, protocol, games, seed, epsilon, tell_step
    ):
        played[number] = game
        tell(f"game {number}: return {game.raw_return:_} in {game.length_frames:_} frames")
    return [played[number] for number in range(games)]


def format_table(report: dict[str, Any]) -> str:
    """The closing lines of an evaluation."""
    interval, score = report["interval_95"], report["human_normalised_score"]
    deviation, steps = report["standard_deviation"], report["trained_agent_steps"]
    rows = {
        "game": report["game"],
        "agent": report["model"]
        if report["run"] is None
        else f"{report['algo']}-{report['arm']}/seed{report['run_seed']}",
        "trained": "unknown" if steps is None else f"{steps:_} agent steps",
        "games": f"{len(report['returns'])}, {report['different_games']} different",
        "mean return": f"{report['mean_return']:.1f}",
        "standard deviation": "-" if deviation is None else f"{deviation:.1f}",
        "95 % interval": f"- ({report['no_interval_because']})"
        if interval is None
        else f"{interval[0]:.1f} to {interval[1]:.1f}",
        "human-normalised": "-" if score is None else f"{score:.3f}",
    }
    return "\n".join(align_columns(list(rows.items()), left=2))


def _find_epsilon(agent: TrainedAgent, deterministic: bool) -> float | None:
    """The share of random actions; None where an actor samples."""
    if deterministic:
        return 0.0
    if isinstance(agent.policy, ActorCriticCnnPolicy):
        return None
    if agent.final_epsilon is None:
        raise ValueError(
            f"{agent.name} does not say its exploration_final_eps; add --deterministic."
        )
    return agent.final_epsilon


def _describe_agent(agent: TrainedAgent, epsilon: float | None, seed: int) -> dict[str, Any]:
    config = agent.config
    device, protocol = str(agent.policy.device), agent.protocol.model_dump()
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
        "epsilon": epsilon,  # null: actions are sampled from the policy
        "provenance": describe_start(device, torch.get_num_threads(), protocol),
    }


def _describe_games(
    agent: TrainedAgent, epsilon: float | None, played: Sequence[PlayedGame], *, deterministic: bool
) -> dict[str, Any]:
    returns = [game.raw_return for game in played]
    different = len({(game.actions, game.raw_return, game.length_frames) for game in played})
    summary = summarise_returns(returns)
    if epsilon == 0 and agent.protocol.sticky_action_probability == 0:
        remedy = "; leave out --deterministic" if deterministic else ""
        reason = f"no chance but the no-ops{remedy}"
        summary |= {"interval_95": None, "no_interval_because": reason}
    return summary | {
        "different_games": different,
        "human_normalised_score": agent.game.human_normalised_score(summary["mean_return"]),
        "returns": returns,
        "length_frames": [game.length_frames for game in played],
        "time_limit": [game.time_limit for game in played],
        "game_seeds": [game.seed for game in played],
    }


def _write_picture(
    agent: TrainedAgent, played: Sequence[PlayedGame], folder: Path, kind: str
) -> dict[str, Any]:
    name, write = PICTURES[kind]
    number = find_median_game([game.raw_return for game in played])
    game = played[number]
    print(
        f"writing {name}: game {number} with the median return {game.raw_return:_}, "
        f"{game.length_frames:_} frames",
        flush=True,
    )
    write(folder / name, replay_game(agent.game, agent.protocol, game))
    return {
        "file": name,
        "shows": "the game with the median return",
        "game": number,
        "return": game.raw_return,
        "length_frames": game.length_frames,
    }


def _check_earlier(agent: TrainedAgent, folder: Path) -> None:
    """Refuse a folder with files that would be replaced, but are of no evaluation of this agent.

    A run's checkpoints and its final model are one agent, its best model is another.
    """
    names = [RETURNS_NAME, *(name for name, _ in PICTURES.values())]
    there = [folder / name for name in names if exists(folder / name)]
    if not there:
        return
    remedy = "choose another --out folder."
    try:
        report = read_json(folder / RETURNS_NAME)
        earlier = _name_agent(report["run"], report["model"])
        own = {folder / name for kind, (name, _) in PICTURES.items() if report.get(kind)}
    except (OSError, ValueError, LookupError, TypeError):
        raise ValueError(
            f"{there[0]} is of no evaluation, and would be replaced; {remedy}"
        ) from None
    run = None if agent.config is None else agent.config.name
    if earlier != _name_agent(run, agent.model_name):
        raise ValueError(f"{folder} has the evaluation of {earlier}; {remedy}")
    for picture in there[1:]:
        if picture not in own:
            raise ValueError(f"{picture} is of no evaluation, and would be replaced; {remedy}")


def _name_agent(run: str | None, model: str) -> str:
    if run is None:
        return model
    files, path = RunDirectory(Path()), Path(model)
    is_newest = path == files.final_path or path.parent == files.checkpoints_path
    return run if is_newest else f"{run} ({model})"


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
