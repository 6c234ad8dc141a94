"""Runs the engine's loop at full size on a GPU that does not exist, and counts what it would do.

    python -m benchmarks.ghost                    # 1, 16 and 64 objects: launches, TFLOP and peak memory of a frame
    python -m benchmarks.ghost --write            # and put the table into docs/performance.md

Fake CUDA tensors have the shapes, dtypes and devices of a real GPU, but nothing is computed or allocated. So the full
model passes through the loop in seconds on any machine. Whatever would make the host wait for the device raises an
error with its line: `.item()`, a tensor used as a bool, `nonzero`, a boolean index, a tensor on the wrong device.
Values that decisions read from the device are invented: every frame finds the same objects again.
"""

from __future__ import annotations

import argparse
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import Sam3VideoModel

from benchmarks.ahead import worked
from benchmarks.models import full_config, processor
from benchmarks.pages import put
from sam3ray.config import TrackingConfig
from sam3ray.engine import capture, packed_attention, transfer
from sam3ray.engine.checkpoint import Checkpoint
from sam3ray.engine.detector import MAX_TOKENS, Detector
from sam3ray.engine.frames import Preprocessor
from sam3ray.engine.lookahead import LookAhead
from sam3ray.engine.positions import restore
from sam3ray.engine.propagation import Propagation
from sam3ray.engine.rules import Rules
from sam3ray.engine.tracker import Tracker
from sam3ray.engine.vision import TrackerNeck
from sam3ray.video import Frame

SCORE = 0.9
FAKE = FakeTensorMode()  # one for all, since transformers caches positions
NO_LAUNCH = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "lift_fresh"}


class Numbers:
    """Numbers on the host that stand for a tensor fetched from the device."""

    def __init__(self, values: np.ndarray) -> None:
        self._values = values

    def __getitem__(self, place: Any) -> Numbers:
        return Numbers(self._values[place])

    def numpy(self) -> np.ndarray:
        return self._values

    def tolist(self) -> list[Any]:
        return self._values.tolist()


