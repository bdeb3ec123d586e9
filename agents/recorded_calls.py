"""Sequences of GPU operations that are recorded once and replayed with one launch each.

Acting and learning on a small batch are a hundred short operations, and starting each from Python
takes longer than the GPU needs for it. A CUDA graph starts them all at once.
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

    - read only tensors that keep their place: parameters, results of other recorded calls, and
      what `hold` returned;
    - not depend on anything else that changes, nor ask for a value on the host;
    - do the same however often it is called.

    What it returned is overwritten by the next call of that name.

    Args:
        enabled: Whether to record; the tensors must be on a GPU then.
    """

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self._held: dict[Hashable, Tensor] = {}
        self._recorded: dict[Hashable, tuple[Any, Callable[[], None]]] = {}

    def hold(self, name: Hashable, values: Tensor) -> Tensor:
        """Return `values` at the place that belongs to `name`; always of one shape and type."""
        if not self.enabled:
            return values
        if name not in self._held:
            self._held[name] = torch.empty_like(values)
        return self._held[name].copy_(values)

    def run(self, name: Hashable, function: Callable[[], Result]) -> Result:
        """Return what the function does, replaying it if a call of that name was recorded."""
        if not self.enabled:
            return function()
        if name not in self._recorded:
            self._recorded[name] = record(function)
        result, replay = self._recorded[name]
        replay()
        return result  # type: ignore[no-any-return]


def record(function: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
    """Record the GPU operations of a function as a CUDA graph.

    Warm-up and recording share a stream: autograd's nodes remember where they were made.

    Returns:
        The function's result, whose values are there after the first replay; and the replay.
    """
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP_CALLS):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        result = function()
    return result, graph.replay
