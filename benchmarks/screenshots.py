"""Photographs what a folder of runs looks like: `python -m benchmarks.screenshots RUNS FOLDER`.

FOLDER/tensorboard.png is the page that `tensorboard --logdir RUNS` opens, report.png the top of the
report, which is written first. Needs Chromium.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tensorboard import program

from experiments.comparison.report.render import write_report
from runtime.command_line import OneLineParser, WorkFailure, exit_on_user_error, parse_path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAX_BYTES = 400_000  # of a picture in the documentation
_PATIENCE_SECONDS = 300
# What a page's timers are told has passed; its requests are waited for.
_VIRTUAL_MILLISECONDS = 60_000


def main(arguments: list[str] | None = None) -> int:
    """Take the pictures; returns the exit status."""
    parser = OneLineParser(prog="python -m benchmarks.screenshots", description=__doc__)
    parser.add_argument("runs", metavar="RUNS", help="the folder of the runs")
    parser.add_argument("folder", metavar="FOLDER", help="where the pictures go")
    options = parser.parse_args(arguments)
    with exit_on_user_error():
        runs, folder = parse_path(options.runs, "RUNS"), parse_path(options.folder, "FOLDER")
        browser = find_browser()
        report = write_report(runs)
        folder.mkdir(parents=True, exist_ok=True)
        photograph(browser, report.absolute().as_uri(), folder / "report.png", 1000, 1250)
        with serve(runs) as address:
            # Lines as SVG: those drawn in a worker's canvas are not waited for.
            page = f"{address}?forceSVG=true"
            photograph(browser, page, folder / "tensorboard.png", 1700, 980)
    return 0


def find_browser() -> str:
    """The path of a Chromium.

    Raises:
        FileNotFoundError: If there is none; one line.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise FileNotFoundError(
            f"no Chromium is here ({', '.join(BROWSERS)}); install one, such as by apt-get install "
            "chromium."
        )
    return found


def photograph(browser: str, address: str, path: Path, width: int, height: int) -> None:
    """Write a PNG of the top of a page, of so many pixels, and print its size.

    Raises:
        WorkFailure: If there is none then, or it is larger than `MAX_BYTES`; one line.
    """
    path.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        command = [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *("--no-first-run", f"--user-data-dir={profile}", f"--window-size={width},{height}"),
            f"--virtual-time-budget={_VIRTUAL_MILLISECONDS}",
            *(f"--screenshot={path.absolute()}", address),
        ]
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(command, capture_output=True, timeout=_PATIENCE_SECONDS, check=False)
    if not path.exists():
        raise WorkFailure(f"{browser} made no picture of {address}.")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise WorkFailure(f"{path} has {size:,} bytes, more than {MAX_BYTES:,}.")
    print(f"written: {path}, {size:,} bytes")


@contextmanager
def serve(runs: Path) -> Iterator[str]:
    """TensorBoard's address while it shows all of a folder's runs.

    Raises:
        WorkFailure: If it does not come to show them; one line.
    """
    written = {os.path.relpath(path.parent, runs) for path in runs.rglob("events.out.tfevents.*")}
    board = program.TensorBoard()
    board.configure(["tensorboard", "--logdir", str(runs), "--port", "0", "--load_fast", "false"])
    address = board.launch()
    end = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < end:
        with urllib.request.urlopen(f"{address}data/runs") as answer:
            if set(json.load(answer)) >= written:
                break
        time.sleep(0.5)
    else:
        raise WorkFailure(f"TensorBoard does not show the runs of {runs}.")
    yield address  # it ends with this process


if __name__ == "__main__":
    sys.exit(main())