@dataclass
class Counts(TorchDispatchMode):
    """Counts launches on a device, and the bytes alive there."""

    launches: Counter[str] = field(default_factory=Counter)
    captured: Counter[str] = field(default_factory=Counter)
    prepared: Counter[str] = field(default_factory=Counter)  # launches by the thread that prepares frames
    preparing: bool = False
    graphs: int = 0
    peak: int = 0
    inside: bool = False

    def __post_init__(self) -> None:
        super().__init__()
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self._older: set[int] = set()

    def know(self, tensors: Iterator[torch.Tensor]) -> int:
        """Excludes these tensors from the count; returns their bytes."""
        seen = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
        self._older |= set(seen)
        return sum(seen.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        results = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        on_device = any(t.device.type == "cuda" for t in results)
        name = func._schema.name.split("::")[1]
        is_view = any(each.alias_info is not None and not each.alias_info.is_write for each in func._schema.returns)
        if on_device and not is_view and name not in NO_LAUNCH:
            (self.prepared if self.preparing else self.captured if self.inside else self.launches)[name] += 1
        storages = [tensor.untyped_storage() for tensor in results if tensor.device.type == "cuda"]
        new = [each for each in storages if each._cdata not in self._older and each._cdata not in self._alive]
        if new:  # else no more is alive than before
            self._alive |= {each._cdata: (StorageWeakRef(each), each.nbytes()) for each in new}
            self._alive = {key: each for key, each in self._alive.items() if not each[0].expired()}
            self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return out


class Event:
    """An event. It passes when all work queued before it is done, so waiting for a later event includes waiting for
    it.
    """

    queued = passed = waits = 0

    def __init__(self) -> None:
        Event.queued += 1
        self._number = Event.queued

    def synchronize(self) -> None:
        if self._number > Event.passed:
            Event.passed = self._number
            Event.waits += 1


@dataclass
class Ghost:
    """The full-size model on a device that does not exist.

    Args:
        device: a CUDA device.
        objects: how many objects the detector finds on each frame.
    """

    device: torch.device
    objects: int
    prompts: tuple[str, ...] = ("disc",)
    counts: Counts | None = None

    def record(
        self, run: Callable[[], tuple[torch.Tensor, ...]], device: torch.device
    ) -> tuple[Callable[[], None], tuple[torch.Tensor, ...]]:
        """Replaces a capture. A replay runs the work again while it is counted, and otherwise does nothing."""
        assert device.type == "cuda"
        with self._inside():
            outputs = run()

        def replay() -> None:
            if self.counts is None:
                return
            self.counts.graphs += 1
            with self._inside():
                run()

        return replay, outputs

    @contextmanager
    def _inside(self) -> Iterator[None]:
        if self.counts is None:
            yield
            return
        self.counts.inside = True
        try:
            yield
        finally:
            self.counts.inside = False

    def preparing(self, prepare: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        """Prepares frames at once, because fake tensors cannot change threads, but counts them separately."""

        def apart(preprocessor: Preprocessor, frame: Frame) -> torch.Tensor:
            if self.counts is None:
                return prepare(preprocessor, frame)
            self.counts.preparing = True
            try:
                return prepare(preprocessor, frame)
            finally:
                self.counts.preparing = False

        return apart

    def fetched(self, tensor: torch.Tensor) -> Any:
        """The values that a decision reads: the same objects on each frame."""
        if tensor.dtype == torch.bool:
            return Numbers(np.ones(tensor.shape, dtype=bool))
        if tensor.ndim == 3:  # scores (frames, prompts, queries)
            probs = np.zeros(tensor.shape, dtype=np.float32)
            probs[:, 0, : self.objects] = SCORE
            return Numbers(probs)
        return Numbers(self._evidence(tensor.numel()))

    def _evidence(self, size: int) -> np.ndarray:
        """Evidence for detections and as many tracks (or none): the i-th of each is the same object."""
        n = self.objects
        for tracks in (0, n):
            k = n + tracks
            if k * k + k + 2 * tracks == size:
                same = np.tile(np.eye(n), (k // n, k // n)) * 100.0
                parts = [same.ravel(), np.full(k, 100.0), np.full(tracks, 5.0), np.ones(tracks)]
                return np.concatenate(parts).astype(np.float32)
        raise AssertionError(f"{size} numbers are no evidence of {n} detections")


@contextmanager
def not_there(ghost: Ghost) -> Iterator[None]:
    """Makes tensors fake, and replaces the parts of the engine that need a real GPU."""
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        stack.enter_context(FAKE)
        stack.enter_context(torch.no_grad())
        # torch looks for a driver when a fake tensor goes to a device in inference mode.
        for name in ("__enter__", "__exit__"):
            stack.enter_context(mock.patch.object(torch.inference_mode, name, return_value=None))
        for name, stand_in in {
            "pinned": lambda tensor: tensor,
            "fetched": ghost.fetched,
            "recorded": lambda device: Event(),
        }.items():
            stack.enter_context(mock.patch.object(transfer, name, stand_in))
        stack.enter_context(mock.patch.object(Preprocessor, "__call__", ghost.preparing(Preprocessor.__call__)))
        stack.enter_context(mock.patch.object(capture, "record", ghost.record))
        stack.enter_context(mock.patch.object(packed_attention, "possible", return_value=packed_attention.with_cudnn))
        yield


def build(device: torch.device) -> Checkpoint:
    """The architecture of facebook/sam3 in bfloat16, under a `FakeTensorMode`."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            model = Sam3VideoModel(full_config()).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(torch.float32)
    restore(model)
    image = model.detector_model.config.image_size
    return Checkpoint(model, processor(image), device, torch.bfloat16, autocast=False, info={})


def frames(count: int) -> Iterator[Frame]:
    for t in range(count):
        yield Frame(t, t, t / 25, np.zeros((720, 1280, 3), np.uint8))


def nothing() -> None: ...


@dataclass(frozen=True)
class Cost:
    """The cost of one frame in the middle of a clip."""

    objects: int
    launches: int
    graphs: int
    captured: int
    prepared: int
    tera_flop: float
    peak_bytes: int
    weights_bytes: int
    waits: int


def run(objects: int, device: str = "cuda", warm: int = 24, **tracking: Any) -> Cost:
    """Runs the loop until objects remember all they can, then counts one more frame.

    Args:
        warm: frames before the counted one. To save time, all but two of them repeat one frame.

    Raises:
        DataDependentOutputException: the host would have waited for the device.
    """
    ghost = Ghost(torch.device(device), objects)
    settings = TrackingConfig(**tracking)
    with not_there(ghost):
        checkpoint = build(ghost.device)
        model = checkpoint.model
        rules = Rules.of(model.config, settings)
        detector = Detector(checkpoint, settings.prompt_batch)
        channels = model.config.detector_config.detr_encoder_config.hidden_size
        for phrase in ghost.prompts:
            text = torch.zeros(1, MAX_TOKENS, channels, dtype=checkpoint.dtype, device=ghost.device)
            detector._phrases[phrase] = text, torch.ones(1, MAX_TOKENS, dtype=torch.int64, device=ghost.device)
        neck = TrackerNeck(model, folded=rules.published)
        ahead = LookAhead(checkpoint, neck, detector, 1, at_once=True)
        propagation = Propagation(Tracker(model, settings.rules, settings.object_batch), rules)
        works = worked(ahead, frames(20), ghost.prompts)
        first = next(works)
        for t in range(warm):
            fresh = t >= warm - 2
            work = replace(next(works) if fresh else first, position=t)
            shown = propagation.step(work, meanwhile=ahead.fill if fresh else nothing)
            assert len(shown.found.object_ids) == objects
            assert shown.found.masks.device == torch.zeros(0, device=ghost.device).device
        weights = [*model.parameters(), *model.buffers()]
        before = Event.waits
        with Counts() as counts, FlopCounterMode(display=False) as flops:
            ghost.counts = counts
            held = counts.know(iter(weights))
            del weights
            propagation.step(replace(next(works), position=warm), meanwhile=ahead.fill)
        total = flops.get_total_flops()
        launches = counts.launches.total() + counts.graphs
        return Cost(
            objects,
            launches,
            counts.graphs,
            counts.captured.total(),
            counts.prepared.total(),
            total / 1e12,
            counts.peak,
            held,
            Event.waits - before,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args()
    lines = [
        "| objects | waits | launches | of them graphs | in graphs | by the preparing thread | TFLOP "
        "| peak of a frame, MB | weights, MB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for objects in options.objects:
        cost = run(objects)
        counts = (cost.objects, cost.waits, cost.launches, cost.graphs, cost.captured, cost.prepared)
        sizes = (cost.peak_bytes / 2**20, cost.weights_bytes / 2**20)
        cells = [*map(str, counts), f"{cost.tera_flop:.2f}", *(f"{size:.0f}" for size in sizes)]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    table = "\n".join(lines)
    if options.write:
        put("performance.md", "ghost benchmark", table)


if __name__ == "__main__":
    main()
