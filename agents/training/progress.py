"""What a user watches while a run trains: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable

from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from agents.training.callbacks import EpisodeLog

SECONDS_BETWEEN_LINES = 30.0


class Progress(BaseCallback):
    """Agent steps done, rate, time left and mean return.

    This start begins at `done_agent_steps`; `on_step` is called at every step of the environments.
    """

    def __init__(
        self,
        name: str,
        done_agent_steps: int,
        total_agent_steps: int,
        episodes: EpisodeLog,
        on_step: Callable[[], None],
    ) -> None:
        super().__init__()
        self._name = name
        self._total = total_agent_steps
        self._from = done_agent_steps
        self._episodes = episodes
        self._call_on_step = on_step
        self._started = self._shown = time.monotonic()
        self._bar = tqdm(
            total=total_agent_steps,
            initial=done_agent_steps,
            desc=name,
            unit="step",
            unit_scale=True,
            dynamic_ncols=True,
            mininterval=0.5,
            disable=not sys.stderr.isatty(),
        )

    def _on_step(self) -> bool:
        self._call_on_step()
        means = self._episodes.means
        if not self._bar.disable:
            if means is not None:
                self._bar.set_postfix_str(f"return {means[0]:.1f}", refresh=False)
            self._bar.update(self.num_timesteps - self._bar.n)
        elif time.monotonic() - self._shown >= SECONDS_BETWEEN_LINES:
            self._shown = time.monotonic()
            shown = "no finished game yet" if means is None else f"mean return {means[0]:.1f}"
            print(f"{self._describe()}, {shown}", flush=True)
        return True

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()

    def _describe(self) -> str:
        done = self.num_timesteps
        rate = (done - self._from) / (time.monotonic() - self._started)
        left = (self._total - done) / rate if rate else float("inf")
        return (
            f"{self._name}: {done:_} of {self._total:_} agent steps ({done / self._total:.1%}), "
            f"{rate:.0f}/s, {format_seconds(left)} left"
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
