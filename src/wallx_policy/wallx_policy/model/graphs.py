"""Work of fixed shapes: recorded once and played again, with its inputs copied in at one go.

At 36 layers and ten steps a GPU waits for the host to launch one small kernel after the other. A
CUDA graph launches them all at once, but only for the same shapes at the same addresses. Without a
GPU the same work is simply done again, so that the code around it can be tested anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from time import perf_counter
from typing import Protocol

import torch

Work = Callable[[], None]
"""Reads and writes tensors that stay where they are; never waits for the device."""

_WARM_UPS = 2
"""Runs before a recording: libraries choose kernels and take their work space then."""


class Recorder(Protocol):
    """Makes work repeatable."""

    def record(self, work: Work) -> Work:
        """Run the work at least once, and return what does it again."""


class NoGraph:
    """Does the work anew each time."""

    def record(self, work: Work) -> Work:
        """Run the work, and return it."""
        work()
        return work


class CudaGraphs:
    """Records CUDA graphs; they share their memory, so nothing may be left in it between two."""

    def __init__(self, device: torch.device) -> None:
        """Take the device that all work runs on."""
        self._device = device
        with torch.cuda.device(device):
            self._stream = torch.cuda.Stream()
            self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Work) -> Work:
        """Run the work a few times, then once more while it is recorded."""
        with torch.cuda.device(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(_WARM_UPS):
                    work()
            torch.cuda.current_stream().wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            # Threads that prepare images meanwhile must not spoil the recording.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                work()
        return graph.replay


class Staging:
    """Tensors that lie side by side on the host and on the device: one copy sends them all.

    Attributes:
        host: By name, to be written; page-locked where there is a GPU.
        device: By name, to be read by recorded work.
    """

    def __init__(
        self, dtype: torch.dtype, shapes: Mapping[str, tuple[int, ...]], device: torch.device
    ) -> None:
        """Take the memory."""
        sizes = [prod(shape) for shape in shapes.values()]
        locked = device.type == "cuda"
        self._host = torch.zeros(sum(sizes), dtype=dtype, pin_memory=locked)
        self._device = torch.zeros(sum(sizes), dtype=dtype, device=device)
        self.host, self.device = (
            {
                name: part.view(shape)
                for (name, shape), part in zip(shapes.items(), whole.split(sizes), strict=True)
            }
            for whole in (self._host, self._device)
        )

    def send(self) -> None:
        """Queue the copy to the device; the host's side must stay until work after it is done."""
        self._device.copy_(self._host, non_blocking=True)


class StageClock:
    """Seconds by stage, without waiting for the device before the end."""

    def __init__(self, device: torch.device) -> None:
        """Begin the first stage."""
        self._device = device
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str, torch.cuda.Event | float]] = [("", self._mark())]

    def _mark(self) -> torch.cuda.Event | float:
        if not self._cuda:
            return perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def lap(self, name: str) -> None:
        """End a stage, and begin the next; stages of one name are added."""
        self._marks.append((name, self._mark()))

    def timings_s(self) -> dict[str, float]:
        """Wait for the device, and return the seconds by stage."""
        if self._cuda:
            self._marks[-1][1].synchronize()
        found: dict[str, float] = {}
        for (_, before), (name, after) in zip(self._marks, self._marks[1:], strict=False):
            took = before.elapsed_time(after) / 1e3 if self._cuda else after - before
            found[name] = found.get(name, 0.0) + took
        return found
