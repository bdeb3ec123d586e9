"""What users can type wrong: command lines of train.py and of the report.

Each answer is one line that names the value and the remedy, with exit status 2 and nothing
written. Single readers are tested where they live: settings, networks of users, files, models.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import train
from experiments.comparison import __main__ as report
from tests.refusals import transcript

STEPS = "`total_agent_steps` must be a whole number at least 1 and at most 1_000_000_000_000"
SEED = "`seed` must be a whole number at least 0 and at most 2_147_483_647"
LAYERS = "`coord_layers` must be a whole number at least 0 and at most 2"
ORDER = "`coord_layers` must name each convolution once, in order"
BIAS_MAP = "--coordconv --set position=bias-map"
FRACTION = "a number at least 0 and at most 1"
DEVICE = "`device` must be auto, cpu, cuda or cuda:N"
PROTOCOL = "`protocol` must be one of baselines, machado"
EPISODES = "`episodes` must be a whole number at least 1 and at most 1_000_000"
SEEDS = "`seeds` must be a whole number at least 1 and at most 1_000"
JOBS = "`jobs` must be a whole number at least 1 and at most 1_024"
HUGE = "9" * 400
SHOWN = "9" * 57 + "..."
NO_WHOLE_NUMBERS = {"": "''", "0": "0", "1.5": "'1.5'", "nan": "'nan'", "é": "'é'", HUGE: SHOWN}


Refusal = tuple[str, str]


def each(option: str, limits: str, values: dict[str, str]) -> list[Refusal]:
    """Refusals of one option: each value as it is typed, and as it is told."""
    return [
        (shlex.join([option, typed]), f"{option}: {limits}, got {told}.")
        for typed, told in values.items()
    ]


def each_set(name: str, kind: str, values: dict[str, str]) -> list[Refusal]:
    """The same of a setting that is given by --set and must be of a kind."""
    return [
        (shlex.join(["--set", f"{name}={typed}"]), f"--set: `{name}` must be {kind}, got {told}.")
        for typed, told in values.items()
    ]


def not_listed(option: str) -> list[Refusal]:
    """Names that are no games."""
    near = {"Brekout": " Did you mean Breakout?", "ALE/Pong-v5": " Did you mean Pong?"}
    return [
        (
            shlex.join([option, name]),
            f"Unknown game {name!r}.{near.get(name, '')} `train.py --list-games` lists them.",
        )
        for name in ("", *near, "Schach é\n", "-1", "../x")
    ]


@pytest.fixture
def folder(here) -> Iterator[Path]:
    """Where a command may write nothing beside what is there."""
    (here / "file").write_text("not a folder")
    yield here
    assert [path.name for path in here.iterdir()] == ["file"]


# --- options --------------------------------------------------------------------------------------

LONG = "x" * 300
TOO_LONG = "is longer than a folder's name may be; give a shorter name, or fewer settings."
TOO_SHORT = """\
with 100_000 agent steps nothing would be learned: DQN acts at random for the first 100_000
    (`learning_starts`); give more --steps, at least 100_001, or set a smaller `learning_starts`."""

VALUES = f"""
--radius
    `with_radius` (--radius) needs a layer with coordinates; add
    --coordconv.
--coord-init zero
    `coord_init` (--coord-init) needs a layer with coordinates; add
    --coordconv.
--coordconv --coord-init ''
    --coord-init: `coord_init` must be one of default, zero, got ''.
--coordconv --set position=bias-map --coord-init zero
    `coord_init` does not apply to bias-map: it always starts at zero.
--extractor file:Net
    file:Net: there is no module file in the current directory or on Python's path; go to its
    folder, or set PYTHONPATH.
--extractor-set x=1
    `extractor_settings` need a network of your own; add --extractor.
--runs file
    cannot write to file/Breakout/a2c-cnn/seed0 (Not a directory); choose another --runs folder.
--runs {LONG}
    {LONG[:40]}... {TOO_LONG}
--algo dqn --steps 0.1M
    {TOO_SHORT}
--set tau=1
    --set: `tau` goes with --algo dqn, which is not given.
--set margin_fraction=0.1
    --set: `margin_fraction` goes with --compare, which is not given.
--set most_seeds=20
    --set: `most_seeds` is given by --max-seeds.
