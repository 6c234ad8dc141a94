"""A run's log of corrections: `edits/<8-digit number>.json`, one sequence per run, each entry created if absent.

Crash contract: masks are written first, to `edits/data/<uuid>/<clip_id>.parquet`. The entry that names them, with their
digest, is created last and appears whole. If a writer dies in between, it leaves masks that no entry names and nobody
reads. No entry is ever replaced or deleted; an undo is an entry, too.
"""

from __future__ import annotations

import getpass
import hashlib
import io
import json
import re
import tempfile
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sam3ray.failures import UserError
from sam3ray.guard.damaged import why_unreadable
from sam3ray.guard.jsontext import parse_json
from sam3ray.revisions._apply import ClipRows
from sam3ray.revisions._hand import Data, Marks, marks_of
from sam3ray.revisions._operations import (
    WITH_DATA,
    Add,
    ClipOperation,
    EditConflict,
    EditRefused,
    Rename,
    ReplaceMask,
    Revert,
    check,
    from_json,
    overlaps,
    to_json,
)
from sam3ray.store import RunStore, layout
from sam3ray.store.annotation_file import AnnotationWriter, read_file_metadata, read_frames
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.values.phrases import label_problem
from sam3ray.values.prompt_reading import parse_visual_prompts
from sam3ray.values.prompt_writing import prompt_items
from sam3ray.values.prompts import VisualPrompt

