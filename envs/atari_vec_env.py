"""Atari games behind SB3's VecEnv interface, emulated by ALE's native vector environment."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from configs.protocols import Protocol
from envs.emulated_game import FRAME_SIZE, EmulatedGame, EmulatedGameState
from envs.frame_stack import STACKED_FRAMES, drop_oldest, empty_stacks, frames_of, observations_of
from envs.games import Game
from runtime.command_line import one_line

Result = TypeVar("Result")


class EnvironmentFailure(RuntimeError):
    """An emulator raised, or returned what it never should."""


class AtariVecEnv(VecEnv):
    """Environments of one game, with the semantics of SB3's `make_atari_env` + `VecFrameStack`.

    Observations are uint8 [n_envs, 4, 84, 84], the newest frame last, and in memory the channels
    last; rewards are float32 [n_envs].
    A finished episode is followed by the next one's first observation at once;
    `infos[i]["terminal_observation"]` has its last, `infos[i]["TimeLimit.truncated"]` tells whether
    the frame limit ended it. `infos[i]["episode"]` reports each whole game through all its lives:
    raw return "r", length in frames "l", in agent steps "agent_steps", seconds "t", and
    "time_limit". Differences from SB3's wrappers are listed and bounded in
    tests/envs/test_equivalence_with_sb3.py.

    Args:
        game: The game.
        protocol: How it is presented.
        n_envs: Number of environments.
        seed: The run's seed; with the environment's and a game's number it seeds the emulator.
    """

    def __init__(self, game: Game, protocol: Protocol, n_envs: int, seed: int) -> None:
        self.render_mode = None
        self.game = game
        self.protocol = protocol
        self._games = _in_threads(
            lambda environment: EmulatedGame(game, protocol, seed, environment), range(n_envs)
        )
        self._stacks = empty_stacks(n_envs, FRAME_SIZE, FRAME_SIZE)
        self._newest = frames_of(self._stacks)[..., -1]
        super().__init__(
            n_envs,
            spaces.Box(0, 255, (STACKED_FRAMES, FRAME_SIZE, FRAME_SIZE), dtype=np.uint8),
            spaces.Discrete(self._games[0].action_count),
        )

    def reset(self) -> VecEnvObs:
        """Abandon all games, start freshly seeded ones and return their first observations."""
        _in_threads(EmulatedGame.start, self._games)
        self._stacks[:] = 0
        for index, game in enumerate(self._games):
            with _blaming(index):
                self._newest[index] = _checked(game.first_frame)
        self.reset_infos: list[dict[str, Any]] = [{} for _ in self._games]
        return observations_of(self._stacks.copy())

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Hand every environment its action, without waiting."""
        for game, action in zip(self._games, actions.tolist(), strict=True):
            game.send(action)

    def step_wait(self) -> VecEnvStepReturn:
        """Wait for all outcomes; see the class for what is returned.

        Raises:
            EnvironmentFailure: If an emulator raises, or returns what it never should.
        """
        stacks, newest = self._stacks, self._newest
        drop_oldest(stacks)
        rewards = np.zeros(self.num_envs, dtype=np.float32)
        dones = np.zeros(self.num_envs, dtype=bool)
        infos: list[dict[str, Any]] = [{} for _ in self._games]
        index = 0
        try:
            for index, game in enumerate(self._games):
                outcome = game.receive()
                newest[index] = _checked(outcome.frame)
                rewards[index] = outcome.reward
                if outcome.ended:
                    dones[index] = True
                    terminal_stack = stacks[index, None].copy()
                    infos[index]["terminal_observation"] = observations_of(terminal_stack)[0]
                    infos[index]["TimeLimit.truncated"] = (
                        outcome.truncated and not outcome.terminated
                    )
            restarting = [index for index, game in enumerate(self._games) if game.restarting]
            while restarting:  # all of them take their presses side by side
                for index in restarting:
                    self._games[index].continue_restart()
                restarting = [index for index in restarting if self._games[index].restarting]
            for index in np.flatnonzero(dones).tolist():
                stacks[index] = 0
                newest[index] = _checked(self._games[index].first_frame)
        except Exception as error:
            raise _failure(index, error) from error
        for game, info in zip(self._games, infos, strict=True):
            if game.unreported:
                finished = game.unreported.pop(0)
                info["episode"] = {
                    "r": finished.raw_return,
                    "l": finished.length_frames,
                    "t": finished.seconds,
                    "agent_steps": finished.length_agent_steps,
                    "time_limit": finished.time_limit,
                }
        if self.protocol.clip_rewards:
            np.sign(rewards, out=rewards)
        return observations_of(stacks.copy()), rewards, dones, infos

    def get_state(self) -> dict[str, Any]:
        """What `set_state` rebuilds every unfinished game from; JSON values only."""
        return {"games": [asdict(game.get_state()) for game in self._games]}

    def set_state(self, state: dict[str, Any], observations: npt.NDArray[np.uint8]) -> None:
        """Rebuild the games of a saved state by playing their actions again.

        Args:
            state: From `get_state`.
            observations: The last ones the environment returned, uint8 [n_envs, 4, 84, 84].

        Raises:
            ValueError: If the state is damaged or of another number of environments, or the
                rebuilt games do not show what the observations show.
        """
        saved = state.get("games") if isinstance(state, dict) else None
        if not isinstance(saved, list) or len(saved) != self.num_envs:
            raise ValueError(
                f"the saved state must have {self.num_envs} games, one for each environment, got "
                f"{len(saved) if isinstance(saved, list) else 'none'}; resume from another "
                "checkpoint."
            )
        shape = (self.num_envs, *(self.observation_space.shape or ()))
        if observations.shape != shape or observations.dtype != np.uint8:
            raise ValueError(
                f"the saved observations must be uint8 of shape {shape}, got "
                f"{observations.dtype} of shape {observations.shape}; resume from another "
                "checkpoint."
            )
        games = [
            EmulatedGameState.from_json(values, f"saved game {index}")
            for index, values in enumerate(saved)
        ]
        frames = _in_threads(
            lambda pair: pair[0].set_state(pair[1]), list(zip(self._games, games, strict=True))
        )
        if not all(np.array_equal(o[-1], f) for o, f in zip(observations, frames, strict=True)):
            raise ValueError(
                "the rebuilt games do not show the saved screens; install the ale-py version "
                "that provenance.json names."
            )
        observations_of(self._stacks)[:] = observations

    def close(self) -> None:
        """Let go of the emulators and their threads."""
        for game in self._games:
            game.close()
        self._games.clear()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The attribute of this object, once per environment."""
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Unsupported: environments are configured at construction."""
        raise AttributeError(f"AtariVecEnv cannot set {attr_name!r}; make another one instead.")

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Unsupported: the environments are not Python objects."""
        raise AttributeError(f"AtariVecEnv has no environments to call {method_name!r} on.")

    def env_is_wrapped(self, wrapper_class: type, indices: VecEnvIndices = None) -> list[bool]:
        """No environment is wrapped: whole games are reported as SB3's Monitor would."""
        return [False for _ in self._get_indices(indices)]


@contextmanager
def _blaming(environment: int, *others: type[Exception]) -> Iterator[None]:
    """Say which environment it was that failed; errors of `others` pass unchanged."""
    try:
        yield
    except others:
        raise
    except Exception as error:
        raise _failure(environment, error) from error


def _failure(environment: int, error: Exception) -> EnvironmentFailure:
    return EnvironmentFailure(f"environment {environment} failed: {one_line(error)}")


def _checked(frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    if frame.shape != (FRAME_SIZE, FRAME_SIZE) or frame.dtype != np.uint8:
        raise ValueError(
            f"a frame is {frame.dtype} of shape {frame.shape}, not uint8 of shape "
            f"{(FRAME_SIZE, FRAME_SIZE)}"
        )
    return frame


def _in_threads(function: Callable[[Any], Result], items: Sequence[Any]) -> list[Result]:
    """Apply a function that releases Python's global lock to environments side by side, in order.

    Raises:
        EnvironmentFailure: If it fails.
        ValueError: If that is the user's to mend.
    """

    def apply(environment: int, item: Any) -> Result:
        with _blaming(environment, ValueError):
            return function(item)

    with ThreadPoolExecutor(os.cpu_count()) as executor:
        return list(executor.map(apply, range(len(items)), items))
