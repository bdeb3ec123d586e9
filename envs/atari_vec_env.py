"""Atari games behind SB3's VecEnv interface, emulated by ALE's native vector environment."""

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from configs.protocols import Protocol
from envs.emulated_game import FRAME_SIZE, EmulatedGame
from envs.frame_stack import STACKED_FRAMES
from envs.game_batch import GameBatch
from envs.games import Game


class AtariVecEnv(VecEnv):
    """Environments of one game, with the semantics of SB3's `make_atari_env` + `VecFrameStack`.

    Observations are uint8 [n_envs, 4, 84, 84], the newest frame last, and in memory the channels
    last; rewards are float32 [n_envs].
    A finished episode is followed by the next one's first observation at once;
    `infos[i]["terminal_observation"]` has its last, `infos[i]["TimeLimit.truncated"]` tells whether
    the frame limit ended it. `infos[i]["episode"]` reports each whole game through all its lives:
    raw return "r", length in frames "l", in agent steps "agent_steps", seconds "t", and
    "time_limit"; to SB3 that is what its Monitor would report, so `evaluate_policy` and
    `EvalCallback` score whole games. Differences from SB3's wrappers are listed and bounded in
    tests/envs/test_equivalence_with_sb3.py.

    The run's seed, the environment's and a game's number seed the emulator. Every method raises
    `EnvironmentFailure` if an emulator fails.
    """

    spec = None  # of no environment that Gymnasium could make

    def __init__(self, game: Game, protocol: Protocol, n_envs: int, seed: int) -> None:
        self.render_mode = None
        self.game = game
        self.protocol = protocol
        self._batch = GameBatch(
            lambda environment: EmulatedGame(game, protocol, seed, environment), n_envs
        )
        super().__init__(
            n_envs,
            spaces.Box(0, 255, (STACKED_FRAMES, FRAME_SIZE, FRAME_SIZE), dtype=np.uint8),
            spaces.Discrete(self._batch.games[0].action_count),
        )

    def reset(self) -> VecEnvObs:
        """Abandon all games, start freshly seeded ones and return their first observations."""
        self._batch.start()
        self.reset_infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        return self._batch.observations.copy(order="K")

    def step_async(self, actions: npt.ArrayLike) -> None:
        """Hand every environment its action, without waiting.

        Raises:
            ValueError: If the actions are not one of the game's for each environment; then none
                has been sent.
        """
        array = np.asarray(actions)
        if array.shape != (self.num_envs,) or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(
                f"`actions` must be {self.num_envs} whole numbers, one for each environment, got "
                f"{array.dtype} of shape {array.shape}."
            )
        self._batch.send(dict(enumerate(array.tolist())))

    def step_wait(self) -> VecEnvStepReturn:
        """Wait for all outcomes; see the class for what is returned."""
        outcomes, last_observations = self._batch.receive()
        infos: list[dict[str, Any]] = [{} for _ in outcomes]
        for index, observation in last_observations.items():
            outcome = outcomes[index]
            infos[index]["terminal_observation"] = observation
            infos[index]["TimeLimit.truncated"] = outcome.truncated and not outcome.terminated
        for game, info in zip(self._batch.games, infos, strict=True):
            if game.unreported:
                finished = game.unreported.pop(0)
                info["episode"] = {
                    "r": finished.raw_return,
                    "l": finished.length_frames,
                    "t": finished.seconds,
                    "agent_steps": finished.length_agent_steps,
                    "time_limit": finished.time_limit,
                }
        rewards = np.array([outcome.reward for outcome in outcomes], dtype=np.float32)
        if self.protocol.clip_rewards:
            np.sign(rewards, out=rewards)
        dones = np.array([outcome.ended for outcome in outcomes], dtype=bool)
        return self._batch.observations.copy(order="K"), rewards, dones, infos

    def get_state(self) -> list[dict[str, Any]]:
        """What `set_state` rebuilds every unfinished game from; JSON values only."""
        return self._batch.get_state()

    def set_state(self, state: list[dict[str, Any]], observations: npt.NDArray[np.uint8]) -> None:
        """Rebuild saved games, given the last observations returned: `GameBatch.set_state`."""
        self._batch.set_state(state, observations)

    def close(self) -> None:
        """Let go of the emulators and their threads."""
        self._batch.close()

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
        """True of SB3's Monitor alone: whole games are reported as it reports them."""
        return [issubclass(wrapper_class, Monitor) for _ in self._get_indices(indices)]
