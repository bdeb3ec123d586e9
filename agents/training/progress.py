"""What a user watches while a run trains: a line, rewritten on a terminal, repeated elsewhere."""

import sys
import time
from collections import deque

from stable_baselines3.common.callbacks import BaseCallback

from agents.training.callbacks import EpisodeLog
from runtime.command_line import format_seconds, format_steps, redraw_line

SECONDS_BETWEEN_LINES, SECONDS_BETWEEN_REDRAWS = 30.0, 0.5
LINES_PER_RATE = 60  # the rate is that since so many lines ago: DQN's falls when it begins to learn


class Progress(BaseCallback):
    """Mean return, agent steps done, rate and time left, in at most 79 columns.

    This start begins at `done_agent_steps`.
    """

    def __init__(self, done_agent_steps: int, total_agent_steps: int, episodes: EpisodeLog) -> None:
        super().__init__()
        self._total = total_agent_steps
        self._episodes = episodes
        self._on_terminal = sys.stderr.isatty()
        self._pause = SECONDS_BETWEEN_REDRAWS if self._on_terminal else SECONDS_BETWEEN_LINES
        self._shown = deque([(time.monotonic(), done_agent_steps)], maxlen=LINES_PER_RATE)

    def _on_training_start(self) -> None:
        """Count from here: the first games have been started."""
        self._shown[0] = (time.monotonic(), self.num_timesteps)

    def _on_step(self) -> bool:
        if time.monotonic() - self._shown[-1][0] >= self._pause:
            self._show()
        return True

    def close(self) -> None:
        """Leave the line as it is at the end."""
        if self._on_terminal and self.num_timesteps:
            self._show()
            print(file=sys.stderr)

    def _show(self) -> None:
        (since, from_step), now = self._shown[0], time.monotonic()
        self._shown.append((now, self.num_timesteps))
        means = self._episodes.means
        line = describe_progress(
            None if means is None else means[0],
            self.num_timesteps,
            self._total,
            (self.num_timesteps - from_step) / max(now - since, 1e-9),
        )
        if self._on_terminal:
            redraw_line(line)
        else:
            print(line, flush=True)


def describe_progress(
    mean_return: float | None, done: int, total: int, steps_per_second: float
) -> str:
    """The line: what matters most comes first, as a narrow terminal shows no more."""
    left = max(total - done, 0) / steps_per_second if steps_per_second else float("inf")
    return (
        f"{'no finished game' if mean_return is None else f'mean return {mean_return:.1f}'}, "
        f"{format_steps(done)} of {format_steps(total)} steps ({min(done / total, 1):.1%}), "
        f"{steps_per_second:.0f}/s, {format_seconds(left)} left"
    )
