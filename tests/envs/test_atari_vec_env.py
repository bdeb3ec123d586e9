import json
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import A2C
from stable_baselines3.common.atari_wrappers import EpisodicLifeEnv
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecMonitor

from configs.protocols import load_protocol
from envs.atari_vec_env import AtariVecEnv
from envs.emulated_game import EmulatedGame
from envs.games import Game, all_games, find_game
from tests.envs.environments import draw_actions, make_env
from tests.refusals import refusal

BASELINES = load_protocol("baselines")
MACHADO = load_protocol("machado")


# --- what a step returns --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "protocol",
    [
        pytest.param(BASELINES.replace(max_frames_per_game=330), id="baselines"),
        pytest.param(MACHADO.replace(max_frames_per_game=330, clip_rewards=False), id="machado"),
    ],
)
def test_environments_are_independent_games(protocol):
    """Against one game after the other, with the stacks made naively."""
    env = make_env("Breakout", protocol, 3, seed=7)
    env.seed(123)  # SB3 calls this; the seed is the constructor's
    actions = draw_actions(env, 250)
    first = env.reset()
    steps: list[Any] = [env.step(action) for action in actions]
    env.close()
    met = set()
    for index in range(3):
        game = EmulatedGame(find_game("Breakout"), protocol, run_seed=7, environment=index)
        game.start()
        blank = np.zeros((84, 84), dtype=np.uint8)
        frames = [blank, blank, blank, game.first_frame]
        np.testing.assert_array_equal(first[index], frames)
        for action, (observations, rewards, dones, infos) in zip(actions, steps, strict=True):
            game.send(int(action[index]))
            outcome = game.receive()
            while game.restarting:
                game.continue_restart()
            info: dict[str, Any] = dict(infos[index])
            assert rewards[index] == (
                np.sign(outcome.reward) if protocol.clip_rewards else outcome.reward
            )
            assert dones[index] == outcome.ended
            frames = [*frames[1:], outcome.frame]
            if outcome.ended:
                np.testing.assert_array_equal(info.pop("terminal_observation"), frames)
                truncated = outcome.truncated and not outcome.terminated
                assert info.pop("TimeLimit.truncated") is truncated
                frames = [blank, blank, blank, game.first_frame]
                met.add("time limit" if truncated else "life or game lost")
            np.testing.assert_array_equal(observations[index], frames)
            if game.unreported:
                finished = game.unreported.pop()
                episode = info.pop("episode")
                assert episode.pop("t") > 0
                assert episode == {
                    "r": finished.raw_return,
                    "l": finished.length_frames,
                    "agent_steps": finished.length_agent_steps,
                    "time_limit": finished.time_limit,
                }
                met.add("game reported")
            assert info == {}
        game.close()
    ends = {"time limit", "game reported"}
    assert met == (ends | {"life or game lost"} if protocol.life_loss_ends_episode else ends)


def test_returned_arrays_are_the_callers():
    env = make_env("Breakout", MACHADO.replace(max_frames_per_game=8), 1)
    kept = [env.reset()]
    no_op = np.zeros(1, dtype=np.int64)
    for _ in range(6):
        observations, _, _, infos = env.step(no_op)
        kept += [observations, *(info["terminal_observation"] for info in infos if info)]
    copies = [array.copy() for array in kept]
    for array in kept[-2:]:
        array[:] = 255  # must not reach the next observation
    assert env.step(no_op)[0].max() < 255
    for array, copy in zip(kept[:-2], copies, strict=False):
        np.testing.assert_array_equal(array, copy)
    env.close()


# Frames in which the emulator selects the game's mode, at its first reset.
MODE_FRAMES = {
    "AirRaid": 8,
    "Backgammon": 2,
    "BasicMath": 5,
    "Berzerk": 20,
    "Crossbow": 8,
    "DoubleDunk": 17,
    "FlagCapture": 7,
    "HumanCannonball": 16,
    "LostLuggage": 38,
    "NameThisGame": 134,
    "Othello": 4,
    "Pacman": 16,
    "Pooyan": 1,
    "SpaceWar": 5,
    "Surround": 1,
    "YarsRevenge": 7,
}


