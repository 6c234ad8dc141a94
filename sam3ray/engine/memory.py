"""The memories of tracked objects: where they are kept, and which of them a frame reads.

An object's past is a handful of rows in two banks of tensors: memory features (one row per
object and frame, g*g x 64) and object pointers. An `ObjectMemory` holds row numbers only, so that
the memories of all objects of a frame are gathered by one indexing call, and a row that nothing
will read again is reused: memory stays constant in the length of the video.

Two rules say what a frame reads (Meta's code: sam3_tracker_base.py at 99d02f2; transformers:
modeling_sam3_tracker_video.py of 5.23):

* published: the <= 4 nearest conditioning frames; the 6 most recent tracked frames whose score
  passed, with the frame before this one whatever its score; pointers of the selected conditioning
  frames that lie behind, and of the most recent tracked frames that passed (at most 15).
* transformers: the <= 4 nearest conditioning frames; the last 6 frames; pointers of all
  conditioning frames that lie behind, and of the last 15 tracked frames.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from sam3ray.engine.stored import Stored
from sam3ray.engine.transfer import indices

RuleSet = Literal["published", "transformers"]

NO_ROW = -1


@dataclass(frozen=True, eq=False)
class SavedRows:
    """The rows that some objects own, apart from the banks, and the numbers that they had there."""

    memories: Stored
    memory_rows: list[int]
    pointers: Stored
    pointer_rows: list[int]


class Bank:
    """Rows of one shape that are handed out, written, gathered and taken back.

    Rows are copied in and out, never viewed: nothing outside keeps a batch tensor alive.

    Args:
        device: where gathered rows are wanted.
        on_host: keep the rows in host memory all the same; they travel when they are read.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
        *,
        on_host: bool = False,
        capacity: int = 16,
    ) -> None:
        self.device = device
        self.rows = torch.empty((capacity, *shape), dtype=dtype, device="cpu" if on_host else device)
        self._free = list(range(capacity - 1, -1, -1))

    @property
    def in_use(self) -> int:
        return len(self.rows) - len(self._free)

    def write(self, values: Tensor) -> list[int]:
        """Stores values (n, *shape); returns their row numbers."""
        count = len(values)
        if len(self._free) < count:
            self._grow(count)
        rows = [self._free.pop() for _ in range(count)]
        self.rows[indices(rows, self.rows.device)] = values.to(self.rows.device, self.rows.dtype)
        return rows

    def gather(self, rows: Tensor) -> Tensor:
        """rows (...,) of int64 -> (..., *shape), a copy on `device`."""
        gathered = self.rows.index_select(0, rows.flatten().to(self.rows.device))
        return gathered.view(*rows.shape, *self.rows.shape[1:]).to(self.device)

    def gather_into(self, rows: Tensor, out: Tensor) -> None:
        """rows (...,) of int64, where the bank is, -> `out` (..., *shape), contiguous, on `device`."""
        if self.rows.device == out.device and self.rows.dtype == out.dtype:
            torch.index_select(self.rows, 0, rows.flatten(), out=out.flatten(0, rows.ndim - 1))
        else:
            out.copy_(self.gather(rows))

    def saved(self, rows: Iterable[int]) -> tuple[Tensor, list[int]]:
        """Copies of these rows on the host, and their numbers."""
        numbers = [row for row in rows if row != NO_ROW]
        return self.rows[indices(numbers, self.rows.device)].cpu(), numbers

    def adopt(self, values: Tensor, numbers: Sequence[int]) -> dict[int, int]:
        """Stores what another bank saved. Returns the numbers here, by the numbers there."""
        if values.shape[1:] != self.rows.shape[1:] or values.dtype != self.rows.dtype or len(values) != len(numbers):
            raise ValueError(f"saved rows are {values.dtype} of shape {tuple(values.shape)}")
        return dict(zip(numbers, self.write(values), strict=True))

    def release(self, rows: Iterable[int]) -> None:
        self._free.extend(row for row in rows if row != NO_ROW)

    def _grow(self, count: int) -> None:
        """Doubles the room until this many more fit: that takes few copies, and sizes that the allocator has seen in
        the clip before.
        """
        old = new = len(self.rows)
        while new - self.in_use < count:
            new *= 2
        rows = self.rows.new_empty((new, *self.rows.shape[1:]))
        rows[:old] = self.rows
        self.rows = rows
        self._free.extend(range(new - 1, old - 1, -1))


@dataclass(slots=True)
class FrameEntry:
    """An object's memory of one frame: row numbers in the banks.

    `passed` says whether the frame's score was good enough for the published rules to remember
    it; it stays None until the device has told.
    """

    pointer: int
    memory: int = NO_ROW
    passed: bool | None = None


@dataclass(slots=True)
class ObjectMemory:
    """One object's past: conditioning frames (prompted) and tracked ones, by frame.

    Both dicts keep the order of insertion, which is the order transformers concatenates in.
    `borrowed`: conditioning frames that are one only because objects of the same birth were reconditioned there, with
    the ids of these: as in the published code, the frame is ordinary again once hotstart has removed all of them.
    `backward_from`: keep also what a backward pass that starts before this frame will read.
    """

    conditioning: dict[int, FrameEntry] = field(default_factory=dict)
    tracked: dict[int, FrameEntry] = field(default_factory=dict)
    borrowed: dict[int, set[int]] = field(default_factory=dict)
    backward_from: int | None = None

    @property
    def entries(self) -> list[FrameEntry]:
        return [*self.conditioning.values(), *self.tracked.values()]

    def entry(self, frame: int) -> FrameEntry | None:
        return self.conditioning.get(frame) or self.tracked.get(frame)


