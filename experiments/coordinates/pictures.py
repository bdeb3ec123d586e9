"""The pictures of one task and split, drawn from the finished cells on disk.

Everything that a picture says is also said without colour: by shape, by lightness or in words.
"""

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure as Picture
from matplotlib.patches import Patch, Rectangle
from tensorboard.compat.proto.event_pb2 import Event
from torch import Tensor, nn

from experiments.coordinates.cells import CellDirectory
from experiments.coordinates.config import MODELS, CellConfig
from experiments.coordinates.data import SQUARE_RADIUS, Split
from experiments.coordinates.table import FIGURES, show_figure, title_of
from experiments.coordinates.tasks import judge_positions, make_task, split_of
from runtime.event_files import make_image, name_event_file, pack_events
from runtime.files import write_atomically

_DOTS_PER_INCH = 110
_NAMES = {"cnn": "plain network", "coordconv": "CoordConv"}
_PART_NAMES = {"train": "training", "test": "test"}
_RIGHT, _WRONG, _NO_EXAMPLE = "#8fb4d9", "#6b0a0a", "white"  # three steps of grey, too
_BEYOND = "#dcdcdc"  # the canvas
_TRUE, _DARK = "#c4c4c4", "#08306b"
_MARGIN = 4  # pixels between the square of the zoomed pictures and their edge


@dataclass(frozen=True)
class _Trained:
    """A finished cell, opened."""

    config: CellConfig
    network: nn.Module
    result: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{_NAMES[self.config.model]} ({self.result['parameters']:,} weights)"

    @torch.no_grad()
    def answer(self, positions: Tensor) -> Tensor:
        """The network's output for positions [N, 2]."""
        size = self.config.canvas_size
        task = make_task(self.config.task, size)
        output: Tensor = self.network(task.encode(positions, size))
        return output

    def chances(self, positions: Tensor) -> Tensor:
        """What the network paints for positions [N, 2], as probabilities [N, H, W]."""
        logits = self.answer(positions)
        if self.config.task == "classification":
            return logits.flatten(1).softmax(1).view(logits.shape)
        return logits.sigmoid()

    def judge(self, positions: Tensor) -> Tensor:
        """The figure of every one of positions [N, 2]."""
        return judge_positions(self.network, self.config, positions)

    def chances_of_targets(self, positions: Tensor) -> Tensor:
        """The probability that the target itself gets, [N]; a few images fit memory at once."""
        parts = [
            self.chances(part)[torch.arange(len(part)), *part.unbind(1)]
            for part in torch.split(positions, 64)
        ]
        return torch.cat(parts)


def draw_group(directory: Path, seed: int) -> list[Path]:
    """Draw the cells of one task, split and seed, and give the pictures to TensorBoard too.

    The PNG files are in the directory, `runs/coordinates/<task>-<split>`; there are none if no cell
    has finished.
    """
    cells = [CellDirectory(directory / model / f"seed{seed}") for model in MODELS]
    trained = [_Trained(*c.load_network(), c.read_result()) for c in cells if c.is_finished()]
    if not trained:
        return []
    split = split_of(trained[0].config)
    with mpl.rc_context({"font.size": 9, "axes.titlesize": 9, "savefig.dpi": _DOTS_PER_INCH}):
        pictures = {"canvas": _draw_canvas(trained, split), "curve": _draw_curve(trained)}
        if trained[0].config.task != "regression":
            pictures["prediction"] = _draw_prediction(trained, split)
    paths, events, now = [], [], time.time()
    for name, picture in pictures.items():
        path = directory / f"{name}-seed{seed}.png"
        png = io.BytesIO()
        picture.savefig(png, format="png", metadata={"Software": None})
        write_atomically(path, png.getvalue())
        summary = make_image(f"seed{seed}/{name}", png.getvalue())
        events.append(Event(wall_time=now, summary=summary))
        paths.append(path)
    outdated = list(directory.glob(f"events.out.*.seed{seed}"))
    path = name_event_file(directory, f".seed{seed}")
    write_atomically(path, pack_events(events))
    for file in set(outdated) - {path}:
        file.unlink(missing_ok=True)
    return paths


def _draw_canvas(trained: Sequence[_Trained], split: Split) -> Picture:
    """Where on the canvas the examples are and which are right: networks down, parts across."""
    config = trained[0].config
    size, task, figure = config.canvas_size, config.task, FIGURES[config.task]
    picture = Picture(figsize=(7.4, 1.3 + 3.7 * len(trained)), layout="constrained")
    grid = picture.subplots(len(trained), 2, squeeze=False, sharex=True, sharey=True)
    for row, cell in zip(grid, trained, strict=True):
        for axes, (part, positions) in zip(row, split._asdict().items(), strict=True):
            mean = show_figure(figure, cell.result[f"{part}_{figure}"])
            mean = f"mean error {mean}" if task == "regression" else mean
            axes.set_title(f"{cell.name}\n{_PART_NAMES[part]} examples: {mean}")
            axes.set(xlabel="column", ylabel="row", aspect="equal")
            axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5))
            axes.label_outer()
            if task == "regression":
                _plot_predicted_points(axes, cell.answer(positions) * size, positions)
            else:
                shown = _plot_values(axes, cell.judge(positions), positions, size)
    picture.suptitle(f"{title_of(trained[0].result)}: every example, at its centre on the canvas")
    if task == "rendering":
        label = "intersection over union (white: no example)"
        picture.colorbar(shown, ax=grid, location="bottom", shrink=0.5, aspect=30, label=label)
        return picture
    handles: list[Any] = [Patch(fc=_RIGHT, label="right"), Patch(fc=_WRONG, label="wrong")]
    handles += [Patch(fc=_NO_EXAMPLE, ec="black", lw=0.5, label="no example")]
    if task == "regression":
        handles = axes.lines
    options: Any = {"ncols": 3, "frameon": False, "markerscale": 2}
    picture.legend(handles=handles, loc="outside lower center", **options)
    return picture


