r"""Rates beside Stable-Baselines3 as rl-baselines3-zoo configures it.

    python -m benchmarks.speed                          # training (A2C, DQN) and evaluation
    python -m benchmarks.speed --task a2c --rounds 12 --against cnn \
        --contestants cnn coordconv coordconv-all       # what the coordinates cost

Every measurement is a process of its own; the contestants take turns, round after round, in an
order that is drawn anew each time, so that a machine whose speed drifts slows them alike. Quote the
ratios: each is taken within a round, and the interval is Student's over the rounds' logarithms.
"""

import argparse
import json
import math
import random
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from configs.command_line import OneLineParser
from configs.process_settings import prepare_process


@dataclass(frozen=True)
class Contestant:
    """What is measured: SB3 itself, or an arm of this project.

    Attributes:
        name: In the table.
        overrides: Settings of this project's run; None for SB3.
        processes: How many run side by side; with more than one, each computes with one thread.
        against: The contestant it is compared with, unless the command says otherwise.
    """

    name: str
    overrides: dict[str, Any] | None
    processes: int = 1
    against: str = "sb3"


TRAINING = (
    Contestant("sb3", None),
    Contestant("cnn", {}),
    Contestant("coordconv", {"coord_layers": [0]}),
    Contestant("coordconv-all", {"coord_layers": [0, 1, 2]}),
    Contestant("cnn bf16", {"precision": "bf16"}),
    Contestant("coordconv bf16", {"coord_layers": [0], "precision": "bf16"}),
    Contestant("sb3 x 2", None, 2, "sb3 x 2"),
    Contestant("cnn x 2", {}, 2, "sb3 x 2"),
    Contestant("cnn bf16 x 2", {"precision": "bf16"}, 2, "sb3 x 2"),
)
EVALUATION = (
    Contestant("sb3", None),
    Contestant("cnn", {}),
    Contestant("coordconv", {"coord_layers": [0]}),
)


@dataclass(frozen=True)
class Task:
    """Something to be done fast.

    Attributes:
        steps: Agent steps of a measurement.
        warm_up: Agent steps before it.
        contestants: Who does it.
        settings: Of both sides, beside rl-baselines3-zoo's.
    """

    steps: int
    warm_up: int
    contestants: tuple[Contestant, ...]
    settings: dict[str, Any] = field(default_factory=dict)


TASKS = {
    "a2c": Task(9_600, 1_600, TRAINING),
    # Measured while it learns; the memory fills soon.
    "dqn": Task(
        1_600,
        600,
        TRAINING,
        {"learning_starts": 400, "buffer_size": 20_000, "exploration_fraction": 0.1},
    ),
    "evaluation": Task(10_000, 1_000, EVALUATION),
}


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print a Markdown table per task; returns the exit status."""
    options = _parser().parse_args(arguments)
    for name in options.task:
        task = TASKS[name]
        known = {contestant.name: contestant for contestant in task.contestants}
        chosen = [known[each] for each in options.contestants or known if each in known]
        rates: dict[str, list[float]] = {contestant.name: [] for contestant in chosen}
        for _ in range(options.rounds):
            for contestant in random.sample(chosen, len(chosen)):
                rates[contestant.name].append(measure_rate(contestant, name, options.game))
        print(f"\n{name}, {options.game}, {options.rounds} rounds\n")
        print("| | agent steps a second | against | times | 95 % interval | range |")
        print("|---|---:|---|---:|---:|---:|")
        for contestant in chosen:
            against = options.against or contestant.against
            own = rates[contestant.name]
            row = [contestant.name, f"{_median(own):.0f}", "", "", "", ""]
            if against in rates and against != contestant.name:
                ratios = [a / b for a, b in zip(own, rates[against], strict=True)]
                row[2:] = [
                    against,
                    f"{_median(ratios):.3f}",
                    describe_interval(ratios),
                    f"{min(ratios):.2f} - {max(ratios):.2f}",
                ]
            print("| " + " | ".join(row) + " |")
        sys.stdout.flush()
    return 0


def measure_rate(contestant: Contestant, task: str, game: str) -> float:
    """Agent steps a second, in total, of a contestant's processes side by side."""
    command = [sys.executable, "-m", "benchmarks.speed", "--task", task, "--game", game]
    command += ["--measure", json.dumps(asdict(contestant))]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(contestant.processes)
    ]
    rates = []
    for process in processes:
        output, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{contestant.name} failed:\n{errors}")
        rates.append(float(output))
    return sum(rates)


def describe_interval(ratios: list[float]) -> str:
    """Student's 95 % interval of the geometric mean of ratios."""
    from scipy.special import stdtrit

    count = len(ratios)
    if count < 2:
        return "-"
    logarithms = [math.log(ratio) for ratio in ratios]
    mean = sum(logarithms) / count
    variance = sum((value - mean) ** 2 for value in logarithms) / (count - 1)
    margin = float(stdtrit(count - 1, 0.975)) * math.sqrt(variance / count)
    return f"{math.exp(mean - margin):.3f} - {math.exp(mean + margin):.3f}"


