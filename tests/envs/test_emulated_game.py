import json
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from configs.protocols import Protocol, load_protocol
from envs.emulated_game import EmulatedGame, StepOutcome
from envs.games import find_game
from tests.refusals import refusal

BASELINES = load_protocol("baselines")
MACHADO = load_protocol("machado")
WITHOUT_NO_OPS = BASELINES.replace(no_op_max=0)

NO_OP, FIRE, ACTION_2 = 0, 1, 2


def make_game(name: str, protocol: Protocol, **options: Any) -> EmulatedGame:
    return EmulatedGame(find_game(name), protocol, run_seed=0, environment=0, **options)


def act(game: EmulatedGame, action: int) -> StepOutcome:
    """Take one step, and the presses after it if it ends an episode."""
    game.send(action)
    outcome = game.receive()
    while game.restarting:
        game.continue_restart()
    return outcome


def play(game: EmulatedGame, steps: int, seed: int = 0) -> Iterator[tuple[StepOutcome, Any]]:
    """Play at random; gives each outcome, and the next episode's first frame or None."""
    for action in np.random.default_rng(seed).integers(game.action_count, size=steps).tolist():
        outcome = act(game, action)
        yield outcome, game.first_frame if outcome.ended else None


def played_actions(game: EmulatedGame) -> list[int]:
    return list(b64decode(game.get_state()["actions_since_seeding"]))


def rebuilt_copy(game: EmulatedGame, name: str, protocol: Protocol, **options: Any) -> EmulatedGame:
    """Another object in the state of `game`, by way of a file's JSON."""
    copy = make_game(name, protocol, **options)
    copy.set_state(json.loads(json.dumps(game.get_state())))
    return copy


# --- lives, presses and games ---------------------------------------------------------------------


def test_no_presses_and_no_lives_in_machado():
    game = make_game("Breakout", MACHADO)
    game.start()
    assert played_actions(game) == []
    lives, agent_steps = {5}, 0
    outcome = StepOutcome(game.first_frame, 0, False, False)
    while not outcome.ended:
        game.send(FIRE)
        outcome = game.receive()
        agent_steps += 1
        if not game.restarting:
            lives.add(game.current.lives)
    assert lives == {5, 4, 3, 2, 1}
    assert outcome.terminated
    assert game.unreported[0].length_agent_steps == agent_steps
    game.close()


def test_rewards_are_raw_and_the_return_is_their_sum():
    game = make_game("SpaceInvaders", MACHADO)
    game.start()
    rewards = []
    for outcome, _ in play(game, 2000):
        rewards.append(outcome.reward)
        if game.unreported:
            break
    assert game.unreported[0].raw_return == sum(rewards) > len([r for r in rewards if r])
    assert set(rewards) > {0, 5, 10}
    game.close()


@pytest.mark.parametrize("name", ["Backgammon", "VideoCheckers"])
def test_games_whose_fire_is_action_0(name):
    assert refusal(make_game, name, BASELINES) == (
        f"{name}: FIRE is not action 1, as fire_on_reset needs; use a protocol without it, such as "
        "machado."
    )
    make_game(name, MACHADO).close()


# --- seeding and determinism ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agent_steps_between_seedings", "seeded_games"),
    [(0, [0, 1, 2, 3, 4]), (15, [0, 0, 2, 2, 4]), (10_000, [0, 0, 0, 0, 0])],
)
def test_seeding_happens_at_a_games_start(agent_steps_between_seedings, seeded_games):
    """Games of 10 agent steps."""
    protocol = MACHADO.replace(max_frames_per_game=40)
    game = make_game("Pong", protocol, agent_steps_between_seedings=agent_steps_between_seedings)
    game.start()
    seeded = [game.get_state()["seeded_game_number"]]
    for outcome, _ in play(game, 40):
        if outcome.ended:
            seeded.append(game.get_state()["seeded_game_number"])
    assert seeded == seeded_games
    assert game.current.number == 4
    game.close()


def test_streams_depend_on_run_environment_and_purpose_alone():
    def stream(run_seed: int, environment: int, **options: Any) -> list[Any]:
        game = EmulatedGame(find_game("MsPacman"), MACHADO, run_seed, environment, **options)
        game.start()
        frames = [outcome.frame.tobytes() for outcome, _ in play(game, 120)]
        game.close()
        return frames

    streams = [stream(0, 0), stream(1, 0), stream(0, 1), stream(0, 0, purpose="evaluation")]
    assert stream(0, 0) == streams[0]
    for index, one in enumerate(streams):
        assert one not in streams[:index]


# --- rebuilding -----------------------------------------------------------------------------------

