"""Whole games played by a trained agent, side by side.

Games are played exactly as the run's protocol presented them in training: where a lost life ends
the agent's episode, the presses between two lives are made and the stack of frames begins anew, so
the agent sees nothing it has not seen before. Only the books differ: a game is scored through all
its lives, in raw rewards.

Which games are played is settled before the first begins: game k has its own seed and its own
random generator, and all that are begun are played to their end. Taking the first to finish would
favour short games.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from torch.distributions import Categorical

from agents.evaluation.agent import Policy, TrainedAgent
from configs.protocols import Protocol, load_protocol
from envs.emulated_game import FRAME_SIZE, EmulatedGame
from envs.frame_stack import STACKED_FRAMES
from envs.games import Game
from envs.seeding import game_seed

# Part of what a game is, so not a setting: game k is number k // 8 of environment k % 8. The
# network always sees 8 stacks, as its arithmetic depends on their number in the last bit. With
# both fixed, a game is the same one however many are played.
GAMES_SIDE_BY_SIDE = 8


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
        seed: With a game's number it sets the game's seed and the agent's random draws.
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
