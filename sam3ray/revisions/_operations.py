"""Corrections: operations on the objects of one clip, as values that can be written as JSON.

`frames` is (first, last), both inclusive, as indices in the source video; None means all frames. Object ids are those
after all earlier operations. `touched` says which objects an operation reads or changes, and on which frames:
operations of two authors conflict only if these overlap.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from sam3ray.failures import UserError
from sam3ray.values.phrases import label_problem

Span = tuple[int, int]
EVERYWHERE: Span = (0, 2**31 - 1)


@dataclass(frozen=True)
class Operation(ABC):
    """A correction of one clip.

    Attributes:
        clip: the clip's id.
    """

    op: ClassVar[str]
    clip: str

    @abstractmethod
    def touched(self) -> list[tuple[int, Span]]:
        """The objects that it reads or changes, with their frames."""


def _both(one: int, two: int, frames: Span | None) -> list[tuple[int, Span]]:
    span = frames or EVERYWHERE
    return [(one, span), (two, span)]


@dataclass(frozen=True)
class Rename(Operation):
    """Gives an object another label."""

    op: ClassVar[str] = "rename"
    object: int
    label: str
    frames: Span | None = None

    def touched(self) -> list[tuple[int, Span]]:
        return [(self.object, self.frames or EVERYWHERE)]


@dataclass(frozen=True)
class SetId(Operation):
    """Gives an object another id. If another object has that id on a frame, `overwrite` replaces it; else it is an
    error.
    """

    op: ClassVar[str] = "set_id"
    object: int
    to: int
    frames: Span | None = None
    overwrite: bool = False

    def touched(self) -> list[tuple[int, Span]]:
        return _both(self.object, self.to, self.frames)


@dataclass(frozen=True)
class Swap(Operation):
    """Swaps the ids of two objects."""

    op: ClassVar[str] = "swap"
    object: int
    other: int
    frames: Span | None = None

    def touched(self) -> list[tuple[int, Span]]:
        return _both(self.object, self.other, self.frames)


@dataclass(frozen=True)
class Merge(Operation):
    """Merges `other` into `object`: frames that have both get the union of the masks and the higher scores."""

    op: ClassVar[str] = "merge"
    object: int
    other: int
    frames: Span | None = None

    def touched(self) -> list[tuple[int, Span]]:
        return _both(self.object, self.other, self.frames)


@dataclass(frozen=True)
class Split(Operation):
    """Splits an object: from this frame on, it gets a new id."""

    op: ClassVar[str] = "split"
    object: int
    frame: int
    to: int

    def touched(self) -> list[tuple[int, Span]]:
        span = (self.frame, EVERYWHERE[1])
        return [(self.object, span), (self.to, span)]


@dataclass(frozen=True)
class Delete(Operation):
    """Deletes an object from these frames."""

    op: ClassVar[str] = "delete"
    object: int
    frames: Span | None = None

    def touched(self) -> list[tuple[int, Span]]:
        return [(self.object, self.frames or EVERYWHERE)]


@dataclass(frozen=True)
class Add(Operation):
    """Adds an object. Its rows are in `edits/data/<data>/<clip>.parquet`, a file with this digest."""

    op: ClassVar[str] = "add"
    object: int
    data: str
    sha256: str

    def touched(self) -> list[tuple[int, Span]]:
        return [(self.object, EVERYWHERE)]


@dataclass(frozen=True)
class ReplaceMask(Operation):
    """Replaces or adds an object's masks on the frames for which the data file has rows of it."""

    op: ClassVar[str] = "replace_mask"
    object: int
    frames: Span
    data: str
    sha256: str

    def touched(self) -> list[tuple[int, Span]]:
        return [(self.object, self.frames)]


@dataclass(frozen=True)
class Accept(Operation):
    """Marks a clip as checked and correct. Changes no row."""

    op: ClassVar[str] = "accept"

    def touched(self) -> list[tuple[int, Span]]:
        return []


@dataclass(frozen=True)
class Revert:
    """Undoes entries of the log. Applies to the run, not to a clip."""

    entries: tuple[int, ...]
    op: ClassVar[str] = "revert"


ClipOperation = Rename | SetId | Swap | Merge | Split | Delete | Add | ReplaceMask | Accept
_KINDS = {kind.op: kind for kind in (Rename, SetId, Swap, Merge, Split, Delete, Add, ReplaceMask, Accept)}
WITH_DATA = (Add, ReplaceMask)


