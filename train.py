"""Train agents on Atari games: `python train.py --game Pong --coordconv`, or `--compare`."""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from configs.comparison import Criteria, Design, StoppingRule
from configs.run_config import (
    HYPERPARAMETERS,
    ExecutionSettings,
    NetworkSettings,
    RunConfig,
    RunSettings,
    check_learning,
    default_settings,
    make_config,
)
from configs.settings import (
    Argument,
    Flag,
    Settings,
    flags_of,
    load_preset,
    parse_assignments,
)
from runtime.command_line import (
    OneLineParser,
    add_flags,
    exit_on_user_error,
    parse_path,
    print_result,
    read_flags,
)
from runtime.process_settings import prepare_process
from runtime.run_directory import check_folder, find_run

_DEFAULT_ALGO = "a2c"
_EXAMPLES = """examples:
  train.py --game Breakout --coordconv
  train.py --game Pong --steps 5M --seed 1 --set learning_rate=3e-4
  train.py --compare --games Pong Breakout --seeds 3 --jobs 2
"""


class _Pool(Settings):
    jobs: Annotated[int, Field(ge=1, le=1024), Flag("--jobs", "runs trained at the same time")]


_RUN = flags_of(RunSettings, NetworkSettings, *HYPERPARAMETERS.values())
_EXECUTION = flags_of(ExecutionSettings)
_CRITERIA = [*Criteria.model_fields, *StoppingRule.model_fields]
_OF_ONE_RUN = {"game": "--game", "seed": "--seed", "coordconv": "--coordconv"} | {
    name: flag.name for name, (flag, _) in flags_of(NetworkSettings).items()
}
_OF_A_COMPARISON = {"ray": "--ray", "declare": "--declare"} | {
    name: flag.name for name, (flag, _) in flags_of(Design, _Pool).items()
}


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
        config = find_run(_ask(options), runs)
        if options.dry_run:
            print_result(config.to_json().rstrip())
            print(f"would go to {runs / config.name}", file=sys.stderr)
            return 0
        check_folder(runs / config.name)
        from agents.training.command import run_training

        return run_training(config, runs)


def _ask(options: argparse.Namespace) -> RunConfig:
    """The config the command line asks for."""
    from envs.games import find_game

    if options.game is None:
        raise ValueError(
            "--game is missing: name a game, such as --game Pong; --list-games lists them."
        )
    game, algo = find_game(options.game).name, options.algo or _DEFAULT_ALGO
    config = make_config(game, algo, _overrides(options, algo), options.preset)
    check_learning(config)
    if config.network.extractor:
        from agents.models.own_extractor import load_extractor

        config = config.replace(network=load_extractor(config.network))
    return config


def _compare(options: argparse.Namespace, runs: Path) -> int:
    """Carry out the comparison that the command line asks for; returns the exit status."""
    if not options.dry_run:
        check_folder(runs)
    from experiments.comparison.command import run_comparison
    from experiments.comparison.plan import load_plan, make_plan

    pool, saved = read_flags(options, flags_of(_Pool)), load_plan(runs)
    algo = options.algo or (_DEFAULT_ALGO if saved is None else saved.template.run.algo)
    plan = make_plan(
        algo,
        _overrides(options, algo, _CRITERIA),
        options.preset,
        saved,
        **read_flags(options, flags_of(Design)),
    )
    for arm in plan.arms:
        check_learning(plan.run_of(plan.games[0], arm, seed=0))
    return run_comparison(
        plan,
        runs,
        jobs=_Pool.parse(pool).jobs if pool else None,
        ray_address=options.ray,
        dry_run=options.dry_run,
        declare=options.declare,
    )


def _check_mode(options: argparse.Namespace) -> None:
    """Refuse options of one run beside --compare, and the other way round."""
    for name, flag in (_OF_ONE_RUN if options.compare else _OF_A_COMPARISON).items():
        if getattr(options, name) not in (None, False):
            raise ValueError(
                f"{flag} is for one run, not for --compare; use --games, --arms and --seeds."
                if options.compare
                else f"{flag} is for a comparison; add --compare."
            )


def _overrides(options: argparse.Namespace, algo: str, more: Iterable[str] = ()) -> dict[str, Any]:
    """The settings of a run that the command line gives, and `more` that --set reaches."""
    given = read_flags(options, _RUN | _EXECUTION)
    if options.coordconv:
        if "coord_layers" in given:
            raise ValueError("--coordconv is short for --coord-layers 0; give one of them.")
        given["coord_layers"] = Argument("0", "--coordconv")
    if not given.get("coord_layers", "0").strip():
        raise ValueError("--coord-layers must name convolutions, 0 to 2, got none.")
    elsewhere = {
        **{name: f"is given by {flag}" for name, flag in _OF_A_COMPARISON.items()},
        **dict.fromkeys(_CRITERIA, "goes with --compare, which is not given"),
        **{
            name: f"goes with --algo {other}, which is not given"
            for other in HYPERPARAMETERS
            for name in default_settings(other)
        },
    }
    return parse_assignments(options.set, [*default_settings(algo), *more], given, elsewhere)


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="train.py",
        description="Train an Atari agent with Stable-Baselines3's A2C or DQN, with or without\n"
        "CoordConv; or, with --compare, both on nine games, ending in a verdict per game.\n"
        "The same command resumes where it stopped. Defaults are those of A2C.",
        epilog=_EXAMPLES,
    )
    asked = parser.add_argument_group("what is asked")
    asked.add_argument(
        "--algo", type=str.lower, choices=HYPERPARAMETERS, help="the algorithm (a2c)"
    )
    asked.add_argument("--preset", metavar="NAME", help="other defaults: zoo, rl-baselines3-zoo's")
    one_run = parser.add_argument_group("one run")
    one_run.add_argument("--game", metavar="NAME", help="the game, such as Pong")
    one_run.add_argument(
        "--coordconv", action="store_true", help="give the first convolution its coordinates"
    )
    comparison = parser.add_argument_group("a comparison")
    comparison.add_argument(
        "--compare", action="store_true", help="train a whole comparison, and write its report"
    )
    comparison.add_argument(
        "--declare", action="store_true", help="write its plan below --runs, print it, and exit"
    )
    execution = parser.add_argument_group("execution")
    of_one_run = {name: flag for name, flag in _RUN.items() if name in _OF_ONE_RUN}
    defaults = default_settings(_DEFAULT_ALGO)
    add_flags(one_run, of_one_run, defaults)
    add_flags(asked, {name: _RUN[name] for name in _RUN if name not in of_one_run}, defaults)
    add_flags(comparison, flags_of(Design), load_preset("comparison")["comparison"])
    add_flags(execution, _EXECUTION | flags_of(_Pool), defaults | {"jobs": "one per core"})
    asked.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other setting of configs/run.toml, a2c.toml, dqn.toml or, for a comparison, "
        "comparison.toml; repeatable",
    )
    add = execution.add_argument
    add("--ray", metavar="ADDRESS", help="train the comparison on a Ray cluster: address, or auto")
    add("--runs", default="runs", metavar="DIR", help="folder the run's directory goes to (runs)")
    add("--dry-run", action="store_true", help="print the resolved config, or the plan, and exit")
    add("--list-games", action="store_true", help="print the games' names and exit")
    return parser


if __name__ == "__main__":
    sys.exit(main())
