"""Reviewing a run: its clips, their rows at the newest revision, corrections, undo and redo.

Every correction is an entry of the run's log (`sam3ray.revisions`), written before the page is told. If the server
dies, nothing that was shown as saved is lost. A correction of something that somebody else has changed in the meantime
is refused, and the page keeps it as a draft.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sam3ray.app._corrections import in_words
from sam3ray.app._library import Entry, Library, NotHere
from sam3ray.app._open_clips import OpenClip
from sam3ray.app._results import frame_json
from sam3ray.failures import ClipError, UserError
from sam3ray.guard.redact import redact
from sam3ray.masks import rle_area, rle_bbox
from sam3ray.revisions import (
    Accept,
    Add,
    ClipOperation,
    EditRefused,
    Edits,
    ReplaceMask,
    Revert,
    operation_as_json,
    operation_from_json,
)
from sam3ray.revisions import (
    Entry as LogEntry,
)
from sam3ray.screening import rank_clips
from sam3ray.store import RunStore
from sam3ray.values.annotations import FrameAnnotations, ObjectAnnotation
from sam3ray.values.clip import Clip

TOOL = "page"
_CLIPS_HELD = 8
_MOST_RANKED = 2_000
_MAX_OPERATIONS = 1_000  # in one entry
_MAX_AUTHOR = 100
_MAX_COUNTS = 2**20  # of a mask: a real one has some hundred letters
_MOST_BLANK = 200_000  # frames of a clip without its video


class Review:
    """One run.

    Args:
        number: of the run on this server.
        author: of corrections whose page gives no name.

    Attributes:
        is_live: it is a recording, which may get more clips.

    Raises:
        UserError: there is no run.
    """

    def __init__(
        self, number: int, output: str, storage: Mapping[str, Any], library: Library, author: str | None
    ) -> None:
        self.number = number
        self.name = redact(output.rstrip("/").rpartition("/")[2] or output)
        self.place = redact(output)
        self._library, self._author, self._storage = library, author, storage
        self.store = RunStore(output, storage)
        self.is_live = "live" in self.store.run_info()
        self._entries: dict[str, Entry] = {}
        self._add(self.store.manifest())
        self._edits = Edits(self.store)
        self._held: OrderedDict[str, tuple[Any, list[FrameAnnotations]]] = OrderedDict()
        self._lock = threading.RLock()
        self._doubts: dict[str, dict[str, Any]] = {}

    # Reading

    def clips(self) -> list[dict[str, Any]]:
        """All clips with their outcomes, in the manifest's order."""
        with self._lock:
            self._look_for_more()
            summaries = self.store.summaries()
            operations = self._edits.operations(self._edits.latest())
        found = []
        for clip_id, entry in self._entries.items():
            summary, done = summaries.get(clip_id), operations.get(clip_id, [])
            if summary is None:
                continue  # a recording has grown since
            found.append(
                {
                    "clip": clip_id,
                    "key": entry.key,
                    "prompts": list(entry.clip.prompts),
                    "status": summary.status,
                    "reason": summary.reason,
                    "message": summary.message,
                    "frames": summary.frames,
                    "objects": summary.objects,
                    "rows": summary.rows,
                    **_standing(done),
                }
            )
        return found

    def _look_for_more(self) -> None:
        """A recording under way gets more clips; the manifest of a job is frozen, and read once."""
        if self.is_live:
            self.store = RunStore(self.store.output, self._storage)
            self._edits = Edits(self.store)
            self._add(each for each in self.store.manifest() if each.clip_id not in self._entries)

    def _add(self, clips: Iterable[Clip]) -> None:
        for entry in self._library.add(list(clips), run=self.number):
            self._entries[entry.clip.clip_id] = entry

    def doubts(self) -> dict[str, dict[str, Any]]:
        """Clip -> how likely something in it is wrong, why, and on which frame to look first, as `sam3ray triage`.

        Only for the first clips of a large run, and from the model's own rows.
        """
        with self._lock:
            done = self.store.done_ids()
            clips = [clip_id for clip_id in self._entries if clip_id in done][:_MOST_RANKED]
            new = [clip_id for clip_id in clips if clip_id not in self._doubts]  # the run may be under way
            if new:
                ranking, _ = rank_clips(self.store, new, each=self.store.storage.each)
                self._doubts |= {
                    row["clip_id"]: {"suspicion": row["suspicion"], "why": row["why"], "frame": row["frame_index"]}
                    for row in ranking.to_pylist()
                    if row["level"] == "clip"
                }
            return self._doubts

    def picture(self, clip_id: str) -> dict[str, Any]:
        """How the clip is shown: its size and frames, as `OpenClip.as_json`. `missing`: why there are no pictures.

        Masks decide the size. Where the video has another one, its pictures are stretched, and `other_size` says so.

        Raises:
            NotHere: there is no such clip.
            EditRefused: it is not done.
        """
        entry = self._entry(clip_id)
        with self._lock:
            frames = self._frames(clip_id, self._edits.operations(self._edits.latest()).get(clip_id, []))
        facts = self.store.read_clip_metadata(clip_id)["clip"]
        size = (frames[0].height, frames[0].width) if frames else _size_of(facts)
        about: dict[str, Any] = {"key": entry.key, "name": entry.name, "missing": "", "other_size": ""}
        try:
            with self._library.open(entry.key) as opened:
                about |= opened.as_json()
        except (ClipError, UserError) as error:
            about |= _without_video(facts, frames) | {"missing": redact(str(error))}
        else:
            if size is not None and size != (about["height"], about["width"]):
                about["other_size"] = (
                    f"the video has {about['width']}x{about['height']} pixels now, and the masks {size[1]}x{size[0]}: "
                    "its pictures are stretched, and new masks cannot be made"
                )
        if size is not None:
            about["height"], about["width"] = size
        return about

    def rows(self, clip_id: str) -> dict[str, Any]:
        """The newest rows of a clip, and the history of its corrections.

        Raises:
            NotHere: there is no such clip.
            EditRefused: it is not done.
        """
        self._entry(clip_id)
        with self._lock:
            revision = self._edits.latest()
            operations = self._edits.operations(revision).get(clip_id, [])
            frames = self._frames(clip_id, operations)
            return {
                "clip": clip_id,
                "revision": revision,
                **_standing(operations),
                "frames": [frame_json(frame) for frame in frames],
                "log": self._log(clip_id, revision),
            }

    def _frames(self, clip_id: str, operations: Sequence[ClipOperation]) -> list[FrameAnnotations]:
        key = [operation_as_json(each) for each in operations]
        held = self._held.get(clip_id)
        if held is None or held[0] != key:
            self._edits.attempt_of(clip_id)  # a clip that is not done is refused with a sentence
            frames = self._edits.clip(clip_id, operations)
            held = self._held[clip_id] = (key, frames)
            if len(self._held) > _CLIPS_HELD:
                self._held.popitem(last=False)
        return held[1]

    def _log(self, clip_id: str, revision: int) -> list[dict[str, Any]]:
        entries = self._edits.entries(revision)
        undone = _undone(entries)
        return [
            {
                "number": entry.number,
                "author": entry.author,
                "time": entry.time,
                "tool": entry.tool,
                "undone": entry.number in undone,
                "words": in_words(operation_as_json(each) for each in entry.operations),
            }
            for entry in entries
            if _touches(self._edits, entry, clip_id)
        ]

    def standing(self, clip_id: str) -> dict[str, Any]:
        """Whether a clip is accepted, and how many corrections it has now."""
        with self._lock:
            return _standing(self._edits.operations(self._edits.latest()).get(clip_id, []))

    # Writing

    def edit(self, clip_id: str, asked: Any, parent: Any, author: Any) -> int:
        """Adds one entry; returns its revision.

        Args:
            asked: operations as JSON, without their clip. A mask comes in place of `data`.
            parent: the revision that the page shows.

        Raises:
            NotHere: there is no such clip.
            UserError: an operation is not valid, does not fit the rows, or (EditConflict) clashes with somebody else's.
        """
        entry = self._entry(clip_id)
        if not isinstance(asked, list) or not 0 < len(asked) <= _MAX_OPERATIONS:
            raise UserError(f"operations must be a list of 1 to {_MAX_OPERATIONS}")
        if type(parent) is not int:
            raise UserError(f"parent is {parent!r:.40}; allowed: the revision that the page shows")
        with self._lock:
            operations = [self._operation(entry, each) for each in asked]
            return self._edits.append(operations, tool=TOOL, author=self._name(author), parent=parent)

    def undo(self, clip_id: str, author: Any) -> int:
        """Undoes the author's last correction of the clip that is still in effect."""
        return self._take_back(clip_id, author, redo=False)

    def redo(self, clip_id: str, author: Any) -> int:
        """Redoes the author's last undone correction, unless the author has corrected the clip since."""
        return self._take_back(clip_id, author, redo=True)

    def _take_back(self, clip_id: str, author: Any, *, redo: bool) -> int:
        self._entry(clip_id)
        name = self._name(author)
        with self._lock:
            entries = self._edits.entries(self._edits.latest())
            undone = _undone(entries)
            for entry in reversed(entries):
                own = entry.author == name and _touches(self._edits, entry, clip_id)
                if not own or entry.number in undone:
                    continue
                kind = _kind(self._edits, entry)
                if kind == ("undo" if redo else "correction"):
                    return self._edits.undo(entry.number, tool=TOOL, author=name)
                if redo and kind == "correction":
                    break
        raise EditRefused(f"clip {clip_id}: {name} has nothing to {'redo' if redo else 'undo'}")

    def _operation(self, entry: Entry, value: Any) -> ClipOperation:
        if not isinstance(value, Mapping):
            raise UserError("an operation must be a mapping")
        value = {**value, "clip": entry.clip.clip_id}
        mask = value.pop("mask", None)
        label = value.pop("label", None) if value.get("op") in (Add.op, ReplaceMask.op) else None
        if value.get("op") in (Add.op, ReplaceMask.op):
            with self._library.open(entry.key) as opened:
                value["data"], value["sha256"] = self._put_mask(entry, opened, value, mask, label)
            value.pop("frame", None)
        try:
            operation = operation_from_json(value)
        except ValueError as error:
            raise UserError(str(error)) from None
        if isinstance(operation, Revert):
            raise UserError("revert: use undo")
        return operation

    def _put_mask(
        self, entry: Entry, opened: OpenClip, value: Mapping[str, Any], mask: Any, label: Any
    ) -> tuple[str, str]:
        """Stores one mask on one frame."""
        index, object_id = value.get("frame"), value.get("object")
        if value.get("op") == ReplaceMask.op and isinstance(value.get("frames"), list) and value["frames"]:
            index = value["frames"][0]
        if type(index) is not int or index not in opened.frames.indices or type(object_id) is not int or object_id < 1:
            raise UserError(
                f"object {object_id!r:.40}, frame {index!r:.40}: allowed: an id from 1, a frame of the clip"
            )
        height, width = opened.frames.height, opened.frames.width
        if problem := self.picture(entry.clip.clip_id)["other_size"]:
            raise UserError(problem)
        counts = mask.get("counts") if isinstance(mask, Mapping) else None
        try:
            if not isinstance(counts, str) or len(counts) > _MAX_COUNTS:
                raise ValueError(f"its counts must be a text of at most {_MAX_COUNTS} letters")
            area, box = rle_area(counts, height, width), rle_bbox(counts, height, width)
        except ValueError as error:
            raise UserError(f"the mask of object {object_id} is not valid: {error}") from None
        if area < 1:
            raise UserError(f"the mask of object {object_id} is empty: delete the object on this frame instead")
        frame = next(opened.frames.read(list(opened.frames.indices).index(index), None))
        name = label if isinstance(label, str) and label.strip() else self._label(entry.clip.clip_id, object_id)
        xmin, ymin, xmax, ymax = (float(v) for v in box)
        item = ObjectAnnotation(object_id, name.strip()[:200], 1.0, 1.0, (xmin, ymin, xmax, ymax), area, counts)
        facts = FrameAnnotations(frame.index, frame.pts, frame.time_s, height, width)
        return self._edits.put_data(entry.clip.clip_id, [replace(facts, objects=(item,))])

    def _label(self, clip_id: str, object_id: int) -> str:
        """Of the object as it is now."""
        frames = self._frames(clip_id, self._edits.operations(self._edits.latest()).get(clip_id, []))
        labels = (each.prompt for frame in frames for each in frame.objects if each.object_id == object_id)
        return next(labels, f"object {object_id}")

    def _entry(self, clip_id: str) -> Entry:
        if clip_id not in self._entries:
            raise NotHere(f"there is no clip {clip_id[:100]!r} in this run")
        return self._entries[clip_id]

    def _name(self, author: Any) -> str:
        name = author.strip()[:_MAX_AUTHOR] if isinstance(author, str) else ""
        return name or self._author or _user()


