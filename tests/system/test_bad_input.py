"""What users can get wrong: command lines of train.py and of the report, and what they read.

Each answer is one line that names the value and the remedy, with exit status 2 and nothing
written. Single readers are tested where they live: settings, files, model files.
"""

import json
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import train
from configs.run_config import make_config
from experiments.comparison import __main__ as report
from experiments.comparison.plan import make_plan, save_plan
from tests.synthetic_runs import write_run

STEPS = "`total_agent_steps` must be a whole number at least 1 and at most 1_000_000_000_000"
SEED = "`seed` must be a whole number at least 0 and at most 2_147_483_647"
LAYERS = "`coord_layers` must be a whole number at least 0 and at most 2"
GAMMA = "`gamma` must be a number at least 0 and at most 1"
RATE = "`learning_rate` must be a number at least 0 and at most 1e+30"
HUGE = "9" * 400
SHOWN = "9" * 57 + "..."


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refuse(
    arguments: list[str], capsys: pytest.CaptureFixture[str], command: Any = train.main
) -> str:
    """The one line that a command is refused with."""
    with pytest.raises(SystemExit) as stop:
        command(arguments)
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("\n")
    return captured.err[:-1]


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        # --game
        ([], "--game is missing: name a game, such as --game Pong; --list-games lists them."),
        (["--game", ""], "Unknown game ''. --list-games lists them."),
        (
            ["--game", "Brekout"],
            "Unknown game 'Brekout'. Did you mean Breakout? --list-games lists them.",
        ),
        (["--game", "Schach é\n"], "Unknown game 'Schach é\\n'. --list-games lists them."),
        (["--game", "-1"], "Unknown game '-1'. --list-games lists them."),
        # --steps, --seed, --n-envs: whole numbers
        (["--steps", ""], f"--steps: {STEPS}, got ''."),
        (["--steps", "0"], f"--steps: {STEPS}, got 0."),
        (["--steps", "-5"], f"--steps: {STEPS}, got -5."),
        (["--steps", "1.5"], f"--steps: {STEPS}, got '1.5'."),
        (["--steps", "nan"], f"--steps: {STEPS}, got 'nan'."),
        (["--steps", "inf"], f"--steps: {STEPS}, got 'inf'."),
        (["--steps", "1e13"], f"--steps: {STEPS}, got 10_000_000_000_000."),
        (["--steps", HUGE], f"--steps: {STEPS}, got {SHOWN}."),
        (["--steps", "9" * 5000], f"--steps: {STEPS}, got '{SHOWN[1:]}."),
        (["--steps", "viele é"], f"--steps: {STEPS}, got 'viele é'."),
        (["--seed", "-1"], f"--seed: {SEED}, got -1."),
        (["--seed", "2147483648"], f"--seed: {SEED}, got 2_147_483_648."),
        (["--seed", "true"], f"--seed: {SEED}, got 'true'."),
        (
            ["--n-envs", "0"],
            "--n-envs: `n_envs` must be a whole number at least 1 and at most 1_024, got 0.",
        ),
        # --coord-layers
        (["--coord-layers", ""], "--coord-layers must name convolutions, 0 to 2, got none."),
        (["--coord-layers", "3"], f"--coord-layers: {LAYERS}, got 3."),
        (["--coord-layers", "-1"], f"--coord-layers: {LAYERS}, got -1."),
        (["--coord-layers", "x"], f"--coord-layers: {LAYERS}, got 'x'."),
        (["--coord-layers", "0.5"], f"--coord-layers: {LAYERS}, got '0.5'."),
        (["--coord-layers", "nan"], f"--coord-layers: {LAYERS}, got 'nan'."),
        (["--coord-layers", HUGE], f"--coord-layers: {LAYERS}, got {SHOWN}."),
        (
            ["--coord-layers", "1", "0"],
            "`coord_layers` must name each convolution once, in order, got [1, 0].",
        ),
        (
            ["--coord-layers", "0", "0"],
            "`coord_layers` must name each convolution once, in order, got [0, 0].",
        ),
        # --radius, --coord-init
        (["--radius"], "`with_radius` needs a layer with coordinates; add --coordconv."),
        (
            ["--coord-init", "zero"],
            "`coord_init` needs a layer with coordinates; add --coordconv.",
        ),
        (
            ["--coordconv", "--coord-init", ""],
            "--coord-init: `coord_init` must be one of default, zero, got ''.",
        ),
        # --protocol, --precision: names
        (
            ["--protocol", "atari"],
            "--protocol: `protocol` must be one of baselines, machado, got 'atari'.",
        ),
        (["--precision", ""], "--precision: `precision` must be one of fp32, bf16, got ''."),
        # --device
        (["--device", ""], "`device` must be auto, cpu, cuda or cuda:N, got ''."),
        (["--device", "gpu"], "`device` must be auto, cpu, cuda or cuda:N, got 'gpu'."),
        (["--device", "meta"], "`device` must be auto, cpu, cuda or cuda:N, got 'meta'."),
        (["--device", "cpu\n"], "--device: `device` must be printable text, got 'cpu\\n'."),
        # --runs
        (["--runs", ""], "--runs must name a folder, got ''."),
        (["--runs", "a\nb"], "--runs must name a folder, got 'a\\nb'."),
        (["--runs", "a\udcff"], "--runs must name a folder, got 'a\\udcff'."),
        (
            ["--runs", "file"],
            "cannot write to file/Breakout/a2c-cnn/seed0 (Not a directory); choose another --runs "
            "folder.",
        ),
        (
            ["--runs", "file/below"],
            "cannot write to file/below/Breakout/a2c-cnn/seed0 (Not a directory); choose another "
            "--runs folder.",
        ),
        (
            ["--runs", "x" * 300],
            f"cannot use {'x' * 300}/Breakout/a2c-cnn/seed0 (File name too long); choose another "
            "--runs folder.",
        ),
        # --set
        (["--set", ""], "--set takes key=value, got ''."),
        (["--set", "gamma"], "--set takes key=value, got 'gamma'."),
        (["--set", "=1"], "--set takes key=value, got '=1'."),
        (["--set", "gama=1"], "--set: unknown setting 'gama'; did you mean `gamma`?"),
        (
            ["--set", "größe=1"],
            "--set: unknown setting 'größe'; known: threads, precision, gae_lambda, rms_prop_eps, "
            "coord_layers, ...",
        ),
        (  # DQN's
            ["--set", "tau=1"],
            "--set: unknown setting 'tau'; known: with_radius, threads, gamma, total_agent_steps, "
            "n_steps, ...",
        ),
        (
            ["--game", "PongNoFrameskip-v4"],
            "Unknown game 'PongNoFrameskip-v4'. Did you mean Pong? --list-games lists them.",
        ),
        (
            ["--game", "ALE/Pong-v5"],
            "Unknown game 'ALE/Pong-v5'. Did you mean Pong? --list-games lists them.",
        ),
        (["--preset", "zo"], "--preset: unknown preset of a2c 'zo'; did you mean `zoo`?"),
        (["--algo", "dqn", "--preset", "zoo"], "--preset: dqn has none; leave it out."),
        (
            ["--set", "gamma=0.9", "--set", "gamma=0.8"],
            "--set: `gamma` is given twice; give it once.",
        ),
        (
            ["--set", "seed=1", "--seed", "1"],
            "--seed and --set seed=... both set `seed`; give one of them.",
        ),
        # --set, a number
        (["--set", "gamma="], f"--set: {GAMMA}, got ''."),
        (["--set", "gamma=x"], f"--set: {GAMMA}, got 'x'."),
        (["--set", "gamma=-0.1"], f"--set: {GAMMA}, got -0.1."),
        (["--set", "gamma=1.1"], f"--set: {GAMMA}, got 1.1."),
        (["--set", "gamma=nan"], f"--set: {GAMMA}, got nan."),
        (["--set", "gamma=-inf"], f"--set: {GAMMA}, got -inf."),
        (["--set", "learning_rate=1e31"], f"--set: {RATE}, got 1e+31."),
        (["--set", f"learning_rate={HUGE}"], f"--set: {RATE}, got inf."),
        (
            ["--set", "max_grad_norm=0"],
            "--set: `max_grad_norm` must be a number above 0 and at most 1e+30, got 0.",
        ),
        (
            ["--set", "hang_timeout_seconds=-1"],
            "--set: `hang_timeout_seconds` must be a number above 0, got -1.",
        ),
        # --set, true or false
        (["--set", "keep_replay="], "--set: `keep_replay` must be true or false, got ''."),
        (["--set", "keep_replay=1"], "--set: `keep_replay` must be true or false, got '1'."),
        (["--set", "keep_replay=ja"], "--set: `keep_replay` must be true or false, got 'ja'."),
        # --set, a choice, a text, a list
        (
            ["--set", "learning_rate_schedule=cosine"],
            "--set: `learning_rate_schedule` must be one of constant, linear, got 'cosine'.",
        ),
        (["--set", "device=\x01"], "--set: `device` must be printable text, got '\\x01'."),
        (["--set", "coord_layers=0 3"], f"--set: {LAYERS}, got 3."),
        (
            ["--coordconv", "--set", "position=bias-map", "--radius"],
            "`with_radius` goes with coordinates, not with bias-map.",
        ),
        (
            ["--coordconv", "--set", "position=bias-map", "--coord-init", "zero"],
            "`coord_init` does not apply to bias-map: it always starts at zero.",
        ),
    ],
)
def test_wrong_values(here, capsys, arguments, message):
    (here / "file").write_text("not a folder")
    game = [] if not arguments or "--game" in arguments else ["--game", "Breakout"]
    assert refuse([*game, *arguments], capsys) == f"error: {message}"
    assert [path.name for path in here.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--game"], "argument --game: expected one argument"),
        (["--algo"], "argument --algo: expected one argument"),
        (["--algo", "ppo"], r"argument --algo: invalid choice: 'ppo' \(choose from .*\)"),
        (["--coord-layers"], "argument --coord-layers: expected at least one argument"),
        (["--coord-init"], "argument --coord-init: expected one argument"),
        (["--steps"], "argument --steps: expected one argument"),
        (["--seed"], "argument --seed: expected one argument"),
        (["--n-envs"], "argument --n-envs: expected one argument"),
        (["--protocol"], "argument --protocol: expected one argument"),
        (["--precision"], "argument --precision: expected one argument"),
        (["--device"], "argument --device: expected one argument"),
        (["--runs"], "argument --runs: expected one argument"),
        (["--set"], "argument --set: expected one argument"),
        (["--radius=1"], "argument --radius: ignored explicit argument '1'"),
        (["--coordconv=no"], "argument --coordconv: ignored explicit argument 'no'"),
        (["--dry-run=1"], "argument --dry-run: ignored explicit argument '1'"),
        (["--list-games=1"], "argument --list-games: ignored explicit argument '1'"),
        (["--game", "Pong", "extra"], "unrecognized arguments: extra"),
        (["--game", "Pong", "--größe", "3"], "unrecognized arguments: --größe 3"),
        (["--game", "Pong", "--step", "5"], "unrecognized arguments: --step 5"),  # no abbreviations
    ],
)
def test_wrong_options(here, capsys, arguments, message):
    line = refuse(arguments, capsys)
    assert re.fullmatch(rf"\S+: {message}; see \S+ --help\.", line), line
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "need"),
    [
        (["--set", "n_envs=1024", "--set", "n_steps=10_000"], "5121.23 GB of memory"),
        (
            ["--algo", "dqn", "--set", "batch_size=1_000_000"],
            "500.90 GB of memory",
        ),
        (["--algo", "dqn", "--set", "buffer_size=1e9"], "7424.02 GB of memory"),
        (["--steps", "1e12"], "500.12 GB of disk"),
    ],
)
def test_what_no_machine_has_is_refused_before_it_is_tried(
    here, capsys, monkeypatch, arguments, need
):
    monkeypatch.setattr("agents.training.requirements._read_available_memory", lambda: 32 * 10**9)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10**11}))
    line = refuse(["--game", "Breakout", "--device", "cpu", *arguments], capsys)
    assert line.startswith("error: ")
    assert f" needs {need}, " in line
    assert list(here.iterdir()) == []


