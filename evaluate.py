"""Evaluate a trained agent: `python evaluate.py runs/Pong/a2c-coordconv/seed0 --video`."""

import argparse
import sys
from typing import Annotated

from pydantic import Field

from configs.settings import Flag, Settings, flags_of
from runtime.command_line import (
    OneLineParser,
    add_flags,
    exit_on_user_error,
    parse_path,
    read_flags,
)
from runtime.process_settings import prepare_process
from runtime.run_directory import RunDirectory


class _Play(Settings):
    episodes: Annotated[
        int, Field(ge=1, le=1_000_000), Flag("--episodes", "whole games to play")
    ] = 30
    seed: Annotated[
        int, Field(ge=0, le=2**31 - 1), Flag("--seed", "seed of the games and of the agent's draws")
    ] = 0


def main(arguments: list[str] | None = None) -> int:
    """Parse, evaluate; returns the exit status."""
    prepare_process()
    with exit_on_user_error():
        options = _parser().parse_args(arguments)
        play = _Play.parse(read_flags(options, flags_of(_Play)))
        path = parse_path(options.model, "RUN_DIR|MODEL.zip", "a run or a model")
        if options.out is not None:
            folder = parse_path(options.out, "--out")
        elif path.is_dir():
            folder = RunDirectory(path).evaluation_path
        else:
            folder = path.with_name(f"{path.name.removesuffix('.zip')}-evaluation")
        from agents.algorithms.device import find_device
        from agents.evaluation.agent import load_agent
        from agents.evaluation.evaluate import evaluate

        evaluate(
            load_agent(
                path, options.game, options.protocol, find_device(options.device), options.extractor
            ),
            folder,
            games=play.episodes,
            seed=play.seed,
            deterministic=options.deterministic,
            pictures=[kind for kind in ("video", "gif") if getattr(options, kind)],
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="evaluate.py",
        description="Score a trained agent: whole games from seeds that training never uses, raw "
        "returns. Writes returns.json, and if asked a film of the game with the median return.",
    )
    add = parser.add_argument
    add("model", metavar="RUN_DIR|MODEL.zip", help="a run's directory, or a model saved by SB3")
    add_flags(parser, flags_of(_Play), dict(_Play()))
    add("--video", action="store_true", help="write a video of one of the games too")
    add("--gif", action="store_true", help="and a GIF of its first 20 seconds, under 2 MB")
    add(
        "--deterministic",
        action="store_true",
        help="always take the best action; without it A2C samples from its policy, and DQN acts "
        "at random as often as at the end of its training",
    )
    add(
        "--out",
        metavar="DIR",
        help="where the files go (evaluation/ in a run, MODEL-evaluation/ beside a model)",
    )
    add("--game", metavar="NAME", help="what a model plays that was not saved by this project")
    add("--protocol", metavar="NAME", help="how that was presented to it (baselines)")
    add("--extractor", metavar="MODULE:CLASS", help="the network of your own that it is of")
    add("--device", default="auto", metavar="NAME", help="auto (default), cpu, cuda or cuda:N")
    return parser


if __name__ == "__main__":
    sys.exit(main())
