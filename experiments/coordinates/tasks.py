"""What each task asks of a network, and how its answer is judged."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.coordinates.config import CellConfig, TaskName
from experiments.coordinates.data import (
    Split,
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


@dataclass(frozen=True)
class Task:
    """One task. Positions are [B, 2], int64; H = W is the canvas size.

    What is judged: accuracy (whether the brightest pixel is the target), the Euclidean error in
    pixels, or intersection over union, a pixel being on above probability 0.5.
    """

    encode: Callable[[Tensor, int], Tensor]  # positions and H to the network's input
    loss: Callable[[Tensor, Tensor], Tensor]  # output and positions to the mean loss of the batch
    judge: Callable[[Tensor, Tensor], Tensor]  # to every example's figure [B], float32


def _classification_loss(logits: Tensor, positions: Tensor) -> Tensor:
    """Softmax cross-entropy over all pixels of the canvas."""
    return F.cross_entropy(logits.flatten(1), _pixel_index(positions, logits.shape[-1]))


def _judge_classification(logits: Tensor, positions: Tensor) -> Tensor:
    return (logits.flatten(1).argmax(1) == _pixel_index(positions, logits.shape[-1])).float()


def _pixel_index(positions: Tensor, width: int) -> Tensor:
    return positions[:, 0] * width + positions[:, 1]


def _rendering_loss(logits: Tensor, positions: Tensor) -> Tensor:
    """Sigmoid cross-entropy, the mean over all pixels."""
    return F.binary_cross_entropy_with_logits(logits, draw_squares(positions, logits.shape[-1]))


def _judge_rendering(logits: Tensor, positions: Tensor) -> Tensor:
    painted = logits > 0
    square = draw_squares(positions, logits.shape[-1]).bool()
    both, either = (part.flatten(1).sum(1) for part in (painted & square, painted | square))
    return both / either


def make_task(name: TaskName, canvas_size: int) -> Task:
    """Describe a task on a canvas."""

    def regression_loss(output: Tensor, positions: Tensor) -> Tensor:
        """Mean squared error of the position as a share of the canvas."""
        return F.mse_loss(output, positions / canvas_size)

    def judge_regression(output: Tensor, positions: Tensor) -> Tensor:
        distance: Tensor = torch.linalg.vector_norm(output * canvas_size - positions, dim=1)
        return distance

    if name == "regression":
        return Task(draw_points, regression_loss, judge_regression)
    if name == "rendering":
        return Task(scale_positions, _rendering_loss, _judge_rendering)
    return Task(scale_positions, _classification_loss, _judge_classification)


def make_network(config: CellConfig) -> nn.Module:
    """Build a cell's network, with the initial weights that its seed gives.

    In the regression network the coordinates' weights start at zero: otherwise the maximum over the
    canvas may stand in the corner where the coordinates are largest, whatever the image shows.
    """
    network, generator = _architecture(config), torch.Generator().manual_seed(config.seed)
    initialise(network, config.kernel_scale, generator)
    if config.task == "regression":
        for layer in network.modules():
            if isinstance(layer, CoordConv2d):
                layer.init_coordinate_weights("zero")
    return network


def _architecture(config: CellConfig) -> nn.Module:
    size, choices = config.canvas_size, (config.kernel_size, config.width_multiplier)
    match config.task, config.model:
        case "regression", "coordconv":
            return coordconv_regressor(size)
        case "regression", "cnn":
            uniform = config.split == "uniform"
            return pooled_regressor(size) if uniform else convolutional_regressor()
        case "classification", "coordconv":
            return CoordConvPainter(size)
        case "rendering", "coordconv":
            return CoordConvRenderer(size, *choices)
        case _:
            return DeconvPainter(size, *choices)


def split_of(config: CellConfig) -> Split:
    """The positions that a cell learns from, and those it is tested on."""
    return split_positions(config.split, config.canvas_size, config.split_seed)


def count_parameters(network: nn.Module) -> int:
    """Count the weights that training changes."""
    return sum(parameter.numel() for parameter in network.parameters())


def examples_per_pass(config: CellConfig) -> int:
    """How many examples a network is given at once: what the cache holds, or a whole batch.

    Batch norm makes the examples of a batch depend on each other, and the plain networks' features
    are small: they get whole batches.
    """
    if config.model == "cnn" or config.device != "cpu":
        return max(config.batch_size, 128)
    return 8 if config.task == "regression" else 2


@torch.no_grad()
def judge_positions(network: nn.Module, config: CellConfig, positions: Tensor) -> Tensor:
    """Judge a cell's network on positions [N, 2]: every example's figure [N], on the CPU."""
    size, was_training = config.canvas_size, network.training
    task = make_task(config.task, size)
    network.eval()
    judged = [
        task.judge(network(task.encode(batch, size)), batch)
        for batch in torch.split(positions, examples_per_pass(config))
    ]
    network.train(was_training)
    return torch.cat(judged).cpu()
