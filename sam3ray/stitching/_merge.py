"""Merges the windows of a clip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from sam3ray.stitching._links import Links
from sam3ray.stitching._tracks import Window
from sam3ray.values.annotations import FrameAnnotations


def merge(windows: Sequence[Window], links: Links) -> Iterator[FrameAnnotations]:
    """Yields the clip's rows: one value per position, in order. Each window's frames are read once, in order.

    Each frame comes from one window, with unchanged masks; in an overlap, from the earlier window, which has more
    memory. So the masks of a frame stay as disjoint as the rules made them, and no id appears twice. An object's
    `score` is that of the detection that started it in the first window that shows it.

    Raises:
        ValueError: the links belong to other windows, or a window has too few or too many frames.
    """
    windows = sorted(windows, key=lambda each: each.cut.index)
    cuts = [each.cut for each in windows]
    if tuple((cut.start, cut.until) for cut in cuts) != tuple(map(tuple, links.windows)):
        raise ValueError(
            f"the links are of the windows {list(links.windows)}, not of {[(cut.start, cut.until) for cut in cuts]}"
        )
    shown = 0  # frames of the clip from earlier windows
    for window in windows:
        cut, position = window.cut, window.cut.start
        for frame in window.frames:
            if position >= cut.until:
                raise ValueError(f"window {cut.index} has more than its {cut.until - cut.start} frames")
            if position >= shown:
                yield _renamed(frame, cut.index, position, links)
            position += 1
        if position != cut.until:
            raise ValueError(
                f"window {cut.index} has {position - cut.start} frames; it should have {cut.until - cut.start}"
            )
        shown = cut.until


def _renamed(frame: FrameAnnotations, window: int, position: int, links: Links) -> FrameAnnotations:
    objects = []
    for item in frame.objects:
        if not links.is_shown(window, item.object_id, position):
            continue
        linked = links.by_track.get((window, item.object_id))
        if linked is None:
            raise ValueError(
                f"the links do not name object {item.object_id} of window {window}: they belong to other rows"
            )
        objects.append(replace(item, object_id=linked.object_id, score=linked.score))
    return replace(frame, objects=tuple(sorted(objects, key=lambda item: item.object_id)))
