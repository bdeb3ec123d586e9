"""Sequences of GPU operations that are recorded once and replayed with one launch each.

Acting and learning on a small batch are a hundred short operations, and starting each from Python
takes longer than the GPU needs for it. A CUDA graph is started with one launch.
"""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")

_WARM_UP_CALLS = 3  # libraries choose their kernels in the first ones; what torch's manual suggests


class RecordedCalls:
    """Calls that are recorded as CUDA graphs, or, if `enabled` is false, simply made.

    Recorded, a function is called a few times, once more to record it, and never again: from then
    on the operations it started are replayed on the same tensors. So it must

    - read and write only tensors that keep their place and that somebody keeps: parameters, a
      network's activations, results of other recorded calls, and what `hold` returned;
    - not depend on anything else that changes, nor ask for a value on the host;
    - do the same however often it is called.

    What it returned is overwritten by the next call of that name.

    Args:
        enabled: Whether to record.
        device: Where the tensors are; a GPU, if calls are recorded.
    """

    def __init__(self, enabled: bool, device: torch.device) -> None:
        self.enabled = enabled
        self._record = Recorder(device) if enabled else None
        self._held: dict[Hashable, Tensor] = {}
        self._recorded: dict[Hashable, tuple[Any, Callable[[], None]]] = {}

    def hold(self, name: Hashable, values: Tensor) -> Tensor:
        """Return a copy of `values` at the place of that name; not recording, `values` itself.

        They must have the shape and type of those held there before.
        """
        if not self.enabled:
            return values
        if name not in self._held:
            self._held[name] = torch.empty_like(values)
        held = self._held[name]
        assert (held.shape, held.dtype) == (values.shape, values.dtype)
        return held.copy_(values)

    def run(self, name: Hashable, function: Callable[[], Result]) -> Result:
        """Return what the function does, replaying it if a call of that name was recorded."""
        if self._record is None:
            return function()
        if name not in self._recorded:
            self._recorded[name] = self._record(function)
        result, replay = self._recorded[name]
        replay()
        return result  # type: ignore[no-any-return]


class Recorder:
    """Records functions as CUDA graphs, on a stream of its own.

    Args:
        device: The GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        with torch.cuda.device(device):
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def __call__(self, function: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
        """Record the GPU operations of a function.

        Warm-up and recording share the stream: autograd's nodes remember where they were made.

        Returns:
            The function's result, whose values are there after the first replay; and the replay.
        """
        with torch.cuda.device(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(_WARM_UP_CALLS):
                    function()
            torch.cuda.current_stream().wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self._stream):
                result = function()
        return result, graph.replay