# --- comparisons ----------------------------------------------------------------------------------

SEEDS = "--seeds: `seeds` must be a whole number at least 1 and at most 1_000"
JOBS = "--jobs: `jobs` must be a whole number at least 1 and at most 1_024"
RAY = "--ray must be the address of a cluster, or auto"
ARMS = (
    "use cnn, coordconv, coordconv-all, bias-map or random-channels, with -r for the radius, -zero "
    "for coordinate weights that start at 0."
)
MARGIN = "--set: `margin_fraction` must be a number at least 0 and at most 1"
ALPHA = "--set: `alpha` must be a number above 0 and at most 0.5"
MAX_SEEDS = "--set: `max_seeds` must be a whole number at least 3 and at most 10_000"
ONE_RUN = "is for one run, not for --compare; use --games, --arms and --seeds."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        # --games
        (["--games", ""], "Unknown game ''. --list-games lists them."),
        (
            ["--games", "Pong", "Brekout"],
            "Unknown game 'Brekout'. Did you mean Breakout? --list-games lists them.",
        ),
        (["--games", "-1"], "Unknown game '-1'. --list-games lists them."),
        (["--games", "../x"], "Unknown game '../x'. --list-games lists them."),
        (["--games", "Schach é\n"], "Unknown game 'Schach é\\n'. --list-games lists them."),
        (["--games", "Pong", "pong"], "`games` name Pong twice; name it once."),
        # --arms
        (["--arms", "cnn"], "--arms must name two or more arms, got 1; add one."),
        (["--arms", "cnn", ""], f"--arms: unknown arm ''; {ARMS}"),
        (["--arms", "cnn", "../x"], f"--arms: unknown arm '../x'; {ARMS}"),
        (["--arms", "cnn", "größe\n"], f"--arms: unknown arm 'größe\\n'; {ARMS}"),
        (["--arms", "cnn", "cnn"], "`arms` name cnn twice; name it once."),
        (
            ["--arms", "cnn", "coordconv-layer9"],
            f"--arms coordconv-layer9: {LAYERS}, got 9.",
        ),
        # --seeds, --jobs: whole numbers
        (["--seeds", ""], f"{SEEDS}, got ''."),
        (["--seeds", "0"], f"{SEEDS}, got 0."),
        (["--seeds", "-1"], f"{SEEDS}, got -1."),
        (["--seeds", "1.5"], f"{SEEDS}, got '1.5'."),
        (["--seeds", "nan"], f"{SEEDS}, got 'nan'."),
        (["--seeds", "é"], f"{SEEDS}, got 'é'."),
        (["--seeds", "1001"], f"{SEEDS}, got 1_001."),
        (["--seeds", HUGE], f"{SEEDS}, got {SHOWN}."),
        (["--dry-run", "--seeds", "0"], f"{SEEDS}, got 0."),
        (["--jobs", ""], f"{JOBS}, got ''."),
        (["--jobs", "0"], f"{JOBS}, got 0."),
        (["--jobs", "-1"], f"{JOBS}, got -1."),
        (["--jobs", "1.5"], f"{JOBS}, got '1.5'."),
        (["--jobs", "nan"], f"{JOBS}, got 'nan'."),
        (["--jobs", "viele"], f"{JOBS}, got 'viele'."),
        (["--jobs", "1025"], f"{JOBS}, got 1_025."),
        (["--jobs", HUGE], f"{JOBS}, got {SHOWN}."),
        # --ray
        (["--ray", ""], f"{RAY}, got ''."),
        (["--ray", "a\nb"], f"{RAY}, got 'a\\nb'."),
        # what both kinds take
        (["--steps", "0"], f"--steps: {STEPS}, got 0."),
        (["--steps", "nan"], f"--steps: {STEPS}, got 'nan'."),
        (["--device", "gpu"], "`device` must be auto, cpu, cuda or cuda:N, got 'gpu'."),
        (
            ["--protocol", "atari"],
            "--protocol: `protocol` must be one of baselines, machado, got 'atari'.",
        ),
        (["--runs", ""], "--runs must name a folder, got ''."),
        (
            ["--runs", "file"],
            "cannot write to file (File exists); choose another --runs folder.",
        ),
        (
            ["--runs", "file/below"],
            "cannot write to file/below (Not a directory); choose another --runs folder.",
        ),
        (
            ["--runs", "x" * 300],
            f"cannot use {'x' * 300} (File name too long); choose another --runs folder.",
        ),
        # --set, a criterion
        (["--set", "margin_fraction="], f"{MARGIN}, got ''."),
        (["--set", "margin_fraction=x"], f"{MARGIN}, got 'x'."),
        (["--set", "margin_fraction=-0.1"], f"{MARGIN}, got -0.1."),
        (["--set", "margin_fraction=2"], f"{MARGIN}, got 2."),
        (["--set", "margin_fraction=nan"], f"{MARGIN}, got nan."),
        (["--set", f"margin_fraction={HUGE}"], f"{MARGIN}, got inf."),
        (["--set", "alpha=0"], f"{ALPHA}, got 0."),
        (["--set", "alpha=1"], f"{ALPHA}, got 1."),
        (["--set", "max_seeds=2"], f"{MAX_SEEDS}, got 2."),
        (["--set", "max_seeds=5.5"], f"{MAX_SEEDS}, got '5.5'."),
        (["--set", "margin=1"], "--set: unknown setting 'margin'; did you mean `margin_fraction`?"),
        # --set, what the plan decides
        (["--set", "seed=3"], "`seed` is set by --seeds in a comparison; leave it out."),
        *(
            (
                ["--set", setting],
                f"`{setting.partition('=')[0]}` is set by the arms of a comparison; leave it out.",
            )
            for setting in (
                "coord_layers=0",
                "position=bias-map",
                "with_radius=true",
                "coord_init=zero",
            )
        ),
        # options of one run
        (["--game", "Pong"], f"--game {ONE_RUN}"),
        (["--game", ""], f"--game {ONE_RUN}"),
        (["--seed", "1"], f"--seed {ONE_RUN}"),
        (["--coordconv"], f"--coordconv {ONE_RUN}"),
        (["--coord-layers", "0"], f"--coord-layers {ONE_RUN}"),
        (["--radius"], f"--radius {ONE_RUN}"),
        (["--coord-init", "zero"], f"--coord-init {ONE_RUN}"),
        # more than the machine has: 0.6 GB a process, 0.5 MB a sample, 1.2 MB an environment
        (
            ["--jobs", "2", "--set", "n_envs=1024", "--set", "n_steps=10_000"],
            "2 jobs need 10243.7 GB of memory, 32.0 GB are available; give fewer --jobs.",
        ),
        # 90 runs of four files of 30 MB, and half a byte an agent step
        (
            ["--steps", "1e12"],
            "the plan needs 45010.8 GB of disk, 100.0 GB are free; make room or choose another "
            "--runs folder.",
        ),
    ],
)
def test_wrong_comparisons(here, capsys, monkeypatch, arguments, message):
    monkeypatch.delattr("experiments.comparison.command.execute")
    monkeypatch.setattr("agents.training.requirements._read_available_memory", lambda: 32 * 10**9)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10**11}))
    (here / "file").write_text("not a folder")
    assert refuse(["--compare", *arguments], capsys) == f"error: {message}"
    assert [path.name for path in here.iterdir()] == ["file"]


