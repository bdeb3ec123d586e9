"""Minutes until the mean of the last 100 games reaches a score, beside Stable-Baselines3.

    python -m benchmarks.time_to_score FOLDER --jobs 2        # hours; may be stopped and started
    python -m benchmarks.time_to_score FOLDER --report        # the table of what there is so far

Contestants: this project's `train.py` as it comes, its two networks in fp32 and bf16; SB3's A2C as
rl-baselines3-zoo configures it; SB3's PPO with the zoo's Atari settings. Each is a process of its
own with the same number of threads. Every game that ends is written to
`FOLDER/<contestant>/<Game>/<arm>/seed<k>/episodes.csv` with the seconds of training so far, from
which the time of passing is read: a folder of other runs that is put there is reported, too. A
contestant is stopped when it has passed every threshold of its game, or at the limit, and is not
started again. What was interrupted goes on (this project) or starts anew (SB3).
"""

import argparse
import math
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import torch
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.agents import make_sb3
from experiments.comparison.statistics.curves import find_game_to_reach
from runtime.command_line import OneLineParser, exit_on_user_error
from runtime.episodes import EPISODE_COLUMNS, read_episodes
from runtime.stop_request import SIGNAL_BASE, StopRequest

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
SECONDS_BETWEEN_LOOKS = 5.0


@dataclass(frozen=True, order=True)
class Time:
    """Minutes of training until a threshold was passed, infinite if it was not, and in all."""

    passed: float
    trained: float

    def __str__(self) -> str:
        return f"{self.passed:.1f}" if self.passed < math.inf else f"> {self.trained:.3g}"


Times = dict[tuple[str, float], dict[str, list[Time]]]  # by game and threshold, by contestant


def main(arguments: list[str] | None = None) -> int:
    """Race or report; returns the exit status."""
    options = _parse(arguments)
    with exit_on_user_error():
        if options.serve:
            train_sb3(options.serve, options)
            return 0
        entries = [
            (name, game, seed)
            for seed in options.seeds
            for game in options.games
            for name in options.contestants
        ]
        stop, failed = StopRequest(), []
        if not options.report:
            with stop.on_signals(), ThreadPoolExecutor(options.jobs) as pool:
                logs = pool.map(lambda entry: race(entry, options, stop), entries)
                failed = [log for log in logs if log is not None]
        times = read_times(options.folder)
        if options.report and not times:
            raise ValueError(f"{options.folder} has no runs of this program's; give its folder.")
        print("\n".join(format_times(times)))
    for log in failed:
        print(f"failed: see {log}", file=sys.stderr)
    return SIGNAL_BASE + stop.signal if stop.signal else int(bool(failed))


# --- the race -------------------------------------------------------------------------------------


def race(
    entry: tuple[str, str, int], options: argparse.Namespace, stop: StopRequest
) -> Path | None:
    """Train one agent until nothing is left to find out; returns its log if that failed."""
    contestant, game, seed = entry

    def is_over() -> bool:
        found = read_times(options.folder, f"{contestant}/{game}/*/seed{seed}").values()
        times = [time for of_threshold in found for time in of_threshold[contestant]]
        return bool(times) and all(
            time.passed < math.inf or time.trained >= options.limit for time in times
        )

    if stop or is_over():
        return None
    runs: Path = options.folder / contestant
    runs.mkdir(parents=True, exist_ok=True)
    log = runs / f"{game}-{seed}.log"
    if contestant in OURS:
        command = ["train.py", f"--game={game}", f"--seed={seed}", "--device=cpu"]
        command += [f"--runs={runs.absolute()}", *OURS[contestant]]
        command += [f"--set={text}" for text in (f"threads={options.threads}", *options.set)]
    else:
        command = ["-m", "benchmarks.time_to_score", str(options.folder.absolute())]
        command += [f"--serve={contestant}", f"--games={game}", f"--seeds={seed}"]
        command += [f"--threads={options.threads}"]
    print(f"started: {contestant}, {game}, seed {seed}", flush=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            stdout=output,
            stderr=output,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
            start_new_session=True,  # Ctrl-C reaches the parent alone
        )
    while process.poll() is None:
        if stop or is_over():
            process.terminate()  # this project's runs are saved
            process.wait()
            return None
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return log if process.returncode else None


