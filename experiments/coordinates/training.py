"""Training one cell, and measuring what came out."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from experiments.coordinates.cells import IDENTITY, CellDirectory, hash_cell_source
from experiments.coordinates.config import CellConfig
from experiments.coordinates.data import Split, shuffle
from experiments.coordinates.table import FIGURES, show_figure
from experiments.coordinates.tasks import (
    count_parameters,
    examples_per_pass,
    judge_positions,
    make_network,
    make_task,
    split_of,
)
from runtime.process_settings import choose_threads
from runtime.provenance import describe_start

Say = Callable[[str], None]

_MAX_DROPS = 4  # of the learning rate, as in the released code
_LINE_EVERY_SECONDS = 3.0


class Divergence(Exception):
    """The loss is not finite."""


def check_device(config: CellConfig) -> None:
    """Refuse by a ValueError a GPU that is not there."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("`device` is cuda, but no GPU is available; use cpu.")


def train_cell(directory: CellDirectory, config: CellConfig, say: Say = print) -> dict[str, Any]:
    """Train a cell from its start to its end, and write its files; returns its `result.json`.

    Raises:
        Divergence: If the loss is not finite.
        ValueError: If the cell cannot be trained here; one line.
    """
    check_device(config)
    threads, _ = choose_threads(config.threads)
    config = config.replace(threads=threads)
    torch.set_num_threads(threads)
    with directory.lock():
        directory.record_start(describe_start(config.device, threads, {}))
        trainer = _Trainer(config, say)
        trainer.train()
        result = trainer.result()
        directory.write(config, trainer.network, result)
    return result


def measure(network: nn.Module, config: CellConfig) -> dict[str, float]:
    """Compute a network's means over all training and all test examples: `train_accuracy`, ..."""
    device, figure = next(network.parameters()).device, FIGURES[config.task]
    judged = {
        part: judge_positions(network, config, positions.to(device))
        for part, positions in split_of(config)._asdict().items()
    }
    return {f"{part}_{figure}": float(values.double().mean()) for part, values in judged.items()}


