"""Train agents on Atari games: `python train.py --game Pong --coordconv`, or `--compare`."""

import argparse
import sys
from pathlib import Path
from typing import Annotated, Any

from configs.run_config import make_config, settable_fields, to_json
from configs.settings import Bounds, parse_assignments, parse_value
from runtime.command_line import OneLineParser, exit_on_user_error, parse_path, print_result
from runtime.process_settings import prepare_process

_OF_ONE_RUN = ("game", "seed", "coordconv", "coord_layers", "radius", "coord_init")
_OF_A_COMPARISON = ("games", "arms", "seeds", "jobs", "ray")


def main(arguments: list[str] | None = None) -> int:
    """Parse, plan, execute; returns the exit status."""
    prepare_process()
    with exit_on_user_error():
        options = _parser().parse_args(arguments)
        if options.list_games:
            from envs.games import all_games

            print_result("\n".join(all_games()))
            return 0
        runs = parse_path(options.runs, "--runs")
        _check_mode(options)
        if options.compare:
            return _compare(options, runs)
        config = _ask(options)
        if options.dry_run:
            print_result(to_json(config).rstrip())
            return 0
        from agents.training.command import run_training

        return run_training(config, runs)


def _ask(options: argparse.Namespace) -> Any:
    """The config the command line asks for."""
    from envs.games import find_game

    if options.game is None:
        raise ValueError(
            "--game is missing: name a game, such as --game Pong; --list-games lists them."
        )
    overrides = _overrides(options, settable_fields(options.algo))
    return make_config(find_game(options.game).name, options.algo, overrides)


def _compare(options: argparse.Namespace, runs: Path) -> int:
    """Carry out the comparison that the command line asks for; returns the exit status."""
    from experiments.comparison.command import run_comparison
    from experiments.comparison.plan import make_plan, settable_criteria

    def count(name: str, maximum: int) -> int | None:
        text = getattr(options, name)
        if text is None:
            return None
        return int(parse_value(name, text, Annotated[int, Bounds(1, maximum)], f"--{name}"))

    plan = make_plan(
        algo=options.algo,
        overrides=_overrides(options, settable_fields(options.algo) | settable_criteria()),
        games=options.games,
        arms=options.arms,
        seeds=count("seeds", 1000),
    )
    return run_comparison(
        plan,
        runs,
        jobs=count("jobs", 1024),
        ray_address=options.ray,
        dry_run=options.dry_run,
    )


def _check_mode(options: argparse.Namespace) -> None:
    """Refuse options of one run beside --compare, and the other way round."""
    for name in _OF_ONE_RUN if options.compare else _OF_A_COMPARISON:
        if getattr(options, name) not in (None, False):
            flag = "--" + name.replace("_", "-")
            raise ValueError(
                f"{flag} is for one run, not for --compare; use --games, --arms and --seeds."
                if options.compare
                else f"{flag} is for a comparison; add --compare."
            )


def _overrides(options: argparse.Namespace, fields: dict[str, Any]) -> dict[str, Any]:
    """The settings that the command line gives, by name."""
    overrides = parse_assignments(options.set, fields)
    layers = options.coord_layers
    if layers is not None and not "".join(layers).strip():
        raise ValueError("--coord-layers must name convolutions, 0 to 2, got none.")
    flags: dict[str, tuple[str, Any]] = {
        "--seed": ("seed", options.seed),
        "--steps": ("total_agent_steps", options.steps),
        "--n-envs": ("n_envs", options.n_envs),
        "--protocol": ("protocol", options.protocol),
        "--precision": ("precision", options.precision),
        "--device": ("device", options.device),
        "--radius": ("with_radius", "true" if options.radius else None),
        "--coord-init": ("coord_init", options.coord_init),
        "--coord-layers": (
            "coord_layers",
            " ".join(layers) if layers is not None else "0" if options.coordconv else None,
        ),
    }
    for flag, (name, text) in flags.items():
        if text is None:
            continue
        if name in overrides:
            raise ValueError(f"{flag} and --set {name}=... both set `{name}`; give one of them.")
        overrides[name] = parse_value(name, text, fields[name], flag)
    return overrides


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        description="Train an Atari agent with Stable-Baselines3's A2C or DQN, with or without "
        "CoordConv; or, with --compare, both on nine games, ending in a verdict per game. The same "
        "command again goes on where it stopped."
    )
    add = parser.add_argument
    add("--game", metavar="NAME", help="the game, such as Pong")
    add("--algo", default="a2c", choices=("a2c", "dqn"), help="the algorithm (a2c)")
    add("--coordconv", action="store_true", help="give the first convolution its coordinates")
    add(
        "--coord-layers",
        nargs="+",
        metavar="N",
        help="give these convolutions (0 1 2) their coordinates; implies --coordconv",
    )
    add("--radius", action="store_true", help="add the distance from the centre as a coordinate")
    add("--coord-init", metavar="INIT", help="initial coordinate weights: default or zero")
    add("--steps", metavar="N", help="agent steps, 4 frames each (10_000_000)")
    add("--seed", metavar="N", help="seed of weights, actions and games (0)")
    add("--n-envs", metavar="N", help="environments stepped together (a2c 16, dqn 1)")
    add("--protocol", metavar="NAME", help="baselines (default) or machado: configs/protocols.toml")
    add("--precision", metavar="KIND", help="fp32 (default) or bf16")
    add("--device", metavar="NAME", help="auto (default), cpu, cuda or cuda:N")
    add("--runs", default="runs", metavar="DIR", help="folder the run's directory goes to (runs)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other setting of configs/run.toml, a2c.toml, dqn.toml; repeatable",
    )
    add("--compare", action="store_true", help="train a whole comparison, and write its report")
    add("--games", nargs="+", metavar="NAME", help="games of the comparison (nine)")
    add("--arms", nargs="+", metavar="ARM", help="networks, the baseline first (cnn coordconv)")
    add("--seeds", metavar="N", help="seeds per game and arm (5)")
    add("--jobs", metavar="N", help="runs trained at the same time (one per core)")
    add("--ray", metavar="ADDRESS", help="train the comparison on a Ray cluster: address, or auto")
    add("--list-games", action="store_true", help="print the games' names and exit")
    add("--dry-run", action="store_true", help="print the resolved config, or the plan, and exit")
    return parser


if __name__ == "__main__":
    sys.exit(main())
