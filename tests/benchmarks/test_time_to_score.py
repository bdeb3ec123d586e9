import csv
import math

import pytest

from benchmarks.time_to_score import (
    Entry,
    Results,
    Time,
    format_times,
    main,
    measure_times,
    read_results,
    scan_runs,
)
from experiments.comparison.report.records import read_episodes
from tests.benchmarks.games import write_games

NEVER = math.inf


def test_the_time_of_passing_is_that_of_the_game_that_lifts_the_mean(tmp_path):
    """Return k in game k, after k / 10 minutes: the mean of games 1 to 100 is 50.5."""
    write_games(tmp_path / "run", list(range(1, 121)))
    episodes = read_episodes(tmp_path / "run/episodes.csv")
    times = measure_times(episodes, (50.5, 50.6, 70.5, 70.6))
    assert {at: t.minutes for at, t in times.items()} == {
        50.5: 10.0,
        50.6: 10.1,
        70.5: 12.0,
        70.6: NEVER,
    }
    assert times[70.6] == Time(NEVER, 12.0)
    assert measure_times(episodes, (70.5,), 11)[70.5] == Time(NEVER, 11)
    assert measure_times(None, (1,)) == {1: Time(NEVER, 0)}


def test_table_has_medians_and_how_many_times_sooner():
    results: Results = {
        (Entry("zoo-a2c", "Breakout", 0), 10): Time(40, 60),
        (Entry("zoo-a2c", "Breakout", 0), 30): Time(NEVER, 60),
        (Entry("zoo-ppo", "Breakout", 0), 30): Time(NEVER, 18, ended=True),
        (Entry("mine", "Breakout", 0), 30): Time(5, 60),
        (Entry("a2c-cnn", "Breakout", 0), 10): Time(4, 60),
        (Entry("a2c-cnn", "Breakout", 1), 10): Time(NEVER, 60),
        (Entry("a2c-cnn", "Breakout", 2), 10): Time(2.5, 60),
    }
    assert format_times(results) == [
        "| game, mean return | zoo-a2c | zoo-ppo | a2c-cnn | mine |",
        "|---|---:|---:|---:|---:|",
        "| Breakout, 10 | 40.0 | - | 4.0 (2.5, 4.0, > 60), 10 x | - |",
        "| Breakout, 30 | > 60 | > 18 (whole training) | - | 5.0, > 12 x |",
    ]


def test_existing_runs_are_reported_beside_results(tmp_path, capsys):
    write_games(tmp_path / "race/a2c-cnn/Pong/a2c-cnn/seed0", [1.0] * 100)
    write_games(tmp_path / "runs/Pong/a2c-coordconv/seed3", [-5.0] * 110)
    (tmp_path / "race/results.csv").write_text(
        "contestant,game,seed,threshold,minutes,trained_minutes,ended\nzoo-a2c,Pong,0,0,80,90,0\n"
    )
    arguments = [str(tmp_path / "race"), "--report", "--runs", f"other={tmp_path / 'runs'}"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[2:] == ["| Pong, 0 | 80.0 | 10.0, 8 x | > 11 |"]


def test_a_race_is_run_recorded_and_not_run_again(tmp_path, capsys):
    """Both are stopped at their first finished game, which comes after the limit."""
    names = ["a2c-cnn", "zoo-ppo"]
    arguments = [str(tmp_path), "--contestants", *names, "--games", "Breakout", "--jobs", "2"]
    arguments += ["--limit", "0.001", "--poll", "0.2", "--set", "n_envs=2"]
    assert main(arguments) == 0
    expected = {
        (Entry(name, "Breakout", 0), at): Time(NEVER, 0.001) for name in names for at in (10, 30)
    }
    assert read_results(tmp_path) == expected
    for name, t in scan_runs(tmp_path, None, {"Breakout": (10,)}).items():
        assert t.trained_minutes > 0.001, name
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
        ("--games Pnog", "Unknown game 'Pnog'. Did you mean Pong?"),
        ("--games Seaquest", "Seaquest has no threshold; add --threshold Seaquest=SCORE."),
        ("--threshold Pong=x", "--threshold takes Game=SCORE,...: could not convert string"),
        ("--jobs 0", "--jobs must be at least 1, got 0."),
        ("--report --runs x", "--runs takes NAME=FOLDER, a folder that exists, got 'x'."),
    ],
)
def test_what_cannot_be_raced_is_one_line(tmp_path, refuse, arguments, message):
    line = refuse(main, [str(tmp_path / "race"), *arguments.split()])
    assert line.startswith(f"error: {message}")
    assert not (tmp_path / "race").exists()


def test_a_damaged_results_file_is_one_line(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("contestant,game,seed\nzoo-a2c,Pong,0\n")
    with pytest.raises(ValueError, match=r"results\.csv: .* is not a result; remove the row\.$"):
        read_results(tmp_path)
