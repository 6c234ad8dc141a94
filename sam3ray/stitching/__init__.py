"""Windows of a long clip that were worked on apart, made one clip again: each object keeps one id throughout.

    segment_window      the rows of one window, and what its objects remember at its end
    link                who is who: by masks on shared frames, then by what lost objects remember
    merge               the rows of the clip

`link_windows` is `link` without a model: it takes any `Probe`, or none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sam3ray.model import Model
from sam3ray.video import Frame

from ._link import Probe, link_windows
from ._links import Joint, LinkedTrack, Links
from ._merge import merge
from ._probe import MemoryProbe
from ._tracks import Track, Window
from ._window import segment_window

__all__ = [
    "Joint",
    "LinkedTrack",
    "Links",
    "MemoryProbe",
    "Probe",
    "Track",
    "Window",
    "link",
    "link_windows",
    "merge",
    "segment_window",
]


def link(
    segmenter: Model,
    windows: Sequence[Window],
    height: int,
    width: int,
    prompts: Sequence[str],
    frame_at: Callable[[int], Frame],
    *,
    relink_after_s: float | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Links:
    """Links the windows of a clip: see `link_windows`. The model looks at about three frames of each new track.

    Args:
        windows: all of the clip, in order; their frames are read once, one window after another.
        prompts: the clip's phrases, in order.
        frame_at: gives the frame at a position of the clip.

    Raises:
        StateError: a window's ending is missing, damaged, or of another model: work on that window again.
        ValueError: the windows do not follow each other, or their rows are not theirs.
    """
    endings = {each.cut.index: each.ending for each in windows if each.ending is not None}
    probe = MemoryProbe(segmenter, height, width, endings, frame_at, progress)
    return link_windows(windows, probe, prompts, relink_after_s)
