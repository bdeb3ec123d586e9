"""The closing table: one line per cell."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from runtime.command_line import align_columns

_HEAD = ("task-split", "network", "seed", "weights", "steps", "time", "train", "test", "all right")


def format_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Lay out the content of `result.json` files as text.

    Below the table stands, for every pair of networks, how far the plain one was when CoordConv
    had every example right.
    """
    rows = [_HEAD, *(_row(result) for result in results)]
    return "\n".join([*align_columns(rows, left=2), *_same_time(results)])


def headline_of(result: Mapping[str, Any]) -> str:
    """The name of the figure that a task is about."""
    names = {"classification": "accuracy", "regression": "error_pixels", "rendering": "iou"}
    return names[result["task"]]


def show_figure(figure: str, value: float) -> str:
    """Write a figure with its unit."""
    nearly_one = 0.9995 <= value < 1
    if figure == "accuracy":
        return f"{100 * value:.2f} %" if nearly_one else f"{100 * value:.3g} %"
    if figure == "iou":
        return f"IOU {value:.5f}" if nearly_one else f"IOU {value:.3f}"
    return f"{value:.3f} px"


def _row(result: Mapping[str, Any]) -> tuple[str, ...]:
    figure = headline_of(result)
    perfect = result["seconds_to_perfect"]
    return (
        f"{result['task']}-{result['split']}",
        result["model"],
        str(result["seed"]),
        f"{result['parameters']:,}",
        f"{result['steps']:,}",
        f"{result['seconds']:.1f} s",
        show_figure(figure, result[f"train_{figure}"]),
        show_figure(figure, result[f"test_{figure}"]),
        "-" if perfect is None else f"after {perfect:.1f} s",
    )


def _same_time(results: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Say what the plain network had reached when CoordConv was perfect."""
    results_of = {(r["task"], r["split"], r["seed"], r["model"]): r for r in results}
    for ours in results:
        plain = results_of.get((ours["task"], ours["split"], ours["seed"], "cnn"))
        perfect = ours["seconds_to_perfect"]
        if ours["model"] == "cnn" or plain is None or perfect is None:
            continue
        figure = headline_of(ours)
        for row in [row for row in plain["curve"] if row["seconds"] <= perfect][-1:]:
            yield (
                f"After the {perfect:.1f} s that CoordConv took on {ours['task']}-{ours['split']}, "
                f"the plain network had {show_figure(figure, row[f'train_{figure}'])} (train) and "
                f"{show_figure(figure, row[f'test_{figure}'])} (test) on a sample."
            )
