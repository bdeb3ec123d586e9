"""What a user is told of a run: its line while it trains, its returns at the end."""

import pytest

from agents.training.command import describe_returns
from agents.training.progress import Progress, describe_progress
from tests.synthetic_runs import write_games


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            (None, 600, 9_999, 0.0),
            "no finished game, 600 of 9.999k steps (6.0%), 0/s, unknown time left",
        ),
        (
            (-20.36, 1_234_567, 10_000_000, 1928.4),
            "mean return -20.4, 1.235M of 10M steps (12.3%), 1928/s, 1 h 15 min left",
        ),
        (
            (1_234_567.8, 199_999_999, 199_999_999, 12_345.0),
            "mean return 1234567.8, 200M of 200M steps (100.0%), 12345/s, 0 s left",
        ),
    ],
)
def test_a_line_fits_80_columns(values, line):
    assert describe_progress(*values) == line
    assert len(line) < 80


@pytest.mark.parametrize(
    ("on_terminal", "out", "err"),
    [
        (True, "", "\rno finished game, 10 of 20 steps (50.0%\x1b[K" * 2 + "\n"),
        (False, "no finished game, 10 of 20 steps (50.0%), 0/s, 30 s left\n", ""),
    ],
)
def test_a_line_is_rewritten_on_a_terminal(monkeypatch, capsys, on_terminal, out, err):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("sys.stderr.isatty", lambda: on_terminal)
    monkeypatch.setenv("COLUMNS", "40")
    episodes = type("Episodes", (), {"means": None})
    progress = Progress(0, 20, episodes)  # type: ignore[arg-type]
    progress.num_timesteps = 10
    for seconds in (0.1, 1.9 if on_terminal else 30):
        now[0] += seconds
        progress._on_step()
    progress.close()
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == (out, err)


@pytest.mark.parametrize(
    ("returns", "told"),
    [
        ([], {"mean return": "no finished game"}),
        ([1, 4], {"mean return": "2.5, of the last 2 games", "best": "2.5, of 2 games up to 2"}),
        (
            [0] * 50 + [3] * 100 + [1] * 50,
            {"mean return": "2.0, of the last 100 games", "best": "3.0, of 100 games up to 150"},
        ),
    ],
)
def test_returns(tmp_path, returns, told):
    write_games(tmp_path / "run", returns, steps_per_game=1)
    if returns:
        told |= {"best": f"{told['best']} agent steps"}
    assert describe_returns(tmp_path / "run/episodes.csv") == told


@pytest.mark.parametrize("content", ["agent_steps,return\n5,1\n", None])
def test_returns_of_a_damaged_file(tmp_path, content):
    path = tmp_path / "episodes.csv"
    if content is not None:
        path.write_text(content)
    told = {"mean return": "unknown, as episodes.csv cannot be read"}
    assert describe_returns(path) == told