def _measure(contestant: Contestant, name: str, game: str) -> float:
    """Agent steps a second of this process, after a warm-up."""
    if contestant.overrides is not None:
        prepare_process()
    import torch

    if contestant.processes > 1:
        torch.set_num_threads(1)
    task = TASKS[name]
    if name == "evaluation":
        return _measure_evaluation(contestant, task, game)
    if contestant.overrides is None:
        agent = make_sb3(name, game)
    else:
        agent = make_ours(name, game, contestant.overrides)
    return measure_training(agent, task)


def measure_training(agent: Any, task: Task) -> float:
    """Agent steps a second of an SB3 agent's `learn`, after a warm-up."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Clock(BaseCallback):
        started = 0.0
        started_at = 0

        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            if not self.started and self.num_timesteps >= task.warm_up:
                self.started, self.started_at = time.perf_counter(), self.num_timesteps

    clock = Clock()
    agent.learn(task.warm_up + task.steps, callback=clock)
    return float((agent.num_timesteps - clock.started_at) / (time.perf_counter() - clock.started))


def _measure_evaluation(contestant: Contestant, task: Task, game: str) -> float:
    """Agent steps a second of an untrained A2C agent's scored games."""
    if contestant.overrides is None:
        from stable_baselines3.common.evaluation import evaluate_policy

        agent = make_sb3("a2c", game)
        env = _make_sb3_env(game, 1, {"clip_reward": False})  # as zoo's enjoy.py: one environment
        _, lengths = evaluate_policy(agent, env, 1, return_episode_rewards=True)
        started, steps = time.perf_counter(), 0
        while steps < task.steps:
            _, lengths = evaluate_policy(agent, env, 1, return_episode_rewards=True)
            steps += sum(lengths)  # type: ignore[arg-type]
        return steps / (time.perf_counter() - started)

    import torch

    from agents.evaluation import GAMES_SIDE_BY_SIDE, TrainedAgent, play_games
    from envs.games import find_game

    torch.set_num_threads(1)  # as `agents.evaluation.evaluate` has it
    policy = make_ours("a2c", game, contestant.overrides).policy
    policy.set_training_mode(False)
    trained = TrainedAgent(policy, find_game(game), "baselines", None, "untrained", 0, None)
    started, steps = time.perf_counter(), 0
    for _, played in play_games(trained, 2 * GAMES_SIDE_BY_SIDE, 0, None):
        steps += len(played.actions)
    return steps / (time.perf_counter() - started)


def make_ours(algo: str, game: str, overrides: dict[str, Any]) -> Any:
    """This project's untrained agent, on its environments."""
    from agents.build import find_device, make_agent
    from configs.protocols import load_protocol
    from configs.run_config import make_config
    from envs.atari_vec_env import AtariVecEnv
    from envs.games import find_game

    config = make_config(game, algo, TASKS[algo].settings | overrides)
    env = AtariVecEnv(
        find_game(game), load_protocol(config.run.protocol), config.hyperparameters.n_envs, 0
    )
    return make_agent(config, env, find_device("auto"))


def make_sb3(algo: str, game: str) -> Any:
    """SB3 with rl-baselines3-zoo's Atari settings, on SB3's own environments."""
    from stable_baselines3 import A2C, DQN
    from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

    env = _make_sb3_env(game, 16 if algo == "a2c" else 1)
    if algo == "a2c":
        policy_kwargs = {"optimizer_class": RMSpropTFLike, "optimizer_kwargs": {"eps": 1e-5}}
        return A2C(
            "CnnPolicy", env, ent_coef=0.01, vf_coef=0.25, seed=0, policy_kwargs=policy_kwargs
        )
    return DQN(
        "CnnPolicy",
        env,
        learning_rate=1e-4,
        batch_size=32,
        target_update_interval=1000,
        train_freq=4,
        gradient_steps=1,
        exploration_final_eps=0.01,
        seed=0,
        **TASKS[algo].settings,
    )


def _make_sb3_env(game: str, n_envs: int, wrapper: dict[str, Any] | None = None) -> Any:
    import ale_py
    import gymnasium
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    gymnasium.register_envs(ale_py)
    name = f"{game}NoFrameskip-v4"
    return VecFrameStack(make_atari_env(name, n_envs=n_envs, seed=0, wrapper_kwargs=wrapper), 4)


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return (ordered[middle] + ordered[~middle]) / 2


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--task", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--game", default="Pong")
    parser.add_argument("--rounds", type=int, default=5)
    names = [contestant.name for contestant in TRAINING]
    parser.add_argument("--contestants", nargs="+", choices=names)
    parser.add_argument("--against", choices=names, help="compare all with this one")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    options = _parser().parse_args()
    if options.measure:
        print(_measure(Contestant(**json.loads(options.measure)), options.task[0], options.game))
        sys.exit(0)
    sys.exit(main())