@pytest.mark.parametrize("option", ["--games", "--arms", "--seeds", "--jobs", "--ray"])
def test_options_of_a_comparison(here, capsys, option):
    several = "at least one argument" if option in ("--games", "--arms") else "one argument"
    line = refuse(["--compare", option], capsys)
    assert re.fullmatch(rf"\S+: argument {option}: expected {several}; see \S+ --help\.", line)
    assert refuse(["--game", "Pong", option, "2"], capsys) == (
        f"error: {option} is for a comparison; add --compare."
    )
    assert list(here.iterdir()) == []


# --- reports --------------------------------------------------------------------------------------

EPISODES = "--episodes: `episodes` must be a whole number at least 1 and at most 1_000_000"
NO_RUNS = "has no readable runs; train some first: python train.py --compare."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "RUNS must name a folder, got ''."),
        (["nowhere"], f"nowhere {NO_RUNS}"),
        (["file"], f"file {NO_RUNS}"),
        (["Schach é"], f"Schach é {NO_RUNS}"),
        ([".", "--ablate"], f". {NO_RUNS}"),
        (["x" * 300], f"cannot use {'x' * 300} (File name too long); choose another folder."),
        ([".", "--episodes", ""], f"{EPISODES}, got ''."),
        ([".", "--episodes", "0"], f"{EPISODES}, got 0."),
        ([".", "--episodes", "-1"], f"{EPISODES}, got -1."),
        ([".", "--episodes", "1.5"], f"{EPISODES}, got '1.5'."),
        ([".", "--episodes", "nan"], f"{EPISODES}, got 'nan'."),
        ([".", "--episodes", "é"], f"{EPISODES}, got 'é'."),
        ([".", "--episodes", HUGE], f"{EPISODES}, got {SHOWN}."),
    ],
)
def test_wrong_reports(here, capsys, arguments, message):
    (here / "file").write_text("not a folder")
    assert refuse(arguments, capsys, report.main) == f"error: {message}"
    assert [path.name for path in here.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: RUNS"),
        (["runs", "more"], "unrecognized arguments: more"),
        (["runs", "--größe"], "unrecognized arguments: --größe"),
        (["runs", "--abl"], "unrecognized arguments: --abl"),  # no abbreviations
        (["runs", "--ablate=1"], "argument --ablate: ignored explicit argument '1'"),
        (["runs", "--episodes"], "argument --episodes: expected one argument"),
    ],
)
def test_wrong_options_of_a_report(here, capsys, arguments, message):
    program = "python -m experiments.comparison"
    assert refuse(arguments, capsys, report.main) == f"{program}: {message}; see {program} --help."
    assert list(here.iterdir()) == []


