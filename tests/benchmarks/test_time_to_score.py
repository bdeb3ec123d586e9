import csv
import math

import pytest

from benchmarks import time_to_score
from benchmarks.time_to_score import Time, Times, format_times, main, read_times
from tests.synthetic_runs import write_games

NEVER = math.inf


def test_the_time_of_passing_is_that_of_the_game_that_lifts_the_mean(tmp_path):
    """Of the first 100 games, which take 10 minutes, the mean return is 0, or -0.1."""
    write_games(tmp_path / "mine/Pong/a2c-cnn/seed0", [k - 50.5 for k in range(1, 121)])
    write_games(tmp_path / "mine/Pong/a2c-cnn/seed1", [k - 50.6 for k in range(1, 121)])
    write_games(tmp_path / "mine/Pong/a2c-cnn/seed2", [-1.0] * 110)
    write_games(tmp_path / "mine/Pong/a2c-cnn/seed3", [])
    write_games(tmp_path / "mine/Seaquest/a2c-cnn/seed0", [1.0] * 110)  # has no threshold
    games = tmp_path / "mine/Pong/a2c-cnn/seed1/episodes.csv"
    games.write_text(games.read_text().replace(",606.000\n", ",606.900\n"))
    assert read_times(tmp_path) == {
        ("Pong", 0): {"mine": [Time(10, 12), Time(10.115, 12), Time(NEVER, 11), Time(NEVER, 0)]}
    }


def test_table_has_medians_and_how_many_times_sooner():
    times: Times = {
        ("Breakout", 10): {
            "zoo-a2c": [Time(40, 60)],
            "a2c-cnn": [Time(4, 60), Time(NEVER, 60), Time(2.5, 60)],
        },
        ("Breakout", 30): {
            "zoo-a2c": [Time(NEVER, 60)],
            "zoo-ppo": [Time(NEVER, 18)],
            "mine": [Time(5, 60)],
        },
    }
    assert format_times(times) == [
        "| game, mean return | zoo-a2c | zoo-ppo | a2c-cnn | mine |",
        "|---|---:|---:|---:|---:|",
        "| Breakout, 10 | 40.0 | - | 4.0 (2.5, 4.0, > 60), 10 x | - |",
        "| Breakout, 30 | > 60 | > 18 | - | 5.0, > 12 x |",
    ]


def test_a_race_is_run_and_not_run_again(tmp_path, capsys, monkeypatch):
    """Both are stopped at their first finished game, which comes after the limit."""
    monkeypatch.setattr(time_to_score, "SECONDS_BETWEEN_LOOKS", 0.2)
    names = ["a2c-cnn", "zoo-ppo"]
    arguments = [str(tmp_path), "--contestants", *names, "--games", "Breakout", "--jobs", "2"]
    arguments += ["--limit", "0.001", "--set", "n_envs=2", "--set", "log_every_agent_steps=200"]
    assert main(arguments) == 0
    for of_threshold in read_times(tmp_path).values():
        assert of_threshold.keys() == set(names)
        assert min(time.trained for (time,) in of_threshold.values()) > 0.001
    with next(tmp_path.glob("zoo-ppo/Breakout/ppo-cnn/seed0/episodes.csv")).open() as file:
        game = next(csv.DictReader(file))
    assert float(game["return"]) >= 0
    assert int(game["agent_steps"]) > int(game["length_agent_steps"]) > 20
    assert int(game["length_frames"]) // 4 == int(game["length_agent_steps"])
    capsys.readouterr()
    assert main(arguments) == 0
    assert "started" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--games Seaquest", "invalid choice: 'Seaquest'"),
        ("--jobs 0", "--jobs must be above 0"),
        ("--report", "race has no runs of this program's; give its folder."),
    ],
)
def test_what_cannot_be_raced_is_one_line(tmp_path, refuse, arguments, message):
    assert message in refuse(main, [str(tmp_path / "race"), *arguments.split()])
    assert not (tmp_path / "race").exists()
