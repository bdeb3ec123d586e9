"""Minutes until the mean of the last 100 games reaches a score, beside Stable-Baselines3.

    python -m benchmarks.time_to_score FOLDER --jobs 2        # hours; may be stopped and started
    python -m benchmarks.time_to_score FOLDER --report        # the table of what there is so far
    python -m benchmarks.time_to_score FOLDER --report --runs mine=RUNS_DIR

Contestants: this project's `train.py` as it comes, its two networks in fp32 and bf16; SB3's A2C as
rl-baselines3-zoo configures it; SB3's PPO with the zoo's Atari settings. Each is a process of its
own with the same number of threads. Every game that ends is written to
`FOLDER/<contestant>/<Game>/<arm>/seed<k>/episodes.csv` with the seconds of training so far, from
which the time of passing is read. A contestant is stopped when it has passed every threshold of its
game, or at the limit; `FOLDER/results.csv` then gets a row per threshold, and it is not started
again. What was interrupted goes on (this project) or starts anew (SB3).
"""

import argparse
import csv
import math
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from envs.games import find_game
from experiments.comparison.report.records import Episodes, read_episodes
from experiments.comparison.statistics.curves import find_steps_to_reach
from runtime.command_line import OneLineParser, exit_on_user_error
from runtime.stop_request import StopRequest

ROOT = Path(__file__).parent.parent
THRESHOLDS: Mapping[str, tuple[float, ...]] = {
    "Breakout": (10, 30),
    "Pong": (0,),
    "Qbert": (1000,),
    "SpaceInvaders": (300,),
}
OURS: Mapping[str, tuple[str, ...]] = {
    "a2c-cnn": (),
    "a2c-coordconv": ("--coordconv",),
    "a2c-cnn-bf16": ("--precision=bf16",),
    "a2c-coordconv-bf16": ("--coordconv", "--precision=bf16"),
}
SB3 = {"zoo-a2c": "a2c", "zoo-ppo": "ppo"}
BASELINE = "zoo-a2c"
SB3_AGENT_STEPS = 10_000_000  # the zoo's, along which PPO's schedules fall
RESULT_COLUMNS = ("contestant", "game", "seed", "threshold", "minutes", "trained_minutes", "ended")


@dataclass(frozen=True)
class Entry:
    """One training: who, which game, which seed."""

    contestant: str
    game: str
    seed: int

    def __str__(self) -> str:
        return f"{self.contestant}, {self.game}, seed {self.seed}"

    def find_episodes(self, folder: Path) -> Episodes | None:
        """Its finished games so far; None if it was never started."""
        paths = sorted((folder / self.contestant / self.game).glob(f"*/seed{self.seed}"))
        return read_episodes(paths[0] / "episodes.csv") if paths else None


@dataclass(frozen=True)
class Time:
    """When a contestant passed a threshold.

    Attributes:
        minutes: Of training; infinite if it did not pass.
        trained_minutes: How long it has trained, or was given.
        ended: Whether its training came to its own end.
    """

    minutes: float
    trained_minutes: float
    ended: bool = False

    def __str__(self) -> str:
        if math.isinf(self.minutes):
            return f"> {self.trained_minutes:.3g}" + " (whole training)" * self.ended
        return f"{self.minutes:.1f}"


Results = dict[tuple[Entry, float], Time]


def main(arguments: list[str] | None = None) -> int:
    """Race or report; returns the exit status."""
    options = _parser().parse_args(arguments)
    with exit_on_user_error():
        thresholds = _check(options)
        if options.serve:
            train_sb3(Entry(options.serve, options.games[0], options.seeds[0]), options)
            return 0
        entries = [
            Entry(name, game, seed)
            for seed in options.seeds
            for game in options.games
            for name in options.contestants
        ]
        stop = StopRequest()
        failed = [] if options.report else race(entries, thresholds, options, stop)
        results = scan_runs(options.folder, None, thresholds)
        for text in options.runs:
            name, folder = _name_and_folder(text)
            results |= scan_runs(folder, name, thresholds)
        print("\n".join(format_times(results | read_results(options.folder))))
    for entry in failed:
        print(f"failed: {entry}; its log is in {_log_of(entry, options.folder)}", file=sys.stderr)
    return 128 + stop.signal if stop.signal else int(bool(failed))