JSON_FAULTS = {
    b"": "Expecting value at line 1, column 1",
    b'{"a": NaN}': "NaN is not a finite number",
    b"{}\xff": "not UTF-8 at byte 2",
    b"[" * 100_000: "nested more than 64 deep",
    pickle.dumps(0): "not UTF-8 at byte 0",
}
NO_GAMES = "{path}: not a table of games; restore the file."
COLUMNS = b"agent_steps,environment,return,length_frames,length_agent_steps,time_limit,seconds\n"


def no_figures(*_: Any) -> dict[str, bytes]:
    """Drawing takes a second."""
    return {"learning-curves": b""}


def make_comparison(runs: Path) -> Path:
    """A comparison of finished runs; returns one of their directories."""
    plan = make_plan(algo="a2c", overrides={"total_agent_steps": 1000}, games=["Pong"], seeds=2)
    for config in plan.runs():
        write_run(runs, config, [1, 2, 3])
    save_plan(plan, runs)
    return runs / "Pong" / "a2c-coordconv" / "seed1"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        *(
            (name, content, f"{{path}} is not valid JSON ({fault}); correct or replace it.")
            for name in ("config.json", "status.json", "provenance.json")
            for content, fault in JSON_FAULTS.items()
        ),
        ("config.json", b"[]", "{path}: a config must be a JSON object; restore the file."),
        ("status.json", b"[]", "{path}: not a status; delete the file and run again."),
        ("provenance.json", b"[]", "{path}: not a list of starts; restore the file."),
        ("episodes.csv", b"\xff", NO_GAMES),
        ("episodes.csv", pickle.dumps(0), NO_GAMES),
        ("episodes.csv", COLUMNS + b"5,0,nan,1,1,0,1\n", NO_GAMES),
        ("episodes.csv", COLUMNS + b"5,0,-inf,1,1,0,1\n", NO_GAMES),
        ("episodes.csv", COLUMNS + b"5,0,1e308,1,1,0,1\n", NO_GAMES),
        ("episodes.csv", COLUMNS + b"9223372036854775808,0,1,1,1,0,1\n", NO_GAMES),
        (
            "episodes.csv",
            b"a\n",
            "{path}: its columns are not those of this release; restore the file.",
        ),
        ("status.json", None, "{path} is a directory; give the path of a file."),
        ("episodes.csv", None, "{path} is a directory; give the path of a file."),
    ],
)
def test_a_report_leaves_out_a_damaged_run_and_says_why(
    here, capsys, monkeypatch, name, content, reason
):
    monkeypatch.setattr("experiments.comparison.report.render.draw_figures", no_figures)
    path = make_comparison(Path("runs")) / name
    path.unlink()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    assert report.main(["runs"]) == 0
    assert capsys.readouterr().err == ""
    left_out = json.loads(Path("runs/report.json").read_text())["left_out"]
    run = path.parent.relative_to("runs").as_posix()
    assert left_out == [{"run": run, "reason": reason.replace("{path}", name)}]


