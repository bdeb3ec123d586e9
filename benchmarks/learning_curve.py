"""Draw the learning curves of runs: `python -m benchmarks.learning_curve OUT.png RUN_DIR...`.

Each dot is a whole game, the line the mean of the last 100, over the agent steps of training. The
means at every million agent steps, or every `--every`, are printed as rows of a table.
"""

import argparse
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from experiments.comparison.report.records import read_episodes
from experiments.comparison.statistics.curves import FINAL_GAMES, moving_means
from runtime.command_line import OneLineParser, exit_on_user_error
from runtime.run_directory import RunDirectory


def main(arguments: list[str] | None = None) -> int:
    """Draw and write the picture; returns the exit status."""
    options = _parser().parse_args(arguments)
    with exit_on_user_error():
        if options.every < 1:
            raise ValueError(f"--every must be at least 1, got {options.every}.")
        figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
        for path in options.runs:
            directory = RunDirectory(path)
            config = directory.read_config()
            precision = config.run.precision
            name = config.name if precision == "fp32" else f"{config.name} in {precision}"
            episodes = read_episodes(directory.episodes_path)
            steps, means = episodes.agent_steps, moving_means(episodes.returns)
            if not len(means):
                raise ValueError(f"{path} has {len(steps)} games; a curve needs {FINAL_GAMES}.")
            dots = axes.plot(steps / 1e6, episodes.returns, ".", markersize=1, alpha=0.25)
            axes.plot(
                steps[FINAL_GAMES - 1 :] / 1e6,
                means,
                color=dots[0].get_color(),
                label=f"{name}, mean of {FINAL_GAMES} games",
            )
            status = directory.read_status()
            trained = 0 if status is None else status.agent_steps
            marks = np.arange(options.every, trained + 1, options.every)
            cells = (f"{mean:.1f}" for mean in means_at(marks, steps, means))
            print(f"| {name} | {' | '.join(cells)} |")
        axes.set(xlabel="million agent steps (4 frames each)", ylabel="return of a whole game")
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left")
        figure.savefig(options.out, dpi=110)
    return 0


def means_at(marks: np.ndarray, steps: np.ndarray, means: np.ndarray) -> np.ndarray:
    """The mean of the last games that had ended at each mark; NaN where they were too few.

    Args:
        marks: Agent steps, [M].
        steps: Agent steps at the end of each game, ascending, [N].
        means: From `moving_means`, [N - 99].
    """
    ended = np.searchsorted(steps, marks, side="right")
    window = FINAL_GAMES
    return np.where(ended < window, np.nan, means[np.maximum(ended, window) - window])


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="python -m benchmarks.learning_curve", description=__doc__)
    parser.add_argument("out", type=Path, help="the PNG to write")
    parser.add_argument("runs", type=Path, nargs="+", help="run directories")
    parser.add_argument("--every", type=int, default=1_000_000, help="agent steps (1_000_000)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