# --- the race -------------------------------------------------------------------------------------


def race(
    entries: Sequence[Entry],
    thresholds: Mapping[str, tuple[float, ...]],
    options: argparse.Namespace,
    stop: StopRequest,
) -> list[Entry]:
    """Train what has no result, some at a time; returns the entries that failed."""
    folder, limit = options.folder, options.limit
    folder.mkdir(parents=True, exist_ok=True)
    done = read_results(folder)
    waiting = [
        e
        for e in entries
        if not all(_is_done(done.get((e, at)), limit) for at in thresholds[e.game])
    ]
    running: dict[Entry, subprocess.Popen[bytes]] = {}
    failed = []
    with stop.on_signals():
        try:
            while (waiting or running) and not stop:
                while waiting and len(running) < options.jobs:
                    entry = waiting.pop(0)
                    running[entry] = _start(entry, options)
                    print(f"started: {entry}", flush=True)
                time.sleep(options.poll)
                for entry, process in list(running.items()):
                    ended = process.poll() is not None
                    times = measure_times(
                        entry.find_episodes(folder), thresholds[entry.game], limit, ended
                    )
                    if not ended and not all(_is_done(t, limit) for t in times.values()):
                        continue
                    _end(process)
                    del running[entry]
                    if ended and process.returncode:
                        failed.append(entry)
                        continue
                    _append_results(entry, times, folder)
                    print(
                        f"{entry}: {', '.join(f'{at:g} {t}' for at, t in times.items())}",
                        flush=True,
                    )
        finally:
            for process in running.values():
                _end(process)
    return failed


def _is_done(t: Time | None, limit_minutes: float) -> bool:
    """Whether there is nothing left to find out about a threshold."""
    return t is not None and (t.minutes < math.inf or t.ended or t.trained_minutes >= limit_minutes)


def _log_of(entry: Entry, folder: Path) -> Path:
    return folder / entry.contestant / f"{entry.game}-{entry.seed}.log"


