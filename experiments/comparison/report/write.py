"""The report of a folder of runs: a pure function of what is in it."""

import json
from pathlib import Path

from experiments.comparison.plan import load_plan
from experiments.comparison.report.analysis import analyse
from experiments.comparison.report.content import compose
from experiments.comparison.report.figures import draw_figures
from experiments.comparison.report.page import to_html, to_markdown
from experiments.comparison.report.records import gather
from experiments.comparison.report.tensorboard_pages import write_tensorboard
from runtime.files import write_atomically, write_json

FIGURE_FOLDER = "figures"


def write_report(runs: Path) -> Path:
    """Write `report.md`, `.json`, `.html`, the figures and TensorBoard's pages below `runs`.

    Returns:
        The HTML page.

    Raises:
        OSError: If there are no runs, or something cannot be written; one line.
        ValueError: If a file is damaged; one line.
    """
    comparison = gather(runs, load_plan(runs))
    # As JSON would give it back, so that what is written and what is shown cannot differ.
    analysis = json.loads(json.dumps(analyse(comparison), allow_nan=False))
    figures = draw_figures(comparison, analysis)
    blocks = compose(analysis, list(figures))
    markdown = to_markdown(blocks, FIGURE_FOLDER)
    (runs / FIGURE_FOLDER).mkdir(exist_ok=True)
    for outdated in (runs / FIGURE_FOLDER).glob("*.png"):
        if outdated.stem not in figures:
            outdated.unlink()
    for name, png in figures.items():
        write_atomically(runs / FIGURE_FOLDER / f"{name}.png", png)
    write_json(runs / "report.json", analysis)
    write_atomically(runs / "report.md", markdown)
    write_atomically(runs / "report.html", to_html(blocks, figures))
    write_tensorboard(runs, comparison, markdown, figures)
    return runs / "report.html"
