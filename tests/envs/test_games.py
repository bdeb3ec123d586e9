import csv
from pathlib import Path

import ale_py
import gymnasium
import pytest

import envs
from envs.games import Game, all_games, find_game
from tests.refusals import refusal


def test_names_are_gymnasiums():
    gymnasium.register_envs(ale_py)
    registered = {
        spec.kwargs["game"]: spec.name
        for spec in gymnasium.registry.values()
        if spec.namespace == "ALE" and spec.version == 5
    }
    assert {game.rom_id: game.name for game in all_games().values()} == registered
    assert len(all_games()) == 104
    assert list(all_games()) == sorted(all_games())


def test_every_game_is_found_by_name_and_by_rom_id_in_any_case():
    for game in all_games().values():
        for name in (game.name, game.name.lower(), game.rom_id, game.rom_id.upper()):
            assert find_game(name) is game


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Pongg", " Did you mean Pong?"),
        ("breakuot", " Did you mean Breakout?"),
        ("Space Invaders", " Did you mean SpaceInvaders?"),
        ("xyzzy", ""),
        ("", ""),
    ],
)
def test_unknown_game(name, hint):
    assert (
        refusal(find_game, name)
        == f"Unknown game {name!r}.{hint} `train.py --list-games` lists them."
    )


@pytest.mark.parametrize("name", ["Combat", "maze_craze"])
def test_games_for_several_players_only(name):
    assert refusal(find_game, name) == (
        f"{name} is for several players only, and this is for one; `train.py --list-games` lists "
        "what is."
    )


def test_the_atari_57_have_scores():
    path = Path(envs.__file__).parent / "atari57_scores.csv"
    rows = csv.reader(line for line in path.read_text("utf-8").splitlines() if line[0] != "#")
    listed = [rom_id for rom_id, *_ in rows][1:]
    scored = [game for game in all_games().values() if game.human_return is not None]
    assert sorted(listed) == [game.rom_id for game in scored]
    assert len(scored) == 57
    for game in scored:
        assert game.random_return is not None
        assert game.human_return is not None
        assert game.human_return > game.random_return


@pytest.mark.parametrize(
    ("name", "random_return", "human_return"),
    [  # dqn_zoo/atari_data.py
        ("Breakout", 1.7, 30.5),
        ("Pong", -20.7, 14.6),
        ("MsPacman", 307.3, 6951.6),
        ("Seaquest", 68.4, 42054.7),
        ("YarsRevenge", 3092.9, 54576.9),
    ],
)
def test_scores(name, random_return, human_return):
    game = find_game(name)
    assert (game.random_return, game.human_return) == (random_return, human_return)


def test_human_normalised_score():
    game = Game("Sample", "sample", random_return=-20.0, human_return=20.0)
    assert [game.human_normalised_score(r) for r in (-20, 0, 20, 60)] == [0.0, 0.5, 1.0, 2.0]
    assert Game("Unscored", "unscored", None, None).human_normalised_score(3.0) is None