def test_a_report_of_no_known_game_and_of_an_intact_copy(here, capsys, monkeypatch):
    monkeypatch.setattr("experiments.comparison.report.render.draw_figures", no_figures)
    folder = make_comparison(Path("runs"))
    stranger = Path("runs/<script>/a2c-coordconv/seed1")
    shutil.copytree(folder, stranger)
    config = json.loads((stranger / "config.json").read_text())
    config["run"]["game"] = "<script>"
    (stranger / "config.json").write_text(json.dumps(config))
    for with_plan in (True, False):
        if not with_plan:
            Path("runs/comparison.json").unlink()
        assert report.main(["runs"]) == 0
        assert json.loads(Path("runs/report.json").read_text())["left_out"] == [
            {
                "run": "<script>/a2c-coordconv/seed1",
                "reason": "Unknown game '<script>'. --list-games lists them.",
            }
        ]
        assert "<script>" not in Path("runs/report.html").read_text()
    shutil.rmtree("runs/<script>")
    assert report.main(["runs"]) == 0
    assert json.loads(Path("runs/report.json").read_text())["left_out"] == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        *(
            (name, content, f"{{path}} is not valid JSON ({fault}); correct or replace it.")
            for name in ("comparison.json", "evaluation/ablation.json")
            for content, fault in JSON_FAULTS.items()
        ),
        (
            "comparison.json",
            b"[]",
            "{path}: a config must be a JSON object; restore the file.",
        ),
        (
            "evaluation/ablation.json",
            b"[]",
            "{path}: not an ablation; delete the file and give --ablate again.",
        ),
        (
            "evaluation/ablation.json",
            b"{}",
            "{path}: `trained_agent_steps` is missing; add it.",
        ),
    ],
)
def test_a_report_refuses_a_damaged_plan_or_ablation(here, capsys, name, content, message):
    folder = make_comparison(Path("runs"))
    path = (Path("runs") if name == "comparison.json" else folder) / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    line = refuse(["runs"], capsys, report.main)
    assert line == "error: " + message.replace("{path}", str(path))
    assert not list(Path("runs").glob("report*"))


