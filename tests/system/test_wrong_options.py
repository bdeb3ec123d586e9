"""What users can type wrong: command lines of train.py and of the report.

Each answer is one line that names the value and the remedy, with exit status 2 and nothing
written. Single readers are tested where they live: settings, files, model files.
"""

import re

import pytest

import train
from experiments.comparison import __main__ as report

STEPS = "`total_agent_steps` must be a whole number at least 1 and at most 1_000_000_000_000"
SEED = "`seed` must be a whole number at least 0 and at most 2_147_483_647"
LAYERS = "`coord_layers` must be a whole number at least 0 and at most 2"
FRACTION = "a number at least 0 and at most 1"
DEVICE = "`device` must be auto, cpu, cuda or cuda:N"
PROTOCOL = "`protocol` must be one of baselines, machado"
HUGE = "9" * 400
SHOWN = "9" * 57 + "..."
TOO_SHORT = (
    "with 100_000 agent steps nothing would be learned: DQN acts at random for the first 100_000 "
    "(`learning_starts`); give more --steps, at least 100_001, or set a smaller `learning_starts`."
)

Refusal = tuple[list[str], str]


def each(option: str, limits: str, values: dict[str, str]) -> list[Refusal]:
    """Refusals of one option: each value as it is typed, and as it is told."""
    return [([option, typed], f"{option}: {limits}, got {told}.") for typed, told in values.items()]


def each_set(name: str, kind: str, values: dict[str, str]) -> list[Refusal]:
    """The same of a setting that is given by --set and must be of a kind."""
    return [
        (["--set", f"{name}={typed}"], f"--set: `{name}` must be {kind}, got {told}.")
        for typed, told in values.items()
    ]


def unknown_game(option: str, name: str, hint: str = "") -> Refusal:
    return [option, name], f"Unknown game {name!r}.{hint} --list-games lists them."