class _Trainer:
    """The state of one cell's training."""

    def __init__(self, config: CellConfig, say: Say):
        self.config, self._say = config, say
        self.steps = 0  # of the optimiser
        self._loss_sum = 0.0
        # Evaluations in a row at which all training examples were right, then steps and seconds of
        # the first at which all test examples were, too.
        self.perfect_evaluations = 0
        self.perfect_at: tuple[int, float] | None = None
        # Rows of steps, seconds, mean loss since the row before (not in the first, the untrained
        # network's), and the figure on a part of the training and of the test examples.
        self.curve: list[dict[str, float]] = []
        self.task = make_task(config.task, config.canvas_size)
        self.figure = FIGURES[config.task]
        self.network = make_network(config).to(config.device)
        # Betas: the released code, whose epsilon is the default here, too.
        self._optimizer = torch.optim.Adam(
            self.network.parameters(), config.learning_rate, (0.9, 0.99), fused=True
        )
        self._split = Split(*(part.to(config.device) for part in split_of(config)))
        # The examples that the curve is measured on.
        draws = torch.Generator().manual_seed(config.split_seed)
        self._samples = [shuffle(part, draws)[: config.evaluate_examples] for part in self._split]
        # On the CPU time is the thread's own: other programs then take nothing from a budget in
        # seconds. A GPU is waited for, which costs no processor time.
        self._clock = time.thread_time if config.device == "cpu" else time.perf_counter
        self._started, self._started_by_the_clock = self._clock(), time.perf_counter()
        self._spoken = self._started_by_the_clock

    @property
    def seconds(self) -> float:
        """Training time, evaluations during training included."""
        return self._clock() - self._started

    @property
    def _is_perfect(self) -> bool:
        return self.perfect_evaluations >= self.config.perfect_evaluations

    def train(self) -> None:
        self.network.train()
        batches = self._batches()
        self._evaluate()
        while not self._is_perfect and not self.config.is_over(self.steps, self.seconds):
            self._step(next(batches))
            self.steps += 1
            if self.steps % self.config.evaluate_every_steps == 0:
                self._evaluate()
            self._speak_if_due()
        self._check_last_step()

    def result(self) -> dict[str, Any]:
        self._speak_if_due(checking=True)
        steps, seconds = self.perfect_at or (None, None)
        return {
            **self.config.model_dump(include=IDENTITY),
            "source": hash_cell_source(),
            "parameters": count_parameters(self.network),
            "steps": self.steps,
            "seconds": self.seconds,
            "wall_clock_seconds": time.perf_counter() - self._started_by_the_clock,
            "steps_to_perfect": steps,
            "seconds_to_perfect": seconds,
            "stopped": "perfect" if self._is_perfect else "budget",
            "curve": self.curve,
            **measure(self.network, self.config),
        }

    @torch.no_grad()
    def _check_last_step(self) -> None:
        """Raise a Divergence if the loss has become infinite with it; no further step would see."""
        positions = self._split.train[: examples_per_pass(self.config)]
        output = self.network(self.task.encode(positions, self.config.canvas_size))
        loss = float(self.task.loss(output, positions))
        if not math.isfinite(loss):
            raise Divergence(f"the loss is {loss} after step {self.steps:_}")

    def _speak_if_due(self, *, checking: bool = False) -> None:
        """Say in 80 columns how far it is, and the newest row of the curve."""
        if time.perf_counter() - self._spoken < _LINE_EVERY_SECONDS:
            return
        self._spoken = time.perf_counter()
        row, figure = self.curve[-1], self.figure
        train, test = (show_figure(figure, row[f"{part}_{figure}"]) for part in ("train", "test"))
        limit = self.config.total_steps
        steps = f"{self.steps:_}" + (f" of {limit:_}" if limit else "")
        what = "looking at every example" if checking else f"{train} (train), {test} (test)"
        self._say(f"  step {steps}, {self.seconds:.0f} s: {what}")

    def _batches(self) -> Iterator[Tensor]:
        """Yield batches, epoch after epoch, each in an order of its own."""
        config, positions, epoch = self.config, self._split.train, 0
        generator = torch.Generator().manual_seed(config.seed)
        while True:
            if drops := config.learning_rate_drop_epochs:
                rate = config.learning_rate * 0.1 ** min(epoch // drops, _MAX_DROPS)
                self._optimizer.param_groups[0]["lr"] = rate
            size = min(config.batch_size, len(positions))
            whole = len(positions) // size * size  # the rest of an epoch is left out
            yield from torch.split(shuffle(positions, generator)[:whole], size)
            epoch += 1

    def _step(self, positions: Tensor) -> None:
        """Take one optimiser step on a batch [B, 2].

        The gradient is that of the whole batch's mean loss. Where examples do not depend on each
        other it is summed over passes of a few examples, whose features stay in the cache.
        """
        size, batch_loss = self.config.canvas_size, 0.0
        self._optimizer.zero_grad()
        for part in torch.split(positions, examples_per_pass(self.config)):
            output = self.network(self.task.encode(part, size))
            loss = self.task.loss(output, part) * (len(part) / len(positions))
            loss.backward()  # type: ignore[no-untyped-call]
            batch_loss += loss.item()
        if not math.isfinite(batch_loss):
            raise Divergence(f"the loss is {batch_loss} at step {self.steps + 1:_}")
        self._add_l2_gradient()
        self._optimizer.step()
        self._loss_sum += batch_loss

    @torch.no_grad()
    def _add_l2_gradient(self) -> None:
        """Add the gradient of l2 times the sum of the squared kernels; biases have no such term."""
        if not self.config.l2:
            return
        for layer in self.network.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                assert layer.weight.grad is not None
                layer.weight.grad.add_(layer.weight, alpha=2 * self.config.l2)

    def _evaluate(self) -> None:
        figure = self.figure
        train, test = (float(self._judge(part).mean()) for part in self._samples)
        if figure != "error_pixels":  # no answer in pixels is exact, and ends training
            right = train == 1 and self._all_right(self._split.train)
            self.perfect_evaluations = self.perfect_evaluations + 1 if right else 0
            if right and test == 1 and not self.perfect_at and self._all_right(self._split.test):
                self.perfect_at = self.steps, self.seconds
        row = {"steps": self.steps, "seconds": self.seconds}
        row |= {f"train_{figure}": train, f"test_{figure}": test}
        if self.steps:
            row["loss"] = self._loss_sum / self.config.evaluate_every_steps
        self._loss_sum = 0.0
        self.curve.append(row)

    def _judge(self, positions: Tensor) -> Tensor:
        """The figure of every example."""
        return judge_positions(self.network, self.config, positions)

    def _all_right(self, positions: Tensor) -> bool:
        """Tell whether the figure is 1 for every example; ends at the first that fails."""
        for part in torch.split(positions, 128):
            if not (self._judge(part) == 1).all():
                return False
            self._speak_if_due(checking=True)
        return True
