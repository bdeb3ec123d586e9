"""What the files of a run and of a comparison can hold instead of what was written there.

The report leaves a damaged run out and says why; what it cannot do without is refused in one line
that names the file and the remedy.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import train
from configs.run_config import make_config
from experiments.comparison import __main__ as report
from experiments.comparison.plan import make_plan, save_plan
from tests.synthetic_runs import write_run
from tests.system.test_wrong_options import LAYERS, SEED, SHOWN

GAMMA = "`gamma` must be a number at least 0 and at most 1"
RATE = "`learning_rate` must be a number at least 0 and at most 1e+30"
HUGE = 10**400 - 1
NO_JSON = "{path} is not valid JSON (Expecting value at line 1, column 1); correct or replace it."
NO_OBJECT = "{path}: a config must be a JSON object; restore the file."


# --- what a report reads --------------------------------------------------------------------------


def make_comparison(runs: Path) -> Path:
    """A comparison of finished runs; returns one of their directories."""
    plan = make_plan(algo="a2c", overrides={"total_agent_steps": 1000}, games=["Pong"], seeds=2)
    for config in plan.runs():
        write_run(runs, config, [1, 2, 3])
    save_plan(plan, runs)
    return runs / "Pong" / "a2c-coordconv" / "seed1"


def left_out() -> list[dict[str, str]]:
    """What a report of the runs says that it leaves out."""
    assert report.main(["runs"]) == 0
    told: list[dict[str, str]] = json.loads(Path("runs/report.json").read_text())["left_out"]
    return told


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        *((name, b"", NO_JSON) for name in ("config.json", "status.json", "provenance.json")),
        ("config.json", b"[]", NO_OBJECT),
        ("status.json", b"[]", "{path}: not a status; delete the file and run again."),
        ("provenance.json", b"[]", "{path}: not a list of starts; restore the file."),
        ("episodes.csv", b"\xff", "{path}: not a table of games; restore the file."),
        ("status.json", None, "{path} is a directory; give the path of a file."),
        ("episodes.csv", None, "{path} is a directory; give the path of a file."),
    ],
)
def test_a_report_leaves_out_a_damaged_run_and_says_why(here, capsys, name, content, reason):
    path = make_comparison(Path("runs")) / name
    path.unlink()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    run = path.parent.relative_to("runs").as_posix()
    assert left_out() == [{"run": run, "reason": reason.replace("{path}", name)}]
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("here", "no_figures")
def test_a_report_of_no_known_game_and_of_an_intact_copy():
    stranger = Path("runs/<script>/a2c-coordconv/seed1")
    shutil.copytree(make_comparison(Path("runs")), stranger)
    config = json.loads((stranger / "config.json").read_text())
    config["run"]["game"] = "<script>"
    (stranger / "config.json").write_text(json.dumps(config))
    reason = "Unknown game '<script>'. `train.py --list-games` lists them."
    for with_plan in (True, False):
        if not with_plan:
            Path("runs/comparison.json").unlink()
        assert left_out() == [{"run": "<script>/a2c-coordconv/seed1", "reason": reason}]
        assert "<script>" not in Path("runs/report.html").read_text()
    shutil.rmtree("runs/<script>")
    assert left_out() == []


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("comparison.json", b"", NO_JSON),
        ("comparison.json", b"[]", NO_OBJECT),
        ("evaluation/ablation.json", b"", NO_JSON),
        (
            "evaluation/ablation.json",
            b"[]",
            "{path}: not an ablation; delete the file and give --ablate again.",
        ),
        ("evaluation/ablation.json", b"{}", "{path}: `trained_agent_steps` is missing; add it."),
    ],
)
def test_a_report_refuses_a_damaged_plan_or_ablation(refuse, name, content, message):
    folder = make_comparison(Path("runs"))
    path = (Path("runs") if name == "comparison.json" else folder) / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    assert refuse(report.main, ["runs"]) == "error: " + message.replace("{path}", str(path))
    assert not list(Path("runs").glob("report*"))


# --- config.json ----------------------------------------------------------------------------------

GONE = object()
NOT_READ = "format version {} is not the one this release reads (2); use the release that wrote it."
NO_SECTION = "the section `{}` is missing; restore the file."

Damage = tuple[str, Any, str]


def each(place: str, limits: str, *values: tuple[Any, str]) -> list[Damage]:
    """Damages of one setting: the value in the file, and how it is told."""
    return [(place, value, f"{limits}, got {told}.") for value, told in values]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("format_version", GONE, NOT_READ.format(None)),
        ("format_version", 1, NOT_READ.format(1)),
        ("format_version", True, NOT_READ.format(True)),
        ("run", GONE, NO_SECTION.format("run")),
        ("run", [], NO_SECTION.format("run")),
        ("network", GONE, NO_SECTION.format("network")),
        ("network", 1, NO_SECTION.format("network")),
        ("netwrk", {}, "unknown setting 'netwrk'; did you mean `network`?"),
        *each("run.algo", "`algo` must be one of a2c, dqn", ({}, "{}")),
        ("run.seed", GONE, "`seed` is missing; add it."),
        *each("run.seed", SEED, (None, "none"), (True, "true"), (1.0, "1"), (HUGE, SHOWN)),
        *each("hyperparameters.gamma", GAMMA, ("x", "'x'"), (-1, "-1"), (False, "false")),
        *each("hyperparameters.learning_rate", RATE, (HUGE, SHOWN)),
        *each("network.with_radius", "`with_radius` must be true or false", (0, "0")),
        *each("execution.keep_replay", "`keep_replay` must be true or false", ("true", "'true'")),
        *each("run.game", "`game` must be text", (3, "3")),
        *each("run.game", "`game` must be printable text", ("Pong\u202e", "'Pong\\u202e'")),
        *each("run.precision", "`precision` must be one of fp32, bf16", (["fp32"], "['fp32']")),
        *each("network.coord_layers", "`coord_layers` must be a list", ("0", "'0'"), (0, "0")),
        *each("network.coord_layers", LAYERS, ([3], "3"), ([0.0], "0"), ([[0]], "[0]")),
    ],
)
def test_a_damaged_config_is_named(here, refuse, place, value, message):
    config = json.loads(make_config("Breakout", "a2c", {}).to_json())
    section, _, name = place.rpartition(".")
    damaged = config[section] if section else config
    if value is GONE:
        del damaged[name]
    else:
        damaged[name] = value
    path = Path("runs/Breakout/a2c-cnn/seed0/config.json")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(config))
    before = path.read_bytes()
    line = refuse(train.main, ["--game", "Breakout", "--device", "cpu"])
    assert line == f"error: {path}: {message}"
    assert list(path.parent.iterdir()) == [path]
    assert path.read_bytes() == before


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("content", "message"), [(b"", NO_JSON), (b"[]", NO_OBJECT)])
def test_a_config_that_is_none(refuse, content, message):
    path = Path("runs/Breakout/a2c-cnn/seed0/config.json")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    line = refuse(train.main, ["--game", "Breakout", "--device", "cpu"])
    assert line == "error: " + message.replace("{path}", str(path))
    assert list(path.parent.iterdir()) == [path]
