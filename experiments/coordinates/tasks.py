"""What each task asks of a network, and how its answer is judged."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.coordinates.config import CellConfig, TaskName
from experiments.coordinates.data import (
    Split,
    batches_of,
    draw_points,
    draw_squares,
    scale_positions,
    split_positions,
)
from experiments.coordinates.networks import (
    CoordConvPainter,
    CoordConvRenderer,
    DeconvPainter,
    convolutional_regressor,
    coordconv_regressor,
    initialise,
    pooled_regressor,
)
from policies.coordconv import CoordConv2d

Figure = Literal["accuracy", "error_pixels", "iou"]


@dataclass(frozen=True)
class Task:
    """One task. Positions are [B, 2], int64; H = W is the canvas size.

    What is measured, the headline first: "accuracy" (share of examples whose brightest pixel is the
    target), "error_pixels" (mean Euclidean distance), "iou" (mean intersection over union, a pixel
    being on above probability 0.5).
    """

    figures: tuple[Figure, ...]
    can_be_perfect: bool  # whether the headline figure can be 1, which ends training
    encode: Callable[[Tensor, int], Tensor]  # positions and H to the network's input
    loss: Callable[[Tensor, Tensor], Tensor]  # output and positions to the mean loss of the batch
    judge: Callable[[Tensor, Tensor], dict[Figure, Tensor]]  # to every example's, each [B], float32


def _classification_loss(logits: Tensor, positions: Tensor) -> Tensor:
    """Softmax cross-entropy over all pixels of the canvas."""
    return F.cross_entropy(logits.flatten(1), _pixel_index(positions, logits.shape[-1]))


def _judge_classification(logits: Tensor, positions: Tensor) -> dict[Figure, Tensor]:
    brightest = logits.flatten(1).argmax(1)
    width = logits.shape[-1]
    answer = torch.stack((brightest // width, brightest % width), 1)
    return {
        "accuracy": (brightest == _pixel_index(positions, width)).float(),
        "error_pixels": _distance(answer, positions),
    }


def _pixel_index(positions: Tensor, width: int) -> Tensor:
    return positions[:, 0] * width + positions[:, 1]


def _distance(answer: Tensor, positions: Tensor) -> Tensor:
    distance: Tensor = torch.linalg.vector_norm((answer - positions).float(), dim=1)
    return distance


def _rendering_loss(logits: Tensor, positions: Tensor) -> Tensor:
    """Sigmoid cross-entropy, the mean over all pixels."""
    return F.binary_cross_entropy_with_logits(logits, draw_squares(positions, logits.shape[-1]))


def _judge_rendering(logits: Tensor, positions: Tensor) -> dict[Figure, Tensor]:
    painted = logits > 0
    square = draw_squares(positions, logits.shape[-1]).bool()
    both, either = (part.flatten(1).sum(1) for part in (painted & square, painted | square))
    return {"iou": both / either}


def make_task(name: TaskName, canvas_size: int) -> Task:
    """Describe a task on a canvas."""

    def regression_loss(output: Tensor, positions: Tensor) -> Tensor:
        """Mean squared error of the position as a share of the canvas."""
        return F.mse_loss(output, positions / canvas_size)

    def judge_regression(output: Tensor, positions: Tensor) -> dict[Figure, Tensor]:
        return {"error_pixels": _distance(output * canvas_size, positions)}

    if name == "regression":
        return Task(("error_pixels",), False, draw_points, regression_loss, judge_regression)
    if name == "rendering":
        return Task(("iou",), True, scale_positions, _rendering_loss, _judge_rendering)
    figures: tuple[Figure, ...] = ("accuracy", "error_pixels")
    return Task(figures, True, scale_positions, _classification_loss, _judge_classification)


def make_network(config: CellConfig) -> nn.Module:
    """Build a cell's network, with the initial weights that its seed gives.

    In the regression network the coordinates' weights start at zero: otherwise the maximum over the
    canvas may stand in the corner where the coordinates are largest, whatever the image shows.
    """
    network, generator = _architecture(config), torch.Generator().manual_seed(config.cell.seed)
    initialise(network, config.network.kernel_scale, generator)
    if config.cell.task == "regression":
        for layer in network.modules():
            if isinstance(layer, CoordConv2d):
                layer.init_coordinate_weights("zero")
    return network


def _architecture(config: CellConfig) -> nn.Module:
    size, choices = config.data.canvas_size, config.network
    match config.cell.task, config.cell.model:
        case "regression", "coordconv":
            return coordconv_regressor(size)
        case "regression", "cnn":
            uniform = config.cell.split == "uniform"
            return pooled_regressor(size) if uniform else convolutional_regressor()
        case "classification", "coordconv":
            return CoordConvPainter(size)
        case "rendering", "coordconv":
            return CoordConvRenderer(size, choices.kernel_size, choices.width_multiplier)
        case _:
            return DeconvPainter(size, choices.kernel_size, choices.width_multiplier)


def split_of(config: CellConfig) -> Split:
    """The positions that a cell learns from, and those it is tested on."""
    return split_positions(config.cell.split, config.data.canvas_size, config.data.split_seed)


def count_parameters(network: nn.Module) -> int:
    """Count the weights that training changes."""
    return sum(parameter.numel() for parameter in network.parameters())


def examples_per_pass(config: CellConfig) -> int:
    """How many examples a network is given at once: what the cache holds, or a whole batch.

    Batch norm makes the examples of a batch depend on each other, and the plain networks' features
    are small: they get whole batches.
    """
    if config.cell.model == "cnn" or config.execution.device != "cpu":
        return max(config.training.batch_size, 128)
    return 8 if config.cell.task == "regression" else 2


@torch.no_grad()
def judge_positions(
    network: nn.Module, config: CellConfig, positions: Tensor
) -> dict[Figure, Tensor]:
    """Judge a cell's network on positions [N, 2]: every example's figures, each [N], on the CPU."""
    size, was_training = config.data.canvas_size, network.training
    task = make_task(config.cell.task, size)
    network.eval()
    judged = [
        task.judge(network(task.encode(batch, size)), batch)
        for batch in batches_of(positions, examples_per_pass(config))
    ]
    network.train(was_training)
    return {figure: torch.cat([part[figure] for part in judged]).cpu() for figure in task.figures}
