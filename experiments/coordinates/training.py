"""Training one cell, however often it is interrupted, and measuring what came out."""

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from configs.settings import Bounds
from experiments.coordinates.cells import (
    CellDirectory,
    CellStatus,
    load_tensors,
    restore_state,
    save_tensors,
)
from experiments.coordinates.config import (
    BudgetSettings,
    CellConfig,
    cell_differences,
    load_config,
    to_json,
)
from experiments.coordinates.data import Split, batches_of, split_positions
from experiments.coordinates.tasks import (
    Figure,
    Task,
    count_parameters,
    examples_per_pass,
    judge_positions,
    make_network,
    make_task,
)
from runtime.files import write_atomically, write_json
from runtime.provenance import describe_start
from runtime.stop_request import StopRequest

Plan = Literal["start", "resume", "extend", "finished"]
Say = Callable[[str], None]

_MAX_DROPS = 4  # of the learning rate, as in the released code
_LINE_EVERY_SECONDS = 3.0


class TrainingStopped(Exception):
    """Training was asked to stop; a checkpoint is saved."""


class Divergence(Exception):
    """The loss is not finite."""


@dataclass
class Progress:
    """How far training has come.

    Attributes:
        steps: Optimiser steps.
        seconds: Training time over all starts.
        perfect_evaluations: Evaluations in a row at which all training examples were right.
        steps_to_perfect: Steps to the first evaluation at which all training and all test examples
            were right; 0 before.
        seconds_to_perfect: The same in seconds.
        loss_sum: Sum of the losses since the last row of the curve.
        curve: Rows of steps, seconds, mean loss since the row before (not in the first, which is
            the untrained network's), and the headline figure on a part of the training and of the
            test examples.
    """

    steps: Annotated[int, Bounds(0)] = 0
    seconds: Annotated[float, Bounds(0)] = 0.0
    perfect_evaluations: Annotated[int, Bounds(0)] = 0
    steps_to_perfect: Annotated[int, Bounds(0)] = 0
    seconds_to_perfect: Annotated[float, Bounds(0)] = 0.0
    loss_sum: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)


def plan_cell(
    directory: CellDirectory, asked: CellConfig, *, budget_is_asked: bool
) -> tuple[Plan, CellConfig]:
    """Compare what is asked with what is in a cell's directory.

    Args:
        directory: The cell's directory, which need not exist.
        asked: The config of the command.
        budget_is_asked: Whether its budget was asked for, or is a default that only ever makes a
            cell longer.

    Returns:
        What is to be done, and the config to do it with.

    Raises:
        ValueError: If the directory holds a cell of other settings, or a longer one.
    """
    if not directory.exists():
        return "start", asked
    saved = load_config(directory.config_path)
    differing = cell_differences(saved, asked)
    if differing:
        raise ValueError(
            f"{directory.path} holds a run of other settings ({', '.join(differing)}); choose "
            "another --runs folder, or delete it."
        )
    status = directory.read_cell_status() or CellStatus("interrupted", 0, 0.0)
    if not asked.execution.threads:  # not asked for: the same number as before
        asked = replace(asked, execution=replace(asked.execution, threads=saved.execution.threads))
    finished = directory.is_finished()
    reached = _is_reached(asked.budget, status.steps, status.seconds)
    if asked.budget != saved.budget and reached:
        if budget_is_asked:
            raise ValueError(
                f"{directory.path} has trained for {status.steps:_} steps and "
                f"{status.seconds:.1f} s, longer than the {asked.budget} asked for; ask for more."
            )
        asked = asked.with_budget(saved.budget)
    if finished and (
        asked.budget == saved.budget or reached or directory.read_result()["stopped"] == "perfect"
    ):
        return "finished", saved
    return ("extend" if finished else "resume"), asked


def train_cell(
    directory: CellDirectory, config: CellConfig, stop: StopRequest, say: Say = print
) -> dict[str, Any]:
    """Train a cell to its end, from its checkpoint if it has one, and write its result.

    Args:
        directory: The cell's directory.
        config: From `plan_cell`.
        stop: Asked between steps.
        say: Takes lines of progress.

    Returns:
        The content of `result.json`.

    Raises:
        TrainingStopped: If asked to stop; a checkpoint is saved.
        Divergence: If the loss is not finite.
        ValueError: If the cell cannot go on as it is; one line.
    """
    threads = config.execution.threads or os.cpu_count() or 1
    config = replace(config, execution=replace(config.execution, threads=threads))
    if config.execution.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("`device` is cuda, but no GPU is available; use cpu.")
    torch.set_num_threads(threads)
    with directory.lock():
        trainer = _Trainer(directory, config, say)
        progress = trainer.progress
        # Before the config: a finished cell that is extended is no longer finished.
        directory.write_cell_status(CellStatus("running", progress.steps, progress.seconds))
        write_atomically(directory.config_path, to_json(config))
        directory.record_start(describe_start(config.execution.device, threads, {}))
        try:
            trainer.train(stop)
        except TrainingStopped:
            trainer.save("interrupted")
            raise
        except Divergence as error:
            directory.write_cell_status(
                CellStatus("diverged", progress.steps, progress.seconds, str(error))
            )
            raise
        finally:
            trainer.close()
        result = trainer.result()
        save_tensors(directory.weights_path, trainer.network.state_dict())
        write_json(directory.result_path, result)
        trainer.save("finished")
    return result


