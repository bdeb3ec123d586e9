"""Train an agent on an Atari game: `python train.py --game Pong --coordconv`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from configs.command_line import OneLineParser, exit_on_user_error
from configs.process_settings import prepare_process
from configs.run_config import make_config, settable_fields, to_json
from configs.settings import parse_assignments, parse_value


def main(arguments: list[str] | None = None) -> int:
    """Parse, plan, execute; returns the exit status."""
    prepare_process()
    options = _parser().parse_args(arguments)
    if options.list_games:
        from envs.games import all_games

        print("\n".join(all_games()))
        return 0
    with exit_on_user_error():
        config = _ask(options)
        if options.dry_run:
            print(to_json(config), end="")
            return 0
        from agents.command import run_training

        return run_training(config, Path(options.runs))


def _ask(options: argparse.Namespace) -> Any:
    """The config the command line asks for."""
    from envs.games import find_game

    if options.game is None:
        raise ValueError(
            "--game is missing: name a game, such as --game Pong; --list-games lists them."
        )
    algo = options.algo
    fields = settable_fields(algo)
    overrides = parse_assignments(options.set, fields)
    layers = options.coord_layers
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
    return make_config(find_game(options.game).name, algo, overrides)


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        description="Train an Atari agent with Stable-Baselines3's A2C or DQN, with or without "
        "CoordConv. The same command again goes on where the run stopped."
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
        help="any other setting of configs/*.toml; repeatable",
    )
    add("--list-games", action="store_true", help="print the games' names and exit")
    add("--dry-run", action="store_true", help="print the resolved config and exit")
    return parser


if __name__ == "__main__":
    sys.exit(main())
