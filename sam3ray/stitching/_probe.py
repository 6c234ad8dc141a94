"""The model as a probe: finds lost objects by their memories, on frames that show a new one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from sam3ray.engine.ending import EndingFile
from sam3ray.engine.recall import Recall
from sam3ray.engine.returning import STEPS
from sam3ray.engine.rules import Rules
from sam3ray.masks import MaskRuns
from sam3ray.model import Model
from sam3ray.stitching._link import link_windows
from sam3ray.stitching._links import Links
from sam3ray.stitching._tracks import Track, Window
from sam3ray.video import Frame

SEEN_FIRST = 0.3  # minimum IoU on a track's first frame


class MemoryProbe:
    """A `Probe` that uses the endings of windows.

    Args:
        windows: the clip's windows. A window's `ending` is requested when one of its objects is first looked for.
        frame_at: returns the frame at a position of the clip; called for at most `STEPS` frames of a track.
        progress: called after each processed frame.
    """

    def __init__(
        self,
        segmenter: Model,
        height: int,
        width: int,
        windows: Sequence[Window],
        frame_at: Callable[[int], Frame],
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        with segmenter.session(height, width) as session:
            engine = session.engine
        self._engine, self._size = engine, (height, width)
        self._windows = {each.cut.index: each for each in windows}
        self._frame_at, self._progress = frame_at, progress
        self._recall = Recall(engine, (height, width))
        self._endings: dict[int, EndingFile | None] = {}

    @property
    def rules(self) -> Rules:
        """The rules under which the windows were processed."""
        return self._engine.rules

    def knows(self, window: int, object_id: int) -> bool:
        ending = self._ending(window)
        return ending is not None and object_id in ending.objects

    def _ending(self, window: int) -> EndingFile | None:
        if window not in self._endings:
            path = self._windows[window].ending
            self._endings[window] = None if path is None else EndingFile(path, self._engine, self._size)
        return self._endings[window]

    def scores(self, lost: Sequence[tuple[int, int]], track: Track) -> list[float]:
        """Tracks the lost objects on the probed frames of the track, as if they had never been lost: they update their
        memories and compete. The score is the mean over these frames of the IoU with the track's mask times the
        tracker's probability that the object is visible; 0 on frames without the object or the track. An object that
        does not begin at the track's beginning (`SEEN_FIRST`) only moved to it later, and gets 0.

        Raises:
            StateError: the ending of a window is damaged, or was made by another model.
        """
        windows = list(dict.fromkeys(window for window, _ in lost))
        order = [place for window in windows for place, (of, _) in enumerate(lost) if of == window]
        endings = {window: self._ending(window) for window in windows}
        remembered = []
        for place in order:
            window, object_id = lost[place]
            ending = endings[window]
            assert ending is not None  # it knows the object
            remembered.append(self._recall.memory(lost[place], partial(ending.memory, object_id)))
        fits: list[list[float]] = [[] for _ in lost]
        with self._recall.following(remembered) as memories:
            for position, mask in track.probed.items():
                features = self._recall.features(position, self._frame_at)
                groups = [
                    (
                        position - ending.start,
                        [m for m, place in zip(memories, order, strict=True) if lost[place][0] == w],
                    )
                    for w, ending in endings.items()
                    if ending is not None
                ]
                for place, (each, presence) in zip(order, self._recall.follow(features, groups), strict=True):
                    fits[place].append(presence * _iou(mask, each))
                self._progress()
        return [sum(each) / len(STEPS) * (each[0] >= SEEN_FIRST) for each in fits]


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
    """Links the windows of a clip: see `link_windows`. The model looks at up to five frames of each new track.

    Args:
        windows: all windows of the clip, in order; their frames are read once, one window after another.
        prompts: the clip's phrases, in order.
        frame_at: returns the frame at a position of the clip.

    Raises:
        StateError: a window's ending is missing, damaged, or was made by another model: process that window again.
        ValueError: the windows do not follow each other, or rows do not belong to their window.
    """
    probe = MemoryProbe(segmenter, height, width, windows, frame_at, progress)
    return link_windows(windows, probe, prompts, relink_after_s, rules=probe.rules)


def _iou(mask: MaskRuns, found: MaskRuns | None) -> float:
    if found is None:
        return 0.0
    common = int(mask.common([found])[0])
    return common / max(mask.area + found.area - common, 1)
