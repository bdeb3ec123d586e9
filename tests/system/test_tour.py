"""The notebook runs, and what is kept of its last run is small."""

from typing import Any

import nbformat
from nbclient import NotebookClient

from tests.processes import ROOT

TOUR = ROOT / "docs" / "tour.ipynb"


def shown(notebook: Any) -> list[set[str]]:
    """The forms of what each cell shows; into what outputs printed lines are split may vary."""
    outputs = [cell.get("outputs", []) for cell in notebook.cells]
    return [{form for output in cell for form in output.get("data", {})} for cell in outputs]


def test_the_tour_runs_and_shows_what_is_kept_of_it() -> None:
    assert TOUR.stat().st_size < 300_000
    kept = nbformat.read(TOUR, as_version=4)
    short = nbformat.read(TOUR, as_version=4)
    for cell in short.cells:  # its two trainings, which take half a minute
        cell.source = cell.source.replace('steps": 2_000', 'steps": 100')
    ran = NotebookClient(short, timeout=600, startup_timeout=600).execute()
    assert shown(ran) == shown(kept)
    assert sum(not {"image/png", "image/gif"}.isdisjoint(forms) for forms in shown(ran)) == 4
