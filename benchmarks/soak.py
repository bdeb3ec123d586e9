"""Kill a training run at random moments, and compare it with one that was left alone.

    python -m benchmarks.soak --kills 50    # of each run; about 25 minutes on 2 cores
    python -m benchmarks.soak --memory      # memory, open files and threads of long runs

Every run is trained twice by `train.py`: once uninterrupted, and once killed with SIGKILL and
started again with the same command until it is finished. Weights, optimiser state, `episodes.csv`
and TensorBoard scalars must be equal, bit for bit, what measures wall-clock time apart.
"""

import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.models.model_file import read_model_zip
from configs.run_config import make_config
from runtime.command_line import OneLineParser
from runtime.run_directory import RunDirectory

ROOT = Path(__file__).parent.parent
WALL_CLOCK_TAGS = {"time/fps"}
MEMORY_AGENT_STEPS, MEMORY_BUFFER_SIZE = 40_000, 4_000
MEMORY_TOLERANCE = 0.05
DQN_SETTINGS = {
    "buffer_size": 1_000,
    "learning_starts": 200,
    "batch_size": 8,
    "target_update_interval": 100,
    "exploration_fraction": 0.5,
}


class SoakFailure(Exception):
    """A run did not do what it should; the message says what."""


@dataclass(frozen=True)
class Case:
    """One run: the algorithm, the network and the number of environments."""

    algo: str
    arm: str
    n_envs: int

    @property
    def name(self) -> str:
        """What the outcome is told of."""
        return f"{self.algo}-{self.arm}"

    @property
    def checkpoint_every(self) -> int:
        """Agent steps between checkpoints; some tenths of a second."""
        return 240 if self.algo == "a2c" else 120

    def directory(self, runs: Path, **settings: float) -> RunDirectory:
        """Where the run is."""
        network = {"coord_layers": [0] if self.arm == "coordconv" else []}
        asked = {**self._settings(settings), **network}
        return RunDirectory(runs / make_config("Breakout", self.algo, asked).name)

    def command(self, runs: Path, steps: int, **settings: float) -> list[str]:
        """What trains the run."""
        command = [sys.executable, "train.py", "--game=Breakout", f"--algo={self.algo}"]
        command += ["--coordconv"] if self.arm == "coordconv" else []
        command += [f"--steps={steps}", f"--runs={runs}", "--device=cpu"]
        asked = self._settings(settings)
        return command + [f"--set={name}={value}" for name, value in asked.items()]

    def _settings(self, more: Mapping[str, float]) -> dict[str, float]:
        common: dict[str, float] = {
            "n_envs": self.n_envs,
            "threads": 1,
            "log_every_agent_steps": 80,
            "checkpoint_every_agent_steps": self.checkpoint_every,
        }
        return {**common, **(DQN_SETTINGS if self.algo == "dqn" else {}), **more}


CASES = (
    Case("a2c", "cnn", 1),
    Case("a2c", "coordconv", 4),
    Case("dqn", "coordconv", 1),
    Case("dqn", "cnn", 4),
)


def soak(case: Case, runs: Path, kills: int, steps: int) -> list[int]:
    """Train a run of so many agent steps with and without kills, in an empty folder, and compare.

    Returns:
        The agent steps of the newest checkpoint at each kill.

    Raises:
        SoakFailure: If the two runs differ, one fails or finishes too early, or an environment
            finished no game.
    """
    alone, killed = runs / "alone", runs / "killed"
    with _running(case.command(alone, steps), runs / "alone.log") as process:
        killed_at = _train_with_kills(case, killed, kills, steps)
        _finish(process, runs / "alone.log")
    expected, actual = case.directory(alone), case.directory(killed)
    if differences := compare_runs(expected, actual):
        raise SoakFailure(f"{case.name}: the killed run differs: {', '.join(differences)}")
    check_games(case, expected)
    return killed_at


def check_games(case: Case, run: RunDirectory) -> None:
    """Raise a SoakFailure if an environment finished no game: equal runs would prove little."""
    finished = {game.split(",")[1] for game in read_games(run)}
    idle = [environment for environment in range(case.n_envs) if str(environment) not in finished]
    if idle:
        raise SoakFailure(f"{case.name}: environments {idle} finished no game; train longer")


def _train_with_kills(case: Case, runs: Path, kills: int, steps: int) -> list[int]:
    moments, directory = random.Random(case.name), case.directory(runs)
    command, log = case.command(runs, steps), runs.with_suffix(".log")
    killed_at: list[int] = []

    def has_begun() -> bool:  # and has anything to go on from
        return log.read_text().count("resumed at") >= kill and directory.count_saved_steps() > 0

    def has_saved() -> bool:
        return directory.count_saved_steps() > newest

    for kill in range(kills):
        with _running(command, log) as process:
            _wait(process, log, has_begun)
            for _ in range(moments.choice((0, 1, 1, 2))):
                newest = directory.count_saved_steps()
                _wait(process, log, has_saved)
            time.sleep(moments.uniform(0, 0.5))
            process.kill()
            if process.wait() != -signal.SIGKILL:
                raise SoakFailure(f"{case.name}: finished before kill {kill + 1}; train longer")
        killed_at.append(directory.count_saved_steps())
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
            raise SoakFailure(f"the run ended early: {log.read_text()[-2000:]}")
        time.sleep(0.005)


