"""Whole games played by a trained agent, side by side.

Games are played exactly as the run's protocol presented them in training: where a lost life ends
the agent's episode, the presses between two lives are made and the stack of frames begins anew, so
the agent sees nothing it has not seen before. Only the books differ: a game is scored through all
its lives, in raw rewards.

Which games are played is settled before the first begins: game k has its own seed and its own
random generator, and all that are begun are played to their end. Taking the first to finish would
favour short games.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from stable_baselines3.dqn.policies import CnnPolicy as DQNCnnPolicy
from torch.distributions import Categorical

from configs.protocols import Protocol
from envs.emulated_game import EmulatedGame
from envs.game_batch import GameBatch
from envs.games import Game
from envs.seeding import game_seed

# Part of what a game is, so not a setting: game k is number k // 8 of environment k % 8. The
# network always sees 8 stacks, as its arithmetic depends on their number in the last bit. With
# both fixed, a game is the same one however many are played.
GAMES_SIDE_BY_SIDE = 8

Policy = ActorCriticCnnPolicy | DQNCnnPolicy


@dataclass(frozen=True)
class PlayedGame:
    """One scored game."""

    seed: int  # what the emulator was seeded with at its start
    actions: bytes  # all of them, those between two lives included; one byte each
    raw_return: int  # sum of the unclipped rewards
    length_frames: int  # it and the next two are those of `envs.emulated_game.GameBooks`
    time_limit: bool
    frames_before: int


class RecordedGame(EmulatedGame):
    """Successive evaluation games of one environment, each freshly seeded, with their actions."""

    def __init__(self, game: Game, protocol: Protocol, seed: int, environment: int) -> None:
        super().__init__(game, protocol, seed, environment, "evaluation", 0)
        self.sent = bytearray()

    def send(self, action: int) -> None:
        """Hand an action to the emulator, and note it."""
        self.sent.append(action)
        super().send(action)

    def take(self, seed: int) -> PlayedGame:
        """The first game that has ended and was not taken; it was started with this seed."""
        books = self.unreported.pop(0)
        actions = bytes(self.sent[: books.length_agent_steps])
        del self.sent[: books.length_agent_steps]
        return PlayedGame(
            seed=seed,
            actions=actions,
            raw_return=books.raw_return,
            length_frames=books.length_frames,
            time_limit=books.time_limit,
            frames_before=books.frames_before,
        )


def play_games(
    policy: Policy,
    game: Game,
    protocol: Protocol,
    games: int,
    seed: int,
    epsilon: float | None,
    on_step: Callable[[int], None] = lambda _: None,
) -> Iterator[tuple[int, PlayedGame]]:
    """Play games 0 to `games` - 1 to their end.

    Args:
        policy: SB3's, not in training mode.
        game: What it plays.
        protocol: How that is presented.
        games: How many.
        seed: With a game's number it sets the game's seed and the agent's random draws.
        epsilon: Share of uniformly random actions, the others being the best by the agent's
            scores; None samples from an actor's own probabilities.
        on_step: Told before each step how many agent steps the longest of the games has taken.

    Yields:
        A game's number and the game, in the order they end.
    """
    batch = GameBatch(
        lambda environment: RecordedGame(game, protocol, seed, environment),
        min(games, GAMES_SIDE_BY_SIDE),
    )
    with closing(batch):
        batch.start()
        stacks = np.zeros((GAMES_SIDE_BY_SIDE, *batch.observations.shape[1:]), dtype=np.uint8)
        # The number of the game each environment is playing; it plays every eighth.
        playing = {environment: environment for environment in range(len(batch.games))}
        generators = [make_generator(seed, number) for number in playing]
        while playing:
            on_step(max(batch.games[e].current.length_agent_steps for e in playing))
            stacks[: len(batch.games)] = batch.observations
            scores = score_actions(policy, stacks)
            batch.send({e: choose_action(scores[e], epsilon, generators[e]) for e in playing})
            batch.receive()
            for environment, number in list(playing.items()):
                recorded = batch.games[environment]
                while recorded.unreported and number < games:
                    yield number, recorded.take(find_game_seed(seed, number))
                    number += GAMES_SIDE_BY_SIDE
                    generators[environment] = make_generator(seed, number)
                    playing[environment] = number
                if number >= games:
                    del playing[environment]


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
        generator: One number is drawn to sample, one or two for epsilon, none if it is zero.
    """
    if epsilon is None:
        probabilities = np.exp(scores - scores.max())
        return int(generator.choice(len(scores), p=probabilities / probabilities.sum()))
    if epsilon > 0 and generator.random() < epsilon:
        return int(generator.integers(len(scores)))
    return int(scores.argmax())