def _start(entry: Entry, options: argparse.Namespace) -> "subprocess.Popen[bytes]":
    log = _log_of(entry, options.folder)
    log.parent.mkdir(parents=True, exist_ok=True)
    if entry.contestant in OURS:
        command = ["train.py", f"--game={entry.game}", f"--seed={entry.seed}", "--device=cpu"]
        command += [f"--runs={log.parent.absolute()}", *OURS[entry.contestant]]
        command += [f"--set={text}" for text in (f"threads={options.threads}", *options.set)]
    else:
        command = ["-m", "benchmarks.time_to_score", str(options.folder.absolute())]
        command += ["--serve", entry.contestant, "--games", entry.game]
        command += ["--seeds", str(entry.seed), "--threads", str(options.threads)]
        command += ["--limit", str(options.limit)]
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            stdout=output,
            stderr=output,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
            start_new_session=True,  # Ctrl-C reaches the parent alone
        )


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ask a process to save and stop, and wait for it."""
    process.terminate()
    try:
        process.wait(120)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def train_sb3(entry: Entry, options: argparse.Namespace) -> None:
    """Train one of SB3's agents, and write the games that end as this project does."""
    import torch
    from stable_baselines3.common.callbacks import BaseCallback

    from agents.training.callbacks import EPISODE_COLUMNS
    from benchmarks.agents import make_sb3

    torch.set_num_threads(options.threads)
    algo = SB3[entry.contestant]
    place = options.folder / entry.contestant / entry.game / f"{algo}-cnn" / f"seed{entry.seed}"
    place.mkdir(parents=True, exist_ok=True)

    class Recorder(BaseCallback):
        """Writes Monitor's games with the seconds since training began."""

        def _on_training_start(self) -> None:
            self.started = time.monotonic()

        def _on_step(self) -> bool:
            seconds = time.monotonic() - self.started
            for index, info in enumerate(self.locals["infos"]):
                if (game := info.get("episode")) is not None:
                    frames = int(game["l"])
                    row = (self.num_timesteps, index, game["r"], frames, frames // 4, 0)
                    print(*row, f"{seconds:.3f}", sep=",", file=file, flush=True)
            return bool(seconds < 60 * options.limit + 600)  # if nobody stops it before

    agent = make_sb3(algo, entry.game, entry.seed)
    with (place / "episodes.csv").open("w", encoding="ascii") as file:
        print(",".join(EPISODE_COLUMNS), file=file, flush=True)
        agent.learn(SB3_AGENT_STEPS, callback=Recorder())


# --- results --------------------------------------------------------------------------------------


def measure_times(
    episodes: Episodes | None,
    thresholds: Sequence[float],
    limit_minutes: float = math.inf,
    ended: bool = False,
) -> dict[float, Time]:
    """When the games so far passed each threshold, if they did within the limit."""
    seconds = np.empty(0) if episodes is None else episodes.seconds
    trained = min(float(seconds[-1]) / 60 if len(seconds) else 0.0, limit_minutes)
    times = {}
    for threshold in thresholds:
        minutes = math.inf
        if episodes is not None:
            # Counted in games instead of agent steps.
            games = range(1, len(seconds) + 1)
            passed = find_steps_to_reach(games, episodes.returns, threshold)
            if passed is not None and seconds[passed - 1] <= 60 * limit_minutes:
                minutes = float(seconds[passed - 1]) / 60
        times[threshold] = Time(minutes, trained, ended)
    return times


def scan_runs(
    folder: Path, name: str | None, thresholds: Mapping[str, tuple[float, ...]]
) -> Results:
    """Times of the runs in a folder, finished or not.

    Args:
        folder: Holds `<Game>/<arm>/seed<k>/episodes.csv`, or a folder of those per contestant.
        name: Of the one contestant; None if there is a folder for each.
        thresholds: By game.
    """
    results: Results = {}
    for path in folder.glob(("" if name else "*/") + "*/*/seed*/episodes.csv"):
        game, _, seed = path.parts[-4:-1]
        if game in thresholds and seed[4:].isdecimal():
            entry = Entry(name or path.parts[-5], game, int(seed[4:]))
            times = measure_times(read_episodes(path), thresholds[game])
            results |= {(entry, threshold): t for threshold, t in times.items()}
    return results


def read_results(folder: Path) -> Results:
    """The rows of `results.csv`; the newest of those that are about the same."""
    results: Results = {}
    path = folder / "results.csv"
    with suppress(FileNotFoundError), path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            try:
                entry = Entry(row["contestant"], row["game"], int(row["seed"]))
                results[entry, float(row["threshold"])] = Time(
                    float(row["minutes"] or "inf"),
                    float(row["trained_minutes"]),
                    row["ended"] == "1",
                )
            except (KeyError, TypeError, ValueError):
                raise ValueError(f"{path}: {row} is not a result; remove the row.") from None
    return results


def _append_results(entry: Entry, times: Mapping[float, Time], folder: Path) -> None:
    path = folder / "results.csv"
    is_new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if is_new:
            writer.writerow(RESULT_COLUMNS)
        for threshold, t in times.items():
            minutes = "" if math.isinf(t.minutes) else f"{t.minutes:.3f}"
            row = (entry.contestant, entry.game, entry.seed, f"{threshold:g}", minutes)
            writer.writerow([*row, f"{t.trained_minutes:.3f}", int(t.ended)])


def format_times(results: Results) -> list[str]:
    """The lines of a Markdown table.

    A cell has the minutes (with several seeds their median, and all of them), and how many times
    sooner that is than SB3's A2C as the zoo has it.
    """
    groups: dict[tuple[str, float], dict[str, list[Time]]] = defaultdict(lambda: defaultdict(list))
    for (entry, threshold), t in results.items():
        groups[entry.game, threshold][entry.contestant].append(t)
    found = {entry.contestant for entry, _ in results}
    known = (*SB3, *OURS)
    names = [*(name for name in known if name in found), *sorted(found.difference(known))]
    lines = [f"| game, mean return | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for (game, threshold), times in sorted(groups.items()):
        cells = (_show(times.get(name), times.get(BASELINE)) for name in names)
        lines.append(f"| {game}, {threshold:g} | {' | '.join(cells)} |")
    return lines


def _show(times: list[Time] | None, baseline: list[Time] | None) -> str:
    if not times:
        return "-"
    own = _median(times)
    text = str(own)
    if len(times) > 1:
        text += f" ({', '.join(str(t) for t in sorted(times, key=_order))})"
    if baseline and times is not baseline and own.minutes < math.inf:
        theirs = _median(baseline)
        never = math.isinf(theirs.minutes)
        ratio = (theirs.trained_minutes if never else theirs.minutes) / own.minutes
        text += f", {'> ' * never}{ratio:.2g} x"
    return text


def _median(times: Sequence[Time]) -> Time:
    """The time in the middle; the later of two."""
    return sorted(times, key=_order)[len(times) // 2]


def _order(t: Time) -> tuple[float, float]:
    return t.minutes, t.trained_minutes


# --- the command ----------------------------------------------------------------------------------


def _check(options: argparse.Namespace) -> dict[str, tuple[float, ...]]:
    """Thresholds by game.

    Raises:
        ValueError: If something asked for cannot be; one line.
    """
    thresholds = dict(THRESHOLDS)
    for text in options.threshold:
        game, _, value = text.partition("=")
        try:
            find_game(game)
            thresholds[game] = tuple(sorted(float(part) for part in value.split(",")))
        except ValueError as error:
            raise ValueError(f"--threshold takes Game=SCORE,...: {error}") from None
    for game in options.games:
        find_game(game)
        if game not in thresholds:
            raise ValueError(f"{game} has no threshold; add --threshold {game}=SCORE.")
    for name, least in (("jobs", 1), ("threads", 1), ("limit", 0), ("poll", 0)):
        if not getattr(options, name) >= least:
            raise ValueError(f"--{name} must be at least {least}, got {getattr(options, name)}.")
    return {game: thresholds[game] for game in options.games}


def _name_and_folder(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and Path(folder).is_dir()):
        raise ValueError(f"--runs takes NAME=FOLDER, a folder that exists, got {text!r}.")
    return name, Path(folder)


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="python -m benchmarks.time_to_score",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    names = [*OURS, *SB3]
    add("folder", type=Path, help="where results and runs are")
    add("--contestants", nargs="+", default=names, choices=names, metavar="NAME", help=str(names))
    add("--games", nargs="+", default=list(THRESHOLDS), metavar="GAME", help="(the four above)")
    add("--threshold", action="append", default=[], metavar="GAME=SCORE,...", help="other scores")
    add("--seeds", type=int, nargs="+", default=[0], metavar="N", help="seeds (0)")
    add("--limit", type=float, default=120, metavar="MINUTES", help="of training (120)")
    add("--jobs", type=int, default=1, metavar="N", help="trainings side by side (1)")
    add("--threads", type=int, default=1, metavar="N", help="threads of each (1)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of train.py")
    add("--report", action="store_true", help="train nothing, print the table of what there is")
    add("--runs", action="append", default=[], metavar="NAME=FOLDER", help="more runs to report")
    add("--poll", type=float, default=5, help=argparse.SUPPRESS)
    add("--serve", choices=list(SB3), help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
