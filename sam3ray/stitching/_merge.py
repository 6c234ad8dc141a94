"""Merges the windows of a clip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from sam3ray.stitching._links import Links
from sam3ray.stitching._tracks import Window
from sam3ray.values.annotations import FrameAnnotations


def merge(windows: Sequence[Window], links: Links) -> Iterator[FrameAnnotations]:
    """Yields the clip's rows: one value per position, in order. Each window's frames are read once, in order.

    Each frame comes from one window, with unchanged masks: where two have it, from the earlier one, which has more
    memory. So the masks of a frame stay as disjoint as the rules made them, and no id appears twice. An object's
    `score` is that of the detection that started it in the first window that shows it.

    Raises:
        ValueError: the links belong to other windows, or a window has too few or too many frames.
    """
    windows = sorted(windows, key=lambda each: each.cut.index)
    cuts = [each.cut for each in windows]
    spans = list(links.windows)
    if [cut.start for cut in cuts] != [start for start, _ in spans]:
        raise ValueError(f"the links are of the windows {spans}, not of {cuts}")
    shown = 0  # frames of the clip from earlier windows
    for window, (start, end) in zip(windows, spans, strict=True):
        position = start
        for frame in window.frames:
            if position >= shown:
                yield _renamed(frame, window.cut.index, position, links)
            position += 1
            if position > end:
                break
        if position != end:
            count = f"{position - start}" if position < end else f"more than {end - start}"
            raise ValueError(f"window {window.cut.index} has {count} frames; its links are of {end - start}")
        shown = end


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
