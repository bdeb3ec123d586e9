"""Learning curves of any runs, and what the command refuses."""

from pathlib import Path

import pytest

from configs.run_config import make_config
from experiments import plot
from experiments.comparison.archive import pack_runs
from tests.synthetic_runs import write_run

LENGTH = {"total_agent_steps": 1000}


def write_runs(runs: Path, arms: dict[str, list[list[float]]]) -> Path:
    """Of Breakout with A2C; the returns of each seed's games by arm."""
    for arm, seeds in arms.items():
        layers = {"coord_layers": [0]} if arm == "coordconv" else {}
        for seed, returns in enumerate(seeds):
            config = make_config("Breakout", "a2c", {**LENGTH, **layers, "seed": seed})
            write_run(runs, config, returns)
    return runs


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    constant = {"cnn": [[1.0] * 100, [2.0] * 100, [3.0] * 100], "coordconv": [[4.0] * 9, [6.0] * 9]}
    return write_runs(tmp_path / "runs", constant)


def test_means_and_bands_of_runs_and_of_their_archive(runs: Path, tmp_path: Path) -> None:
    """100 games make 20 bins; the means are 2 and 5, the half-width 4.30265 / sqrt(3)."""
    pack_runs(runs, tmp_path / "archive" / "runs")
    for place in (runs, tmp_path / "archive" / "runs" / "Breakout"):
        out = tmp_path / "out.csv"
        assert plot.main([str(place), "--out", str(out)]) == 0
        header, *rows = out.read_text().splitlines()
        assert header == "game,line,agent_steps,mean,low,high,seeds"
        assert rows[:2] == [
            "Breakout,a2c-cnn,25,2,-0.484138,4.48414,3",
            "Breakout,a2c-cnn,75,2,-0.484138,4.48414,3",
        ]
        assert rows[-1] == "Breakout,a2c-coordconv,975,5,,,2"  # no band of two seeds
        assert len(rows) == 20 + 18  # the first of coordconv's 9 games ended at step 111


def test_lines_of_several_folders_and_a_table(runs: Path, tmp_path: Path, capsys) -> None:
    short = write_runs(tmp_path / "short", {"cnn": [[7.0]]})
    out = tmp_path / "out.png"
    arguments = [str(short), str(runs), str(runs / "Breakout" / "a2c-cnn" / "seed0")]
    for _ in range(2):  # it takes the place of itself
        assert plot.main([*arguments, "--out", str(out), "--every", "500"]) == 0
        assert out.read_bytes().startswith(b"\x89PNG")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0][-3:] == ["500", "1_000", "last"]
    assert [line[1:3] for line in lines[1:8]] == [
        *[["runs:", "a2c-cnn"]] * 3,
        *[["runs:", "a2c-coordconv"]] * 2,
        ["short:", "a2c-cnn"],
        ["return", "of"],
    ]
    assert lines[2][-3:] == ["-", "2.0", "2.0"]  # 50 games had ended at 500
    panels = plot.make_panels(plot.group_by_line(plot.find_records([short, runs])))
    assert [curves.shape for curves in panels[0].curves] == [(1, 20), (3, 20), (2, 20)]


def test_other_paths_to_the_same_runs(runs: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(runs / "Breakout" / "a2c-cnn")
    assert plot.main(["../a2c-coordconv", ".", "--out", "x.csv"]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    lines = [line.split()[1] for line in output.out.splitlines()[1:6]]
    assert lines == ["a2c-cnn"] * 3 + ["a2c-coordconv"] * 2


def test_a_mean_over_different_experiments_is_told(runs: Path, capsys) -> None:
    add = {"total_agent_steps": 2000, "seed": 7, "protocol": "machado"}
    write_run(runs, make_config("Breakout", "a2c", add), [3.0], sources=["abc"])
    write_run(runs, make_config("Pong", "a2c", add), [3.0])  # alone in its panel
    assert plot.main([str(runs), "--out", str(runs / "out.csv")]) == 0
    assert capsys.readouterr().err == (
        "a2c-cnn, Breakout: one line for runs that differ in protocol, source version, "
        "total_agent_steps; draw them from folders of their own.\n"
    )


@pytest.mark.parametrize(
    ("runs_given", "out", "message"),
    [
        ("nowhere", "a.png", "nowhere is not a folder; give one with runs, such as runs."),
        ("empty", "a.png", "empty has no runs; give the folder that was --runs."),
        ("runs", "a.gif", "--out must end in .png, .pdf or .csv, got a.gif."),
        ("runs", "e.csv", "e.csv holds something else; choose another name."),
        ("runs", "d.pdf", "d.pdf is a directory; give the path of a file."),
        ("idle", "a.png", "idle/Pong/a2c-cnn/seed0: no game has ended yet; train longer."),
    ],
)
def test_refusals(runs: Path, monkeypatch, refuse, runs_given: str, out: str, message: str) -> None:
    monkeypatch.chdir(runs.parent)
    Path("empty").mkdir()
    Path("d.pdf").mkdir()
    Path("e.csv").write_text("my,own\n")
    write_run(Path("idle"), make_config("Pong", "a2c", LENGTH), [], state="running")
    assert refuse(plot.main, [runs_given, "--out", out]) == f"error: {message}"
    assert Path("e.csv").read_text() == "my,own\n"


def test_a_table_of_too_many_columns_is_refused(runs: Path, monkeypatch, refuse) -> None:
    monkeypatch.chdir(runs.parent)
    monkeypatch.setattr(plot, "_MOST_MARKS", 9)
    assert refuse(plot.main, ["runs", "--every", "100"]) == (
        "error: --every 100 is too often for a run of 1_000 agent steps; give at least 112."
    )
    assert not Path("learning-curves.png").exists()
