"""What a user watches while a comparison trains: a table on a terminal, plain lines elsewhere."""

import math
import os
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from configs.run_config import RunConfig
from experiments.comparison.execution.forecast import find_rate
from experiments.comparison.plan import ComparisonPlan
from experiments.comparison.report.records import RunProgress, read_progress, read_run
from experiments.comparison.statistics.curves import final_score
from runtime.command_line import align_columns, format_seconds
from runtime.run_directory import RunDirectory

SECONDS_BETWEEN_REDRAWS = 2.0
SECONDS_BETWEEN_LINES = 60.0
_LEAST_NAME = 12
_COLUMNS = ("run", "agent steps", "done", "steps/s", "return", "time left")


class LiveTable:
    """The active runs and the whole plan: steps, rate, return, time left."""

    def __init__(self, plan: ComparisonPlan, runs: Path, unfinished: Sequence[RunConfig]) -> None:
        """Say what is about to be done."""
        self._on_terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._drawn: list[str] = []
        self._shown = -math.inf
        self._runs, self._unfinished = runs, len(unfinished)
        count, length = len(plan.runs()), f"{plan.total_agent_steps:_} agent steps"
        ended = f"{count - self._unfinished} have ended, {self._unfinished} to train."
        until = (
            f"at most {self._unfinished} runs of {length} to train, until all games have stopped."
        )
        self.say(f"{count} runs of {length}: {ended}" if plan.design is None else until)
        self._expected_rate, _ = find_rate(plan, runs)

    def run_starts(self, config: RunConfig) -> None:
        """Say from where a run goes on."""
        if steps := self._count_saved_steps(config):
            self.say(f"{config.name}: goes on from {steps:_} agent steps.")

    def run_ended(self, config: RunConfig) -> None:
        """Say how a run ended."""
        with suppress(OSError, ValueError):  # what is shown ends no training
            run = read_run(RunDirectory(self._runs / config.name))
            mean = final_score(run.episodes.returns)
            games = "no finished game" if mean is None else f"mean return {mean:.1f}"
            self.say(f"{config.name}: {run.state}, {run.agent_steps:_} agent steps, {games}.")

    def runs_are_not_needed(self, count: int) -> None:
        """Take note that some will never start."""
        self._unfinished -= count

    def say(self, line: str) -> None:
        """Print a line above the table."""
        print(self._erase() + line, flush=True)

    def show(self, active: Sequence[RunConfig], waiting: Sequence[RunConfig], failed: int) -> None:
        """Show how far the runs have come, if the last time is long enough ago."""
        pause = SECONDS_BETWEEN_REDRAWS if self._on_terminal else SECONDS_BETWEEN_LINES
        if time.monotonic() - self._shown < pause or not active:
            return
        self._shown = time.monotonic()
        progress = [read_progress(RunDirectory(self._runs / config.name)) for config in active]
        done = self._unfinished - len(waiting) - len(active) - failed
        # Runs that have no rate yet are taken to be as fast as others were.
        rate = sum(run.agent_steps_per_second or self._expected_rate for run in progress)
        left = sum(config.run.total_agent_steps for config in (*active, *waiting))
        left -= sum(run.agent_steps for run in progress)
        left -= sum(map(self._count_saved_steps, waiting))
        summary = (
            f"{format_seconds(max(left, 0) / rate)} left at {rate:.0f} agent steps/s; "
            f"{done} of {self._unfinished} ended, {len(active)} training, {len(waiting)} waiting"
            + (f", {failed} failed" if failed else "")
        )
        columns, height = shutil.get_terminal_size()
        room = columns - 1 if self._on_terminal else None
        lines = [*format_rows(active, progress, room), summary]
        erase = self._erase()
        if self._on_terminal:
            self._drawn = lines = fit_to_terminal(lines, columns, height)
        print(erase + "\n".join(lines), flush=True)

    def _count_saved_steps(self, config: RunConfig) -> int:
        return RunDirectory(self._runs / config.name).count_saved_steps()

    def _erase(self) -> str:
        """What removes the table, which takes more lines if the terminal has become narrower."""
        if not self._drawn:
            return ""
        columns, height = shutil.get_terminal_size()
        lines = sum(math.ceil(len(line) / max(columns, 1)) or 1 for line in self._drawn)
        self._drawn = []
        return f"\x1b[{min(lines, max(height - 1, 1))}F\x1b[J"


def format_rows(
    active: Sequence[RunConfig], progress: Sequence[RunProgress], columns: int | None = None
) -> list[str]:
    """The table of the active runs, its heading first; long names give way to their figures."""
    rows: list[tuple[str, ...]] = [_COLUMNS]
    for config, run in zip(active, progress, strict=True):
        total, rate = config.run.total_agent_steps, run.agent_steps_per_second
        rows.append(
            (
                config.name,
                f"{run.agent_steps:_}",
                f"{run.agent_steps / total:.1%}",
                "-" if rate is None else f"{rate:.0f}",
                "-" if run.mean_return is None else f"{run.mean_return:.1f}",
                "-" if not rate else format_seconds((total - run.agent_steps) / rate),
            )
        )
    lines = align_columns(rows, left=1)
    if columns is not None and (excess := len(lines[0]) - columns) > 0:
        room = max(len(config.name) for config in active) - excess
        rows = [(_shorten(name, max(room, _LEAST_NAME)), *figures) for name, *figures in rows]
        lines = align_columns(rows, left=1)
    return lines


def _shorten(name: str, room: int) -> str:
    """Leave out the middle: the game is at the start, the seed at the end."""
    if len(name) <= room:
        return name
    head = room // 3
    return f"{name[:head]}...{name[len(name) - (room - head - 3) :]}"


def fit_to_terminal(lines: Sequence[str], columns: int, height: int) -> list[str]:
    """Leave out rows from the middle and the ends of lines; the cursor needs a line of its own."""
    room = max(height - 1, 1)
    if len(lines) > room:
        shown = lines[: max(room - 2, 0)]
        more = [f"... {len(lines) - 1 - len(shown)} more"] if room > 1 else []
        lines = [*shown, *more, lines[-1]]
    return [line[: max(columns - 1, 1)] for line in lines]
