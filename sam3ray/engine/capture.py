"""Runs work of constant shape as CUDA graphs: one launch from Python instead of hundreds.

A `Captured` function runs uncaptured on a CPU, under autocast, and the first time that it sees some shapes. From the
second time on it is replayed on a GPU. Results are copied out, so that the next replay overwrites nothing that is
still wanted. All graphs of a device share one pool of memory, which is safe while one thread replays them in one
stream. A capture that fails is logged once, and the function runs uncaptured: the numbers are the same.

A captured function must not wait for the device, and no shape in it may depend on values. The test
on fake tensors (`tests/engine/test_waits.py`) holds that without a card. What it reads apart from its arguments must
stay where it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary, WeakMethod, WeakSet

import torch
from torch import Tensor

from sam3ray.faults.causes import first_line

SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256)
_FIRST_RUNS = 1  # uncaptured runs before shapes are captured

_log = logging.getLogger(__name__)
_places: dict[torch.device, _Place] = {}
_kept: WeakKeyDictionary[torch.nn.Module, dict[Any, Any]] = WeakKeyDictionary()
_captured: WeakSet[Captured] = WeakSet()
_enabled = True


def release() -> None:
    """Frees the memory of all graphs. They are captured again when their shapes recur."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    for each in _captured:
        each.forget()
    _places.clear()


