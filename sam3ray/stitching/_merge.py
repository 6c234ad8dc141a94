"""The windows of a clip as one clip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from sam3ray.stitching._links import Links
from sam3ray.stitching._tracks import Window
from sam3ray.values.annotations import FrameAnnotations


def merge(windows: Sequence[Window], links: Links) -> Iterator[FrameAnnotations]:
    """The clip's rows: one value per position, in order. The windows' frames are read once, one window after another.

    Each frame is one window's, with its masks as they are: where two windows overlap it is the earlier one's, which
    remembers more. So the masks of a frame stay as disjoint as the rules made them, and no id is there twice. An
    object's `score` is that of the detection which started it in the first window that shows it.

    Raises:
        ValueError: the links are of other windows, or a window has too few or too many frames.
    """
    windows = sorted(windows, key=lambda each: each.cut.index)
    cuts = [each.cut for each in windows]
    if tuple((cut.start, cut.until) for cut in cuts) != tuple(map(tuple, links.windows)):
        raise ValueError(
            f"the links are of the windows {list(links.windows)}, not of {[(cut.start, cut.until) for cut in cuts]}"
        )
    shown = 0  # frames of the clip that earlier windows have given
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
                f"the links do not name object {item.object_id} of window {window}: they are of other rows"
            )
        objects.append(replace(item, object_id=linked.object_id, score=linked.score))
    return replace(frame, objects=tuple(sorted(objects, key=lambda item: item.object_id)))
