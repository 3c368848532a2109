"""A call without arguments whose tensors stay where they are: on a GPU a CUDA graph, elsewhere the call itself."""

from collections.abc import Callable
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class CapturedCall(Generic[T]):
    """Decoding one token of a large model is thousands of short kernels; a graph launches them as one.

    The function must read and write tensors at fixed addresses, never wait for the device, and may be called more often
    than the caller does. What it returns is overwritten by the next call.
    """

    def __init__(self, function: Callable[[], T], device: torch.device) -> None:
        self._function = function
        self._device = device
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> T:
        """Calls, or replays."""
        if self._device.type != "cuda":
            return self._function()
        if self._graph is None:
            self._record()
        self._graph.replay()
        return self._results

    def _record(self) -> None:
        # Libraries set themselves up in their first call, which cannot be recorded.
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            self._function()
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._results = self._function()
        self._graph = graph