def train_sb3(contestant: str, options: argparse.Namespace) -> None:
    """Train one of SB3's agents, and write the games that end as this project does."""
    (game,), (seed,), algo = options.games, options.seeds, SB3[contestant]
    torch.set_num_threads(options.threads)
    place = options.folder / contestant / game / f"{algo}-cnn" / f"seed{seed}"
    place.mkdir(parents=True, exist_ok=True)
    agent = make_sb3(algo, game, seed)
    with (place / "episodes.csv").open("w", encoding="ascii") as file:
        print(",".join(EPISODE_COLUMNS), file=file, flush=True)
        agent.learn(SB3_AGENT_STEPS, callback=_Recorder(file))


class _Recorder(BaseCallback):
    """Writes Monitor's games with the seconds since training began."""

    def __init__(self, file: TextIO) -> None:
        super().__init__()
        self._file = file

    def _on_training_start(self) -> None:
        self._started = time.monotonic()

    def _on_step(self) -> bool:
        seconds = time.monotonic() - self._started
        for index, info in enumerate(self.locals["infos"]):
            if (game := info.get("episode")) is not None:
                frames = int(game["l"])
                row = (self.num_timesteps, index, game["r"], frames, frames // 4, 0)
                print(*row, f"{seconds:.3f}", sep=",", file=self._file, flush=True)
        return True


# --- the table ------------------------------------------------------------------------------------


def read_times(folder: Path, runs: str = "*/*/*/seed*") -> Times:
    """When the games so far of each run below a folder passed each threshold."""
    times: Times = defaultdict(lambda: defaultdict(list))
    for directory in sorted(folder.glob(runs)):
        *_, contestant, game, _, _ = directory.parts
        episodes = read_episodes(directory / "episodes.csv")
        trained = float(episodes.seconds[-1]) / 60 if len(episodes.seconds) else 0.0
        for threshold in THRESHOLDS.get(game, ()):
            reached = find_game_to_reach(episodes.returns, threshold)
            passed = math.inf if reached is None else float(episodes.seconds[reached]) / 60
            times[game, threshold][contestant].append(Time(passed, trained))
    return times


def format_times(times: Times) -> list[str]:
    """The lines of a Markdown table.

    A cell has the minutes (with several seeds their median, the later of two, and all of them), and
    how many times sooner that is than SB3's A2C as the zoo has it.
    """
    found = {name for of_threshold in times.values() for name in of_threshold}
    known = [name for name in (*SB3, *OURS) if name in found]
    names = [*known, *sorted(found.difference(known))]
    lines = [f"| game, mean return | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for (game, threshold), of_threshold in sorted(times.items()):
        cells = (_show(of_threshold, name) for name in names)
        lines.append(f"| {game}, {threshold:g} | {' | '.join(cells)} |")
    return lines


def _show(times: Mapping[str, list[Time]], name: str) -> str:
    own, baseline = (sorted(times.get(each, [])) for each in (name, BASELINE))
    if not own:
        return "-"
    middle = own[len(own) // 2]
    text = str(middle)
    if len(own) > 1:
        text += f" ({', '.join(map(str, own))})"
    if baseline and name != BASELINE and middle.passed < math.inf:
        theirs = baseline[len(baseline) // 2]
        ratio = min(theirs.passed, theirs.trained) / middle.passed
        text += f", {'> ' * math.isinf(theirs.passed)}{ratio:.2g} x"
    return text


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(
        prog="python -m benchmarks.time_to_score",
        description=__doc__,
    )
    add, names, games = parser.add_argument, [*OURS, *SB3], list(THRESHOLDS)
    add("folder", type=Path, help="where the runs are")
    add("--contestants", nargs="+", default=names, choices=names, metavar="NAME", help=str(names))
    add("--games", nargs="+", default=games, choices=games, metavar="GAME", help=str(games))
    add("--seeds", type=int, nargs="+", default=[0], metavar="N", help="seeds (0)")
    add("--limit", type=float, default=120, metavar="MINUTES", help="of training (120)")
    add("--jobs", type=int, default=1, metavar="N", help="trainings side by side (1)")
    add("--threads", type=int, default=1, metavar="N", help="threads of each (1)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of train.py")
    add("--report", action="store_true", help="train nothing, print the table of what there is")
    add("--serve", choices=list(SB3), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for name in ("limit", "jobs", "threads"):
        if getattr(options, name) <= 0:
            parser.error(f"--{name} must be above 0, got {getattr(options, name)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
