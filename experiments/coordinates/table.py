"""The closing table: one line per cell, in 80 columns."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from runtime.command_line import align_columns

FIGURES = {"classification": "accuracy", "regression": "error_pixels", "rendering": "iou"}
_HEAD = ("network", "weights", "steps", "time", "train", "test", "all right")


def format_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Lay out the content of `result.json` files as text, under the task, split and seed of each.

    Below a pair of networks stands how far the plain one was when CoordConv had every example
    right.
    """
    head, *rows = align_columns([_HEAD, *map(_row, results)], left=1)
    lines = [head]
    cells = zip(results, rows, strict=True)
    for title, group in itertools.groupby(cells, lambda cell: title_of(cell[0])):
        pair, shown = zip(*group, strict=True)
        lines += [title, *shown, *_same_time({result["model"]: result for result in pair})]
    return "\n".join(lines)


def show_figure(figure: str, value: float) -> str:
    """Write a figure with its unit."""
    nearly_one = 0.9995 <= value < 1
    if figure == "accuracy":
        return f"{100 * value:.2f} %" if nearly_one else f"{100 * value:.3g} %"
    if figure == "iou":
        return f"IOU {value:.5f}" if nearly_one else f"IOU {value:.3f}"
    return f"{value:.3f} px"


def title_of(result: Mapping[str, Any]) -> str:
    """What a pair of networks has in common."""
    return f"{result['task']}, {result['split']} split, seed {result['seed']}"


def _row(result: Mapping[str, Any]) -> tuple[str, ...]:
    figure, perfect = FIGURES[result["task"]], result["seconds_to_perfect"]
    return (
        f"  {result['model']}",
        f"{result['parameters']:,}",
        f"{result['steps']:,}",
        f"{result['seconds']:.1f} s",
        show_figure(figure, result[f"train_{figure}"]),
        show_figure(figure, result[f"test_{figure}"]),
        "-" if perfect is None else f"after {perfect:.1f} s",
    )


def _same_time(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say what the plain network had reached when CoordConv was perfect."""
    if len(results) < 2 or (perfect := results["coordconv"]["seconds_to_perfect"]) is None:
        return []
    rows = [row for row in results["cnn"]["curve"] if row["seconds"] <= perfect]
    if not rows:
        return []
    figure = FIGURES[results["cnn"]["task"]]
    train, test = (show_figure(figure, rows[-1][f"{part}_{figure}"]) for part in ("train", "test"))
    return [
        f"After the {perfect:.1f} s that CoordConv took, the plain network had, on a sample,",
        f"{train} (train) and {test} (test).",
    ]
