"""Training rate beside Stable-Baselines3 as rl-baselines3-zoo configures it.

    python -m benchmarks.speed                 # A2C and DQN, this project's arms beside SB3
    python -m benchmarks.speed --algo a2c --rounds 10 --game Breakout

Every measurement is a process of its own; the contestants take turns, round after round, so that a
machine whose speed drifts slows them alike. Quote the ratios: median, and smallest to largest.
"""

import argparse
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from configs.command_line import OneLineParser
from configs.process_settings import prepare_process

REFERENCE = "sb3"


@dataclass(frozen=True)
class Contestant:
    """What is measured: SB3 itself, or an arm of this project."""

    name: str
    overrides: dict[str, Any]
    processes: int = 1


CONTESTANTS = {
    contestant.name: contestant
    for contestant in (
        Contestant(REFERENCE, {}),
        Contestant("cnn", {}),
        Contestant("coordconv", {"coord_layers": [0]}),
        Contestant("coordconv-all", {"coord_layers": [0, 1, 2]}),
        Contestant("cnn bf16", {"precision": "bf16"}),
        Contestant("coordconv bf16", {"coord_layers": [0], "precision": "bf16"}),
        Contestant("sb3 x 2", {}, processes=2),
        Contestant("cnn x 2", {}, processes=2),
        Contestant("cnn bf16 x 2", {"precision": "bf16"}, processes=2),
    )
}
# DQN is measured while it learns: zoo settings but for a memory that fills soon, for both sides.
DQN_OVERRIDES = {"learning_starts": 400, "buffer_size": 20_000, "exploration_fraction": 0.1}
WARM_UP = {"a2c": 1600, "dqn": 800}


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print a Markdown table per algorithm; returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.measure:
        print(_measure(options.measure, options.algo[0], options.game, options.steps))
        return 0
    for algo in options.algo:
        steps = options.steps or {"a2c": 12_000, "dqn": 2_400}[algo]
        rates: dict[str, list[float]] = {name: [] for name in options.contestants}
        for _ in range(options.rounds):
            for name in options.contestants:
                rates[name].append(_run(CONTESTANTS[name], algo, options.game, steps))
        print(f"\n{algo.upper()}, {options.game}, {options.rounds} rounds\n")
        print("| | agent steps a second | times SB3 | smallest to largest |")
        print("|---|---:|---:|---:|")
        for name, measured in rates.items():
            pair = "sb3 x 2" if CONTESTANTS[name].processes == 2 else REFERENCE
            cells = ["", ""]
            if pair in rates:
                ratios = [own / other for own, other in zip(measured, rates[pair], strict=True)]
                cells = [
                    f"{statistics.median(ratios):.2f}",
                    f"{min(ratios):.2f} - {max(ratios):.2f}",
                ]
            print(f"| {name} | {statistics.median(measured):.0f} | {cells[0]} | {cells[1]} |")
        sys.stdout.flush()
    return 0


def _run(contestant: Contestant, algo: str, game: str, steps: int) -> float:
    """Agent steps a second, in total, of a contestant's processes side by side."""
    command = [sys.executable, "-m", "benchmarks.speed", "--measure", contestant.name]
    command += ["--algo", algo, "--game", game, "--steps", str(steps)]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(contestant.processes)
    ]
    outputs = [process.communicate()[0] for process in processes]
    return sum(float(output) for output in outputs)


def _measure(name: str, algo: str, game: str, steps: int) -> float:
    """Agent steps a second of one process, after a warm-up."""
    contestant = CONTESTANTS[name]
    if name.startswith(REFERENCE):
        agent = _make_sb3(algo, game)
    else:
        prepare_process()
        agent = _make_ours(algo, game, contestant.overrides)
    import torch

    if contestant.processes > 1:
        torch.set_num_threads(1)
    from stable_baselines3.common.callbacks import BaseCallback

    class Clock(BaseCallback):
        started = 0.0
        started_at = 0

        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            if not self.started and self.num_timesteps >= WARM_UP[algo]:
                self.started, self.started_at = time.perf_counter(), self.num_timesteps

    clock = Clock()
    agent.learn(WARM_UP[algo] + steps, callback=clock)
    return float((agent.num_timesteps - clock.started_at) / (time.perf_counter() - clock.started))


def _make_ours(algo: str, game: str, overrides: dict[str, Any]) -> Any:
    from agents.build import find_device, make_agent
    from configs.protocols import load_protocol
    from configs.run_config import make_config
    from envs.atari_vec_env import AtariVecEnv
    from envs.games import find_game

    more = DQN_OVERRIDES if algo == "dqn" else {}
    config = make_config(game, algo, overrides | more)
    env = AtariVecEnv(
        find_game(game), load_protocol(config.run.protocol), config.hyperparameters.n_envs, 0
    )
    return make_agent(config, env, find_device("auto"))


def _make_sb3(algo: str, game: str) -> Any:
    """SB3 with rl-baselines3-zoo's Atari settings, on SB3's own environments."""
    import ale_py
    import gymnasium
    from stable_baselines3 import A2C, DQN
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
    from stable_baselines3.common.vec_env import VecFrameStack

    gymnasium.register_envs(ale_py)
    n_envs = 16 if algo == "a2c" else 1
    env = VecFrameStack(make_atari_env(f"{game}NoFrameskip-v4", n_envs=n_envs, seed=0), 4)
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
        **DQN_OVERRIDES,  # type: ignore[arg-type]
    )


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--algo", nargs="+", default=["a2c", "dqn"], choices=("a2c", "dqn"))
    parser.add_argument("--game", default="Pong")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=0, help="agent steps measured each time")
    parser.add_argument(
        "--contestants", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS)
    )
    parser.add_argument("--measure", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
