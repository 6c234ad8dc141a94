"""The rows of one window as a local file: annotations of its frames, and facts that reading the video revealed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from sam3ray.store.annotation_file import AnnotationWriter, read_file_metadata, read_frames
from sam3ray.values.annotations import FrameAnnotations


def write_window(
    path: Path, clip_id: str, frames: list[FrameAnnotations], seen: Mapping[str, Any] | None = None
) -> None:
    """Writes frames, in ascending or descending order, as a file of annotations. Frames without rows are recorded, too.

    Args:
        seen: facts revealed since the previous window.
    """
    falls = len(frames) > 1 and frames[0].frame_index > frames[-1].frame_index
    ordered = frames[::-1] if falls else frames
    facts: dict[str, Any] = {
        "falls": falls,
        "height": ordered[0].height if ordered else 0,
        "width": ordered[0].width if ordered else 0,
        "empty": [[each.frame_index, each.pts, each.time_s] for each in ordered if not each.objects],
        "seen": dict(seen or {}),
    }
    with AnnotationWriter(path, clip_id, {"clip": facts}) as writer:
        for frame in ordered:
            writer.write(frame)
        writer.finish()


def read_window(path: Path) -> Iterator[FrameAnnotations]:
    """Reads the frames of a window, in the order in which they were written."""
    facts = window_facts(path)
    size = facts["height"], facts["width"]
    empty = [FrameAnnotations(int(index), int(pts), float(time_s), *size) for index, pts, time_s in facts["empty"]]
    frames = _merged(read_frames(str(path)), empty)
    yield from reversed(list(frames)) if facts["falls"] else frames


def window_facts(path: Path) -> dict[str, Any]:
    """The facts of the window's file. Raises ValueError if the file is not that of a window."""
    facts = read_file_metadata(pq.read_metadata(path))["clip"]
    if not isinstance(facts, dict):
        raise ValueError("the file's metadata says nothing about the clip")
    return facts


def _merged(full: Iterator[FrameAnnotations], empty: list[FrameAnnotations]) -> Iterator[FrameAnnotations]:
    waiting = iter(empty)
    nothing = next(waiting, None)
    for frame in full:
        while nothing is not None and nothing.frame_index < frame.frame_index:
            yield nothing
            nothing = next(waiting, None)
        yield frame
    while nothing is not None:
        yield nothing
        nothing = next(waiting, None)
