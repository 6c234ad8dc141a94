"""A clip as items of work: one item, or parallel windows that are then linked and merged. Pure bookkeeping.

    clip --cut--> window 0 .. window n-1 --all kept--> link --> merge --> done

An item is a number. The first items, one per clip, are whole clips; later ones were added. The first actor that opens a
clip may find that it must be cut: then the clip's windows replace it as items. Windows that an earlier run has stored
are not processed again.

The length of an item is that of the longest path of items that it begins. With "longest first", linking, for which a
whole clip waits, thus goes before another window of another clip, and the job ends earlier.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum

LINK, MERGE = 0.01, 0.01  # share of a clip's time; only the order depends on it
MOST_ROUNDS = 3  # rounds in which a clip's damaged windows are processed again


class Stage(Enum):
    CLIP = "clip"
    WINDOW = "window"
    LINK = "link"
    MERGE = "merge"  # runs on CPUs, not on an actor


@dataclass(frozen=True, slots=True)
class Work:
    """One item.

    Attributes:
        index: number of the window.
    """

    clip: int
    stage: Stage = Stage.CLIP
    index: int = -1

    @property
    def name(self) -> str:
        """The part's name in failure records; empty for a whole clip."""
        if self.stage is Stage.CLIP:
            return ""
        return f"w{self.index}" if self.stage is Stage.WINDOW else self.stage.value

    @classmethod
    def named(cls, clip: int, name: str) -> Work | None:
        """The part of a clip with this name; None if there is none."""
        if name in (Stage.LINK.value, Stage.MERGE.value):
            return cls(clip, Stage(name))
        index = name.removeprefix("w")
        return cls(clip, Stage.WINDOW, int(index)) if index != name and index.isdecimal() and index.isascii() else None


@dataclass(frozen=True)
class Cutting:
    """How a clip is cut, and which parts are on the store.

    Attributes:
        shares: each window's share of the clip's frames; they add up to more than 1, since windows overlap.
        kept: windows that are stored.
        linked: all windows are stored and linked.
    """

    shares: tuple[float, ...]
    kept: frozenset[int] = frozenset()
    linked: bool = False


@dataclass(slots=True)
class _Parts:
    """The parts of a clip that is cut."""

    shares: tuple[float, ...]
    missing: set[int]
    items: set[int] = field(default_factory=set)  # items that have not ended
    rounds: int = 0


Ready = tuple[Work, float]  # items that can begin now, and their lengths


class Graph:
    """`lengths`: lengths of the clips, all in the same unit."""

    def __init__(self, lengths: Sequence[float]) -> None:
        self._lengths = lengths
        self._added: list[Work] = []
        self._parts: dict[int, _Parts] = {}  # parts of clips that are cut and still open
        self._over = bytearray(len(lengths))
        self.open = len(lengths)  # clips that are neither done nor given up

    @property
    def clips(self) -> int:
        return len(self._lengths)

    @property
    def is_cut(self) -> bool:
        """Whether any open clip is cut into windows."""
        return bool(self._parts)

    def work(self, item: int) -> Work:
        return Work(item) if item < self.clips else self._added[item - self.clips]

    def clip(self, item: int) -> int:
        return item if item < self.clips else self._added[item - self.clips].clip

    def is_over(self, item: int) -> bool:
        """Whether the item's clip is done or given up, so that its outcome no longer matters."""
        return bool(self._over[self.clip(item)])

    def number(self, item: int, work: Work) -> None:
        """Gives the ready part its item number."""
        assert item == self.clips + len(self._added), f"item {item} is not the next one"
        self._added.append(work)
        self._parts[work.clip].items.add(item)

    def cut(self, clip: int, cutting: Cutting) -> list[Ready]:
        """The clip is cut into windows."""
        assert clip not in self._parts, f"clip {clip} is cut twice"
        parts = _Parts(cutting.shares, set(range(len(cutting.shares))) - cutting.kept)
        self._parts[clip] = parts
        if parts.missing:
            return [self._window(clip, index) for index in sorted(parts.missing)]
        return [self._path(Work(clip, Stage.MERGE if cutting.linked else Stage.LINK))]

    def done(self, item: int) -> list[Ready]:
        """Returns the items that can begin after this one. If it was the last of its clip, the clip is done."""
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
            The items to process again; None if that has happened too often.
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
        """The clip is done or given up. Returns its unfinished items, which are no longer needed."""
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
