"""One environment: game after game on one emulator, with the semantics of SB3's Atari wrappers.

`stable_baselines3.common.atari_wrappers.AtariWrapper` chains NoopReset, MaxAndSkip, EpisodicLife,
FireReset, WarpFrame and ClipReward. Here ALE's vector environment does the no-ops, the frame skip,
the max-pooling and the resizing; the life and fire logic is this file's, because ALE's own differs:
its `episodic_life` starts a whole new game at a lost life, and its `use_fire_reset` presses FIRE
for one frame before the no-ops and never after a lost life. It is switched off, and the presses
between two episodes are ordinary actions that the agent does not see, as in SB3.

An emulator here holds one game (`num_envs=1`), because only then can it be advanced alone, which
the presses after a lost life and the rebuilding of an unfinished game need. Its worker thread runs
without Python's global lock, so emulators work side by side.
"""

import time
from base64 import b64decode, b64encode
from collections.abc import Generator
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode

from configs.protocols import Protocol
from configs.settings import Bounds, build
from envs.games import Game
from envs.seeding import Purpose, game_seed

FRAME_SIZE = 84  # rows and columns, Mnih et al. 2015

Frame = npt.NDArray[np.uint8]

_NO_OP, _FIRE, _SECOND_ACTION = 0, 1, 2

# The emulator is seeded again at the first game that starts after this many agent steps. Seeding
# takes about 100 ms (the emulator is loaded anew), so not every game can have it; what was played
# since then must be replayed to rebuild an unfinished game, at several thousand steps a second.
AGENT_STEPS_BETWEEN_SEEDINGS = 10_000


@dataclass(frozen=True)
class FinishedGame:
    """A whole game, through all its lives.

    Attributes:
        raw_return: Sum of the unclipped rewards.
        length_frames: Emulated frames, the no-ops before the first action included, and in 16 games
            the frames in which the emulator selects the game's mode (134 in NameThisGame).
        length_agent_steps: Actions, the presses between episodes included.
        time_limit: Whether the frame limit ended it, not the game itself.
        seconds: Wall-clock time from its start, or its rebuilding, to its end.
    """

    raw_return: int
    length_frames: Annotated[int, Bounds(0)]
    length_agent_steps: Annotated[int, Bounds(0)]
    time_limit: bool
    seconds: float


@dataclass(frozen=True)
class UnfinishedGame:
    """The game being played, and what was played since its emulator was seeded.

    Attributes:
        seeded_game_number: The game the emulator was last seeded for.
        game_number: The game being played.
        actions_since_seeding: Base64 of one byte per action.
        lives: Lives left.
        raw_return: Of the game being played, so far.
        length_agent_steps: Likewise.
    """

    seeded_game_number: Annotated[int, Bounds(0)]
    game_number: Annotated[int, Bounds(0)]
    actions_since_seeding: str
    lives: Annotated[int, Bounds(0)]
    raw_return: int
    length_agent_steps: Annotated[int, Bounds(0)]


@dataclass(frozen=True)
class EmulatedGameState(UnfinishedGame):
    """What rebuilds an `EmulatedGame` between two steps; `asdict` gives JSON values.

    Attributes:
        unreported: Finished games that nobody has been told of.
    """

    unreported: list[FinishedGame]

    @classmethod
    def from_json(cls, values: Any, source: str) -> "EmulatedGameState":
        """Check what `asdict` gave and a file has kept; `source` is its name in messages.

        Raises:
            ValueError: If a value is missing, unknown, or of a wrong type or range.
        """
        finished = values.get("unreported") if isinstance(values, dict) else None
        if not isinstance(finished, list) or not all(isinstance(game, dict) for game in finished):
            raise ValueError(f"{source}: not a saved game; resume from another checkpoint.")
        unfinished = {name: value for name, value in values.items() if name != "unreported"}
        return cls(
            **asdict(build(UnfinishedGame, unfinished, source)),
            unreported=[build(FinishedGame, game, source) for game in finished],
        )


@dataclass(slots=True)
class StepOutcome:
    """What one action led to.

    Attributes:
        frame: The newest frame, [84, 84] uint8; at an episode's end, the last of that episode.
        reward: Raw reward.
        terminated: The game is over, or a life was lost where the protocol ends episodes there.
        truncated: The frame limit ended the game.
    """

    frame: Frame
    reward: int
    terminated: bool
    truncated: bool

    @property
    def ended(self) -> bool:
        """Whether the agent's episode is over."""
        return self.terminated or self.truncated