@dataclass(frozen=True, slots=True)
class Reads:
    """What one object reads on one frame.

    Attributes:
        memories: (row, k): the row and its temporal encoding: k - 1 indexes the model's table, so
            0 is a conditioning frame and 1 the frame just behind.
        pointers: (row, offset in frames).
    """

    memories: tuple[tuple[int, int], ...]
    pointers: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ReadRules:
    """The sizes and the rule set that decide what is read.

    `num_frames` is the length of the clip; None stands for "at least `max_pointers`", beyond
    which it makes no difference.
    """

    rules: RuleSet
    num_memories: int  # conditioning + so many less one others; the model's num_maskmem (7) or fewer
    max_pointers: int
    max_conditioning: int
    num_frames: int | None = None

    @property
    def pointer_limit(self) -> int:
        return self.max_pointers if self.num_frames is None else min(self.num_frames, self.max_pointers)

    def reads(self, memory: ObjectMemory, frame: int, reverse: bool = False) -> Reads:
        """What tracking `frame` reads of an object's past, which needs at least one conditioning frame.

        A frame whose memory has been dropped is not read: `prune` keeps what later frames read, but other frames may be
        looked at, too.
        """
        if not memory.conditioning:
            raise ValueError(f"the object has no conditioning frame, so frame {frame} cannot be tracked")
        sign = -1 if reverse else 1
        selected, unselected = select_conditioning(frame, memory.conditioning, self.max_conditioning)
        past = self._past(memory, frame, reverse)
        memories = [(memory.conditioning[t].memory, 0) for t in selected]
        for k in range(min(self.num_memories - 1, len(past)), 0, -1):
            t = past[k - 1]
            entry = memory.tracked.get(t)
            if entry is None and t in unselected and self.rules == "transformers":
                entry = memory.conditioning[t]
            if entry is not None:
                memories.append((entry.memory, k))
        pointing = memory.conditioning if self.rules == "transformers" else selected
        pointers = [(memory.conditioning[t].pointer, sign * (frame - t)) for t in pointing if sign * (frame - t) >= 0]
        # Of the published rules' frames the last is not read: TB:703 stops one early.
        for k in range(1, min(self.pointer_limit, len(past))):
            entry = memory.tracked.get(past[k - 1])
            if entry is not None:
                pointers.append((entry.pointer, k))
        return Reads(tuple(each for each in memories if each[0] != NO_ROW), tuple(pointers))

    def _past(self, memory: ObjectMemory, frame: int, reverse: bool) -> list[int]:
        """The frames to choose from beside the conditioning frames, nearest first.

        transformers' rules: all that lie behind, as far as anything is read. Published rules: the most recent ones that
        passed, at most `pointer_limit - 1`; the frame just behind comes first whatever its score, and even where it is
        a conditioning frame (which then leaves its place empty). Frame 0 is never among them going forward (TB:529
        stops before it).
        """
        if self.rules == "transformers":
            farthest = max(self.num_memories - 1, self.pointer_limit)
            return [frame + k if reverse else frame - k for k in range(1, farthest + 1)]
        behind = frame + 1 if reverse else frame - 1
        if reverse:
            past = sorted(t for t, e in memory.tracked.items() if t > frame and e.passed)
        else:
            past = sorted((t for t, e in memory.tracked.items() if 0 < t < frame and e.passed), reverse=True)
        chosen = past[: max(1, self.pointer_limit - 1)]
        return chosen if chosen and chosen[0] == behind else [behind, *chosen]

    def keep(self, memory: ObjectMemory, frame: int, reverse: bool) -> tuple[set[int], set[int]]:
        """Frames whose (memory, pointer) `frame` or any later frame in that direction can read."""
        sign = -1 if reverse else 1
        selected, _ = select_conditioning(frame, memory.conditioning, self.max_conditioning)
        ahead = {t for t in memory.conditioning if sign * (t - frame) >= 0}
        if memory.borrowed:
            # Each may stop being one at any moment, and one that is not selected now be selected then.
            selected = list(memory.conditioning)
        conditioning, past = ahead | set(selected), self._past(memory, frame, reverse)
        with_memory = conditioning | set(past[: self.num_memories - 1])
        if self.rules == "transformers":
            return with_memory, set(memory.conditioning) | set(past[: self.pointer_limit - 1])
        return with_memory, conditioning | set(past)


def select_conditioning(frame: int, frames: Collection[int], limit: int) -> tuple[list[int], set[int]]:
    """At most `limit` conditioning frames nearest to `frame`, and the others.

    First the nearest before, then the nearest at or after, then the nearest of the rest; all of
    them, in the order given, where they are no more than `limit` (-1: no limit).
    """
    if limit == -1 or len(frames) <= limit:
        return list(frames), set()
    before = max((t for t in frames if t < frame), default=None)
    after = min((t for t in frames if t >= frame), default=None)
    chosen = [t for t in (before, after) if t is not None]
    rest = sorted((t for t in frames if t not in chosen), key=lambda t: abs(t - frame))
    chosen += rest[: limit - len(chosen)]
    return chosen, set(frames) - set(chosen)


def group_by_length(reads: Sequence[Reads]) -> list[list[int]]:
    """Indices of the objects that may share a batch: as many memories and as many pointers."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, read in enumerate(reads):
        groups.setdefault((len(read.memories), len(read.pointers)), []).append(index)
    return list(groups.values())