def measure(network: nn.Module, config: CellConfig) -> dict[str, float]:
    """Compute a network's figures on all training and all test examples.

    Returns:
        Means by name, such as `train_accuracy` and `test_error_pixels`.
    """
    size = config.data.canvas_size
    task = make_task(config.cell.task, size)
    figures: dict[str, float] = {}
    split = split_positions(config.cell.split, size, config.data.split_seed)
    for part, positions in split._asdict().items():
        judged = judge_positions(
            network, task, positions.to(_device_of(network)), size, examples_per_pass(config)
        )
        for figure, values in judged.items():
            figures[f"{part}_{figure}"] = float(values.double().mean())
    return figures


class _Trainer:
    """The state of one cell's training."""

    def __init__(self, directory: CellDirectory, config: CellConfig, say: Say):
        self.directory, self.config, self._say = directory, config, say
        self.progress = Progress()
        device, size = config.execution.device, config.data.canvas_size
        self.task: Task = make_task(config.cell.task, size)
        self.network = make_network(config).to(device)
        # Betas and epsilon: the released code.
        self._optimizer = torch.optim.Adam(
            self.network.parameters(),
            lr=config.training.learning_rate,
            betas=(0.9, 0.99),
            eps=1e-8,
            fused=True,
        )
        split = split_positions(config.cell.split, size, config.data.split_seed)
        self._split = Split(*(part.to(device) for part in split))
        self._samples = Split(*map(self._sample, self._split))
        if directory.checkpoint_path.exists():
            self._restore()
        for events in directory.path.glob("events.out.*"):
            events.unlink()
        self._writer = SummaryWriter(str(directory.path))
        for row in self.progress.curve:
            self._log(row)
        self._started = time.perf_counter() - self.progress.seconds
        self._saved = self._spoken = time.perf_counter()

    def train(self, stop: StopRequest) -> None:
        training, progress = self.config.training, self.progress
        if progress.steps:
            self._say(f"{self.config.name}: resumed at step {progress.steps:_}.")
        self.network.train()
        batches = self._batches()
        if not progress.curve:
            self._evaluate()
        while not _is_reached(self.config.budget, progress.steps, progress.seconds):
            if progress.perfect_evaluations >= training.perfect_evaluations:
                return
            if stop:
                raise TrainingStopped
            self._step(next(batches))
            progress.steps += 1
            if progress.steps % training.evaluate_every_steps == 0:
                self._evaluate()
            now = time.perf_counter()
            progress.seconds = now - self._started
            if now - self._saved >= self.config.execution.checkpoint_every_seconds:
                self.save("running")
                self._saved = now

    def save(self, state: Literal["running", "interrupted", "finished"]) -> None:
        """Write the checkpoint, then the status."""
        save_tensors(
            self.directory.checkpoint_path,
            {
                "network": self.network.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "progress": asdict(self.progress),
            },
        )
        self.directory.write_cell_status(
            CellStatus(state, self.progress.steps, self.progress.seconds)
        )

    def result(self) -> dict[str, Any]:
        progress = self.progress
        perfect = progress.perfect_evaluations >= self.config.training.perfect_evaluations
        return {
            **asdict(self.config.cell),
            "parameters": count_parameters(self.network),
            "steps": progress.steps,
            "seconds": progress.seconds,
            "steps_to_perfect": progress.steps_to_perfect or None,
            "seconds_to_perfect": progress.seconds_to_perfect or None,
            "stopped": "perfect" if perfect else "budget",
            "curve": progress.curve,
            **measure(self.network, self.config),
        }

    def close(self) -> None:
        self._writer.close()

    def _restore(self) -> None:
        path = self.directory.checkpoint_path
        saved = load_tensors(path)
        restore_state(self.network, saved.get("network"), path)
        restore_state(self._optimizer, saved.get("optimizer"), path)
        try:
            self.progress = Progress(**saved["progress"])
        except (KeyError, TypeError):
            raise ValueError(f"{path} is damaged; delete {path.parent} and run again.") from None

    def _sample(self, positions: Tensor) -> Tensor:
        """Draw the examples that the curve is measured on."""
        generator = torch.Generator().manual_seed(self.config.data.split_seed)
        order = torch.randperm(len(positions), generator=generator)
        return positions[order[: self.config.training.evaluate_examples].to(positions.device)]

    def _batches(self) -> Iterator[Tensor]:
        """Yield the batches from the current step on; an epoch's order follows from its number."""
        positions, size = self._split.train, self.config.training.batch_size
        per_epoch = max(len(positions) // size, 1)
        epoch, first = divmod(self.progress.steps, per_epoch)
        while True:
            drops = self.config.training.learning_rate_drop_epochs
            if drops:
                rate = self.config.training.learning_rate * 0.1 ** min(epoch // drops, _MAX_DROPS)
                for group in self._optimizer.param_groups:
                    group["lr"] = rate
            seed = self.config.cell.seed + (epoch << 31)
            order = torch.randperm(len(positions), generator=torch.Generator().manual_seed(seed))
            batches = batches_of(positions[order.to(positions.device)], size)
            yield from islice(batches, first, per_epoch)
            epoch, first = epoch + 1, 0

    def _step(self, positions: Tensor) -> None:
        """Take one optimiser step on a batch [B, 2].

        The gradient is that of the whole batch's mean loss. Where examples do not depend on each
        other it is summed over passes of a few examples, whose features stay in the cache.
        """
        size, batch_loss = self.config.data.canvas_size, 0.0
        self._optimizer.zero_grad()
        for part in batches_of(positions, examples_per_pass(self.config)):
            output = self.network(self.task.encode(part, size))
            loss = self.task.loss(output, part) * (len(part) / len(positions))
            loss.backward()  # type: ignore[no-untyped-call]
            batch_loss += loss.item()
        if not math.isfinite(batch_loss):
            raise Divergence(f"the loss is {batch_loss} at step {self.progress.steps + 1:_}")
        self._add_l2_gradient()
        self._optimizer.step()
        self.progress.loss_sum += batch_loss

    @torch.no_grad()
    def _add_l2_gradient(self) -> None:
        """Add the gradient of l2 times the sum of the squared kernels; biases have no such term."""
        if not self.config.training.l2:
            return
        for layer in self.network.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                assert layer.weight.grad is not None
                layer.weight.grad.add_(layer.weight, alpha=2 * self.config.training.l2)

    def _evaluate(self) -> None:
        progress, headline = self.progress, self.task.figures[0]
        train, test = (
            float(self._judge(positions)[headline].mean()) for positions in self._samples
        )
        if self.task.can_be_perfect:
            right = train == 1 and self._all_right(self._split.train, headline)
            progress.perfect_evaluations = progress.perfect_evaluations + 1 if right else 0
            if (
                right
                and test == 1
                and not progress.steps_to_perfect
                and self._all_right(self._split.test, headline)
            ):
                progress.steps_to_perfect = progress.steps
                progress.seconds_to_perfect = time.perf_counter() - self._started
        row = {
            "steps": progress.steps,
            "seconds": time.perf_counter() - self._started,
            f"train_{headline}": train,
            f"test_{headline}": test,
        }
        if progress.steps:
            row["loss"] = progress.loss_sum / self.config.training.evaluate_every_steps
        progress.loss_sum = 0.0
        progress.curve.append(row)
        self._log(row)
        if progress.steps and time.perf_counter() - self._spoken >= _LINE_EVERY_SECONDS:
            self._spoken = time.perf_counter()
            self._say(
                f"{self.config.name}: step {progress.steps:_}, {row['seconds']:.1f} s, loss "
                f"{row['loss']:.3g}, {headline} {train:.3g} (train) {test:.3g} (test)"
            )

    def _judge(self, positions: Tensor) -> dict[Figure, Tensor]:
        return judge_positions(
            self.network,
            self.task,
            positions,
            self.config.data.canvas_size,
            examples_per_pass(self.config),
        )

    def _all_right(self, positions: Tensor, headline: Figure) -> bool:
        """Tell whether the headline figure is 1 for every example; ends at the first that fails."""
        return all(
            bool((self._judge(part)[headline] == 1).all()) for part in batches_of(positions, 128)
        )

    def _log(self, row: dict[str, float]) -> None:
        names = {"loss": "train/loss", "seconds": "time/seconds"}
        for name, value in row.items():
            if name != "steps":
                tag = names.get(name, name.replace("_", "/", 1))
                self._writer.add_scalar(tag, value, int(row["steps"]))


def _is_reached(budget: BudgetSettings, steps: int, seconds: float) -> bool:
    return bool(
        (budget.total_steps and steps >= budget.total_steps)
        or (budget.total_seconds and seconds >= budget.total_seconds)
    )


def _device_of(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
