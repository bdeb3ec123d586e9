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
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode

from configs.protocols import Protocol
from envs.games import Game
from envs.seeding import Purpose, game_seed

FRAME_SIZE = 84  # rows and columns, Mnih et al. 2015

Frame = npt.NDArray[np.uint8]

_NO_OP, _FIRE, _SECOND_ACTION = 0, 1, 2

# The emulator is seeded again at the first game that starts after this many agent steps. Seeding
# takes about 100 ms (the emulator is loaded anew), so not every game can have it; what was played
# since then must be replayed to rebuild an unfinished game, at several thousand steps a second.
AGENT_STEPS_BETWEEN_SEEDINGS = 10_000


@dataclass
class GameBooks:
    """What is known of a whole game, through all its lives; the last three when it is over.

    Attributes:
        number: Of the environment's games; the first is number 0.
        lives: Lives left.
        raw_return: Sum of the unclipped rewards.
        length_agent_steps: Actions, the presses between episodes included.
        length_frames: Emulated frames, the no-ops before the first action included, and in 16 games
            the frames in which the emulator selects the game's mode (134 in NameThisGame).
        time_limit: Whether the frame limit ended it, not the game itself.
        seconds: Wall-clock time from its start, or its rebuilding, to its end.
        frames_before: Those of `length_frames` that were emulated before the first action.
    """

    number: int
    lives: int
    raw_return: int = 0
    length_agent_steps: int = 0
    length_frames: int = 0
    time_limit: bool = False
    seconds: float = 0.0
    frames_before: int = field(default=0, compare=False)  # older checkpoints lack it


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

        self.unreported: list[GameBooks] = []  # finished games that nobody has been told of
        self._actions = bytearray()  # all since seeding, those between episodes included
        self._waiting = False  # for the outcome of an action
        self._seeded_game_number = -1
        self.current = GameBooks(number=-1, lives=0)
        self._started = time.monotonic()
        self._game_over = False
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

    def check_action(self, action: int) -> None:
        """Refuse an action that the game lacks: the emulator would never answer.

        Raises:
            ValueError: If it does.
        """
        if not 0 <= action < self.action_count:
            raise ValueError(f"`action` must be 0-{self.action_count - 1}, got {action}.")

    def send(self, action: int) -> None:
        """Hand one of the game's actions to the emulator, without waiting for it."""
        self.check_action(action)
        self._actions.append(action)
        self._waiting = True
        self._ale.send(np.array((action,), dtype=np.int64), self._strength)

    def receive(self) -> StepOutcome:
        """Wait for the outcome of the agent's action; an episode's end sets the restart going."""
        outcome = self._receive()
        if outcome.ended:
            self._restart = self._begin_episode(None)
            self._advance_restart(None)
        return outcome

    def continue_restart(self) -> None:
        """Wait for the outcome of an action between two episodes, and send the next."""
        self._advance_restart(self._receive())

    def close(self) -> None:
        """Let go of the emulator and its thread; nothing may follow but another `close`."""
        self.__dict__.pop("_ale", None)

    def get_state(self) -> dict[str, Any]:
        """What `set_state` rebuilds this object from, between two steps; JSON values only."""
        assert not self.restarting
        assert not self._game_over
        return {
            "seeded_game_number": self._seeded_game_number,
            "actions_since_seeding": b64encode(self._actions).decode(),  # a byte each
            "current": asdict(self.current),
            "unreported": [asdict(finished) for finished in self.unreported],
        }

    def set_state(self, state: dict[str, Any]) -> Frame:
        """Rebuild a saved state by playing its actions again; returns the newest frame.

        Raises:
            ValueError: If the actions do not lead to the saved game.
        """
        saved = GameBooks(**state["current"])
        self._restart = None
        self.current.number = state["seeded_game_number"] - 1
        frame = self._seed_emulator()
        for action in b64decode(state["actions_since_seeding"]):
            self.send(action)
            frame = self._receive().frame
        if self.current != saved or self._game_over:
            raise ValueError(
                f"environment {self._environment}: replaying its actions led elsewhere; the "
                "emulator is not the one the run was trained on. Install the ale-py version that "
                "provenance.json names."
            )
        self.unreported = [GameBooks(**finished) for finished in state["unreported"]]
        return frame

    def _begin_episode(self, frame: Frame | None) -> Generator[int, StepOutcome, Frame]:
        """The actions up to an episode's first frame, which it returns.

        As in SB3: EpisodicLifeEnv.reset, unless a game has just begun with `frame`, then
        FireResetEnv.reset: FIRE and action 2, if the protocol and the game have it so.
        """
        if frame is None:
            frame = yield from self._leave_episode()
        if self._fires:
            for action in (_FIRE, _SECOND_ACTION):
                outcome = yield action
                frame = outcome.frame
                if outcome.ended:
                    frame = yield from self._leave_episode()
        return frame

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
        if self._waiting:  # or every later answer would be the one before
            self._ale.recv()
            self._waiting = False
        number = self.current.number + 1
        seed = game_seed(self._run_seed, self._environment, number, self._purpose)
        frames, info = self._ale.reset(np.array((0,)), np.array((seed,)))
        self._actions.clear()
        self._seeded_game_number = number
        self._begin_game(number, info)
        return np.asarray(frames[0, 0])

    def _begin_game(self, number: int, info: dict[str, Any]) -> None:
        lives, frames = int(info["lives"][0]), int(info["episode_frame_number"][0])
        self.current = GameBooks(number, lives, frames_before=frames)
        self._game_over = False
        self._started = time.monotonic()

    def _receive(self) -> StepOutcome:
        """Wait for the outcome of one action, and keep the books of the game it belongs to."""
        self._waiting = False  # an interrupted wait takes the answer all the same
        frames, rewards, terminations, truncations, info = self._ale.recv()
        frame, lives = frames[0, 0], int(info["lives"][0])
        current = self.current
        if self._game_over:  # the action restarted the game
            self._begin_game(current.number + 1, info)
            return StepOutcome(frame, 0, False, False)
        reward = int(rewards[0])
        game_over, time_limit = bool(terminations[0]), bool(truncations[0])
        life_lost = self._life_loss_ends_episode and 0 < lives < current.lives
        current.lives = lives
        current.raw_return += reward
        current.length_agent_steps += 1
        self._game_over = game_over or time_limit
        if self._game_over:
            current.length_frames = int(info["episode_frame_number"][0])
            current.time_limit = not game_over
            current.seconds = time.monotonic() - self._started
            self.unreported.append(current)
        return StepOutcome(frame, reward, game_over or life_lost, time_limit)