BREAKOUT, PONG = " Did you mean Breakout?", " Did you mean Pong?"


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--game is missing: name a game, such as --game Pong; --list-games lists them."),
        unknown_game("--game", ""),
        unknown_game("--game", "Brekout", BREAKOUT),
        unknown_game("--game", "Schach é\n"),
        unknown_game("--game", "-1"),
        unknown_game("--game", "PongNoFrameskip-v4", PONG),
        unknown_game("--game", "ALE/Pong-v5", PONG),
        # whole numbers
        *each("--steps", STEPS, {"": "''", "0": "0", "-5": "-5", "1.5": "'1.5'", "nan": "'nan'"}),
        *each("--steps", STEPS, {"inf": "'inf'", "1e13": "10_000_000_000_000", HUGE: SHOWN}),
        *each("--steps", STEPS, {"9" * 5000: f"'{SHOWN[1:]}", "viele é": "'viele é'"}),
        *each("--seed", SEED, {"-1": "-1", "2147483648": "2_147_483_648", "true": "'true'"}),
        (
            ["--n-envs", "0"],
            "--n-envs: `n_envs` must be a whole number at least 1 and at most 1_024, got 0.",
        ),
        # the network
        (["--coord-layers", ""], "--coord-layers must name convolutions, 0 to 2, got none."),
        *each("--coord-layers", LAYERS, {"3": "3", "-1": "-1", "x": "'x'", "0.5": "'0.5'"}),
        *each("--coord-layers", LAYERS, {"nan": "'nan'", HUGE: SHOWN}),
        *(
            (
                ["--coord-layers", *layers],
                f"`coord_layers` must name each convolution once, in order, got [{told}].",
            )
            for layers, told in (("10", "1, 0"), ("00", "0, 0"))
        ),
        (["--radius"], "`with_radius` needs a layer with coordinates; add --coordconv."),
        (
            ["--coord-init", "zero"],
            "`coord_init` needs a layer with coordinates; add --coordconv.",
        ),
        (
            ["--coordconv", "--coord-init", ""],
            "--coord-init: `coord_init` must be one of default, zero, got ''.",
        ),
        (
            ["--coordconv", "--set", "position=bias-map", "--radius"],
            "`with_radius` goes with coordinates, not with bias-map.",
        ),
        (
            ["--coordconv", "--set", "position=bias-map", "--coord-init", "zero"],
            "`coord_init` does not apply to bias-map: it always starts at zero.",
        ),
        # a network of the user's own; test_own_extractor.py has what a module can have wrong
        (
            ["--extractor", "mynets"],
            "`extractor` must be a module and a class of it, such as mynets:ImpalaCNN, got "
            "'mynets'.",
        ),
        (
            ["--extractor", "file:Net"],
            "file:Net: there is no module file in the current directory or on Python's path; go to "
            "its folder, or set PYTHONPATH.",
        ),
        (
            ["--extractor", "a:B", "--extractor-set", "x"],
            "`extractor_settings` must be key=value, without spaces and slashes and at most 100 "
            "letters long, got 'x'.",
        ),
        (
            ["--extractor-set", "x=1"],
            "`extractor_settings` need a network of your own; add --extractor.",
        ),
        (
            ["--extractor", "a:B", "--coordconv"],
            "`extractor` is a whole network; leave out `coord_layers`.",
        ),
        (
            ["--extractor", "a:B", "--radius"],
            "`extractor` is a whole network; leave out `with_radius`.",
        ),
        (
            ["--extractor", "a:B", "--precision", "bf16"],
            "`precision` bf16 is for this project's own networks; leave it out with a:B.",
        ),
        # names
        *each("--protocol", PROTOCOL, {"atari": "'atari'"}),
        *each("--precision", "`precision` must be one of fp32, bf16", {"": "''"}),
        *((["--device", name], f"{DEVICE}, got {name!r}.") for name in ("", "gpu", "meta")),
        *each("--device", "`device` must be printable text", {"cpu\n": "'cpu\\n'"}),
        (["--preset", "zo"], "--preset: unknown preset of a2c 'zo'; did you mean `zoo`?"),
        (["--algo", "dqn", "--preset", "zoo"], "--preset: dqn has none; leave it out."),
        # --runs
        *(
            (["--runs", name], f"--runs must name a folder, got {name!r}.")
            for name in ("", "a\nb", "a\udcff")
        ),
        *(
            (
                ["--runs", folder],
                f"cannot {fault.format(f'{folder}/Breakout/a2c-cnn/seed0')}; choose another --runs "
                "folder.",
            )
            for folder, fault in (
                ("file", "write to {} (Not a directory)"),
                ("file/below", "write to {} (Not a directory)"),
                ("x" * 300, "use {} (File name too long)"),
            )
        ),
        (["--algo", "dqn", "--steps", "0.1M"], TOO_SHORT),
        # --set
        *(
            (["--set", text], f"--set takes key=value, got '{text}'.")
            for text in ("", "gamma", "=1")
        ),
        (["--set", "gama=1"], "--set: unknown setting 'gama'; did you mean `gamma`?"),
        (
            ["--set", "größe=1"],
            "--set: unknown setting 'größe'; known: threads, precision, gae_lambda, rms_prop_eps, "
            "coord_layers, ...",
        ),
        (  # DQN's
            ["--set", "tau=1"],
            "--set: unknown setting 'tau'; known: with_radius, threads, extractor, gamma, "
            "evaluation_games, ...",
        ),
        (
            ["--set", "gamma=0.9", "--set", "gamma=0.8"],
            "--set: `gamma` is given twice; give it once.",
        ),
        (
            ["--set", "seed=1", "--seed", "1"],
            "--seed and --set seed=... both set `seed`; give one of them.",
        ),
        *each_set("gamma", FRACTION, {"": "''", "x": "'x'", "-0.1": "-0.1", "1.1": "1.1"}),
        *each_set("gamma", FRACTION, {"nan": "nan", "-inf": "-inf"}),
        *each_set("learning_rate", "a number at least 0 and at most 1e+30", {"1e31": "1e+31"}),
        *each_set("learning_rate", "a number at least 0 and at most 1e+30", {HUGE: "inf"}),
        *each_set("max_grad_norm", "a number above 0 and at most 1e+30", {"0": "0"}),
        *each_set("hang_timeout_seconds", "a number above 0", {"-1": "-1"}),
        *each_set("keep_replay", "true or false", {"": "''", "1": "'1'", "ja": "'ja'"}),
        *each_set("learning_rate_schedule", "one of constant, linear", {"cosine": "'cosine'"}),
        *each_set("device", "printable text", {"\x01": "'\\x01'"}),
        (["--set", "coord_layers=0 3"], f"--set: {LAYERS}, got 3."),
    ],
)
def test_wrong_values(here, refuse, arguments, message):
    (here / "file").write_text("not a folder")
    game = [] if not arguments or "--game" in arguments else ["--game", "Breakout"]
    assert refuse(train.main, [*game, *arguments]) == f"error: {message}"
    assert [path.name for path in here.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--game"], "argument --game: expected one argument"),
        (["--algo", "ppo"], r"argument --algo: invalid choice: 'ppo' \(choose from .*\)"),
        (["--coord-layers"], "argument --coord-layers: expected at least one argument"),
        *(
            ([f"{flag}=1"], f"argument {flag}: ignored explicit argument '1'")
            for flag in ("--radius", "--coordconv", "--dry-run", "--list-games")
        ),
        (["--game", "Pong", "extra"], "unrecognized arguments: extra"),
        (["--game", "Pong", "--größe", "3"], "unrecognized arguments: --größe 3"),
        (["--game", "Pong", "--step", "5"], "unrecognized arguments: --step 5"),  # no abbreviations
    ],
)
def test_wrong_options(here, refuse, arguments, message):
    line = refuse(train.main, arguments)
    assert re.fullmatch(rf"\S+: {message}; see \S+ --help\.", line), line
    assert list(here.iterdir()) == []


