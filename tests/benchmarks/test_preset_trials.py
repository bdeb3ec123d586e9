import pytest

from benchmarks.preset_trials import format_trials, main
from configs.run_config import make_config
from tests.synthetic_runs import write_run

START = [0.0, 2.0] * 50


def test_table_of_variants(tmp_path):
    """Game k ends at agent step 1000 k, so half a million agent steps are 500 games."""
    for variant, seed, returns in (
        ("slow", 100, []),
        ("fast", 101, START * 6),
        ("fast", 100, START * 5 + [11.0] * 500),
    ):
        steps = {"total_agent_steps": 1000 * len(returns) or 1000, "seed": seed}
        write_run(tmp_path / variant, make_config("Pong", "a2c", steps), returns)
    assert format_trials([tmp_path / "fast", tmp_path / "slow"], [0.5, 1]) == [
        "| game | variant | seeds | first 0.5M | first 1M | last 100 games "
        "| live, layer 0 | live, layer 1 | live, layer 2 |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
        "| Pong | fast | 100, 101 | 1 (1 to 1) | 6 [1 of 2] | 6 (1 to 11) (at 0.6M) | - | - | - |",
        "| Pong | slow | 100 | - | - | - (at 0.001M) | - | - | - |",
    ]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "error: FOLDER has no runs <Game>/<arm>/seed<k>; give another folder."),
        (["--marks", "1", "0"], "--marks must be above 0, got 0; see "),
        (["--marks", "nan"], "--marks must be above 0, got nan; see "),
    ],
)
def test_what_cannot_be_shown_is_one_line(tmp_path, refuse, more, message):
    line = refuse(main, [str(tmp_path), *more])
    assert message.replace("FOLDER", str(tmp_path)) in line