class EmulatedGame:
    """Successive games of one environment.

    Call `start`, then in turn `send` an action and `receive` its outcome. While `restarting` is
    true afterwards, an episode has ended: call `continue_restart` until the next one has begun
    with `first_frame`.

    Args:
        game: The game.
        protocol: How it is presented.
        run_seed: With `environment` and a game's number, the seed of the emulator.
        environment: The number of this environment in its run.
        purpose: Training or evaluation; they never share a seed.
        agent_steps_between_seedings: The first game that begins this long after the last seeding
            is seeded, the games between go on from the emulator's state; 0 seeds every game.

    Raises:
        ValueError: If the protocol presses FIRE on reset and the game's FIRE is not action 1.
    """

    def __init__(
        self,
        game: Game,
        protocol: Protocol,
        run_seed: int,
        environment: int,
        purpose: Purpose = "training",
        agent_steps_between_seedings: int = AGENT_STEPS_BETWEEN_SEEDINGS,
    ) -> None:
        self._life_loss_ends_episode = protocol.life_loss_ends_episode
        self._run_seed = run_seed
        self._environment = environment
        self._purpose: Purpose = purpose
        self._agent_steps_between_seedings = agent_steps_between_seedings
        emulator = AtariVectorEnv(
            game.rom_id,
            num_envs=1,
            num_threads=1,
            max_num_frames_per_episode=protocol.max_frames_per_game,
            repeat_action_probability=protocol.sticky_action_probability,
            # The next action after a game's end restarts it, whichever it is.
            autoreset_mode=AutoresetMode.NEXT_STEP,
            img_height=FRAME_SIZE,
            img_width=FRAME_SIZE,
            stack_num=1,
            frameskip=protocol.frames_per_agent_step,
            noop_max=protocol.no_op_max + 1,  # ALE draws from 0 to noop_max - 1
            episodic_life=False,
            life_loss_info=False,
            reward_clipping=False,
            use_fire_reset=False,
        )
        self._ale = emulator.ale
        self._strength = np.ones(1, dtype=np.float32)
        action_names = [action.name for action in self._ale.get_action_set()]
        self.action_count = len(action_names)
        self._fires = protocol.fire_on_reset and "FIRE" in action_names
        if self._fires and action_names.index("FIRE") != _FIRE:
            raise ValueError(
                f"{game.name}: FIRE is not action 1, as fire_on_reset needs; use a protocol "
                "without it, such as machado."
            )

        self.unreported: list[FinishedGame] = []
        self._actions = bytearray()  # all since seeding, those between episodes included
        self._seeded_game_number = self._game_number = -1  # the first is number 0
        self._game_over = False
        self._lives = self._raw_return = self._length_agent_steps = 0
        self._started = time.monotonic()
        self._restart: Generator[int, StepOutcome, Frame] | None = None
        self.first_frame: Frame = np.zeros((FRAME_SIZE, FRAME_SIZE), dtype=np.uint8)

    @property
    def restarting(self) -> bool:
        """Whether an episode has ended and the next has not begun."""
        return self._restart is not None

    def start(self) -> None:
        """Abandon what is being played and begin a freshly seeded game, up to `first_frame`."""
        self._restart = self._begin_episode(self._seed_emulator())
        self._advance_restart(None)
        while self.restarting:
            self.continue_restart()

    def send(self, action: int) -> None:
        """Hand an action to the emulator, without waiting for it.

        Raises:
            ValueError: If the game has no such action.
        """
        if not 0 <= action < self.action_count:  # the emulator would never answer
            raise ValueError(f"`action` must be 0-{self.action_count - 1}, got {action}.")
        self._actions.append(action)
        self._ale.send(np.array((action,), dtype=np.int64), self._strength)

    def receive(self) -> StepOutcome:
        """Wait for the outcome of the agent's action; an episode's end sets the restart going."""
        outcome = self._receive()
        if outcome.ended:
            self._restart = self._restart_episode()
            self._advance_restart(None)
        return outcome

    def continue_restart(self) -> None:
        """Wait for the outcome of an action between two episodes, and send the next."""
        self._advance_restart(self._receive())

    def close(self) -> None:
        """Let go of the emulator and its thread; nothing may follow but another `close`."""
        self.__dict__.pop("_ale", None)

    def get_state(self) -> EmulatedGameState:
        """What rebuilds this object between two steps."""
        assert not self.restarting
        assert not self._game_over
        return EmulatedGameState(
            seeded_game_number=self._seeded_game_number,
            game_number=self._game_number,
            actions_since_seeding=b64encode(self._actions).decode(),
            lives=self._lives,
            raw_return=self._raw_return,
            length_agent_steps=self._length_agent_steps,
            unreported=list(self.unreported),
        )

    def set_state(self, state: EmulatedGameState) -> Frame:
        """Rebuild a saved state by playing its actions again; returns the newest frame.

        Raises:
            ValueError: If the actions cannot be played, or do not lead to the saved game.
        """
        actions = self._decode_actions(state.actions_since_seeding)
        self._restart = None
        self._game_number = state.seeded_game_number - 1
        frame = self._seed_emulator()
        for action in actions:
            self.send(action)
            frame = self._receive().frame
        rebuilt = (self._game_number, self._lives, self._raw_return, self._length_agent_steps)
        saved = (state.game_number, state.lives, state.raw_return, state.length_agent_steps)
        if rebuilt != saved or self._game_over:
            raise ValueError(
                f"environment {self._environment}: replaying its actions led elsewhere; the "
                "emulator is not the one the run was trained on. Install the ale-py version that "
                "provenance.json names."
            )
        self.unreported = list(state.unreported)
        return frame

    def _decode_actions(self, text: str) -> bytes:
        try:
            actions = b64decode(text, validate=True)
        except ValueError:
            raise ValueError(
                f"environment {self._environment}: its saved actions are not Base64; resume from "
                "another checkpoint."
            ) from None
        if max(actions, default=0) >= self.action_count:
            raise ValueError(
                f"environment {self._environment}: its saved actions must be "
                f"0-{self.action_count - 1}, got {max(actions)}; resume from another checkpoint."
            )
        return actions

    def _restart_episode(self) -> Generator[int, StepOutcome, Frame]:
        """The actions from an episode's end to the next one's first frame, which it returns.

        As in SB3: EpisodicLifeEnv.reset, then FireResetEnv.reset around it.
        """
        frame = yield from self._leave_episode()
        return (yield from self._begin_episode(frame))

    def _leave_episode(self) -> Generator[int, StepOutcome, Frame]:
        """Start the next game if this one is over; else take one no-op into the next life."""
        if not self._game_over:
            outcome = yield _NO_OP
            if not self._game_over:  # whether or not it cost another life
                return outcome.frame
        if len(self._actions) >= self._agent_steps_between_seedings:
            return self._seed_emulator()
        outcome = yield _NO_OP
        return outcome.frame

    def _begin_episode(self, frame: Frame) -> Generator[int, StepOutcome, Frame]:
        """Press FIRE and then action 2, if the protocol and the game have it so."""
        if self._fires:
            for action in (_FIRE, _SECOND_ACTION):
                outcome = yield action
                frame = outcome.frame
                if outcome.ended:
                    frame = yield from self._leave_episode()
        return frame

    def _advance_restart(self, outcome: StepOutcome | None) -> None:
        assert self._restart is not None
        try:
            # A generator that has not begun takes None.
            action = self._restart.send(outcome)  # type: ignore[arg-type]
        except StopIteration as finished:
            self.first_frame = finished.value
            self._restart = None
        else:
            self.send(action)

    def _seed_emulator(self) -> Frame:
        """Start the next game on a freshly seeded emulator."""
        number = self._game_number + 1
        seed = game_seed(self._run_seed, self._environment, number, self._purpose)
        frames, info = self._ale.reset(np.array((0,)), np.array((seed,)))
        self._actions.clear()
        self._seeded_game_number = number
        self._begin_game(int(info["lives"][0]))
        return np.asarray(frames[0, 0])

    def _begin_game(self, lives: int) -> None:
        self._game_number += 1
        self._game_over = False
        self._lives = lives
        self._raw_return = 0
        self._length_agent_steps = 0
        self._started = time.monotonic()

    def _receive(self) -> StepOutcome:
        """Wait for the outcome of one action, and keep the books of the game it belongs to."""
        frames, rewards, terminations, truncations, info = self._ale.recv()
        lives = int(info["lives"][0])
        frame = frames[0, 0]
        if self._game_over:  # the action restarted the game
            self._begin_game(lives)
            return StepOutcome(frame, 0, False, False)
        reward = int(rewards[0])
        self._raw_return += reward
        self._length_agent_steps += 1
        game_over, time_limit = bool(terminations[0]), bool(truncations[0])
        life_lost = self._life_loss_ends_episode and 0 < lives < self._lives
        self._lives = lives
        self._game_over = game_over or time_limit
        if self._game_over:
            self.unreported.append(
                FinishedGame(
                    raw_return=self._raw_return,
                    length_frames=int(info["episode_frame_number"][0]),
                    length_agent_steps=self._length_agent_steps,
                    time_limit=not game_over,
                    seconds=time.monotonic() - self._started,
                )
            )
        return StepOutcome(frame, reward, game_over or life_lost, time_limit)