@pytest.fixture
def small_machine(monkeypatch) -> None:
    monkeypatch.setattr("agents.training.requirements._read_available_memory", lambda: 32 * 10**9)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10**11}))


@pytest.mark.usefixtures("small_machine")
@pytest.mark.parametrize(
    ("arguments", "need"),
    [
        (["--set", "n_envs=1024", "--set", "n_steps=10_000"], "5121.23 GB of memory"),
        (["--algo", "dqn", "--set", "buffer_size=1e9"], "7424.03 GB of memory"),
        (["--steps", "1e12"], "500.12 GB of disk"),
    ],
)
def test_what_no_machine_has_is_refused_before_it_is_tried(here, refuse, arguments, need):
    line = refuse(train.main, ["--game", "Breakout", "--device", "cpu", *arguments])
    assert line.startswith("error: ")
    assert f" needs {need}, " in line
    assert list(here.iterdir()) == []


# --- comparisons ----------------------------------------------------------------------------------

SEEDS = "`seeds` must be a whole number at least 1 and at most 1_000"
JOBS = "`jobs` must be a whole number at least 1 and at most 1_024"
ARMS = (
    "use cnn, coordconv, coordconv-all, bias-map or random-channels, with -r for the radius, -zero "
    "for coordinate weights that start at 0; or module:Class for a network of your own."
)