def _finish(process: subprocess.Popen[bytes], log: Path) -> None:
    if process.wait() != 0:
        raise SoakFailure(f"the run failed: {log.read_text()[-2000:]}")


# --- comparing ------------------------------------------------------------------------------------


def compare_runs(expected: RunDirectory, actual: RunDirectory) -> list[str]:
    """What differs between two finished runs, wall-clock times apart; empty if nothing does."""
    models = [read_model_zip(run.final_path, ours=True) for run in (expected, actual)]
    weights, optimisers = zip(*((m.policy_state, m.optimizer_state) for m in models), strict=True)
    is_equal = {
        "weights": are_equal(*weights),
        "optimiser state": are_equal(*optimisers),
        "episodes.csv": read_games(expected) == read_games(actual),
        "TensorBoard scalars": read_scalars(expected) == read_scalars(actual),
    }
    return [name for name, equal in is_equal.items() if not equal]


def read_games(directory: RunDirectory) -> list[str]:
    """The rows of episodes.csv, without the last column, which is of the wall clock."""
    rows = directory.episodes_path.read_text(encoding="ascii").splitlines()[1:]
    return [row.rpartition(",")[0] for row in rows]


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


def are_equal(one: Any, other: Any) -> bool:
    """Whether two nested states are equal, tensors to the bit."""
    try:
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    except AssertionError:
        return False
    return True


# --- memory ---------------------------------------------------------------------------------------


def watch_growth(
    case: Case, runs: Path, steps: int, buffer_size: int
) -> tuple[list[float], list[float]]:
    """Train a run in an empty folder, and watch what its process holds.

    Args:
        case: The run.
        runs: An empty folder.
        steps: Its length in agent steps.
        buffer_size: Of DQN's replay buffer; what is held is looked at once it has wrapped.

    Returns:
        Anonymous bytes, open files and threads: the medians over the first and the last third of
        what was seen.

    Raises:
        SoakFailure: If anonymous memory grew by more than 5 %, or open files or threads did at all.
    """
    settings = {"buffer_size": buffer_size} if case.algo == "dqn" else {}
    directory, log = case.directory(runs, **settings), runs / "memory.log"
    # The rings behind the memory are longer, by two intervals and 1000 transitions.
    wrapped = 1.1 * (buffer_size + 2 * case.checkpoint_every + 1_000)
    seen: list[tuple[int, int, int]] = []
    with _running(case.command(runs, steps, **settings), log) as process:
        while process.poll() is None:
            if directory.count_saved_steps() > wrapped:
                seen += _look_at(process.pid)
            time.sleep(0.05)
        _finish(process, log)
    third = len(seen) // 3
    if third < 10:
        raise SoakFailure(f"{case.name}: was looked at only {len(seen)} times; train longer")
    first, last = (np.median(part, axis=0).tolist() for part in (seen[:third], seen[-third:]))
    if last[0] > (1 + MEMORY_TOLERANCE) * first[0]:
        raise SoakFailure(f"{case.name}: anonymous memory went from {first[0]} to {last[0]} bytes")
    if last[1:] != first[1:]:
        raise SoakFailure(
            f"{case.name}: open files and threads went from {first[1:]} to {last[1:]}"
        )
    return first, last


def _look_at(pid: int) -> list[tuple[int, int, int]]:
    """One look; none if the process has just ended."""
    process = Path(f"/proc/{pid}")
    try:
        lines = (process / "status").read_text(encoding="ascii").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        open_files = len(list((process / "fd").iterdir()))
        return [(1024 * int(fields["RssAnon"].split()[0]), open_files, int(fields["Threads"]))]
    except (OSError, KeyError):
        return []


# --- the command ----------------------------------------------------------------------------------


def main() -> int:
    """Run what is asked and print a table; returns 1 if anything differs."""
    parser = OneLineParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, metavar="N", help="of each run (50)")
    parser.add_argument("--memory", action="store_true", help="watch memory instead")
    options = parser.parse_args()
    if options.kills < 1:
        parser.error(f"--kills must be at least 1, got {options.kills}")
    if options.memory:
        print("| run | anonymous memory, MB | growth | open files | threads |")
    else:
        print("| run | environments | agent steps | kills | killed at | result |")
    print("|---|" + "---|" * (4 if options.memory else 5))
    for case in CASES:
        try:
            with tempfile.TemporaryDirectory() as folder:
                print(_report(case, Path(folder), options.memory, options.kills), flush=True)
        except SoakFailure as failure:
            print(f"FAILED: {failure}", file=sys.stderr)
            return 1
    return 0


def _report(case: Case, runs: Path, memory: bool, kills: int) -> str:
    if memory:
        first, last = watch_growth(case, runs, MEMORY_AGENT_STEPS, MEMORY_BUFFER_SIZE)
        grown = f"{last[0] / 1e6:.0f} | {last[0] / first[0] - 1:+.1%}"
        return f"| {case.name} | {grown} | {last[1]:.0f} | {last[2]:.0f} |"
    steps = max(3 * kills * case.checkpoint_every, 400 * case.n_envs)
    at = soak(case, runs, kills, steps)
    killed = f"{kills} | {min(at):,}-{max(at):,}"
    return f"| {case.name} | {case.n_envs} | {steps:,} | {killed} | identical |"


if __name__ == "__main__":
    sys.exit(main())
