"""The command: train the cells that are asked for, then print their table and draw them."""

import argparse
import itertools
import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from configs.settings import flags_of, parse_assignments
from experiments.coordinates.cells import CellDirectory, find_result
from experiments.coordinates.config import (
    MODELS,
    SPLITS,
    TASKS,
    CellConfig,
    asks_for_budget,
    cell_differences,
    load_config,
    make_config,
    settable_names,
)
from experiments.coordinates.pictures import draw_group
from experiments.coordinates.table import format_table
from experiments.coordinates.training import Divergence, train_cell
from runtime.command_line import (
    FAILED,
    OneLineParser,
    add_flags,
    exit_on_user_error,
    parse_path,
    read_flags,
)
from runtime.run_directory import check_folder

WORTH_A_WORD_SECONDS = 5

_DATA = {"canvas_size", "split_seed"}
_FLAGS = flags_of(CellConfig)
_say = partial(print, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, plan, train, show; returns the exit status."""
    with exit_on_user_error():
        options = _parser().parse_args(arguments)
        overrides = _overrides(options)
        # CoordConv first: the plain network then gets at least the same time.
        models = MODELS[::-1] if options.model == "both" else (options.model,)
        configs = [
            make_config(task, split, model, overrides)
            for task in (TASKS if options.task == "all" else (options.task,))
            for split in (SPLITS if options.split == "all" else (options.split,))
            for model in models
        ]
        runs = parse_path(options.runs, "--runs")
        check_folder(runs)
        return _run(configs, runs, asks_for_budget(overrides))


def _run(configs: Sequence[CellConfig], runs: Path, budget_is_asked: bool) -> int:
    results: list[dict[str, Any]] = []
    status = 0
    if not budget_is_asked:
        _say(
            f"{len(configs)} trainings of 15 s to 2 min of processor time each, longer by the\n"
            "clock where other programs want the core; --seconds sets a limit.\n"
            "What is finished is skipped."
        )
    for directory, group in itertools.groupby(configs, lambda c: (runs / c.name).parents[1]):
        for config in group:
            if not budget_is_asked and config.model == "cnn":
                config = _give_time_of_coordconv(config, runs)
            try:
                results.append(_train(CellDirectory(runs / config.name), config, budget_is_asked))
            except Divergence as error:
                print(f"{config.name}: {error}", file=sys.stderr)
                status = FAILED
        _say("drawing what was learned")
        for path in draw_group(directory, config.seed):
            _say(f"drawn: {path}")
    if results:
        _say("\n" + format_table(results))
    return status


def _train(directory: CellDirectory, config: CellConfig, budget_is_asked: bool) -> dict[str, Any]:
    """Train one cell if it is not finished, and return its result."""
    result = find_result(directory, config, budget_is_asked=budget_is_asked)
    _check_other_network(directory, config)
    if result is not None:
        _say(f"{directory.path}: finished")
        return result
    _say(f"{directory.path}: at most {config.budget}")
    result = train_cell(directory, config, _say)
    waited = result["wall_clock_seconds"] - result["seconds"]
    more = f", and {waited:.0f} s of waiting for the core" if waited > WORTH_A_WORD_SECONDS else ""
    _say(f"  finished, {result['steps']:_} steps in {result['seconds']:.1f} s{more}")
    return result


def _check_other_network(directory: CellDirectory, config: CellConfig) -> None:
    """Refuse other data or code than those of the group's other network, drawn beside this one.

    Raises:
        ValueError: If they differ; one line.
    """
    (other_model,) = set(MODELS) - {config.model}
    other = _cell_beside(directory.path, other_model)
    if not other.is_finished():
        return
    other.check_source()
    saved = load_config(other.config_path)
    if differing := _DATA & set(cell_differences(saved, config)):
        raise ValueError(
            f"{other.path}, which is drawn beside this, holds a run of other data "
            f"({', '.join(sorted(differing))}); choose another --runs folder, or delete it."
        )


def _give_time_of_coordconv(config: CellConfig, runs: Path) -> CellConfig:
    """Give a plain network at least the time that CoordConv had on the same task."""
    other = _cell_beside(runs / config.name, "coordconv")
    if not other.is_finished():
        return config
    seconds = math.ceil(other.read_result()["seconds"])
    return config.replace(total_seconds=max(config.total_seconds, seconds))


def _cell_beside(cell: Path, model: str) -> CellDirectory:
    """The cell of another network for the same task, split and seed."""
    return CellDirectory(cell.parents[1] / model / cell.name)


def _overrides(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that the command line gives, by name."""
    given = read_flags(options, _FLAGS)
    if {"total_steps", "total_seconds"} <= given.keys():
        raise ValueError("--steps and --seconds both set the budget; give one of them.")
    return parse_assignments(options.set, settable_names(), given)


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="python -m experiments.coordinates",
        description="Train the plain network and the CoordConv network on a coordinate task, and "
        "draw what they learned. Without arguments: classification, a demonstration of one to "
        "three minutes. The same command again skips what is finished.",
    )
    add = parser.add_argument
    add(
        "--task",
        default="classification",
        choices=(*TASKS, "all"),
        help="classification (default): coordinates to a pixel; regression: a pixel to "
        "coordinates; rendering: coordinates to a square",
    )
    add(
        "--split",
        default="uniform",
        choices=(*SPLITS, "all"),
        help="held out: a random quarter (uniform, default) or the lower right quadrant",
    )
    add("--model", default="both", choices=(*MODELS, "both"), help="the network (both)")
    add_flags(parser, _FLAGS, {"seed": 0})
    add("--runs", default="runs", metavar="DIR", help="folder the results go to (runs)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other setting of configs/coordinates.toml; repeatable",
    )
    return parser
