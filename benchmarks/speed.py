r"""Rates of training beside Stable-Baselines3 as rl-baselines3-zoo configures it.

    python -m benchmarks.speed                          # A2C and DQN
    python -m benchmarks.speed --task a2c --rounds 12 --against cnn \
        --contestants cnn coordconv coordconv-all       # what the coordinates cost
    python -m benchmarks.speed --task a2c dqn \
        --contestants cnn "cnn as a user's own"         # what SB3's own passes cost
    python -m benchmarks.speed --task a2c --side-by-side 8  # a card shared by eight runs

Each contestant is a process of its own. They take turns, a second or two each, in an order that is
drawn anew in every round, so that a machine whose speed drifts slows them alike; a turn begins with
some steps that are not timed. Quote the ratios: the median of those taken within a round, and its
95 % bootstrap interval.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from benchmarks.agents import make_ours, make_sb3
from envs.games import find_game
from runtime.command_line import OneLineParser, exit_on_user_error
from runtime.process_settings import prepare_process


@dataclass(frozen=True)
class Contestant:
    """What is measured: SB3 itself, or an arm of this project.

    Attributes:
        name: In the table.
        overrides: Settings of this project's run; None for SB3.
        processes: How many run side by side; with more than one, each computes with one thread.
            In `TASKS` 0 stands for as many as the command says.
        against: The contestant it is compared with, unless the command says otherwise.
    """

    name: str
    overrides: dict[str, Any] | None
    processes: int = 1
    against: str = "sb3"


CONTESTANTS = (
    Contestant("sb3", None),
    Contestant("cnn", {}),
    Contestant("coordconv", {"coord_layers": [0]}),
    Contestant("coordconv-all", {"coord_layers": [0, 1, 2]}),
    # The same network by SB3's own passes, as every user's network is trained.
    Contestant(
        "cnn as a user's own",
        {"extractor": "stable_baselines3.common.torch_layers:NatureCNN"},
        against="cnn",
    ),
    Contestant("cnn bf16", {"precision": "bf16"}),
    Contestant("coordconv bf16", {"coord_layers": [0], "precision": "bf16"}),
    Contestant("sb3 x N", None, 0, "sb3 x N"),
    Contestant("cnn x N", {}, 0, "sb3 x N"),
    Contestant("cnn bf16 x N", {"precision": "bf16"}, 0, "sb3 x N"),
)


class Task(NamedTuple):
    """Agent steps of a measurement, and before the first."""

    steps: int
    warm_up: int


TASKS = {"a2c": Task(1_600, 1_600), "dqn": Task(240, 800)}


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print a Markdown table per task; returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.serve:
        serve(Contestant(**json.loads(options.serve)), options.task[0], options.game)
        return 0
    with exit_on_user_error():
        check_options(options.game, options.rounds)
        if options.side_by_side < 2:
            raise ValueError(f"--side-by-side must be at least 2, got {options.side_by_side}.")
        if options.contestants and options.against not in (None, *options.contestants):
            raise ValueError(f"--against {options.against} is none of the --contestants; add it.")
    for name in options.task:
        known = {
            each.name: replace(each, processes=each.processes or options.side_by_side)
            for each in CONTESTANTS
        }
        chosen = [known[each] for each in options.contestants or known]
        rates = measure_rates(chosen, name, options.game, options.rounds)
        print(f"\n{name}, {options.game}, {options.rounds} rounds\n")
        print("| | agent steps a second | against | times | 95 % interval |")
        print("|---|---:|---|---:|---:|")
        for contestant, own in zip(chosen, rates, strict=True):
            row = [label(contestant), f"{np.median(own):.0f}", "", "", ""]
            against = known.get(options.against or contestant.against)
            if against in chosen and against is not contestant:
                others = rates[chosen.index(against)]
                ratios = [a / b for a, b in zip(own, others, strict=True)]
                drawn = np.random.default_rng(0).choice(ratios, (2_000, len(ratios)))
                low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
                row[2:] = [label(against), f"{np.median(ratios):.2f}", f"{low:.2f} - {high:.2f}"]
            print("| " + " | ".join(row) + " |")
        sys.stdout.flush()
    return 0


def label(contestant: Contestant) -> str:
    """Its name, with the number of processes."""
    return contestant.name.replace(" x N", f" x {contestant.processes}")


def check_options(game: str, rounds: int) -> None:
    """Refuse what cannot be measured.

    Raises:
        ValueError: If there is no such game, or less than one round; one line.
    """
    find_game(game)
    if rounds < 1:
        raise ValueError(f"--rounds must be at least 1, got {rounds}.")


def measure_rates(
    contestants: Sequence[Contestant], task: str, game: str, rounds: int
) -> list[list[float]]:
    """Agent steps a second of each contestant, in total over its processes, in each round."""
    with ExitStack() as stack:
        servers: list[list[subprocess.Popen[str]]] = []
        for contestant in contestants:
            servers.append([_start(contestant, task, game) for _ in range(contestant.processes)])
            for process in servers[-1]:
                stack.callback(process.kill)
        for processes in servers:
            _ask(processes)  # the warm-up
        rates: list[list[float]] = [[] for _ in contestants]
        for _ in range(rounds):
            for index in random.sample(range(len(contestants)), len(contestants)):
                rates[index].append(_ask(servers[index]))
    return rates


def _start(contestant: Contestant, task: str, game: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "benchmarks.speed", "--task", task, "--game", game]
    command += ["--serve", json.dumps(asdict(contestant))]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def _ask(processes: list["subprocess.Popen[str]"]) -> float:
    """Have processes measure once, at the same time; the sum of their rates."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    total = 0.0
    for process in processes:
        assert process.stdout is not None
        if not (answer := process.stdout.readline()):
            raise RuntimeError(process.communicate()[1])
        total += float(answer)
    return total


def serve(contestant: Contestant, name: str, game: str) -> None:
    """Measure once for each line of the standard input, and print agent steps a second."""
    if contestant.overrides is not None:
        prepare_process()
    import torch

    if contestant.processes > 1:
        torch.set_num_threads(1)
    theirs = contestant.overrides is None
    agent = make_sb3(name, game) if theirs else make_ours(name, game, contestant.overrides or {})
    agent.learn(TASKS[name].warm_up)
    for _ in sys.stdin:
        print(measure_training(agent, TASKS[name]), flush=True)


def measure_training(agent: Any, task: Task) -> float:
    """Agent steps a second of an SB3 agent that learns on, once it has its caches back."""
    agent.learn(task.steps // 4, reset_num_timesteps=False)
    before, started = agent.num_timesteps, time.perf_counter()
    agent.learn(task.steps, reset_num_timesteps=False)
    return float((agent.num_timesteps - before) / (time.perf_counter() - started))


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--task", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--game", default="Pong")
    parser.add_argument("--rounds", type=int, default=15)
    names = [contestant.name for contestant in CONTESTANTS]
    parser.add_argument(
        "--contestants", nargs="+", choices=names, metavar="NAME", help=", ".join(names)
    )
    parser.add_argument("--side-by-side", type=int, default=2, help="what N is in x N")
    parser.add_argument(
        "--against", choices=names, metavar="NAME", help="compare all with this one"
    )
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