def test_every_game_starts_steps_and_reports():
    """Games of three steps, and into the next."""
    protocol = MACHADO.replace(max_frames_per_game=12)
    no_op = np.zeros(1, dtype=np.int64)

    def play(game: Game) -> tuple[list[bool], int]:
        env = AtariVecEnv(game, protocol, 1, seed=0)
        env.reset()
        steps = [env.step(no_op) for _ in range(4)]
        env.close()
        return [bool(dones[0]) for *_, dones, _ in steps], steps[2][3][0]["episode"]["l"]

    with ThreadPoolExecutor(2) as executor:
        played = dict(zip(all_games(), executor.map(play, all_games().values()), strict=True))
    assert len(played) == 104
    assert played == {
        name: ([False, False, True, False], 12 + MODE_FRAMES.get(name, 0)) for name in all_games()
    }


def test_reset_starts_games_not_played_before():
    env = make_env("Breakout", BASELINES, 2)
    for number in range(3):
        env.reset()
        games = env.get_state()
        assert [game["current"]["number"] for game in games] == [number, number]
        assert [game["seeded_game_number"] for game in games] == [number, number]
        assert [game["current"]["length_agent_steps"] for game in games] == [2, 2]  # the presses
        env.step(np.array([2, 3]))
    env.close()


# --- saving and rebuilding ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved() -> tuple[str, Any]:
    """A state as JSON, and its observations."""
    env = make_env("Breakout", BASELINES, 2)
    env.reset()
    for actions in draw_actions(env, 60):
        observations, *_ = env.step(actions)
    state = json.dumps(env.get_state())
    env.close()
    return state, observations


def with_a_changed_pixel(state: list[Any], observations: Any) -> Any:
    changed = observations.copy()
    changed[1, -1, 40, 40] ^= 1
    return state, changed


def with_a_changed_action(state: list[Any], observations: Any) -> Any:
    """Lives, return and length stay what they were: only the screen shows it."""
    actions = bytearray(b64decode(state[0]["actions_since_seeding"]))
    actions[-20:] = bytes([3] * 20)
    game = state[0] | {"actions_since_seeding": b64encode(actions).decode()}
    return [game, state[1]], observations


NOT_TWO_GAMES = (
    "the saved games must be 2, one for each environment, got {} and observations of shape {}; "
    "resume from another checkpoint."
)
OTHER_SCREENS = (
    "the rebuilt games do not show the saved screens; install the ale-py version that "
    "provenance.json names."
)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state, seen: (state[:1], seen), NOT_TWO_GAMES.format(1, (2, 4, 84, 84))),
        (lambda state, seen: (state, seen[:, 1:]), NOT_TWO_GAMES.format(2, (2, 3, 84, 84))),
        (with_a_changed_pixel, OTHER_SCREENS),
        (with_a_changed_action, OTHER_SCREENS),
    ],
)
def test_damaged_state(saved, damage, message):
    env = make_env("Breakout", BASELINES, 2)
    assert refusal(env.set_state, *damage(json.loads(saved[0]), saved[1])) == message
    env.close()


# --- the rest of the interface --------------------------------------------------------------------


@pytest.fixture
def pong() -> Iterator[AtariVecEnv]:
    env = make_env("Pong", MACHADO, 2)
    yield env
    env.close()


def test_attributes(pong):
    assert pong.get_attr("game") == [find_game("Pong")] * 2
    assert pong.get_attr("protocol", indices=1) == [MACHADO]
    assert pong.get_attr("spec") == pong.get_attr("render_mode") == [None, None]
    assert pong.env_is_wrapped(Monitor) == [True, True]
    assert pong.env_is_wrapped(EpisodicLifeEnv, indices=0) == [False]
    message = refusal(pong.set_attr, "game", None, error=AttributeError)
    assert message == "AtariVecEnv cannot set 'game'; make another one instead."
    message = refusal(pong.env_method, "render", error=AttributeError)
    assert message == "AtariVecEnv has no environments to call 'render' on."


