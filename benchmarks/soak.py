"""Kill a training run at random moments, and compare it with one that was left alone.

    python -m benchmarks.soak --kills 50    # of each run; about 25 minutes on 2 cores
    python -m benchmarks.soak --memory      # memory, open files and threads of long runs

Every run is trained twice by `train.py`: once uninterrupted, and once killed with SIGKILL and
started again with the same command until it is finished. Weights, optimiser state, `episodes.csv`
and TensorBoard scalars must be equal, bit for bit, what measures wall-clock time apart.
"""

import csv
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.models.model_file import read_model_zip
from runtime.command_line import OneLineParser
from runtime.run_directory import RunDirectory

ROOT = Path(__file__).parent.parent
POLL_SECONDS = 0.005
WALL_CLOCK_TAGS = {"time/fps"}
MEMORY_TOLERANCE = 0.05


class SoakFailure(Exception):
    """A run did not do what it should; the message says what."""


@dataclass(frozen=True)
class Case:
    """One run: the algorithm, the network and the number of environments."""

    algo: str
    coordconv: bool
    n_envs: int

    @property
    def name(self) -> str:
        """As the run's directory is called."""
        return f"{self.algo}-{'coordconv' if self.coordconv else 'cnn'}"

    @property
    def checkpoint_every(self) -> int:
        """Agent steps between checkpoints; some tenths of a second."""
        return 240 if self.algo == "a2c" else 120

    def directory(self, runs: Path, seed: int) -> RunDirectory:
        """Where the run is."""
        return RunDirectory(runs / "Breakout" / self.name / f"seed{seed}")

    def command(self, runs: Path, seed: int, steps: int, **settings: object) -> list[str]:
        """What trains the run."""
        command = [sys.executable, "train.py", "--game=Breakout", f"--algo={self.algo}"]
        command += [f"--seed={seed}", f"--steps={steps}", f"--runs={runs}", "--device=cpu"]
        command += ["--coordconv"] if self.coordconv else []
        common: dict[str, object] = {
            "n_envs": self.n_envs,
            "threads": 1,
            "log_every_agent_steps": 80,
            "checkpoint_every_agent_steps": self.checkpoint_every,
        }
        if self.algo == "dqn":
            common |= {
                "buffer_size": 1_000,
                "learning_starts": 200,
                "batch_size": 8,
                "target_update_interval": 100,
                "exploration_fraction": 0.5,
            }
        return command + [f"--set={name}={value}" for name, value in (common | settings).items()]


CASES = (
    Case("a2c", coordconv=False, n_envs=1),
    Case("a2c", coordconv=True, n_envs=4),
    Case("dqn", coordconv=True, n_envs=1),
    Case("dqn", coordconv=False, n_envs=4),
)


@dataclass(frozen=True)
class Outcome:
    """What a comparison found.

    Attributes:
        case: The run.
        agent_steps: Its length.
        killed_at: Agent steps of the newest checkpoint at each kill.
        games: Finished games, by environment.
        seconds: Of both runs.
    """

    case: Case
    agent_steps: int
    killed_at: list[int]
    games: Counter[int]
    seconds: float


def soak(case: Case, runs: Path, kills: int, seed: int, steps: int | None = None) -> Outcome:
    """Train a run with and without kills, and compare.

    Args:
        case: The run.
        runs: An empty folder.
        kills: How often it is killed.
        seed: Of the run, and of the moments.
        steps: Its length in agent steps; by default enough for all kills.

    Raises:
        SoakFailure: If the two runs differ, one fails or finishes too early, or an environment
            finished no game.
    """
    steps = steps or max(3 * kills * case.checkpoint_every, 400 * case.n_envs)
    alone, killed = runs / "alone", runs / "killed"
    started = time.monotonic()
    with _running(case.command(alone, seed, steps), runs / "alone.log") as process:
        killed_at = _train_with_kills(case, killed, kills, seed, steps)
        _finish(process, runs / "alone.log")
    expected, actual = case.directory(alone, seed), case.directory(killed, seed)
    differences = compare_runs(expected, actual)
    if differences:
        raise SoakFailure(f"{case.name}: the killed run differs: {', '.join(differences)}")
    games = Counter(int(row["environment"]) for row in read_episodes(expected))
    idle = [environment for environment in range(case.n_envs) if not games[environment]]
    if idle:
        raise SoakFailure(f"{case.name}: environments {idle} finished no game; use more --steps")
    return Outcome(case, steps, killed_at, games, time.monotonic() - started)


