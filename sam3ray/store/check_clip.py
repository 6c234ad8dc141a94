"""The audit of one clip's rows, fed batch by batch."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from sam3ray.masks import MAX_PIXELS, measure_runs, read_runs
from sam3ray.values.annotations import SCHEMA
from sam3ray.values.versions import SCHEMA_VERSION

BATCH_ROWS = 4096
MAX_PROBLEMS = 10
_HASHED = ("frame_index", "pts", "object_id", "score", "track_score", "area")
_SLICE_CHARS = 400_000  # of RLE text checked at once, which bounds the arrays of run lengths


class ClipCheck:
    """Collects the problems of one clip. Feed `rows` in order, then call `finish`.

    Args:
        where: how messages name the file or part.
        metadata: the clip's file metadata, as `read_file_metadata` returns it.
        fingerprint: the run's fingerprint.
        prompts: allowed values of the `prompt` column; None: all are allowed.
        one_prompt: whether an object must have the same prompt on all its frames; corrections may change it.
    """

    def __init__(
        self,
        clip_id: str,
        where: str,
        metadata: Mapping[str, Any],
        fingerprint: Mapping[str, Any],
        prompts: Collection[str] | None,
        *,
        one_prompt: bool = True,
    ) -> None:
        self.clip_id = clip_id
        self.problems: list[str] = []
        self._where = where
        clip = metadata.get("clip")
        self._clip: Mapping[str, Any] = clip if isinstance(clip, Mapping) else {}
        self._prompts = prompts
        self._one_prompt = one_prompt
        self._rows = 0
        self._frames = 0
        self._last: tuple[int, int] | None = None  # frame index, object id
        self._last_time: tuple[int, int, float] | None = None  # frame index, pts, seconds
        self._prompt_of: dict[int, str] = {}
        self._hashes = {name: hashlib.blake2b(digest_size=16) for name in (*_HASHED, "counts")}
        if metadata.get("schema_version") != SCHEMA_VERSION:
            self._add(f"schema version is {metadata.get('schema_version')}, expected {SCHEMA_VERSION}")
        if metadata.get("fingerprint") != fingerprint:
            self._add("was made with a different fingerprint from the run's")
        if self._clip.get("clip_id") != clip_id:
            self._add(f"metadata says clip {self._clip.get('clip_id')!r}")

    @property
    def digest(self) -> str:
        """Counts of all rows so far, across batches."""
        return "".join(state.hexdigest() for state in self._hashes.values())

    @property
    def figures(self) -> tuple[Any, int, int]:
        """Frames according to the metadata; objects and rows as counted."""
        return self._clip.get("frames"), len(self._prompt_of), self._rows

    def _add(self, problem: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(f"{self._where}: {problem}")

    def rows(self, batch: pa.RecordBatch) -> None:
        """Check the next rows; `batch` has the schema of annotations."""
        for name, column in zip(SCHEMA.names, batch.columns, strict=True):
            if _has_nulls(column):
                self._add(f"{name} has missing values")
                return
        frame = batch.column("frame_index").to_numpy()
        ids = batch.column("object_id").to_numpy()
        if not len(frame):
            return
        self._check_order(frame, ids)
        self._check_times(frame, batch.column("pts").to_numpy(), batch.column("time_s").to_numpy())
        self._check_scores(batch)
        self._check_names(batch, ids)
        self._check_masks(batch)
        self._rows += len(frame)
        for name in _HASHED:
            self._hashes[name].update(batch.column(name).to_numpy().tobytes())

    def finish(self) -> list[str]:
        """All problems of the clip."""
        for key, found in (("rows", self._rows), ("objects", len(self._prompt_of))):
            if self._clip.get(key) != found:
                self._add(f"has {found} {key}, its metadata says {self._clip.get(key)}")
        frames = self._clip.get("frames")
        if not isinstance(frames, int) or self._frames > frames:
            self._add(f"has objects on {self._frames} frames, its metadata says {frames} frames were processed")
        return self.problems

    def _check_order(self, frame: np.ndarray, ids: np.ndarray) -> None:
        first = self._last or (-1, 0)
        frames = np.concatenate(([first[0]], frame.astype(np.int64)))
        objects = np.concatenate(([first[1]], ids.astype(np.int64)))
        step = np.diff(frames)
        wrong = (step < 0) | ((step == 0) & (np.diff(objects) <= 0))
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            self._add(
                f"row {self._rows + i}: (frame {frame[i]}, object {ids[i]}) after (frame {frames[i]}, "
                f"object {objects[i]}); rows must ascend by frame and object, each pair once"
            )
        if (ids < 1).any():
            self._add(f"object id {int(ids.min())}; ids start at 1")
        if (frame < 0).any():
            self._add(f"frame index {int(frame.min())}; indices start at 0")
        self._frames += int((step > 0).sum())
        self._last = (int(frame[-1]), int(ids[-1]))

    def _check_times(self, frame: np.ndarray, pts: np.ndarray, seconds: np.ndarray) -> None:
        if not np.isfinite(seconds).all():
            self._add("time_s has values that are not finite numbers")
        if (seconds < 0).any():
            self._add(f"time_s is {seconds.min():g}; times count from the video's start")
        same = frame[1:] == frame[:-1]
        if (same & ((pts[1:] != pts[:-1]) | (seconds[1:] != seconds[:-1]))).any():
            self._add("rows of one frame disagree about its time")
        self._check_that_time_grows(frame, pts, seconds)

    def _check_that_time_grows(self, frame: np.ndarray, pts: np.ndarray, seconds: np.ndarray) -> None:
        """Time must increase from frame to frame, also across batches."""
        last_frame, last_pts, last_s = self._last_time or (-1, 0, 0.0)
        if self._last_time is not None:
            frame = np.concatenate(([last_frame], frame))
            pts, seconds = np.concatenate(([last_pts], pts)), np.concatenate(([last_s], seconds))
        later = frame[1:] > frame[:-1]
        wrong = later & ((pts[1:] <= pts[:-1]) | ~(seconds[1:] > seconds[:-1]))
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            self._add(
                f"time does not increase: frame {frame[i + 1]} is at {seconds[i + 1]:g} s (pts {pts[i + 1]}), "
                f"frame {frame[i]} before it at {seconds[i]:g} s (pts {pts[i]})"
            )
        self._last_time = (int(frame[-1]), int(pts[-1]), float(seconds[-1]))

    def _check_scores(self, batch: pa.RecordBatch) -> None:
        for name in ("score", "track_score"):
            values = batch.column(name).to_numpy()
            wrong = ~((values >= 0) & (values <= 1))
            if wrong.any():
                i = int(np.flatnonzero(wrong)[0])
                self._add(f"row {self._rows + i}: {name} is {values[i]}; allowed: 0 to 1")

    def _check_names(self, batch: pa.RecordBatch, ids: np.ndarray) -> None:
        others = set(batch.column("clip_id").unique().to_pylist()) - {self.clip_id}
        if others:
            self._add(f"has rows of clip {min(others)!r}")
        names = batch.column("prompt")
        words = names.dictionary.to_pylist()
        pairs = np.unique(np.stack([ids.astype(np.int64), names.indices.to_numpy().astype(np.int64)], axis=1), axis=0)
        for object_id, code in pairs.tolist():
            word = words[code]
            if self._prompts is not None and word not in self._prompts:
                self._add(f"object {object_id} has the prompt {word!r}, which is not one of the clip's prompts")
            if self._prompt_of.setdefault(object_id, word) != word and self._one_prompt:
                self._add(f"object {object_id} has two prompts: {self._prompt_of[object_id]!r} and {word!r}")

    def _check_masks(self, batch: pa.RecordBatch) -> None:
        segmentation = batch.column("segmentation")
        sizes, text = segmentation.field("size"), segmentation.field("counts")
        if (np.diff(sizes.offsets.to_numpy()) != 2).any():
            self._add("a mask's size is not [height, width]")
            return
        shape = sizes.flatten().to_numpy().astype(np.int64).reshape(-1, 2)
        expected = (self._clip.get("height"), self._clip.get("width"))
        if (shape != shape[0]).any() or tuple(shape[0].tolist()) != expected:
            self._add(f"mask sizes {np.unique(shape, axis=0)[:3].tolist()}, the clip's frames are {list(expected)}")
            return
        pixels = int(shape[0, 0] * shape[0, 1])
        if (shape < 1).any() or pixels > MAX_PIXELS:
            self._add(f"mask size {shape[0].tolist()} is out of range")
            return
        offsets = np.frombuffer(text.buffers()[1], dtype=np.int32)[text.offset : text.offset + len(text) + 1]
        data = text.buffers()[2]
        chars = np.frombuffer(data, dtype=np.uint8) if data is not None else np.zeros(0, np.uint8)
        area = batch.column("area").to_numpy()
        box = np.stack([batch.column("bbox").field(i).to_numpy() for i in range(4)], axis=1)
        for start, stop in _slices(offsets):
            n = stop - start
            part = offsets[start : stop + 1].astype(np.int64)
            counts, run_offsets, valid = read_runs(chars, part, np.full(n, pixels))
            if not valid.all():
                i = int(np.flatnonzero(~valid)[0])
                self._add(f"row {self._rows + start + i}: the RLE does not decode to {shape[0].tolist()}")
                return
            areas, boxes = measure_runs(counts, run_offsets, int(shape[0, 0]))
            self._compare(start, "area", area[start:stop], areas)
            self._compare(start, "bbox", box[start:stop], boxes)
            if (areas < 1).any():
                self._add(f"row {self._rows + start + int(np.flatnonzero(areas < 1)[0])}: the mask is empty")
            self._hashes["counts"].update(chars[part[0] : part[-1]].tobytes())

    def _compare(self, start: int, name: str, said: np.ndarray, found: np.ndarray) -> None:
        wrong = said != found
        wrong = wrong.any(axis=1) if wrong.ndim == 2 else wrong
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            self._add(f"row {self._rows + start + i}: {name} is {said[i].tolist()}, the mask's is {found[i].tolist()}")


def _has_nulls(column: pa.Array) -> bool:
    if column.null_count:
        return True
    if pa.types.is_struct(column.type):
        return any(_has_nulls(column.field(i)) for i in range(column.type.num_fields))
    if pa.types.is_dictionary(column.type):
        return bool(column.dictionary.null_count)
    return pa.types.is_list(column.type) and bool(column.flatten().null_count)


def _slices(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    start, n = 0, len(offsets) - 1
    while start < n:
        stop = int(np.searchsorted(offsets, offsets[start] + _SLICE_CHARS, side="right")) - 1
        stop = min(max(stop, start + 1), n)
        yield start, stop
        start = stop