def overlaps(one: Operation, two: Operation) -> bool:
    """Whether two operations touch the same object on the same frame."""
    if one.clip != two.clip:
        return False
    return any(a == b and s[0] <= t[1] and t[0] <= s[1] for a, s in one.touched() for b, t in two.touched())


def to_json(operation: ClipOperation | Revert) -> dict[str, Any]:
    values = {key: value for key, value in asdict(operation).items() if value is not None}
    return {"op": operation.op, **{k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}}


def from_json(value: Any) -> ClipOperation | Revert:
    """Reads an operation. Raises ValueError, with a sentence, for anything else."""
    if not isinstance(value, Mapping):
        raise ValueError(f"an operation must be a mapping, got {type(value).__name__}")
    op = value.get("op")
    if op == Revert.op:
        entries = value.get("entries")
        if not isinstance(entries, list):
            raise ValueError(f"revert: entries must be numbers from 1, got {entries!r}")
        check(taken_back := Revert(tuple(entries)))
        return taken_back
    kind = _KINDS.get(op) if isinstance(op, str) else None
    if kind is None:
        raise ValueError(f"op is {op!r}; allowed: {', '.join([*_KINDS, Revert.op])}")
    names = {each.name for each in fields(kind)}
    unknown = set(value) - names - {"op"}
    if unknown:
        raise ValueError(f"{op} has the unknown key {min(unknown)!r}; allowed: {', '.join(sorted(names))}")
    arguments = {key: value[key] for key in names if key in value}
    if isinstance(arguments.get("frames"), list):
        arguments["frames"] = tuple(arguments["frames"])
    try:
        made: ClipOperation = kind(**arguments)
    except TypeError:
        needed = sorted(each.name for each in fields(kind) if each.name not in arguments)
        raise ValueError(f"{op} lacks {', '.join(needed)}") from None
    check(made)
    return made


def check(operation: ClipOperation | Revert) -> None:
    """Raises ValueError for anything but an operation, and for values that no clip can have."""
    if isinstance(operation, Revert):
        if not operation.entries or not all(type(n) is int and n > 0 for n in operation.entries):
            raise ValueError(f"revert: entries must be numbers from 1, got {list(operation.entries)!r}")
        return
    if type(operation) not in _KINDS.values():
        raise ValueError(f"an operation must be one of {', '.join([*_KINDS, Revert.op])}, got {operation!r:.80}")
    what = operation.op
    if not isinstance(operation.clip, str):
        raise ValueError(f"{what}: clip must be an id, got {operation.clip!r}")
    for name in ("object", "other", "to"):
        value = getattr(operation, name, 1)
        if type(value) is not int or not 1 <= value <= EVERYWHERE[1]:
            raise ValueError(f"{what}: {name} is {value!r}; allowed: object ids from 1")
    span = getattr(operation, "frames", None)
    if span is not None and not (
        isinstance(span, tuple) and len(span) == 2 and all(type(n) is int for n in span) and 0 <= span[0] <= span[1]
    ):
        raise ValueError(f"{what}: frames is {span!r}; allowed: a tuple of the first and the last frame, from 0")
    frame = getattr(operation, "frame", 0)
    if type(frame) is not int or frame < 0:
        raise ValueError(f"{what}: frame is {frame!r}; allowed: 0 and above")
    if problem := label_problem(getattr(operation, "label", "x")):
        raise ValueError(f"{what}: label {problem}")
    if type(getattr(operation, "overwrite", False)) is not bool:
        raise ValueError(f"{what}: overwrite must be true or false")
    if isinstance(operation, WITH_DATA) and not (isinstance(operation.data, str) and isinstance(operation.sha256, str)):
        raise ValueError(f"{what}: data and sha256 must be what `put_data` returned")
    pairs = {"set_id": ("object", "to"), "swap": ("object", "other"), "merge": ("object", "other")}
    if what in pairs:
        a, b = (getattr(operation, name) for name in pairs[what])
        if a == b:
            raise ValueError(f"{what}: both ids are {a}; allowed: two different ones")


class EditConflict(UserError):
    """Another author changed the same object on the same frame. Nothing was written."""


class EditRefused(UserError):
    """An operation does not fit the clip's rows. Nothing was written."""
