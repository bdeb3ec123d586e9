"""A trained agent made small: `python -m agents.evaluation.export RUN_DIR OUT.zip`."""

import argparse
import sys

from runtime.command_line import OneLineParser, exit_on_user_error, parse_path


def main(arguments: list[str] | None = None) -> int:
    """Write the agent of a run without what only its training needs; returns the exit status."""
    with exit_on_user_error():
        options = _parser().parse_args(arguments)
        from agents.evaluation.agent import find_model
        from agents.models.model_file import write_shared_agent
        from runtime.run_directory import RunDirectory

        out = parse_path(options.out, "OUT.zip", "a file")
        if out.exists():
            raise ValueError(f"{out} exists; choose another name.")
        if not out.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {out.parent}; make it first.")
        run = parse_path(options.run, "RUN_DIR", "a run")
        if run.is_file():
            raise ValueError(f"{run} is a file; give the directory of the run that it is of.")
        write_shared_agent(out, find_model(RunDirectory(run)))
        print(f"written: {out}, {out.stat().st_size / 1e6:.1f} MB")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="python -m agents.evaluation.export", description=__doc__)
    parser.add_argument("run", metavar="RUN_DIR", help="a run's directory")
    parser.add_argument("out", metavar="OUT.zip", help="the file to write")
    return parser


if __name__ == "__main__":
    sys.exit(main())