--coordconv --coord-layers 1
    --coordconv is short for --coord-layers 0; give one of them.
--set keep_replay=true
    `keep_replay` is of DQN, nothing else has a replay buffer; leave it out.
--algo dqn --set evaluation_games=5
    `evaluation_games` are of evaluations while training; set evaluate_every_agent_steps.
--set optimizer=adam --set rms_prop_alpha=0.9
    `rms_prop_alpha` is of RMSprop, and the optimizer is adam; leave one of them out.
--coordconv --extractor file:Net
    `extractor` is a whole network; leave out `coord_layers` (--coordconv, --coord-layers).
--device gpu --dry-run
    `device` must be auto, cpu, cuda or cuda:N, got 'gpu'.
--device cuda:01 --dry-run
    `device` must be auto, cpu, cuda or cuda:N, got 'cuda:01'.
--set seed=1 --seed 1
    --set: `seed` is set by its option, too; give one of them.
--extractor file:Net --extractor-set width=2 --set extractor_settings=width=2
    --set: `extractor_settings` is set by its option, too; give one of them.
"""


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("", "--game is missing: name a game, such as --game Pong; --list-games lists them."),
        *not_listed("--game"),
        *each("--steps", STEPS, NO_WHOLE_NUMBERS | {"inf": "'inf'", "1e13": "10_000_000_000_000"}),
        *each("--steps", STEPS, {"9" * 5000: f"'{SHOWN[1:]}", "viele é": "'viele é'"}),
        *each("--seed", SEED, {"-1": "-1", "2147483648": "2_147_483_648", "true": "'true'"}),
        *each(
            "--n-envs", "`n_envs` must be a whole number at least 1 and at most 1_024", {"0": "0"}
        ),
        *each("--coord-layers", LAYERS, {"3": "3", "-1": "-1", "x": "'x'", "nan": "'nan'"}),
        ("--coord-layers ''", "--coord-layers must name convolutions, 0 to 2, got none."),
        ("--coord-layers 1 0", f"{ORDER}, got [1, 0]."),
        ("--coord-layers 0 0", f"{ORDER}, got [0, 0]."),
        ("--set 'coord_layers=0 3'", f"--set: {LAYERS}, got 3."),
        (f"{BIAS_MAP} --radius", "`with_radius` goes with coordinates, not with bias-map."),
        *each("--protocol", PROTOCOL, {"atari": "'atari'"}),
        *each("--precision", "`precision` must be one of fp32, bf16", {"": "''"}),
        *((f"--device '{name}'", f"{DEVICE}, got {name!r}.") for name in ("", "gpu", "meta")),
        *each("--device", "`device` must be printable text", {"cpu\n": "'cpu\\n'"}),
        ("--preset zo", "--preset: unknown preset of a2c 'zo'; did you mean `zoo`?"),
        *(
            (shlex.join(["--runs", name]), f"--runs must name a folder, got {name!r}.")
            for name in ("", "a\nb", "a\udcff")
        ),
        *((f"--set '{x}'", f"--set takes key=value, got '{x}'.") for x in ("", "gamma", "=1")),
        ("--set gama=1", "--set: unknown setting 'gama'; did you mean `gamma`?"),
        ("--set gamma=0.9 --set gamma=0.8", "--set: `gamma` is given twice; give it once."),
        *each_set("gamma", FRACTION, {"": "''", "x": "'x'", "-0.1": "-0.1", "1.1": "1.1"}),
        *each_set("gamma", FRACTION, {"nan": "nan", "-inf": "-inf"}),
        *each_set("learning_rate", "a number at least 0 and at most 1e+30", {"1e31": "1e+31"}),
        *each_set("learning_rate", "a number at least 0 and at most 1e+30", {HUGE: "inf"}),
        *each_set("max_grad_norm", "a number above 0 and at most 1e+30", {"0": "0"}),
        *each_set("hang_timeout_seconds", "a number above 0", {"-1": "-1"}),
        *each_set("keep_replay", "true or false", {"": "''", "1": "'1'", "ja": "'ja'"}),
        *each_set("learning_rate_schedule", "one of constant, linear", {"cosine": "'cosine'"}),
        *each_set("device", "printable text", {"\x01": "'\\x01'"}),
        *transcript(VALUES),
    ],
)
def test_wrong_values(refuse, typed, message):
    game = "" if not typed or "--game" in typed else "--game Breakout "
    assert refuse(train.main, shlex.split(game + typed)) == f"error: {message}"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--game", "argument --game: expected one argument"),
        ("--algo ppo", r"argument --algo: invalid choice: 'ppo' \(choose from .*\)"),
        ("--coord-layers", "argument --coord-layers: expected at least one argument"),
        ("--radius=1", "argument --radius: ignored explicit argument '1'"),
        ("--dry-run=1", "argument --dry-run: ignored explicit argument '1'"),
        ("--game Pong extra", "unrecognized arguments: extra"),
        ("--game Pong --größe 3", "unrecognized arguments: --größe 3"),
        ("--game Pong --step 5", "unrecognized arguments: --step 5"),  # no abbreviations
    ],
)
def test_wrong_options(refuse, typed, message):
    line = refuse(train.main, typed.split())
    assert re.fullmatch(rf"error: {message}; see \S+ --help\.", line), line


@pytest.fixture
def small_machine(monkeypatch) -> None:
    monkeypatch.setattr("agents.training.requirements._read_available_memory", lambda: 32 * 10**9)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10**11}))


@pytest.mark.usefixtures("folder", "small_machine")
@pytest.mark.parametrize(
    ("typed", "need"),
    [
        ("--set n_envs=1024 --set n_steps=10_000", "5121.23 GB of memory"),
        ("--algo dqn --set buffer_size=1e9", "7424.03 GB of memory"),
        ("--steps 1e12", "500.12 GB of disk"),
    ],
)
def test_what_no_machine_has_is_refused_before_it_is_tried(refuse, typed, need):
    line = refuse(train.main, ["--game", "Breakout", "--device", "cpu", *typed.split()])
    assert line.startswith("error: ")
    assert f" needs {need}, " in line


# --- comparisons ----------------------------------------------------------------------------------

ARMS = (
    "use cnn, coordconv, coordconv-all, bias-map or random-channels, with -r for the radius, -zero "
    "for coordinate weights that start at 0; or module:Class for a network of your own."
)
ONE_RUN = "is for one run, not for --compare; use --games, --arms and --seeds."
RAY = "--ray must be the address of a cluster, or auto"

# More than the machine has: 0.6 GB a process, 0.5 MB a sample, 1.2 MB an environment; 90 runs of
# four files of 30 MB, and half a byte an agent step.
COMPARISONS = f"""
--until-decided --set most_seeds=20
    --set: `most_seeds` is given by --max-seeds.
