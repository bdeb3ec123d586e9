"""What a user watches while a run trains: a bar on a terminal, plain lines elsewhere."""

import sys
import time

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Agent steps done, rate, time left and mean return.

    Args:
        name: What is being trained.
        done_agent_steps: Where this start begins.
        total_agent_steps: Where the run ends.
    """

    def __init__(self, name: str, done_agent_steps: int, total_agent_steps: int) -> None:
        self._name = name
        self._total = total_agent_steps
        self._from = done_agent_steps
        self._started = self._shown = time.monotonic()
        self._bar = (
            tqdm(
                total=total_agent_steps,
                initial=done_agent_steps,
                desc=name,
                unit="step",
                unit_scale=True,
                dynamic_ncols=True,
                mininterval=0.5,
            )
            if sys.stderr.isatty()
            else None
        )

    def update(self, agent_steps: int, mean_return: float | None) -> None:
        """Show how far the run has come."""
        if self._bar is not None:
            if mean_return is not None:
                self._bar.set_postfix_str(f"return {mean_return:.1f}", refresh=False)
            self._bar.update(agent_steps - self._bar.n)
        elif time.monotonic() - self._shown >= SECONDS_BETWEEN_LINES:
            self._shown = time.monotonic()
            self.say(self._line(agent_steps, mean_return))

    def say(self, line: str) -> None:
        """Print a line without disturbing the bar."""
        if self._bar is not None:
            self._bar.write(line)
        else:
            print(line, flush=True)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()

    def _line(self, agent_steps: int, mean_return: float | None) -> str:
        seconds = time.monotonic() - self._started
        rate = (agent_steps - self._from) / seconds
        left = (self._total - agent_steps) / rate if rate else float("inf")
        shown = "no finished game yet" if mean_return is None else f"mean return {mean_return:.1f}"
        return (
            f"{self._name}: {agent_steps:_} of {self._total:_} agent steps "
            f"({agent_steps / self._total:.1%}), {rate:.0f}/s, {format_seconds(left)} left, {shown}"
        )


def format_seconds(seconds: float) -> str:
    """Seconds as people say them: "2 h 05 min", "3 min 20 s"."""
    if seconds == float("inf"):
        return "unknown time"
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    if whole >= 60:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole} s"
