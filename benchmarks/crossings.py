"""What becomes of objects where a clip passes from one window to the next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sam3ray.evaluate._track_eval import Measured, Sequences, measure
from sam3ray.masks import MaskRuns, iou_matrix, read_rle
from sam3ray.stitching import Links
from sam3ray.values.annotations import FrameAnnotations

SEEN, KINDS = 0.25, ("visible", "partly", "hidden")
POSSIBLE = 0.3  # IoU from which on a mask is some true object's


def masks(frame: FrameAnnotations) -> list[MaskRuns]:
    return [read_rle(each.rle, frame.height, frame.width) for each in frame.objects]


class Compared:
    """Frames beside frames of the truth, or of the clip in one piece: what does not depend on ids, once."""

    def __init__(self, frames: Sequence[FrameAnnotations], others: Sequence[FrameAnnotations], *, true: bool) -> None:
        self.ious: list[np.ndarray] = []
        self.ids = [[each.object_id for each in other.objects] for other in others]
        self.given: list[list[bool]] = []
        self.asked: list[list[bool]] = []
        for frame, other in zip(frames, others, strict=True):
            mine, theirs = masks(frame), masks(other)
            ious = iou_matrix(theirs, mine)
            asked = [not true or (each.visibility or 0.0) >= SEEN for each in other.objects]
            ignored = [mask for mask, is_asked in zip(theirs, asked, strict=True) if not is_asked]
            # As in `sam3ray eval`: what stands for an object that is hardly seen is neither right nor wrong.
            self.given.append(
                [
                    bool((ious[asked, j] >= 0.5).any())
                    or not any(mask.common([faint])[0] > 0.3 * mask.area for faint in ignored)
                    for j, mask in enumerate(mine)
                ]
            )
            self.ious.append(ious)
            self.asked.append(asked)


@dataclass(frozen=True)
class Shown:
    """A frame of the clip: where its window was compared, its place there, and which of its objects the clip shows."""

    of: Compared
    place: int
    objects: Sequence[int]

    @property
    def ious(self) -> np.ndarray:
        return self.of.ious[self.place][:, self.objects]

    @property
    def given(self) -> list[bool]:
        return [self.of.given[self.place][n] for n in self.objects]

    @property
    def asked(self) -> list[bool]:
        return self.of.asked[self.place]


def all_of(compared: Compared, frames: Sequence[FrameAnnotations]) -> list[Shown]:
    return [Shown(compared, n, range(len(each.objects))) for n, each in enumerate(frames)]


def measured(compared: Sequence[Shown], frames: Sequence[FrameAnnotations], others: Any) -> Measured:
    """HOTA, IDF1 and switches."""
    ids, true, ious = [], [], []
    for frame, other, one in zip(frames, others, compared, strict=True):
        given, asked = one.given, one.asked
        ids.append([each.object_id for each, is_given in zip(frame.objects, given, strict=True) if is_given])
        true.append([each.object_id for each, is_asked in zip(other.objects, asked, strict=True) if is_asked])
        ious.append(one.ious[np.ix_(asked, given)])
    return measure(Sequences(true, ids, ious), 0.5)


def partners(compared: Shown, frame: FrameAnnotations, whole: FrameAnnotations) -> dict[int, int]:
    """Object of the clip in one piece -> the object here that has its mask."""
    ious = compared.ious
    found = {}
    for i, each in enumerate(whole.objects):
        if ious.shape[1] and ious[i].max() >= 0.5:
            found[each.object_id] = frame.objects[int(ious[i].argmax())].object_id
    return found


@dataclass(frozen=True)
class Boundary:
    """Where the clip's rows pass from one window to the next: at `stop`. The overlap before it begins at `start`."""

    start: int
    stop: int

    def is_kept(self, each: int, found: Sequence[Mapping[int, int]]) -> bool:
        """Whether an object has one id on the last frame before the overlap on which it is found, and on the first one
        behind it.
        """
        left = next((found[t][each] for t in range(self.start - 1, -1, -1) if each in found[t]), None)
        right = next((found[t][each] for t in range(self.stop, len(found)) if each in found[t]), None)
        return left is not None and left == right


def crossings(
    boundaries: Sequence[Boundary],
    others: Sequence[FrameAnnotations],
    found: Sequence[Mapping[int, int]],
    *,
    true: bool,
    piece: Sequence[Mapping[int, int]] | None = None,
) -> dict[str, list[int]]:
    """Of each kind of crossing: how many there are, and in how many the object keeps its id. With `piece`, what is
    found of the clip in one piece, only those count in which the object keeps its id there.

    A crossing is an object of the others (the truth, or the clip in one piece) that is seen before the overlap and
    behind it. `visible`: on every frame of the overlap; `hidden`: on none.
    """
    seen = [
        {each.object_id for each in frame.objects if not true or (each.visibility or 0.0) >= SEEN} for frame in others
    ]
    counts = {kind: [0, 0] for kind in KINDS}
    for at in boundaries:
        for each in set().union(*seen[: at.start]) & set().union(*seen[at.stop :]):
            shared = [each in seen[t] for t in range(at.start, at.stop)]
            kind = "visible" if all(shared) else "partly" if any(shared) else "hidden"
            if piece is not None and not at.is_kept(each, piece):
                continue
            counts[kind][0] += 1
            counts[kind][1] += at.is_kept(each, found)
    return counts


def memory_links(links: Links, rows: Sequence[Sequence[FrameAnnotations]], true: Sequence[Compared]) -> list[int]:
    """Links by memory: [that join two tracks of one true object, that join two objects, of which one is no object]."""
    near = 12  # rows of each track next to the link, of which most say what it is
    counts = [0, 0, 0]

    def is_of(window: int, track: int, places: Sequence[int]) -> int | None:
        found: Counter[int] = Counter()
        for n in places:
            ids = [each.object_id for each in rows[window][n].objects]
            if track in ids and found.total() < near:
                ious = true[window].ious[n][:, ids.index(track)]
                if len(ious) and ious.max() >= POSSIBLE:
                    found[int(true[window].ids[n][ious.argmax()])] += 1
        return found.most_common(1)[0][0] if found else None

    for joint in links.joints:
        if joint.by == "memory":
            lost = is_of(joint.window, joint.track, range(len(rows[joint.window]))[::-1])
            born = is_of(joint.to_window, joint.to_track, range(len(rows[joint.to_window])))
            counts[2 if lost is None or born is None else lost != born] += 1
    return counts
