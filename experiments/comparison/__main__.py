"""Writes the report of a folder of runs: `python -m experiments.comparison runs`."""

import argparse
import sys
from collections.abc import Sequence
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


class _Ablation(Settings):
    episodes: Annotated[
        int, Field(ge=1, le=1_000_000), Flag("--episodes", "games of each kind and run")
    ]
    seeds: Annotated[
        int, Field(ge=1, le=1_000_000), Flag("--seeds", "by the runs of the first N seeds (all)")
    ] = 1_000_000


_DEFAULTS = {"episodes": 10}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report from what is on the disk; returns the exit status."""
    with exit_on_user_error():
        options = _parser().parse_args(arguments)
        runs = parse_path(options.runs, "RUNS")
        asked = read_flags(options, flags_of(_Ablation))
        ablation = _Ablation.parse(_DEFAULTS | asked)
        if asked and not options.ablate:
            raise ValueError(f"--{next(iter(asked))} is of --ablate, which is not given; add it.")
        from experiments.comparison.report.position_use import ablate_runs
        from experiments.comparison.report.render import write_report

        if options.ablate:
            ablate_runs(runs, ablation.episodes, ablation.seeds)
        print(f"written: {write_report(runs)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="python -m experiments.comparison",
        description="Write the report of a comparison from the runs below a folder, finished or "
        "not: report.md, report.json, report.html, figures and TensorBoard's pages.",
    )
    add = parser.add_argument
    add("runs", metavar="RUNS", help="the folder of the runs")
    add(
        "--ablate",
        action="store_true",
        help="first play games with what position adds set to zero, and shuffled",
    )
    add_flags(parser, flags_of(_Ablation), _DEFAULTS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
