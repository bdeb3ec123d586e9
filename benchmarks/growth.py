"""How the cost of A2C grows, in one figure: `python -m benchmarks.growth OUT.png`.

Left: agent steps a second against the number of environments, one process with all cores. Middle:
the total rate of several runs side by side, as `--jobs` has them. Right: what a vector step of one
run spends its time on, measured with a profiler's clock around each part. A GPU is left alone.
"""

import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.agents import make_ours
from benchmarks.speed import TASKS, Contestant, check_options, measure_rates
from runtime.command_line import OneLineParser, exit_on_user_error
from runtime.files import check_replaceable
from runtime.process_settings import prepare_process

ENVIRONMENTS = (1, 2, 4, 8, 16, 32, 64, 128)
JOBS = (1, 2, 3, 4)
PRECISIONS = ("fp32", "bf16")
HATCHES = {"emulation": "", "forward": "//", "update": "..", "rest": "xx"}  # of a vector step


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the figures and draw them; returns the exit status."""
    parser = OneLineParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("out", type=Path, help="the PNG to write")
    parser.add_argument("--game", default="Pong")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    game: str = options.game
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # for what it starts, too
    with exit_on_user_error():
        check_options(game, options.rounds)
        if not options.out.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {options.out.parent}; make it first.")
        if options.out.suffix.lower() != ".png":
            raise ValueError(f"OUT must end in .png, got {options.out}.")
        check_replaceable(options.out, b"\x89PNG")
    rates: dict[tuple[str, str, int], list[float]] = {}
    for precision in PRECISIONS:
        settings = {"precision": precision}
        points = {
            ("environments", precision, n): Contestant("", settings | {"n_envs": n})
            for n in ENVIRONMENTS
        } | {("jobs", precision, jobs): Contestant("", settings, jobs) for jobs in JOBS}
        measured = measure_rates(list(points.values()), "a2c", game, options.rounds)
        rates |= zip(points, measured, strict=True)
    shares = {precision: _measure_shares(game, precision) for precision in PRECISIONS}
    for key, values in rates.items():
        print(*key, f"{median(values):.0f}", sep="\t")
    for precision, spent in shares.items():
        for part, seconds in spent.items():
            print("ms of a vector step", precision, part, f"{seconds * 1e3:.2f}", sep="\t")
    _draw(rates, shares, options.out, game)
    return 0


def _measure_shares(game: str, precision: str) -> dict[str, float]:
    """Seconds of a vector step spent on each part of training."""
    prepare_process()
    agent = make_ours("a2c", game, {"precision": precision})
    agent.learn(TASKS["a2c"].warm_up)
    spent: dict[str, float] = defaultdict(float)
    agent.env.step = _timed(agent.env.step, "emulation", spent)
    agent._score = _timed(agent._score, "forward", spent)
    agent.train = _timed(agent.train, "update", spent)
    before, started = agent.num_timesteps, time.perf_counter()
    agent.learn(16_000, reset_num_timesteps=False)
    whole, steps = time.perf_counter() - started, (agent.num_timesteps - before) / agent.n_envs
    spent["rest"] = whole - sum(spent.values())
    return {part: seconds / steps for part, seconds in spent.items()}


def _timed(call: Callable[..., Any], part: str, spent: dict[str, float]) -> Callable[..., Any]:
    def timed(*arguments: Any, **keywords: Any) -> Any:
        started = time.perf_counter()
        result = call(*arguments, **keywords)
        spent[part] += time.perf_counter() - started
        return result

    return timed


def _draw(
    rates: dict[tuple[str, str, int], list[float]],
    shares: dict[str, dict[str, float]],
    path: Path,
    game: str,
) -> None:
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10, 3.3), layout="constrained")
    figure.suptitle(f"A2C on {game}, {os.cpu_count()} cores", fontsize=10)
    for axes, what, counts in ((left, "environments", ENVIRONMENTS), (middle, "jobs", JOBS)):
        for precision, style in zip(PRECISIONS, ("o-", "s--"), strict=True):
            values = [rates[what, precision, count] for count in counts]
            axes.plot(counts, [median(each) for each in values], style, label=precision)
            axes.fill_between(counts, [min(v) for v in values], [max(v) for v in values], alpha=0.2)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
    left.set_xscale("log", base=2)
    left.set_xticks(ENVIRONMENTS, [str(count) for count in ENVIRONMENTS])
    left.set(xlabel="environments of one run", ylabel="agent steps a second")
    middle.set(xlabel="runs side by side", ylabel="agent steps a second, in total", xticks=JOBS)
    bottom = np.zeros(len(PRECISIONS))
    for part, hatch in HATCHES.items():
        heights = np.array([shares[precision][part] * 1e3 for precision in PRECISIONS])
        right.bar(
            PRECISIONS, heights, bottom=bottom, hatch=hatch, label=part, ec="black", alpha=0.7
        )
        bottom += heights
    right.set(ylabel="ms of a step of 16 environments", ylim=(0, 1.4 * bottom.max()))
    right.legend(fontsize=8, ncols=2, loc="upper center")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
