"""The model as a probe: it looks for lost objects, by what they remember, on frames that show a new one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

from sam3ray.engine.ending import EndingFile
from sam3ray.engine.recall import Recall
from sam3ray.masks import MaskRuns
from sam3ray.model import Model
from sam3ray.stitching._tracks import Track
from sam3ray.video import Frame


class MemoryProbe:
    """A `Probe` on the endings of windows.

    Args:
        endings: the files of the windows, by index.
        frame_at: gives the frame at a position of the clip; called for at most three frames of a track.
        progress: called after each frame looked at.
    """

    def __init__(
        self,
        segmenter: Model,
        height: int,
        width: int,
        endings: Mapping[int, Path],
        frame_at: Callable[[int], Frame],
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        with segmenter.session(height, width) as session:
            engine = session.engine
        self._endings, self._frame_at, self._progress = endings, frame_at, progress
        self._recall = Recall(engine, (height, width))
        self._open = cache(lambda window: EndingFile(endings[window], engine, (height, width)))

    def knows(self, window: int, object_id: int) -> bool:
        return window in self._endings and object_id in self._open(window).objects

    def scores(self, lost: Sequence[tuple[int, int]], track: Track) -> list[float]:
        """The mean IoU with the track's mask, over the track's first frames; 0 on those where the object is not found.

        Raises:
            StateError: the ending of a window is damaged, or of another model.
        """
        sums = [0.0] * len(lost)
        for position, mask in track.probed.items():
            features = self._recall.features(position, self._frame_at)
            for window in dict.fromkeys(window for window, _ in lost):
                ending = self._open(window)
                places = [place for place, (of, _) in enumerate(lost) if of == window]
                memories = [
                    self._recall.memory(lost[place], partial(ending.memory, lost[place][1])) for place in places
                ]
                found = self._recall.masks(features, position - ending.start, memories)
                for place, each in zip(places, found, strict=True):
                    sums[place] += _iou(mask, each)
            self._progress()
        return [total / len(track.probed) for total in sums]


def _iou(mask: MaskRuns, found: MaskRuns | None) -> float:
    if found is None:
        return 0.0
    common = int(mask.common([found])[0])
    return common / max(mask.area + found.area - common, 1)