def _train_with_kills(case: Case, runs: Path, kills: int, seed: int, steps: int) -> list[int]:
    """Train a run that is killed; returns the newest checkpoint's agent steps at each kill."""
    moments = random.Random(f"{case.name} {seed}")
    directory = case.directory(runs, seed)
    command = case.command(runs, seed, steps)
    log = runs.with_suffix(".log")
    pace = 0.5  # seconds between checkpoints
    killed_at: list[int] = []
    for kill in range(kills):
        said = log.stat().st_size if kill else 0
        with _running(command, log) as process:
            if kill == 0:
                _wait(process, log, lambda: directory.count_saved_steps() > 0)
            else:
                _wait(process, log, lambda said=said: b"resumed at" in _read_from(log, said))  # type: ignore[misc]
            checkpoints = moments.choice((0, 1, 1, 2))
            for _ in range(checkpoints):
                before, began = directory.count_saved_steps(), time.monotonic()
                _wait(process, log, lambda before=before: directory.count_saved_steps() > before)  # type: ignore[misc]
                pace += (time.monotonic() - began - pace) / 4
            time.sleep(moments.uniform(0, pace))
            process.send_signal(signal.SIGKILL)
            if process.wait() != -signal.SIGKILL:
                raise SoakFailure(f"{case.name}: finished before kill {kill + 1}; use more --steps")
        killed_at.append(directory.count_saved_steps())
        if killed_at[-1] <= 0:
            raise SoakFailure(f"{case.name}: kill {kill + 1} came before the first checkpoint")
    with _running(command, log) as process:
        _finish(process, log)
    return killed_at


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command, which does not outlive the block."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], log: Path, condition: Callable[[], bool]) -> None:
    while not condition():
        if process.poll() is not None:
            raise SoakFailure(f"the run ended early: {_read_from(log, 0)[-2000:].decode()}")
        time.sleep(POLL_SECONDS)


def _finish(process: subprocess.Popen[bytes], log: Path) -> None:
    if process.wait() != 0:
        raise SoakFailure(f"the run failed: {_read_from(log, 0)[-2000:].decode()}")


def _read_from(path: Path, offset: int) -> bytes:
    return path.read_bytes()[offset:]


# --- comparing ------------------------------------------------------------------------------------


def compare_runs(expected: RunDirectory, actual: RunDirectory) -> list[str]:
    """What differs between two finished runs, wall-clock times apart; empty if nothing does."""
    one, other = (read_model_zip(run.final_path, ours=True) for run in (expected, actual))
    differences = [
        part
        for part, first, second in (
            ("weights", one.policy_state, other.policy_state),
            ("optimiser state", one.optimizer_state, other.optimizer_state),
        )
        if not _equal(first, second)
    ]
    if read_episodes(expected) != read_episodes(actual):
        differences.append("episodes.csv")
    if read_scalars(expected) != read_scalars(actual):
        differences.append("TensorBoard scalars")
    return differences


def read_episodes(directory: RunDirectory) -> list[dict[str, str]]:
    """The rows of episodes.csv, without their wall-clock column."""
    with directory.episodes_path.open(encoding="utf-8") as file:
        return [
            {name: value for name, value in row.items() if name != "seconds"}
            for row in csv.DictReader(file)
        ]


def read_scalars(directory: RunDirectory) -> dict[str, list[tuple[int, str]]]:
    """Steps and values by tag, without the tags that measure wall-clock time.

    Values are hexadecimal, so that NaN, the explained variance of equal returns, equals itself.
    """
    events = EventAccumulator(str(directory.path), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(event.step, float(event.value).hex()) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if tag not in WALL_CLOCK_TAGS
    }


def _equal(one: Any, other: Any) -> bool:
    """Whether two nested states are equal, tensors to the bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(_equal(value, other[key]) for key, value in one.items())
        )
    if isinstance(one, list):
        return (
            isinstance(other, list)
            and len(one) == len(other)
            and all(_equal(first, second) for first, second in zip(one, other, strict=True))
        )
    return bool(one == other)


# --- memory ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """What a process holds at one moment."""

    agent_steps: int  # of its newest checkpoint
    anonymous_bytes: int
    open_files: int
    threads: int


@dataclass(frozen=True)
class Growth:
    """Medians over the first and the last third of a run's samples after its first wrap."""

    first: Sample
    last: Sample

    @property
    def of_memory(self) -> float:
        """Share by which anonymous memory grew."""
        return self.last.anonymous_bytes / self.first.anonymous_bytes - 1