NOT_TWO_NUMBERS = "`actions` must be 2 whole numbers, one for each environment, got "


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([1, 6], "`action` must be 0-5, got 6."),
        ([1, -1], "`action` must be 0-5, got -1."),
        ([1], NOT_TWO_NUMBERS + "int64 of shape (1,)."),
        ([1.0, 2.0], NOT_TWO_NUMBERS + "float64 of shape (2,)."),
    ],
)
def test_refused_actions_leave_the_environment_as_it_was(pong, actions, message):
    """None has been sent: the next steps are those of an environment that was asked nothing."""
    start = pong.reset()
    assert refusal(pong.step, np.array(actions)) == message
    assert_plays_on_from(start, pong)


def test_reset_cancels_a_step_that_nobody_waited_for(pong):
    pong.reset()
    pong.step_async([2, 3])
    with pytest.raises(RuntimeError, match=r"^the actions before have not been waited for"):
        pong.step_async([2, 3])
    assert_plays_on_from(pong.reset(), pong, resets=2)


def test_a_step_needs_a_reset_before_and_actions():
    """The emulators would never answer."""
    env = make_env("Pong", MACHADO, 2)
    with pytest.raises(RuntimeError, match=r"started; reset the environments first\.$"):
        env.step([2, 3])
    with pytest.raises(RuntimeError, match=r"no actions have been sent; call `send` first\.$"):
        env.step_wait()
    assert_plays_on_from(env.reset(), env)
    env.close()


@pytest.mark.parametrize("call", ["reset", "step_wait", "get_state"])
def test_closed_environments_are_named(call):
    env = make_env("Pong", MACHADO, 1)
    env.reset()
    env.step_async([2])
    env.close()
    with pytest.raises(RuntimeError, match=r"^the environments are closed; make new ones\.$"):
        getattr(env, call)()


def assert_plays_on_from(start: Any, pong: Any, resets: int = 1) -> None:
    """Compare an environment with one that was only reset."""
    other = make_env("Pong", MACHADO, 2)
    for _ in range(resets):
        expected = other.reset()
    np.testing.assert_array_equal(start, expected)
    for step in draw_actions(pong, 20):
        np.testing.assert_array_equal(pong.step(step.tolist())[0], other.step(step)[0])
    other.close()


def test_sb3_scores_whole_games():
    """Of five lives each, in raw rewards, by `evaluate_policy` and `EvalCallback`."""
    reports: list[dict[str, Any]] = []
    dones: list[bool] = []

    class Watched(AtariVecEnv):
        def step_wait(self) -> Any:
            step = super().step_wait()
            reports.extend(info["episode"] for info in step[3] if "episode" in info)
            dones.extend(step[2].tolist())
            return step

    breakout = find_game("Breakout")
    agent = A2C("CnnPolicy", AtariVecEnv(breakout, BASELINES, 1, seed=1), n_steps=2, device="cpu")
    env = Watched(breakout, BASELINES, 1, seed=0)
    scored = evaluate_policy(agent, env, 2, deterministic=False, return_episode_rewards=True)
    assert scored == ([report["r"] for report in reports], [report["l"] for report in reports])
    assert (len(reports), sum(dones)) == (2, 10)  # games, lives
    reports.clear()
    callback = EvalCallback(
        env, n_eval_episodes=1, eval_freq=2, deterministic=False, verbose=0, warn=False
    )
    with pytest.warns(UserWarning, match="Training and eval env are not of the same type"):
        agent.learn(2, callback=callback)
    assert [callback.last_mean_reward] == [report["r"] for report in reports]
    env.close()


def test_vec_monitor_says_that_it_replaces_the_whole_games(pong):
    with pytest.warns(UserWarning, match="already wrapped with a `Monitor`"):
        VecMonitor(pong)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc")
def test_close_ends_all_threads():
    before = list_threads()
    env = make_env("Pong", MACHADO, 3)
    env.reset()
    own = list_threads() - before
    assert len(own) >= 3
    env.step_async(np.array([0, 0, 0]))
    env.close()
    for _ in range(100):  # the pool's threads outlive their `join` by a moment
        if not own & list_threads():
            break
        time.sleep(0.1)
    assert not own & list_threads()
    env.close()


def list_threads() -> set[str]:
    return {path.name for path in Path("/proc/self/task").iterdir()}