def _standing(operations: Sequence[ClipOperation]) -> dict[str, Any]:
    return {
        "corrections": sum(not isinstance(each, Accept) for each in operations),
        "accepted": bool(operations) and isinstance(operations[-1], Accept),
    }


def _size_of(facts: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = facts.get("height"), facts.get("width")
    return (height, width) if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0 else None


def _without_video(facts: Mapping[str, Any], frames: Sequence[FrameAnnotations]) -> dict[str, Any]:
    """What the rows and their file tell of a clip whose video is gone: frames without objects may be missing."""
    times = {frame.frame_index: frame.time_s for frame in frames}
    fps = facts.get("source_fps")
    if facts.get("fps") is None and isinstance(facts.get("frames"), int) and isinstance(fps, int | float) and fps > 0:
        first = 0 if facts.get("start_s") is None else min(times, default=0)
        for index in range(first, first + min(facts["frames"], _MOST_BLANK)):
            times.setdefault(index, index / fps)
    indices = sorted(times) or [0]
    height, width = _size_of(facts) or (720, 1280)
    return {
        "width": width,
        "height": height,
        "fps": fps,
        "codec": "",
        "rotation": 0,
        "indices": indices,
        "times": [round(times.get(each, 0.0), 6) for each in indices],
    }


def _undone(entries: Sequence[LogEntry]) -> set[int]:
    undone: set[int] = set()
    for entry in reversed(entries):  # an undo that was undone itself does not count
        if entry.number not in undone:
            undone |= {n for each in entry.operations if isinstance(each, Revert) for n in each.entries}
    return undone


def _kind(edits: Edits, entry: LogEntry) -> str:
    """A correction; an undo takes back a correction; a redo takes back an undo."""
    taken_back = [n for each in entry.operations if isinstance(each, Revert) for n in each.entries]
    if not taken_back:
        return "correction"
    return "undo" if any(_kind(edits, edits.entry(n)) == "correction" for n in taken_back) else "redo"


def _touches(edits: Edits, entry: LogEntry, clip_id: str) -> bool:
    for each in entry.operations:
        if isinstance(each, Revert):
            if any(_touches(edits, edits.entry(n), clip_id) for n in each.entries):
                return True
        elif each.clip == clip_id:
            return True
    return False


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
