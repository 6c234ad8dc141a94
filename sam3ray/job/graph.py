"""What a clip is as work: one item, or windows that are worked on at once, then linked, then merged. Pure bookkeeping.

    clip --cut--> window 0 .. window n-1 --all kept--> link --> merge --> done

An item is a number: those below the number of clips are clips as a whole, later ones were added. Whoever opens a clip
first may find that it is to be cut; the clip is then over as an item, and its windows come in its place. Windows that
an earlier run has kept are not made again.

Lengths are those of the longest path that an item begins, so that the scheduler's "longest first" keeps the job short:
linking, which holds up a whole clip, goes before one window more of another clip.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum

LINK, MERGE = 0.01, 0.01  # of the time that a clip takes; only the order depends on it
MOST_ROUNDS = 3  # in which damaged windows of a clip are processed again


class Stage(Enum):
    CLIP = "clip"
    WINDOW = "window"
    LINK = "link"
    MERGE = "merge"  # on CPUs, not on an actor


@dataclass(frozen=True, slots=True)
class Work:
    """One item.

    Attributes:
        index: of the window.
    """

    clip: int
    stage: Stage = Stage.CLIP
    index: int = -1

    @property
    def name(self) -> str:
        """Of the part, for failure records; empty for a whole clip."""
        if self.stage is Stage.CLIP:
            return ""
        return f"w{self.index}" if self.stage is Stage.WINDOW else self.stage.value

    @classmethod
    def named(cls, clip: int, name: str) -> Work | None:
        """The part of a clip that has this name; None if no part has."""
        if name in (Stage.LINK.value, Stage.MERGE.value):
            return cls(clip, Stage(name))
        index = name.removeprefix("w")
        return cls(clip, Stage.WINDOW, int(index)) if index != name and index.isdecimal() and index.isascii() else None


@dataclass(frozen=True)
class Cutting:
    """How a clip is cut, and what of it is on the store.

    Attributes:
        shares: of the clip's frames, window by window; more than 1 in all, since windows overlap.
        kept: windows that are there.
        linked: they are all there, and linked.
    """

    shares: tuple[float, ...]
    kept: frozenset[int] = frozenset()
    linked: bool = False


@dataclass(slots=True)
class _Parts:
    """Of a clip that is cut."""

    shares: tuple[float, ...]
    missing: set[int]
    items: set[int] = field(default_factory=set)  # not ended
    rounds: int = 0


Ready = tuple[Work, float]  # items that can begin now, and the length of their path


class Graph:
    """`lengths`: of the clips, in any one unit."""

    def __init__(self, lengths: Sequence[float]) -> None:
        self._lengths = lengths
        self._added: list[Work] = []
        self._parts: dict[int, _Parts] = {}  # of the clips that are cut and still open
        self._over = bytearray(len(lengths))
        self.open = len(lengths)  # clips that are neither done nor given up

    @property
    def clips(self) -> int:
        return len(self._lengths)

    @property
    def is_cut(self) -> bool:
        """Some clip is made of windows now."""
        return bool(self._parts)

    def work(self, item: int) -> Work:
        return Work(item) if item < self.clips else self._added[item - self.clips]

    def clip(self, item: int) -> int:
        return item if item < self.clips else self._added[item - self.clips].clip

    def is_over(self, item: int) -> bool:
        """Its clip is done or given up: the item's outcome no longer matters."""
        return bool(self._over[self.clip(item)])

    def number(self, item: int, work: Work) -> None:
        """The ready part has become an item."""
        assert item == self.clips + len(self._added), f"item {item} is not the next one"
        self._added.append(work)
        self._parts[work.clip].items.add(item)

    def cut(self, clip: int, cutting: Cutting) -> list[Ready]:
        """The clip is made of windows."""
        assert clip not in self._parts, f"clip {clip} is cut twice"
        parts = _Parts(cutting.shares, set(range(len(cutting.shares))) - cutting.kept)
        self._parts[clip] = parts
        if parts.missing:
            return [self._window(clip, index) for index in sorted(parts.missing)]
        return [self._path(Work(clip, Stage.MERGE if cutting.linked else Stage.LINK))]

    def done(self, item: int) -> list[Ready]:
        """What can begin after this item. If it was the last of its clip, the clip is done."""
        work = self.work(item)
        if self._over[work.clip]:
            return []
        if work.stage in (Stage.CLIP, Stage.MERGE):
            self.end(work.clip)
            return []
        parts = self._parts[work.clip]
        parts.items.discard(item)
        if work.stage is Stage.LINK:
            return [self._path(Work(work.clip, Stage.MERGE))]
        parts.missing.discard(work.index)
        return [] if parts.missing else [self._path(Work(work.clip, Stage.LINK))]

    def again(self, item: int, windows: Collection[int]) -> list[Ready] | None:
        """Linking or merging found these windows (or, if empty, the links) missing or damaged on the store.

        Returns:
            What must be processed again; None if that has happened too often.
        """
        work = self.work(item)
        if self._over[work.clip]:
            return []
        parts = self._parts[work.clip]
        if parts.rounds == MOST_ROUNDS:
            return None
        parts.rounds += 1
        parts.items.discard(item)
        parts.missing = {index for index in windows if 0 <= index < len(parts.shares)}
        if parts.missing:
            return [self._window(work.clip, index) for index in sorted(parts.missing)]
        return [self._path(Work(work.clip, Stage.LINK))]

    def end(self, clip: int) -> set[int]:
        """The clip is done or given up. Returns its items that have not ended and are no longer needed."""
        assert not self._over[clip], f"clip {clip} ended twice"
        self._over[clip] = 1
        self.open -= 1
        parts = self._parts.pop(clip, None)
        return parts.items if parts is not None else set()

    def _window(self, clip: int, index: int) -> Ready:
        share = self._parts[clip].shares[index]
        return Work(clip, Stage.WINDOW, index), self._lengths[clip] * (share + LINK + MERGE)

    def _path(self, work: Work) -> Ready:
        return work, self._lengths[work.clip] * (MERGE if work.stage is Stage.MERGE else LINK + MERGE)
