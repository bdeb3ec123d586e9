"""Where training time goes: each part alone, beside SB3's, and what the machine would allow.

    python -m benchmarks.parts --algo a2c --precision fp32

Parts and whole trainings are timed in turn, in one process, round after round. The bound of a
part is ALE's own vector environment for the emulation, and for the network its multiply-adds at the
rate of a large matrix product. This project's settings of the process hold for both sides here, and
a GPU is left alone. DQN's target values, which training computes while the agent acts, count in the
update, so its whole can take less than the sum of its parts.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

from runtime.command_line import OneLineParser, exit_on_user_error
from runtime.process_settings import prepare_process

SIDES = ("SB3", "here", "bound")
SECONDS = 0.4  # a part is repeated for this long in every round
# Multiply-adds of the Nature CNN for one 4 x 84 x 84 image, layer by layer (Mnih et al. 2015).
MULTIPLY_ADDS = (20 * 20 * 32 * 256, 9 * 9 * 64 * 512, 7 * 7 * 64 * 576, 3136 * 512)


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print a Markdown table; returns the exit status."""
    options = _parser().parse_args(arguments)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    prepare_process()
    from benchmarks.agents import make_ours, make_sb3
    from benchmarks.speed import TASKS, check_options, measure_training

    with exit_on_user_error():
        check_options(options.game, options.rounds)
    algo, game = options.algo, options.game
    agents = {
        "SB3": make_sb3(algo, game),
        "here": make_ours(algo, game, {"precision": options.precision}),
    }
    calls: dict[tuple[str, str], Callable[[], Any]] = {}
    for side, agent in agents.items():
        agent.learn(TASKS[algo].warm_up)
        calls |= {(part, side): call for part, call in _parts_of(agent, algo).items()}
    n_envs: int = agents["SB3"].n_envs
    calls["emulation", "bound"] = _make_floor(game, n_envs)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    whole, products = "a vector step: whole", []
    times |= {(whole, side): [] for side in agents}
    for _ in range(options.rounds):
        for key, call in calls.items():
            times[key].append(time_call(call))
        for side, agent in agents.items():
            times[whole, side].append(n_envs / measure_training(agent, TASKS[algo]))
        products.append(measure_product_rate(options.precision))
    product_rate = statistics.median(products)

    seconds = {key: statistics.median(values) for key, values in times.items()}
    per_update = agents["SB3"].n_steps if algo == "a2c" else 4  # vector steps for each update
    acting = n_envs * sum(MULTIPLY_ADDS)
    backward = 2 * sum(MULTIPLY_ADDS) - MULTIPLY_ADDS[0]  # the image needs no gradient
    samples = n_envs * per_update if algo == "a2c" else 32
    # A2C's update can start from the activations of acting; DQN's has two forward passes.
    learning = samples * (backward + (0 if algo == "a2c" else 2 * sum(MULTIPLY_ADDS)))
    seconds["acting", "bound"] = 2 * acting / product_rate
    seconds["update", "bound"] = 2 * learning / product_rate
    for side in SIDES:
        emulation, act, update = (seconds[part, side] for part in ("emulation", "acting", "update"))
        seconds["a vector step: sum of parts", side] = emulation + act + update / per_update

    print(f"\n{algo}, {game}, {options.precision}, {n_envs} environments, ms (median)\n")
    print(f"Large matrix product: {product_rate / 1e9:.0f} GFLOP/s.\n")
    print("| | SB3 | here | bound |")
    print("|---|---:|---:|---:|")
    for part in dict.fromkeys(part for part, _ in seconds):
        cells = (seconds.get((part, side)) for side in SIDES)
        texts = ("" if value is None else f"{value * 1e3:.2f}" for value in cells)
        print(f"| {part} | {' | '.join(texts)} |")
    shares = (seconds["a vector step: sum of parts", side] for side in ("here", "bound"))
    of_parts, of_bound = (f"{share / seconds[whole, 'here']:.0%}" for share in shares)
    print(f"\nReached: {of_parts} of the sum of its parts, {of_bound} of the bound.")
    return 0


def time_call(call: Callable[[], Any]) -> float:
    """Seconds a call takes, the mean over `SECONDS`."""
    call()
    started, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < SECONDS:
        call()
        count += 1
    return elapsed / count


def measure_product_rate(precision: Literal["fp32", "bf16"]) -> float:
    """Floating-point operations a second of a product of two 1024 x 1024 matrices."""
    import torch

    from agents.algorithms.cached_network import DTYPES, multiply

    left, right = (torch.ones(1024, 1024, dtype=DTYPES[precision]) for _ in range(2))
    return 2 * 1024**3 / time_call(lambda: multiply(left, right))


def _parts_of(agent: Any, algo: str) -> dict[str, Callable[[], Any]]:
    """An agent's emulation of one vector step, acting on it, and an update."""
    import numpy as np
    import torch

    from agents.algorithms.fast_path import FastPath

    env, generator = agent.env, np.random.default_rng(0)
    observations = env.reset()
    agent.lr_schedule = lambda _: 0.0  # learning from one rollout again and again would diverge
    network = None
    if isinstance(agent, FastPath):  # SB3's agents have no network of their own
        assert agent._is_fast()
        network = agent._network
        assert network is not None
        network.read_weights()

    def emulate() -> Any:
        return env.step(generator.integers(env.action_space.n, size=env.num_envs))

    @torch.no_grad()
    def act() -> Any:
        if algo == "dqn" and network is None:
            return agent._sample_action(0)
        if algo == "dqn":
            with agent._batches.one_thread():
                return agent._sample_action(0)
        if network is not None:
            logits, values = agent._score(observations, 0)
            chances = torch.softmax(logits, dim=1)
            return torch.multinomial(chances, 1).numpy(), values.numpy()
        return agent.policy(torch.from_numpy(observations))

    parts: dict[str, Callable[[], Any]] = {"emulation": emulate, "acting": act}
    if algo == "a2c":
        for step in range(agent.n_steps if network is not None else 0):
            agent._score(observations, step * env.num_envs)  # what the update starts from

        def update() -> None:
            if network is not None:
                network.read_weights()
            agent.train()

        parts["update"] = update
    else:
        agent.exploration_rate = 0.0  # SB3 and this project act greedily when timed
        parts["of the update, sampling"] = lambda: agent.replay_buffer.sample(32)
        parts["update"] = lambda: agent.train(1, 32)
    return parts


def _make_floor(game: str, n_envs: int) -> Callable[[], Any]:
    """A step of ALE's own vector environment."""
    import numpy as np
    from ale_py.vector_env import AtariVectorEnv

    from envs.games import find_game

    env = AtariVectorEnv(find_game(game).rom_id, num_envs=n_envs, noop_max=30)
    env.reset(seed=0)
    generator = np.random.default_rng(0)
    actions = len(env.ale.get_action_set())
    return lambda: env.step(generator.integers(actions, size=n_envs))


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="python -m benchmarks.parts", description=__doc__)
    parser.add_argument("--algo", default="a2c", choices=("a2c", "dqn"))
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--game", default="Pong")
    parser.add_argument("--rounds", type=int, default=5)
    return parser


if __name__ == "__main__":
    sys.exit(main())
