"""Windows of what `tests.job.fakes` draws, and their links."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from sam3ray.annotations import FrameAnnotations
from sam3ray.stitching import Links, link_windows
from sam3ray.values.cutting import Cut
from sam3ray.video import Frame
from tests.job.fakes import DrawnSegmenter


class DrawnWindows:
    """Windows of what is drawn, and their links: what is drawn depends on the frame alone, so that all of it fits."""

    def segment_window(
        self,
        segmenter: DrawnSegmenter,
        frames: Iterator[Frame],
        height: int,
        width: int,
        prompts: Any,
        cut: Cut,
        *,
        ending: Path | None = None,
        exemplars: Any = (),
        progress: Callable[[], None] | None = None,
    ) -> Iterator[FrameAnnotations]:
        segmenter.stats = {"dropped_objects": 1}
        stop = min(cut.until + 3 * (cut.index + 1) % 5, cut.reach)  # some windows run on
        own = islice(frames, cut.end - cut.start + stop - cut.until)
        for position, found in enumerate(segmenter._drawn(own, cut.start, height, width, prompts), cut.start):
            if position < stop:
                yield found
        if ending is not None:
            ending.write_bytes(b"what is remembered")

    def link(
        self,
        segmenter: DrawnSegmenter,
        windows: Any,
        height: int,
        width: int,
        prompts: Any,
        frame_at: Callable[[int], Frame],
        *,
        progress: Callable[[], None] | None = None,
    ) -> Links:
        remembered = [each.ending.read_bytes() for each in windows[:-1]]
        assert set(remembered) == {b"what is remembered"}
        assert windows[-1].ending is None
        return link_windows(windows, None, prompts)