@pytest.mark.usefixtures("small_machine")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        unknown_game("--games", ""),
        (["--games", "Pong", "Brekout"], unknown_game("--games", "Brekout", BREAKOUT)[1]),
        unknown_game("--games", "-1"),
        unknown_game("--games", "../x"),
        unknown_game("--games", "Schach é\n"),
        (["--games", "Pong", "pong"], "`games` name Pong twice; name it once."),
        # --arms
        *(
            (["--arms", "cnn", name], f"--arms: unknown arm {name!r}; {ARMS}")
            for name in ("", "../x", "größe\x01")
        ),
        (["--arms", "cnn", "cnn"], "`arms` name cnn twice; name it once."),
        (
            ["--arms", "cnn", "file:Net,x=1"],
            "file:Net: there is no module file in the current directory or on Python's path; go to "
            "its folder, or set PYTHONPATH.",
        ),
        (["--arms", "cnn", "coordconv-layer9"], f"--arms: unknown arm 'coordconv-layer9'; {ARMS}"),
        # whole numbers
        *each("--seeds", SEEDS, {"": "''", "0": "0", "-1": "-1", "1.5": "'1.5'", "nan": "'nan'"}),
        *each("--seeds", SEEDS, {"é": "'é'", "1001": "1_001", HUGE: SHOWN}),
        (["--dry-run", "--seeds", "0"], f"--seeds: {SEEDS}, got 0."),
        *each("--jobs", JOBS, {"": "''", "0": "0", "-1": "-1", "1.5": "'1.5'", "nan": "'nan'"}),
        *each("--jobs", JOBS, {"viele": "'viele'", "1025": "1_025", HUGE: SHOWN}),
        *(
            (["--ray", text], f"--ray must be the address of a cluster, or auto, got {text!r}.")
            for text in ("", "a\nb")
        ),
        # what both kinds take
        *each("--steps", STEPS, {"0": "0", "nan": "'nan'"}),
        (["--algo", "dqn", "--steps", "100k"], TOO_SHORT),
        (
            [
                *("--algo", "dqn", "--steps", "100k", "--set", "learning_starts=0"),
                *("--arms", "cnn", "cnn learning_starts=100k"),
            ],
            TOO_SHORT,
        ),
        (["--device", "gpu"], f"{DEVICE}, got 'gpu'."),
        *each("--protocol", PROTOCOL, {"atari": "'atari'"}),
        (["--runs", ""], "--runs must name a folder, got ''."),
        *(
            (["--runs", folder], f"cannot {fault}; choose another --runs folder.")
            for folder, fault in (
                ("file", "write to file (File exists)"),
                ("file/below", "write to file/below (Not a directory)"),
                ("x" * 300, f"use {'x' * 300} (File name too long)"),
            )
        ),
        # --set, a criterion
        *each_set("margin_fraction", FRACTION, {"": "''", "x": "'x'", "-0.1": "-0.1", "2": "2"}),
        *each_set("margin_fraction", FRACTION, {"nan": "nan", HUGE: "inf"}),
        *each_set("alpha", "a number above 0 and at most 0.5", {"0": "0", "1": "1"}),
        *each_set("max_seeds", "a whole number at least 3 and at most 10_000", {"2": "2"}),
        *each_set("max_seeds", "a whole number at least 3 and at most 10_000", {"5.5": "'5.5'"}),
        (["--set", "margin=1"], "--set: unknown setting 'margin'; did you mean `margin_fraction`?"),
        # --set, what the plan decides
        (["--set", "seed=3"], "`seed` is set by --seeds in a comparison; leave it out."),
        *(
            (
                ["--set", f"{name}={value}"],
                f"`{name}` is set by the arms of a comparison; leave it out.",
            )
            for name, value in (
                ("coord_layers", 0),
                ("position", "bias-map"),
                ("with_radius", "true"),
                ("coord_init", "zero"),
            )
        ),
        # options of one run
        *(
            (
                option.split(","),
                f"{option.partition(',')[0]} is for one run, not for --compare; use --games, "
                "--arms and --seeds.",
            )
            for option in (
                *("--game,Pong", "--game,", "--seed,1", "--coordconv", "--coord-layers,0"),
                *("--radius", "--coord-init,zero", "--extractor,a:B", "--extractor-set,a=1"),
            )
        ),
        # more than the machine has: 0.6 GB a process, 0.5 MB a sample, 1.2 MB an environment
        (
            ["--jobs", "2", "--set", "n_envs=1024", "--set", "n_steps=10_000"],
            "2 jobs need 10243.66 GB of memory, 32.00 GB are available; give fewer --jobs.",
        ),
        # 90 runs of four files of 30 MB, and half a byte an agent step
        (
            ["--steps", "1e12"],
            "the plan needs 45010.80 GB of disk, 100.00 GB are free; make room or choose "
            "another --runs folder.",
        ),
    ],
)
def test_wrong_comparisons(here, refuse, monkeypatch, arguments, message):
    monkeypatch.delattr("experiments.comparison.command.execute")
    (here / "file").write_text("not a folder")
    assert refuse(train.main, ["--compare", *arguments]) == f"error: {message}"
    assert [path.name for path in here.iterdir()] == ["file"]


@pytest.mark.parametrize("option", ["--games", "--arms", "--seeds", "--jobs", "--ray"])
def test_options_of_a_comparison(here, refuse, option):
    several = "at least one argument" if option in ("--games", "--arms") else "one argument"
    line = refuse(train.main, ["--compare", option])
    assert re.fullmatch(rf"\S+: argument {option}: expected {several}; see \S+ --help\.", line)
    line = refuse(train.main, ["--game", "Pong", option, "2"])
    assert line == f"error: {option} is for a comparison; add --compare."
    assert list(here.iterdir()) == []


# --- reports --------------------------------------------------------------------------------------

EPISODES = "`episodes` must be a whole number at least 1 and at most 1_000_000"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "RUNS must name a folder, got ''."),
        *(
            (
                arguments,
                f"{arguments[0]} has no readable runs; train some first: python train.py "
                "--compare.",
            )
            for arguments in (["nowhere"], ["file"], ["Schach é"], [".", "--ablate"])
        ),
        (["x" * 300], f"cannot use {'x' * 300} (File name too long); choose another folder."),
        *(
            ([".", *options], message)
            for options, message in [
                *each("--episodes", EPISODES, {"": "''", "0": "0", "-1": "-1", "1.5": "'1.5'"}),
                *each("--episodes", EPISODES, {"nan": "'nan'", "é": "'é'", HUGE: SHOWN}),
            ]
        ),
    ],
)
def test_wrong_reports(here, refuse, arguments, message):
    (here / "file").write_text("not a folder")
    assert refuse(report.main, arguments) == f"error: {message}"
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
def test_wrong_options_of_a_report(here, refuse, arguments, message):
    program = "python -m experiments.comparison"
    assert refuse(report.main, arguments) == f"{program}: {message}; see {program} --help."
    assert list(here.iterdir()) == []