def _plot_values(axes: Axes, values: Tensor, positions: Tensor, size: int) -> Any:
    image = np.full((size, size), np.nan)
    rows, columns = positions.unbind(1)
    image[rows.numpy(), columns.numpy()] = values.numpy()
    colours = mpl.colors.LinearSegmentedColormap.from_list("figure", [_WRONG, _RIGHT])
    axes.set_facecolor(_NO_EXAMPLE)
    return axes.imshow(image, cmap=colours, vmin=0, vmax=1, interpolation="nearest")


def _plot_predicted_points(axes: Axes, predicted: Tensor, positions: Tensor) -> None:
    (true_rows, true_columns), (rows, columns) = positions.numpy().T, predicted.numpy().T
    ends = np.stack(((true_columns, true_rows), (columns, rows))).transpose(2, 0, 1)
    axes.add_collection(LineCollection(list(ends), colors=_TRUE, lw=0.6, zorder=1))
    axes.plot([], [], color=_TRUE, lw=2, label="from the true position")
    axes.plot(columns, rows, ".", ms=2.4, color=_DARK, mew=0, label="to the predicted one")


def _draw_curve(trained: Sequence[_Trained]) -> Picture:
    """The figure against training time."""
    picture = Picture(figsize=(7.0, 3.8), layout="constrained")
    axes = picture.subplots()
    figure = FIGURES[trained[0].config.task]
    styles = {"cnn": ("#b2182b", "s"), "coordconv": (_DARK, "o")}
    for cell in trained:
        curve = cell.result["curve"]
        seconds = [row["seconds"] for row in curve]
        colour, marker = styles[cell.config.model]
        for part, line in (("train", "--"), ("test", "-")):
            axes.plot(
                seconds,
                [row[f"{part}_{figure}"] for row in curve],
                line,
                color=colour,
                lw=1.4,
                marker=marker,
                ms=3.5,
                markevery=max(len(curve) // 12, 1),
                fillstyle="full" if part == "test" else "none",
                label=f"{_NAMES[cell.config.model]}, {_PART_NAMES[part]}",
            )
        perfect = cell.result["seconds_to_perfect"]
        if perfect is not None:
            axes.axvline(perfect, color=colour, lw=0.8, ls=":")
            text = f" all right after {perfect:.1f} s"
            axes.annotate(text, (perfect, 0.5), color=colour, fontsize=8)
    labels = {"iou": "intersection over union", "error_pixels": "mean error (pixels)"}
    axes.set(xlabel="training time (seconds of processor time)", ylabel=labels.get(figure, figure))
    if figure == "error_pixels":
        axes.set_yscale("log")
    else:
        axes.set_ylim(-0.03, 1.03)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    examples = trained[0].config.evaluate_examples
    axes.set_title(f"{title_of(trained[0].result)} (on {examples} examples of each part)")
    picture.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return picture


def _draw_prediction(trained: Sequence[_Trained], split: Split) -> Picture:
    """The prediction around the target of three examples per network, the target boxed."""
    is_one_pixel = trained[0].config.task == "classification"
    radius = 0 if is_one_pixel else SQUARE_RADIUS
    reach = radius + _MARGIN
    picture = Picture(figsize=(7.4, 1.4 + 2.6 * len(trained)), layout="constrained")
    grid = picture.subplots(len(trained), 3, squeeze=False)
    for row, cell in zip(grid, trained, strict=True):
        for axes, (title, position) in zip(row, _choose_examples(cell, split), strict=True):
            image = cell.chances(position[None])[0]
            target_row, target_column = map(int, position)
            axes.set_facecolor(_BEYOND)
            shown = axes.imshow(image.numpy(), cmap="gray_r", vmin=0, vmax=1)
            corner, side = (target_column - radius - 0.5, target_row - radius - 0.5), 2 * radius + 1
            axes.add_patch(Rectangle(corner, side, side, fill=False, ec="red", lw=2))
            axes.set(
                xlim=(target_column - reach - 0.5, target_column + reach + 0.5),
                ylim=(target_row + reach + 0.5, target_row - reach - 0.5),
            )
            at_target = float(image[target_row, target_column])
            axes.set_title(f"{title}\non target {at_target:.2f}, highest {float(image.max()):.2f}")
            axes.tick_params(labelsize=7)
        row[0].set_ylabel(f"{cell.name}\nrow")
    for axes in grid[-1]:
        axes.set_xlabel("column")
    label = "probability (grey border: beyond the canvas)"
    picture.colorbar(shown, ax=grid, location="bottom", shrink=0.5, aspect=30, label=label)
    picture.suptitle(f"{title_of(trained[0].result)}: the prediction around the target (red box)")
    return picture


def _choose_examples(cell: _Trained, split: Split) -> list[tuple[str, Tensor]]:
    """Choose a middling training example, a middling test example and the worst, with titles."""
    is_rendering = cell.config.task == "rendering"
    train, test = map(cell.judge if is_rendering else cell.chances_of_targets, split)
    return [
        ("training, median", split.train[int(train.argsort()[len(train) // 2])]),
        ("test, median", split.test[int(test.argsort()[len(test) // 2])]),
        ("test, worst", split.test[int(test.argmin())]),
    ]