def watch_growth(case: Case, runs: Path, steps: int, buffer_size: int) -> Growth:
    """Train a run and watch what its process holds.

    Args:
        case: The run.
        runs: An empty folder.
        steps: Its length in agent steps.
        buffer_size: Of DQN's replay buffer; samples are taken once it has wrapped.

    Raises:
        SoakFailure: If anonymous memory grew by more than 5 %, or open files or threads did at all.
    """
    settings = {"buffer_size": buffer_size} if case.algo == "dqn" else {}
    directory, log = case.directory(runs, 0), runs / "memory.log"
    samples: list[Sample] = []
    with _running(case.command(runs, 0, steps, **settings), log) as process:
        while process.poll() is None:
            agent_steps = directory.count_saved_steps()
            # The rings behind the memory are longer, by two intervals and 1000 transitions.
            if agent_steps > 1.1 * (buffer_size + 2 * case.checkpoint_every + 1_000):
                samples += _sample(process.pid, agent_steps)
            time.sleep(0.05)
        _finish(process, log)
    third = len(samples) // 3
    if third < 10:
        raise SoakFailure(f"{case.name}: only {len(samples)} samples; use more steps")
    growth = Growth(_median(samples[:third]), _median(samples[-third:]))
    if growth.of_memory > MEMORY_TOLERANCE:
        raise SoakFailure(f"{case.name}: anonymous memory grew by {growth.of_memory:.1%}")
    for what in ("open_files", "threads"):
        before, after = getattr(growth.first, what), getattr(growth.last, what)
        if after != before:
            raise SoakFailure(f"{case.name}: {what} went from {before} to {after}")
    return growth


def _sample(pid: int, agent_steps: int) -> list[Sample]:
    """One sample; none if the process has just ended."""
    process = Path(f"/proc/{pid}")
    try:
        lines = (process / "status").read_text(encoding="ascii").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        open_files = len(list((process / "fd").iterdir()))
        anonymous = 1024 * int(fields["RssAnon"].split()[0])
        return [Sample(agent_steps, anonymous, open_files, int(fields["Threads"]))]
    except (OSError, KeyError):
        return []


def _median(samples: list[Sample]) -> Sample:
    def of(name: str) -> int:
        return int(statistics.median_low(getattr(sample, name) for sample in samples))

    return Sample(of("agent_steps"), of("anonymous_bytes"), of("open_files"), of("threads"))


# --- the command ----------------------------------------------------------------------------------


def main() -> int:
    """Run what is asked and print a table; returns 1 if anything differs."""
    parser = OneLineParser(prog="python -m benchmarks.soak", description=__doc__)
    add = parser.add_argument
    add("--kills", type=int, default=50, metavar="N", help="kills of each run (50)")
    add("--algo", nargs="+", default=["a2c", "dqn"], choices=("a2c", "dqn"), help="algorithms")
    add("--seed", type=int, default=0, metavar="N", help="seed of the runs and the moments (0)")
    add("--steps", type=int, metavar="N", help="agent steps of each run (enough for the kills)")
    add("--memory", action="store_true", help="watch memory instead, over 40_000 agent steps")
    options = parser.parse_args()
    for name in ("kills", "steps"):
        if (value := getattr(options, name)) is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    cases = [case for case in CASES if case.algo in options.algo]
    try:
        if options.memory:
            _report_memory(cases, options.steps or 40_000)
        else:
            _report_kills(cases, options.kills, options.seed, options.steps)
    except SoakFailure as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        return 1
    return 0


def _report_kills(cases: list[Case], kills: int, seed: int, steps: int | None) -> None:
    print("| run | environments | agent steps | kills | killed at | games | seconds | result |")
    print("|---|---|---|---|---|---|---|---|")
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            found = soak(case, Path(folder), kills, seed, steps)
        at = f"{min(found.killed_at):,}-{max(found.killed_at):,}" if found.killed_at else "-"
        print(
            f"| {case.name} | {case.n_envs} | {found.agent_steps:,} | {len(found.killed_at)} | {at}"
            f" | {found.games.total()} | {found.seconds:.0f} | identical |",
            flush=True,
        )


def _report_memory(cases: list[Case], steps: int) -> None:
    print("| run | agent steps | anonymous memory, MB | growth | open files | threads |")
    print("|---|---|---|---|---|---|")
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            growth = watch_growth(case, Path(folder), steps, buffer_size=4_000)
        print(
            f"| {case.name} | {steps:,} | {growth.last.anonymous_bytes / 1e6:.0f} | "
            f"{growth.of_memory:+.1%} | {growth.last.open_files} | {growth.last.threads} |",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