@contextmanager
def disabled() -> Iterator[None]:
    """Run everything uncaptured."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


def kept(model: torch.nn.Module, key: Any, make: Callable[[], Any]) -> Any:
    """What is made once for a model on a GPU and serves all its clips, so that graphs do, too; elsewhere a new one.

    It must not refer to `model` itself, with which it goes.
    """
    if next(model.parameters()).device.type != "cuda":
        return make()
    made = _kept.setdefault(model, {})
    if key not in made:
        made[key] = make()
    return made[key]


def size_for(count: int) -> int:
    """The smallest size that objects are padded to and that holds so many."""
    return next((size for size in SIZES if size >= count), count)


def ready(device: torch.device) -> bool:
    """Whether work on this device is captured. A test stands in for it."""
    return _enabled and device.type == "cuda" and not torch.is_autocast_enabled(device.type)


class Captured:
    """A function of tensors that gives a tuple of tensors.

    Args:
        name: for the log.
        run: called with the tensors given, in order, then with the fixed ones. A method is held weakly, because its
            object holds this one: in a circle, its tensors would stay until Python's next full collection, which is
            half an hour away in a process with so many objects.
        rows: places of the arguments with one row per object; they are padded to one of `SIZES`, and the first rows
            of the results are given back. All results then have one row per object. What padding rows hold is
            anything that was there before.
    """

    def __init__(self, name: str, run: Callable[..., tuple[Tensor, ...]], rows: Sequence[int] = ()) -> None:
        self._name = name
        self._runs = WeakMethod(run) if isinstance(run, MethodType) else lambda: run
        self._rows = frozenset(rows)
        self._seen: dict[Any, int] = {}
        self._graphs: dict[Any, _Graph | None] = {}
        _captured.add(self)

    def _run(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        run = self._runs()
        assert run is not None, "its object calls it"
        return run(*tensors)

    def forget(self) -> None:
        """As if it had seen nothing yet."""
        self._seen.clear()
        self._graphs.clear()

    def __call__(self, *given: Tensor, fixed: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
        """`fixed` are buffers that are filled already and are read where they are; their rows are padded already."""
        if not ready(given[0].device):
            return self._run(*given, *fixed)
        count = len(given[min(self._rows)]) if self._rows else 0
        size = size_for(count)
        shapes = [(size, *t.shape[1:]) if i in self._rows else tuple(t.shape) for i, t in enumerate(given)]
        key = (
            given[0].device,
            tuple((shape, t.dtype) for shape, t in zip(shapes, given, strict=True)),
            tuple((t.data_ptr(), tuple(t.shape)) for t in fixed),
        )
        graph = self._graphs.get(key)
        if graph is None:
            self._seen[key] = self._seen.get(key, 0) + 1
            if self._seen[key] <= _FIRST_RUNS or key in self._graphs:
                return self._padded(given, fixed, size, count)
            graph = self._graphs[key] = self._capture(given, shapes, fixed, count)
            if graph is None:
                return self._padded(given, fixed, size, count)
        return graph(given, count)

    def _padded(self, given: Sequence[Tensor], fixed: Sequence[Tensor], size: int, count: int) -> tuple[Tensor, ...]:
        """As it is, with as many rows as the fixed buffers have."""
        if not self._rows:
            return self._run(*given, *fixed)
        if not fixed:
            return self._run(*given)
        given = [_grown(t, size) if i in self._rows else t for i, t in enumerate(given)]
        return tuple(out[:count] for out in self._run(*given, *fixed))

    def _capture(
        self, given: Sequence[Tensor], shapes: Sequence[tuple[int, ...]], fixed: Sequence[Tensor], count: int
    ) -> _Graph | None:
        device = given[0].device
        inputs = [t.new_zeros(shape) for t, shape in zip(given, shapes, strict=True)]
        _fill(inputs, given, self._rows, count)
        try:
            replay, outputs = record(lambda: self._run(*inputs, *fixed), device)
        except RuntimeError as error:
            # Also when memory is short. The shapes run as they are from now on.
            _log.warning("%s is not captured for %s: %s", self._name, shapes, first_line(error))
            return None
        return _Graph(replay, inputs, outputs, self._rows, tuple(fixed))


@dataclass(frozen=True, eq=False)
class _Place:
    """Where a device's graphs are captured. All in one stream: torch gives memory that one graph has freed only to what
    the same stream captures next. In streams of their own they held 90 GB at 64 objects, of which 15 were in use."""

    pool: Any
    stream: torch.cuda.Stream


@dataclass(frozen=True, eq=False)
class _Graph:
    replay: Callable[[], None]
    inputs: list[Tensor]
    outputs: tuple[Tensor, ...]
    rows: frozenset[int]
    fixed: tuple[Tensor, ...]  # read by the graph: kept alive

    def __call__(self, given: Sequence[Tensor], count: int) -> tuple[Tensor, ...]:
        _fill(self.inputs, given, self.rows, count)
        self.replay()
        wanted = [out[:count] if self.rows else out for out in self.outputs]
        results = [torch.empty_like(each, memory_format=torch.contiguous_format) for each in wanted]
        torch._foreach_copy_(results, wanted)
        return tuple(results)


def _fill(inputs: Sequence[Tensor], given: Sequence[Tensor], rows: frozenset[int], count: int) -> None:
    places = [each[:count] if i in rows else each for i, each in enumerate(inputs)]
    torch._foreach_copy_(places, list(given))


def _grown(tensor: Tensor, size: int) -> Tensor:
    if len(tensor) == size:
        return tensor
    return torch.cat([tensor, tensor.new_zeros(size - len(tensor), *tensor.shape[1:])])


def record(
    run: Callable[[], tuple[Tensor, ...]], device: torch.device
) -> tuple[Callable[[], None], tuple[Tensor, ...]]:
    """What replays `run`, and the tensors that it then fills. A test stands in for it.

    Raises:
        RuntimeError: it cannot be captured.
    """
    current = torch.cuda.current_stream(device)
    # Entered first and left last: a capture that fails leaves its own stream the current one.
    with torch.cuda.device(device), torch.cuda.stream(current):
        if device not in _places:
            _places[device] = _Place(torch.cuda.graph_pool_handle(), torch.cuda.Stream(device))
        pool, stream = _places[device].pool, _places[device].stream
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            run()  # whatever libraries set up when first used on a stream
        current.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            # Masks are being finished in another thread, which may allocate and wait as it likes.
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                outputs = run()
        except RuntimeError:
            del _places[device]  # the stream may be capturing still
            raise
    return graph.replay, outputs