EDITS = layout.EDITS
_NAME = re.compile(r"([0-9]{8})\.json", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_KEPT = 64  # data files kept in memory
_TRIES = 100  # how often a writer that loses races tries again


@dataclass(frozen=True)
class Entry:
    """One entry of the log.

    Attributes:
        number: from 1. Revision n is the run with entries 1 to n applied.
        parent: the revision that its author saw.
        time: Unix seconds.
        tool: what wrote it, such as "import labelme", "page" or "python".
        attempts: for each clip it touches, the `attempt_id` of the clip's annotation file.
    """

    number: int
    parent: int
    author: str
    time: float
    tool: str
    attempts: Mapping[str, str]
    operations: tuple[ClipOperation | Revert, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "parent": self.parent,
            "author": self.author,
            "time": self.time,
            "tool": self.tool,
            "attempts": dict(self.attempts),
            "operations": [to_json(operation) for operation in self.operations],
        }


class Edits:
    """The corrections of one run."""

    def __init__(self, store: RunStore) -> None:
        self.store = store
        self._entries: dict[int, Entry] = {}
        self._data: OrderedDict[str, Data] = OrderedDict()
        self._latest: tuple[tuple[str, str], tuple[FrameAnnotations, ...]] | None = None

    # Reading

    def latest(self) -> int:
        """The latest revision; 0 if nothing was corrected. Costs one listing."""
        names = self.store.storage.names(EDITS)
        return max((int(found[1]) for name in names if (found := _NAME.fullmatch(name))), default=0)

    def number_of(self, revision: int | str | None) -> int:
        """The number of the revision meant by None, "latest" or a number.

        Raises:
            UserError: there is no such revision.
        """
        if revision is None:
            return 0
        latest = self.latest()
        if revision == "latest":
            return latest
        if type(revision) is not int or not 0 <= revision <= latest:
            raise UserError(f"revision {revision!r}: allowed: latest, or 0 to {latest}")
        return revision

    def entry(self, number: int) -> Entry:
        """Reads one entry. Raises UserError if it is missing or damaged."""
        if number not in self._entries:
            path = entry_path(number)
            data = self.store.storage.read(path)
            where = self.store.storage.shown(path)
            if data is None:
                raise UserError(f"{where} is missing: the log of corrections has a gap")
            self._entries[number] = _parse(number, data, where)
        return self._entries[number]

    def entries(self, revision: int) -> list[Entry]:
        return [self.entry(number) for number in range(1, revision + 1)]

    def operations(self, revision: int) -> dict[str, list[ClipOperation]]:
        """Each clip's operations in order, without those that were undone."""
        entries = self.entries(revision)
        undone: set[int] = set()
        for entry in reversed(entries):  # skip an undo that was itself undone
            if entry.number not in undone:
                undone |= {n for each in entry.operations if isinstance(each, Revert) for n in each.entries}
        found: dict[str, list[ClipOperation]] = {}
        for entry in entries:
            if entry.number not in undone:
                for each in entry.operations:
                    if not isinstance(each, Revert):
                        found.setdefault(each.clip, []).append(each)
        return found

    def labels(self, operations: Mapping[str, Sequence[ClipOperation]]) -> list[str]:
        """Labels that corrections introduce, ordered by clip id, then by operation."""
        found: list[str] = []
        for _, each in sorted(operations.items()):
            for operation in each:
                if isinstance(operation, Rename):
                    found.append(operation.label)
                elif isinstance(operation, WITH_DATA):
                    found += [item.prompt for frame in self.load(operation) for item in frame.objects]
        return list(dict.fromkeys(found))

    def clip(self, clip_id: str, operations: Sequence[ClipOperation]) -> list[FrameAnnotations]:
        """A clip's frames after these operations, without frames that have no objects.

        Raises:
            EditRefused: an operation does not fit.
            FileNotFoundError: the clip is not done.
        """
        rows = ClipRows(self._stored(clip_id))
        for operation in operations:
            rows.apply(operation, self.load)
        return rows.frames()

    def _stored(self, clip_id: str) -> Sequence[FrameAnnotations]:
        """The model's own rows. Those of the latest clip are kept: a person corrects it many times."""
        about = self.store.read_clip_metadata(clip_id)
        which, kept = (clip_id, about.get("clip", {}).get("attempt_id", "")), self._latest
        if kept is None or kept[0] != which or not which[1]:
            kept = self._latest = which, tuple(read_frames(self.store.read_clip(clip_id)))
        return kept[1]

    def marks(self, operations: Sequence[ClipOperation]) -> Marks:
        """What people set by hand in a clip with these operations."""
        return marks_of(operations, self.data)

    def load(self, operation: Add | ReplaceMask) -> Sequence[FrameAnnotations]:
        """The masks that an operation names, after checking their digest."""
        return self.data(operation).frames

    def data(self, operation: Add | ReplaceMask) -> Data:
        """The whole content of its data file."""
        key = operation.sha256
        if key not in self._data:
            path = data_path(operation.data, operation.clip)
            data = self.store.storage.read(path)
            where = self.store.storage.shown(path)
            if data is None:
                raise UserError(f"{where} is missing, but a correction needs it")
            if hashlib.sha256(data).hexdigest() != key:
                raise UserError(f"{where} was changed: its digest is not the one in the correction that names it")
            self._data[key] = _parse_data(data, where)
            if len(self._data) > _KEPT:
                self._data.popitem(last=False)
        return self._data[key]

    # Writing

    def append(
        self,
        operations: Sequence[ClipOperation | Revert],
        *,
        tool: str = "python",
        author: str | None = None,
        parent: int | None = None,
    ) -> int:
        """Adds one entry, and returns its number: the new revision.

        If somebody else has added entries since `parent`, the new entry follows theirs, provided that they touch other
        clips, objects or frames.

        Args:
            parent: the revision that the author saw; None for the latest.

        Raises:
            EditConflict: another author changed the same object on the same frame.
            EditRefused: an operation does not fit.
        """
        if not operations:
            raise EditRefused("there is nothing to change")
        try:  # an entry stays forever, so it must be readable
            for each in operations:
                _check(each)
        except ValueError as error:
            raise EditRefused(str(error)) from None
        author = author or _user()
        for name, text in (("author", author), ("tool", tool)):
            if not _is_text(text):
                raise EditRefused(f"{name} is {text!r:.80}, with half of a surrogate pair; allowed: text")
        base = self.latest() if parent is None else self.number_of(parent)
        clips = sorted({each.clip for each in operations if not isinstance(each, Revert)})
        entry = Entry(
            0,
            base,
            author,
            round(time.time(), 3),
            tool,
            {clip_id: self.attempt_of(clip_id) for clip_id in clips},
            tuple(operations),
        )
        top = base
        for _ in range(_TRIES):
            latest = self.latest()
            while top < latest:
                top += 1
                self._check_against(self.entry(top), entry)
            self._check_fits(top, entry)
            data = json.dumps(entry.as_json(), ensure_ascii=False, indent=1).encode() + b"\n"
            if self.store.storage.create_bytes(data, entry_path(top + 1)):
                self._entries[top + 1] = replace(entry, number=top + 1)
                return top + 1
        raise EditConflict(f"other writers were faster {_TRIES} times in a row: try again")

    def undo(self, *entries: int, **about: Any) -> int:
        """Adds an entry that undoes these."""
        return self.append([Revert(tuple(entries))], **about)

    def put_data(
        self,
        clip_id: str,
        frames: Sequence[FrameAnnotations],
        prompts: Sequence[VisualPrompt] = (),
        *,
        by_hand: bool = True,
    ) -> tuple[str, str]:
        """Stores masks for an `Add` or a `ReplaceMask`; returns its `data` and `sha256`.

        Args:
            prompts: boxes and clicks given by hand. The mask of their frame is only a placeholder until `refine`
                computes one.
            by_hand: False if the masks were not drawn by hand, so that `refine` may replace them.
        """
        for label in {item.prompt for frame in frames for item in frame.objects}:
            if problem := label_problem(label):
                raise EditRefused(f"clip {clip_id}: a label {problem}")
        facts = {"clip": {"by_hand": by_hand, "visual_prompts": prompt_items(prompts)}}
        name = uuid.uuid4().hex
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "data.parquet"
            with AnnotationWriter(path, clip_id, facts) as writer:
                for frame in frames:
                    writer.write(frame)
                writer.finish()
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            self.store.storage.create(str(path), data_path(name, clip_id))
        return name, digest

    def attempt_of(self, clip_id: str) -> str:
        """The `attempt_id` of a finished clip's file. Raises EditRefused if the clip is not done."""
        try:
            about = self.store.read_clip_metadata(layout.check_clip_id(clip_id))
        except FileNotFoundError:
            raise EditRefused(f"clip {clip_id} is not done, so there is nothing to correct") from None
        except ValueError as error:
            raise EditRefused(str(error)) from None
        return str(about.get("clip", {}).get("attempt_id", ""))

    def _check_against(self, theirs: Entry, ours: Entry) -> None:
        for one in theirs.operations:
            for two in ours.operations:
                if isinstance(one, Revert) or isinstance(two, Revert):
                    clash = _revert_clashes(self, one, two)
                else:
                    clash = overlaps(one, two)
                if clash:
                    what = "undid a change" if isinstance(one, Revert) else f"changed clip {one.clip} ({one.op})"
                    raise EditConflict(
                        f"{theirs.author} {what} in revision {theirs.number} meanwhile, and this change touches "
                        "the same object on the same frames: review it and try again. Nothing was written"
                    )

    def _check_fits(self, revision: int, entry: Entry) -> None:
        """Checks that the entry can be applied to the clips it touches."""
        before = self.operations(revision)
        undone = {n for each in entry.operations if isinstance(each, Revert) for n in each.entries}
        if undone:
            missing = [n for n in sorted(undone) if not 1 <= n <= revision]
            if missing:
                raise EditRefused(f"there is no revision {missing[0]} to undo; allowed: 1 to {revision}")
            self._entries[revision + 1] = replace(entry, number=revision + 1)
            try:
                after = self.operations(revision + 1)
            finally:
                del self._entries[revision + 1]
        else:
            after = {clip: list(operations) for clip, operations in before.items()}
            for each in entry.operations:
                assert not isinstance(each, Revert)
                after.setdefault(each.clip, []).append(each)
        for clip_id in sorted(before.keys() | after.keys()):
            if before.get(clip_id) != after.get(clip_id):
                self.clip(clip_id, after.get(clip_id, []))


def _revert_clashes(edits: Edits, one: ClipOperation | Revert, two: ClipOperation | Revert) -> bool:
    """Whether an undo and another operation touch the same object. An undo touches what its entries touch."""

    def spread(each: ClipOperation | Revert) -> list[ClipOperation]:
        if not isinstance(each, Revert):
            return [each]
        return [inner for n in each.entries for op in edits.entry(n).operations for inner in spread(op)]

    return any(overlaps(a, b) for a in spread(one) for b in spread(two))


def entry_path(number: int) -> str:
    return f"{EDITS}/{number:08d}.json"


def data_path(name: str, clip_id: str) -> str:
    """The path of a data file. Raises ValueError for an invalid name: nothing in a log becomes a path unchecked."""
    if not _UUID.fullmatch(name):
        raise ValueError(f"data is {name!r}; allowed: 32 hexadecimal digits")
    return f"{EDITS}/data/{name}/{layout.check_clip_id(clip_id)}.parquet"


def _check(operation: ClipOperation | Revert) -> None:
    """Raises ValueError for an operation that no log may contain."""
    check(operation)
    if isinstance(operation, WITH_DATA):
        data_path(operation.data, operation.clip)


def _parse(number: int, data: bytes, where: str) -> Entry:
    try:
        value = parse_json(data)
        if not isinstance(value, dict):
            raise ValueError("it is not a mapping")
        operations = tuple(from_json(each) for each in value["operations"])
        for each in operations:
            _check(each)
        parent = value["parent"]
        if type(parent) is not int or not 0 <= parent < number:
            raise ValueError(f"its parent is {parent!r}; allowed: 0 to {number - 1}")
        for each in operations:
            if isinstance(each, Revert) and max(each.entries) >= number:
                raise ValueError("it undoes a revision that came after it")
        return Entry(
            number,
            parent,
            str(value.get("author", "")),
            float(value.get("time", 0)),
            str(value.get("tool", "")),
            {str(k): str(v) for k, v in dict(value.get("attempts", {})).items()},
            operations,
        )
    except (KeyError, TypeError, ValueError) as error:
        problem = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{where} is damaged: {problem}") from None


def _parse_data(data: bytes, where: str) -> Data:
    try:
        with pq.ParquetFile(io.BytesIO(data)) as file:
            about = read_file_metadata(file.metadata)["clip"]
        by_hand, items = about.get("by_hand", True), about.get("visual_prompts", [])
        prompts, wrong = parse_visual_prompts(items)
        if wrong or not isinstance(by_hand, bool):
            raise ValueError(f"its visual_prompts{wrong[0]}" if wrong else "by_hand is neither true nor false")
        return Data(tuple(read_frames(io.BytesIO(data))), by_hand, prompts)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{where} is damaged: {why_unreadable(error)}") from None
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{where} is damaged: its metadata lack a key, or a value has the wrong type") from None


def _is_text(value: str) -> bool:
    """False: it has half of a surrogate pair, as from a cut-off emoji or from bytes of another encoding."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
