"""What a user watches while a comparison trains: a table on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from agents.training.progress import format_seconds
from configs.run_config import RunConfig
from experiments.comparison.plan import ComparisonPlan
from experiments.comparison.report.records import RunProgress, read_progress
from runtime.run_directory import RunDirectory
from runtime.text_table import align_columns

SECONDS_BETWEEN_REDRAWS = 2.0
SECONDS_BETWEEN_LINES = 60.0
_COLUMNS = ("run", "agent steps", "done", "steps/s", "return", "time left")


class LiveTable:
    """The active runs and the whole plan: steps, rate, return, time left."""

    def __init__(self) -> None:
        self._on_terminal = sys.stdout.isatty()
        self._drawn_lines = 0
        self._shown = time.monotonic()
        self._runs = Path()
        self._unfinished = 0
        self._total_agent_steps = 0

    def begin(self, plan: ComparisonPlan, runs: Path, unfinished: int) -> None:
        """Say what is about to be done."""
        self._runs, self._unfinished = runs, unfinished
        self._total_agent_steps = plan.total_agent_steps
        count = len(plan.runs())
        self.say(
            f"{count} runs of {plan.total_agent_steps:_} agent steps: "
            f"{count - unfinished} have ended, {unfinished} to train."
        )

    def run_ended(self, config: RunConfig, runs: Path) -> None:
        """Say how a run ended."""
        status = RunDirectory(runs / config.name).read_status()
        progress = read_progress(RunDirectory(runs / config.name))
        shown = (
            "no finished game"
            if progress.mean_return is None
            else f"mean return {progress.mean_return:.1f}"
        )
        state, steps = ("not started", 0) if status is None else (status.state, status.agent_steps)
        self.say(f"{config.name}: {state}, {steps:_} agent steps, {shown}.")

    def say(self, line: str) -> None:
        """Print a line above the table."""
        self._erase()
        print(line, flush=True)

    def show(self, active: Sequence[RunConfig], waiting: int, failed: int) -> None:
        """Show how far the runs have come, if the last time is long enough ago."""
        pause = SECONDS_BETWEEN_REDRAWS if self._on_terminal else SECONDS_BETWEEN_LINES
        if time.monotonic() - self._shown < pause or not active:
            return
        self._shown = time.monotonic()
        progress = [read_progress(RunDirectory(self._runs / config.name)) for config in active]
        lines = format_rows(active, progress)
        done = self._unfinished - waiting - len(active) - failed
        lines.append(
            f"{done} of {self._unfinished} ended, {len(active)} training, {waiting} waiting"
            + (f", {failed} failed" if failed else "")
            + self._describe_time_left(progress, waiting)
        )
        self._erase()
        print("\n".join(lines), flush=True)
        self._drawn_lines = len(lines) if self._on_terminal else 0

    def close(self) -> None:
        """Leave the table as it is."""
        self._drawn_lines = 0

    def _describe_time_left(self, progress: Sequence[RunProgress], waiting: int) -> str:
        rate = sum(run.agent_steps_per_second or 0.0 for run in progress)
        if not rate:
            return ""
        left = sum(self._total_agent_steps - run.agent_steps for run in progress)
        left += waiting * self._total_agent_steps
        return f"; {rate:.0f} agent steps/s in all, {format_seconds(left / rate)} left"

    def _erase(self) -> None:
        if self._drawn_lines:
            print(f"\x1b[{self._drawn_lines}F\x1b[J", end="")
            self._drawn_lines = 0


def format_rows(active: Sequence[RunConfig], progress: Sequence[RunProgress]) -> list[str]:
    """The table of the active runs, its heading first."""
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
    return align_columns(rows, left=1)