SHORT_GAMES = BASELINES.replace(max_frames_per_game=300)
SHORT_MACHADO = MACHADO.replace(max_frames_per_game=300)


@pytest.mark.parametrize(
    ("name", "protocol", "agent_steps_between_seedings", "steps"),
    [
        pytest.param("Breakout", BASELINES, 10_000, 500, id="baselines"),
        pytest.param("MsPacman", MACHADO, 10_000, 700, id="machado"),
        pytest.param("Breakout", BASELINES, 150, 430, id="baselines, seeded anew"),
        pytest.param("MsPacman", SHORT_MACHADO, 150, 430, id="machado, seeded anew"),
        # These carry something from one game to the next.
        pytest.param("HauntedHouse", SHORT_GAMES, 10_000, 430, id="haunted house"),
        pytest.param("YarsRevenge", SHORT_GAMES, 10_000, 430, id="yars revenge"),
        pytest.param("Pong", BASELINES, 10_000, 0, id="nothing played"),
    ],
)
def test_rebuilt_game_goes_on_alike(name, protocol, agent_steps_between_seedings, steps):
    options = {"agent_steps_between_seedings": agent_steps_between_seedings}
    game = make_game(name, protocol, **options)
    game.start()
    list(play(game, steps))
    seeded_again = game.get_state()["seeded_game_number"] > 0
    assert seeded_again == (agent_steps_between_seedings < 10_000)
    copy = rebuilt_copy(game, name, protocol, **options)
    assert copy.get_state() == game.get_state()
    finished_before = len(game.unreported)
    for (one, first), (other, other_first) in zip(
        play(game, 300, seed=1), play(copy, 300, seed=1), strict=True
    ):
        np.testing.assert_array_equal(one.frame, other.frame)
        assert asdict(one) | {"frame": None} == asdict(other) | {"frame": None}
        np.testing.assert_array_equal(first, other_first)
    assert copy.get_state() | {"unreported": []} == game.get_state() | {"unreported": []}
    assert [replace(finished, seconds=0) for finished in copy.unreported] == [
        replace(finished, seconds=0) for finished in game.unreported
    ]
    assert len(game.unreported) > finished_before or name == "Pong"
    game.close()
    copy.close()


@pytest.fixture(scope="module")
def saved() -> dict[str, Any]:
    """The state of Breakout after 200 steps, as a file has it; one finished game unreported."""
    game = make_game("Breakout", WITHOUT_NO_OPS)
    game.start()
    list(play(game, 200))
    state: dict[str, Any] = json.loads(json.dumps(game.get_state()))
    game.close()
    assert len(state["unreported"]) == 1
    assert state["current"]["lives"] < 5
    return state


LED_ELSEWHERE = (
    "environment 0: replaying its actions led elsewhere; the emulator is not the one the run was "
    "trained on. Install the ale-py version that provenance.json names."
)


def with_actions(change: Any) -> Any:
    def damage(state: dict[str, Any]) -> dict[str, Any]:
        actions = bytearray(b64decode(state["actions_since_seeding"]))
        return state | {"actions_since_seeding": b64encode(change(actions)).decode()}

    return damage


def with_current(**values: int) -> Any:
    return lambda state: state | {"current": state["current"] | values}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            with_actions(lambda actions: actions[:-1] + b"\x04"),  # of another ale-py, perhaps
            "`action` must be 0-3, got 4.",
        ),
        (with_actions(lambda actions: actions[:-1]), LED_ELSEWHERE),
        (with_actions(lambda actions: actions[1:]), LED_ELSEWHERE),
        (with_actions(lambda actions: actions[:0]), LED_ELSEWHERE),
        (with_current(lives=5), LED_ELSEWHERE),
        (with_current(number=0), LED_ELSEWHERE),
        (with_current(raw_return=1000), LED_ELSEWHERE),
        (with_current(length_agent_steps=7), LED_ELSEWHERE),
    ],
)
def test_a_replay_that_leads_elsewhere_is_noticed(saved, damage, message):
    game = make_game("Breakout", WITHOUT_NO_OPS)
    assert refusal(game.set_state, damage(saved)) == message
    game.close()


def test_actions_that_end_with_a_finished_game_are_noticed():
    """Such a state is never saved, though its numbers fit."""
    game = make_game("Pong", MACHADO.replace(max_frames_per_game=40))
    game.start()
    list(play(game, 9))
    ended = with_actions(lambda actions: actions + b"\x00")(game.get_state())
    assert refusal(game.set_state, with_current(length_agent_steps=10)(ended)) == LED_ELSEWHERE
    game.close()