--arms cnn 'cnn precision=bf16'
    --arms: `precision` is the same in all runs of a comparison; give it by --set.
--arms cnn 'cnn optimizer=adam rms_prop_alpha=0.9'
    `rms_prop_alpha` is of RMSprop, and the optimizer is adam; leave one of them out.
--arms cnn file:Net,x=1
    file:Net: there is no module file in the current directory or on Python's path; go to its
    folder, or set PYTHONPATH.
--algo dqn --steps 100k
    {TOO_SHORT}
--algo dqn --steps 100k --set learning_starts=0 --arms cnn 'cnn learning_starts=100k'
    {TOO_SHORT}
--runs file
    cannot write to file (File exists); choose another --runs folder.
--runs file/below
    cannot write to file/below (Not a directory); choose another --runs folder.
--runs {LONG}
    {LONG[:40]}... {TOO_LONG}
--jobs 2 --set n_envs=1024 --set n_steps=10_000
    2 jobs need 10243.66 GB of memory, 32.00 GB are available; give fewer --jobs.
--steps 1e12
    the plan needs 45010.80 GB of disk, 100.00 GB are free; make room or choose another --runs
    folder.
"""


@pytest.mark.usefixtures("folder", "small_machine")
@pytest.mark.parametrize(
    ("typed", "message"),
    [
        *not_listed("--games"),
        ("--games Pong pong", "`games` name Pong twice; name it once."),
        ("--arms cnn cnn", "`arms` name cnn twice; name it once."),
        *(
            (shlex.join(["--arms", "cnn", name]), f"--arms: unknown arm {name!r}; {ARMS}")
            for name in (
                *("", "../x", "größe\x01", "CNN", "cnn-r", "coordconv-", "coordconv-zero-r"),
                *("coordconv-layer0", "coordconv-layer9"),
            )
        ),
        *each("--seeds", SEEDS, NO_WHOLE_NUMBERS | {"1001": "1_001"}),
        ("--dry-run --seeds 0", f"--seeds: {SEEDS}, got 0."),
        *each("--jobs", JOBS, NO_WHOLE_NUMBERS | {"1025": "1_025"}),
        *each("--steps", STEPS, {"0": "0", "nan": "'nan'"}),
        *((shlex.join(["--ray", text]), f"{RAY}, got {text!r}.") for text in ("", "a\nb")),
        ("--device gpu", f"{DEVICE}, got 'gpu'."),
        *each("--protocol", PROTOCOL, {"atari": "'atari'"}),
        ("--runs ''", "--runs must name a folder, got ''."),
        *each_set("margin_fraction", FRACTION, {"": "''", "x": "'x'", "-0.1": "-0.1", "2": "2"}),
        *each_set("margin_fraction", FRACTION, {"nan": "nan", HUGE: "inf"}),
        *each_set("alpha", "a number above 0 and at most 0.5", {"0": "0", "1": "1"}),
        *each_set("max_seeds", "a whole number at least 3 and at most 10_000", {"2": "2"}),
        *each_set("max_seeds", "a whole number at least 3 and at most 10_000", {"5.5": "'5.5'"}),
        ("--set margin=1", "--set: unknown setting 'margin'; did you mean `margin_fraction`?"),
        ("--set seed=3", "`seed` is set by --seeds in a comparison; leave it out."),
        *(
            (f"--set {name}=0", f"`{name}` is set by the arms of a comparison; leave it out.")
            for name in ("coord_layers", "position", "with_radius", "coord_init")
        ),
        *(
            (option, f"{option.split()[0]} {ONE_RUN}")
            for option in (
                *("--game Pong", "--game ''", "--seed 1", "--coordconv", "--coord-layers 0"),
                *("--radius", "--coord-init zero", "--extractor a:B", "--extractor-set a=1"),
            )
        ),
        *transcript(COMPARISONS),
    ],
)
def test_wrong_comparisons(refuse, monkeypatch, typed, message):
    monkeypatch.delattr("experiments.comparison.command.execute")
    assert refuse(train.main, ["--compare", *shlex.split(typed)]) == f"error: {message}"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("option", ["--games", "--arms", "--seeds", "--jobs", "--ray"])
def test_options_of_a_comparison(refuse, option):
    several = "at least one argument" if option in ("--games", "--arms") else "one argument"
    line = refuse(train.main, ["--compare", option])
    assert re.fullmatch(rf"error: argument {option}: expected {several}; see \S+ --help\.", line)
    line = refuse(train.main, ["--game", "Pong", option, "2"])
    assert line == f"error: {option} is for a comparison; add --compare."


# --- reports --------------------------------------------------------------------------------------

NO_RUNS = "has no runs; train some first: python train.py --compare."
NO_FOLDER = "is not a folder; give the folder that was --runs."


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("''", "RUNS must name a folder, got ''."),
        *((f"'{runs}'", f"{runs} {NO_FOLDER}") for runs in ("nowhere", "file", "Schach é")),
        (". --ablate", f". {NO_RUNS}"),
        (LONG, f"cannot use {LONG} (File name too long); choose another folder."),
        *((f". {typed}", told) for typed, told in each("--episodes", EPISODES, NO_WHOLE_NUMBERS)),
    ],
)
def test_wrong_reports(refuse, typed, message):
    assert refuse(report.main, shlex.split(typed)) == f"error: {message}"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("", "the following arguments are required: RUNS"),
        ("runs more", "unrecognized arguments: more"),
        ("runs --größe", "unrecognized arguments: --größe"),
        ("runs --abl", "unrecognized arguments: --abl"),  # no abbreviations
        ("runs --ablate=1", "argument --ablate: ignored explicit argument '1'"),
        ("runs --episodes", "argument --episodes: expected one argument"),
    ],
)
def test_wrong_options_of_a_report(refuse, typed, message):
    program = "python -m experiments.comparison"
    assert refuse(report.main, typed.split()) == f"error: {message}; see {program} --help."
