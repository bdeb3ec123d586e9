"""Games stepped side by side, with the stacks of frames that an agent sees of them.

All environments are sent their actions before the first is waited for, and those whose episode has
ended take the presses up to the next one together. Training's vector environment and the
evaluation both play by this.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import numpy as np

from envs.emulated_game import FRAME_SIZE, EmulatedGame, Frame, StepOutcome
from envs.frame_stack import Frames, drop_oldest, empty_stacks, frames_of, observations_of
from runtime.command_line import WorkFailure, one_line
from runtime.process_settings import count_cores

GameType = TypeVar("GameType", bound=EmulatedGame)
Result = TypeVar("Result")


class EnvironmentFailure(WorkFailure):
    """An emulator raised, or returned what it never should."""


class GameBatch(Generic[GameType]):
    """Environments 0 to `count` - 1, of one game; call `start`, then `send` and `receive` in turn.

    Attributes:
        games: One for each environment.
        observations: What the agent sees, uint8 [count, 4, 84, 84], the newest frame last and in
            memory the channels last; the next step changes it in place.

    Raises:
        EnvironmentFailure: Here and in every method, if an emulator fails; it says whose.
        RuntimeError: In every method, after `close`.
    """

    def __init__(self, make_game: Callable[[int], GameType], count: int) -> None:
        self.games = _side_by_side(make_game, range(count))
        self._stacks = empty_stacks(count, FRAME_SIZE, FRAME_SIZE)
        self._newest = frames_of(self._stacks)[..., -1]
        self._sent: list[int] = []
        self._are_playing = False
        self.observations = observations_of(self._stacks)

    def start(self) -> None:
        """Abandon what is being played and begin a freshly seeded game in every environment."""
        self._check_open()
        self._sent.clear()
        _side_by_side(EmulatedGame.start, self.games)
        _side_by_side(self._begin_episode, range(len(self.games)))
        self._are_playing = True

    def send(self, actions: Mapping[int, int]) -> None:
        """Hand environments their actions, without waiting.

        Games without an action stay where they are, but their stacks are shifted by `receive`.

        Raises:
            ValueError: If the game lacks one of the actions; then none has been sent.
            RuntimeError: If no games have been started, or the outcomes of the actions before have
                not been received.
        """
        self._check_open()
        if not self._are_playing:  # the emulators would never answer
            raise RuntimeError("no games have been started; reset the environments first.")
        if self._sent:
            raise RuntimeError("the actions before have not been waited for; call `receive` first.")
        for environment, action in actions.items():
            self.games[environment].check_action(action)
        self._sent = list(actions)
        for environment, action in actions.items():
            self.games[environment].send(action)

    def receive(self) -> tuple[list[StepOutcome], dict[int, Frames]]:
        """Wait for the outcomes, and where an episode has ended, for the next one's first frame.

        Returns:
            The outcomes, in the order of the actions sent, and the last observation, uint8
            [4, 84, 84], of every environment whose episode has ended.

        Raises:
            RuntimeError: If no actions have been sent.
        """
        self._check_open()
        if not self._sent:
            raise RuntimeError("no actions have been sent; call `send` first.")
        sent, self._sent = self._sent, []
        drop_oldest(self._stacks)
        outcomes: list[StepOutcome] = []
        last_observations: dict[int, Frames] = {}
        environment = 0
        try:
            for environment in sent:
                outcome = self.games[environment].receive()
                self._newest[environment] = _checked(outcome.frame)
                outcomes.append(outcome)
                if outcome.ended:
                    last = observations_of(self._stacks[environment, None].copy())
                    last_observations[environment] = last[0]
            restarting = list(last_observations)
            while restarting := [index for index in restarting if self.games[index].restarting]:
                for environment in restarting:  # all of them take their presses side by side
                    self.games[environment].continue_restart()
            for environment in last_observations:
                self._begin_episode(environment)
        except Exception as error:
            raise _failure(environment, error) from error
        return outcomes, last_observations

    def get_state(self) -> list[dict[str, Any]]:
        """What `set_state` rebuilds every unfinished game from; JSON values only."""
        self._check_open()
        return [game.get_state() for game in self.games]

    def set_state(self, state: Sequence[dict[str, Any]], observations: Frames) -> None:
        """Rebuild the games of a saved state by playing their actions again.

        `observations` are those of that moment, uint8 [count, 4, 84, 84].

        Raises:
            ValueError: If they are of another number of environments, or the rebuilt games are not
                the saved ones or do not show what the observations show.
        """
        self._check_open()
        if len(state) != len(self.games) or observations.shape != self.observations.shape:
            raise ValueError(
                f"the saved games must be {len(self.games)}, one for each environment, got "
                f"{len(state)} and observations of shape {observations.shape}; resume from another "
                "checkpoint."
            )
        self._sent.clear()
        self._are_playing = False
        frames = _side_by_side(
            lambda pair: pair[0].set_state(pair[1]), list(zip(self.games, state, strict=True))
        )
        if not np.array_equal(observations[:, -1], frames):
            raise ValueError(
                "the rebuilt games do not show the saved screens; install the ale-py version "
                "that provenance.json names."
            )
        self.observations[:] = observations
        self._are_playing = True

    def close(self) -> None:
        """Let go of the emulators and their threads."""
        for game in self.games:
            game.close()
        self.games.clear()

    def _check_open(self) -> None:
        if not self.games:
            raise RuntimeError("the environments are closed; make new ones.")

    def _begin_episode(self, environment: int) -> None:
        self._stacks[environment] = 0
        self._newest[environment] = _checked(self.games[environment].first_frame)


def _checked(frame: Frame) -> Frame:
    if frame.shape != (FRAME_SIZE, FRAME_SIZE) or frame.dtype != np.uint8:
        raise RuntimeError(
            f"a frame is {frame.dtype} of shape {frame.shape}, not uint8 of shape "
            f"{(FRAME_SIZE, FRAME_SIZE)}"
        )
    return frame


def _failure(environment: int, error: Exception) -> EnvironmentFailure:
    return EnvironmentFailure(f"environment {environment} failed: {one_line(error)}")


def _side_by_side(function: Callable[[Any], Result], items: Iterable[Any]) -> list[Result]:
    """Apply a function that releases Python's global lock to every environment's item, in order.

    A ValueError is the user's to mend and passes as it is.
    """

    def apply(environment: int, item: Any) -> Result:
        try:
            return function(item)
        except ValueError:
            raise
        except Exception as error:
            raise _failure(environment, error) from error

    with ThreadPoolExecutor(count_cores()) as executor:
        return list(executor.map(lambda pair: apply(*pair), enumerate(items)))