# --- config.json ----------------------------------------------------------------------------------


def change(section: str | None, name: str, value: Any) -> Any:
    def apply(config: dict[str, Any]) -> None:
        (config if section is None else config[section])[name] = value

    return apply


def remove(section: str | None, name: str) -> Any:
    def apply(config: dict[str, Any]) -> None:
        del (config if section is None else config[section])[name]

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove(None, "format_version"), "format version None is not the one this release reads"),
        (change(None, "format_version", 1), "format version 1 is not the one this release reads"),
        (change(None, "format_version", True), "format version True is not the one this release"),
        (remove(None, "run"), "the section `run` is missing; restore the file."),
        (change(None, "run", []), "the section `run` is missing; restore the file."),
        (change("run", "algo", {}), "`algo` must be one of a2c, dqn, got {}."),
        (remove(None, "network"), "the section `network` is missing; restore the file."),
        (change(None, "network", 1), "the section `network` is missing; restore the file."),
        (change(None, "netwrk", {}), "unknown setting 'netwrk'; did you mean `network`?"),
        # int
        (remove("run", "seed"), "`seed` is missing; add it."),
        (change("run", "seed", None), f"{SEED}, got none."),
        (change("run", "seed", True), f"{SEED}, got true."),
        (change("run", "seed", "1"), f"{SEED}, got '1'."),
        (change("run", "seed", 1.0), f"{SEED}, got 1."),
        (change("run", "seed", -1), f"{SEED}, got -1."),
        (change("run", "seed", [0]), f"{SEED}, got [0]."),
        (change("run", "seed", int(HUGE)), f"{SEED}, got {SHOWN}."),
        (change("run", "total_agent_steps", 0), f"{STEPS}, got 0."),
        # float
        (change("hyperparameters", "gamma", "x"), f"{GAMMA}, got 'x'."),
        (change("hyperparameters", "gamma", -1), f"{GAMMA}, got -1."),
        (change("hyperparameters", "gamma", False), f"{GAMMA}, got false."),
        (change("hyperparameters", "learning_rate", int(HUGE)), f"{RATE}, got {SHOWN}."),
        # bool
        (
            change("network", "with_radius", 0),
            "`with_radius` must be true or false, got 0.",
        ),
        (
            change("execution", "keep_replay", "true"),
            "`keep_replay` must be true or false, got 'true'.",
        ),
        # str
        (change("run", "game", 3), "`game` must be text, got 3."),
        (change("run", "game", "Pong\u202e"), "`game` must be printable text, got 'Pong\\u202e'."),
        (change("execution", "device", None), "`device` must be text, got none."),
        # choice
        (
            change("run", "precision", ["fp32"]),
            "`precision` must be one of fp32, bf16, got ['fp32'].",
        ),
        # list
        (change("network", "coord_layers", "0"), "`coord_layers` must be a list, got '0'."),
        (change("network", "coord_layers", 0), "`coord_layers` must be a list, got 0."),
        (change("network", "coord_layers", [3]), f"{LAYERS}, got 3."),
        (change("network", "coord_layers", [0.0]), f"{LAYERS}, got 0."),
        (change("network", "coord_layers", [[0]]), f"{LAYERS}, got [0]."),
    ],
)
def test_a_damaged_config_is_named(here, capsys, damage, message):
    folder = here / "runs" / "Breakout" / "a2c-cnn" / "seed0"
    folder.mkdir(parents=True)
    config = json.loads(make_config("Breakout", "a2c", {}).to_json())
    damage(config)
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    before = path.read_bytes()
    line = refuse(["--game", "Breakout", "--device", "cpu"], capsys)
    expected = f"error: runs/Breakout/a2c-cnn/seed0/config.json: {message}"
    if message.startswith("format version"):
        assert line.startswith(expected)
        assert line.endswith("; use the release that wrote it.")
    else:
        assert line == expected
    assert [(file.name, file.read_bytes()) for file in folder.iterdir()] == [
        ("config.json", before)
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"",
            "{path} is not valid JSON (Expecting value at line 1, column 1); correct or replace "
            "it.",
        ),
        (
            b'{"run": NaN}',
            "{path} is not valid JSON (NaN is not a finite number); correct or replace it.",
        ),
        (b"\xff", "{path} is not valid JSON (not UTF-8 at byte 0); correct or replace it."),
        (
            b"[" * 100_000,
            "{path} is not valid JSON (nested more than 64 deep); correct or replace it.",
        ),
        (b"[]", "{path}: a config must be a JSON object; restore the file."),
    ],
)
def test_a_config_that_is_none(here, capsys, content, message):
    path = Path("runs/Breakout/a2c-cnn/seed0/config.json")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    line = refuse(["--game", "Breakout", "--device", "cpu"], capsys)
    assert line == "error: " + message.replace("{path}", str(path))
    assert [file.name for file in path.parent.iterdir()] == ["config.json"]


def test_a_config_that_is_a_directory(here, capsys):
    path = Path("runs/Breakout/a2c-cnn/seed0/config.json")
    path.mkdir(parents=True)
    line = refuse(["--game", "Breakout"], capsys)
    assert line == f"error: {path} is a directory; give the path of a file."
