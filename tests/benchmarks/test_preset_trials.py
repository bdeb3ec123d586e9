import numpy as np
import pytest

from benchmarks.preset_trials import describe_fate, format_trials, main
from tests.benchmarks.games import write_games

START = [0.0, 2.0] * 50  # mean 1, standard deviation 1


@pytest.mark.parametrize(
    ("returns", "fate"),
    [
        (START[:99], "no"),  # too few games
        (START + [3.9] * 100, "no"),
        (START + [4.1] * 100, "yes"),
        (START + [11.0] * 100 + [6.1] * 100, "yes"),  # 5.1 of the 10 gained are left
        (START + [11.0] * 100 + [5.9] * 100, "collapsed"),
    ],
)
def test_fate_of_a_run(returns, fate):
    assert describe_fate(np.array(returns)) == fate


def test_table_of_variants_and_the_zoo(tmp_path):
    """Game k ends at agent step 1000 k, so half a million agent steps are 500 games."""
    write_games(tmp_path / "fast/Pong/a2c-cnn/seed100", START * 5 + [11.0] * 500)
    write_games(tmp_path / "fast/Pong/a2c-cnn/seed101", START * 6)
    write_games(tmp_path / "slow/Pong/a2c-cnn/seed100", [])
    zoo = tmp_path / "zoo.csv"
    zoo.write_text(
        "# source\nmillion_agent_steps,Pong,Qbert\n0.25,-21,1\n0.5,-20,2\n1.0,-7,3\nmean,1,2\n"
    )
    assert format_trials([tmp_path / "fast", tmp_path / "slow"], [0.5, 1], zoo) == [
        "| game | variant | seeds | first 0.5M | first 1M | last 100 games | took off |",
        "|---|---|---|---:|---:|---:|---|",
        "| Pong | fast | 100, 101 | 1 (1 to 1) | 6 [1 of 2] | 6 (1 to 11) (at 0.6M) | 1 of 2 |",
        "| Pong | slow | 100 | - | - | - (at 0M) | 0 of 1 |",
        "| Pong | rl-baselines3-zoo's own agent | 1 | -20.5 | -16 | -7 | |",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("FOLDER", "FOLDER has no runs <Game>/<arm>/seed<k>; give another folder."),
        ("FOLDER --marks 0", "--marks must be above 0, got 0."),
    ],
)
def test_what_cannot_be_shown_is_one_line(tmp_path, refuse, arguments, message):
    line = refuse(main, arguments.replace("FOLDER", str(tmp_path)).split())
    assert line == f"error: {message}".replace("FOLDER", str(tmp_path))
