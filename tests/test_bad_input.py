"""What users can get wrong on train.py's command line and in a run's config.json.

Each answer is one line that names the value and the remedy, with exit status 2 and nothing
written. Single readers are tested where they live: settings, files, model files.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import train
from configs.run_config import make_config, to_json

STEPS = "`total_agent_steps` must be a whole number at least 1 and at most 1_000_000_000_000"
SEED = "`seed` must be a whole number at least 0 and at most 2_147_483_647"
LAYERS = "`coord_layers` must be a whole number at least 0 and at most 2"
GAMMA = "`gamma` must be a number at least 0 and at most 1"
RATE = "`learning_rate` must be a number at least 0 and at most 1e+30"
HUGE = "9" * 400
SHOWN = "9" * 57 + "..."

A2C_FIELDS = (
    "seed, total_agent_steps, protocol, precision, coord_layers, position, with_radius, "
    "coord_init, n_envs, n_steps, learning_rate, learning_rate_schedule, gamma, gae_lambda, "
    "ent_coef, vf_coef, max_grad_norm, normalize_advantage, rms_prop_eps, rms_prop_alpha, device, "
    "threads, checkpoint_every_agent_steps, log_every_agent_steps, keep_replay, "
    "hang_timeout_seconds"
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refuse(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command is refused with."""
    with pytest.raises(SystemExit) as stop:
        train.main(arguments)
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
        (["--set", "größe=1"], f"--set: unknown setting 'größe'; known: {A2C_FIELDS}."),
        (["--set", "tau=1"], f"--set: unknown setting 'tau'; known: {A2C_FIELDS}."),  # DQN's
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
def test_wrong_values(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
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
def test_wrong_options(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    line = refuse(arguments, capsys)
    assert re.fullmatch(rf"\S+: {message}; see \S+ --help\.", line), line
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "need"),
    [
        (["--set", "n_envs=1024", "--set", "n_steps=10_000"], "5121.23 GB of memory"),
        (
            ["--algo", "dqn", "--set", "batch_size=1_000_000"],
            "501.49 GB of memory",
        ),
        (["--algo", "dqn", "--set", "buffer_size=1e9"], "7424.62 GB of memory"),
        (["--steps", "1e12"], "500.12 GB of disk"),
    ],
)
def test_what_no_machine_has_is_refused_before_it_is_tried(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    need: str,
) -> None:
    monkeypatch.setattr("agents.resources.available_memory", lambda: 32 * 10**9)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10**11}))
    line = refuse(["--game", "Breakout", "--device", "cpu", *arguments], capsys)
    assert line.startswith("error: ")
    assert f" needs {need}, " in line
    assert list(here.iterdir()) == []


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
        (change(None, "format_version", 2), "format version 2 is not the one this release reads"),
        (change(None, "format_version", True), "format version True is not the one this release"),
        (remove(None, "run"), "`algo` must be one of a2c, dqn."),
        (change(None, "run", []), "`algo` must be one of a2c, dqn."),
        (change("run", "algo", {}), "`algo` must be one of a2c, dqn."),
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
        (change("hyperparameters", "learning_rate", int(HUGE)), f"{RATE}, got inf."),
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
def test_a_damaged_config_is_named(
    here: Path, capsys: pytest.CaptureFixture[str], damage: Any, message: str
) -> None:
    folder = here / "runs" / "Breakout" / "a2c-cnn" / "seed0"
    folder.mkdir(parents=True)
    config = json.loads(to_json(make_config("Breakout", "a2c", {})))
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
def test_a_config_that_is_none(
    here: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    path = Path("runs/Breakout/a2c-cnn/seed0/config.json")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    line = refuse(["--game", "Breakout", "--device", "cpu"], capsys)
    assert line == "error: " + message.replace("{path}", str(path))
    assert [file.name for file in path.parent.iterdir()] == ["config.json"]


def test_a_config_that_is_a_directory(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("runs/Breakout/a2c-cnn/seed0/config.json")
    path.mkdir(parents=True)
    line = refuse(["--game", "Breakout"], capsys)
    assert line == f"error: {path} is a directory; give the path of a file."
