"""Decides which detections belong to which tracked objects. Pure: numbers in, decisions out.

Follows `_associate_det_trk` of the code published with the weights; transformers' version is equivalent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sam3ray.engine.rules import Rules


@dataclass(frozen=True, eq=False)
class Association:
    """How one frame's detections relate to the tracked objects.

    Detections and tracks are given by their index among those of the frame.

    Attributes:
        new: detections that are new objects, ascending; by falling score if the cap dropped some.
        matched_tracks: for each detection, the tracks that it overlaps enough to be the same object.
        unmatched: tracks with a mask that no detection confirms.
        empty: tracks without a mask on this frame.
        recondition: track -> the confident detection that agrees with it best.
        dropped: number of new objects that the cap on objects dropped.
    """

    new: tuple[int, ...]
    matched_tracks: tuple[tuple[int, ...], ...]
    unmatched: tuple[int, ...]
    empty: tuple[int, ...]
    recondition: dict[int, int]
    dropped: int = 0


def associate(
    ious: np.ndarray,
    scores: np.ndarray,
    detection_prompts: np.ndarray,
    track_prompts: np.ndarray,
    track_is_empty: np.ndarray,
    rules: Rules,
    absent: int = 0,
) -> Association:
    """Match detections with tracks of the same prompt.

    Args:
        ious: (detections, tracks) mask IoU.
        scores: (detections,) detection scores.
        detection_prompts, track_prompts: which prompt each came from.
        track_is_empty: (tracks,) bool.
        absent: number of tracks that may be dropped to make room for new objects.

    A detection may confirm several tracks (hotstart removes duplicates later), and is new only if it overlaps none. If
    its phrase has no tracks, it is new whatever its score. Under transformers' rules this holds only if no phrase has
    tracks, so that one phrase's objects raise the bar for another's.
    """
    detections, tracks = ious.shape
    empty = tuple(np.flatnonzero(track_is_empty).tolist())
    sure_enough = scores >= rules.new_det_thresh
    if tracks == 0:
        return _capped(Association((), (), (), (), {}), np.arange(detections), scores, rules.max_num_objects)
    if detections == 0:
        unmatched = tuple(np.flatnonzero(~track_is_empty).tolist())
        return Association((), (), unmatched, empty, {})

    ious = np.where(detection_prompts[:, None] == track_prompts[None, :], ious, 0)
    is_matched = (ious >= rules.trk_assoc_iou_thresh).any(axis=0)
    unmatched = tuple(np.flatnonzero(~track_is_empty & ~is_matched).tolist())
    same = ious >= rules.assoc_iou_thresh
    if rules.published:
        sure_enough |= ~np.isin(detection_prompts, track_prompts)
    is_new = sure_enough & ~same.any(axis=1)
    matched_tracks = tuple(tuple(np.flatnonzero(row).tolist()) for row in same)

    sure = (scores >= rules.high_conf_thresh) & ~is_new & (ious.max(axis=1) >= rules.high_iou_thresh)
    best = ious.argmax(axis=1)
    recondition = {int(best[d]): int(d) for d in np.flatnonzero(sure)}
    room = max(0, rules.max_num_objects - tracks + absent)
    found = Association((), matched_tracks, unmatched, empty, recondition)
    return _capped(found, np.flatnonzero(is_new), scores, room)


def _capped(found: Association, new: np.ndarray, scores: np.ndarray, room: int) -> Association:
    """Adds these new objects, without the worst ones if there would be too many."""
    dropped = max(0, len(new) - room)
    if dropped:
        new = new[np.argsort(-scores[new], kind="stable")[:room]]
    return replace(found, new=tuple(new.tolist()), dropped=dropped)
