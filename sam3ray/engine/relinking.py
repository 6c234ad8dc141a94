"""Gives lost objects their old ids when they come back as new objects of their phrase (`tracking.relink`).

During its hotstart, a new object is not shown yet. On its first frame and some later ones, lost objects of its phrase
are looked for from their memories, and compared with its mask. Once hotstart has accepted the new object, it may turn
out to be one of them (`returning`). It then continues under that id, also on the frames held back.

A lost object can come back only if it has had no mask since the new one's first frame, so no frame has an id twice. The
memories of objects that are no longer tracked (`forget_after_frames`, or a full cap) are kept for this: per phrase,
those of the `MOST` seen last.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from sam3ray.engine.detected import DetectedObject
from sam3ray.engine.hotstart_buffer import LoopStep
from sam3ray.engine.memory import ObjectMemory
from sam3ray.engine.outputs import FrameResult
from sam3ray.engine.postprocess import fill_holes, intersections, ious
from sam3ray.engine.propagation import Propagation
from sam3ray.engine.returning import LOOKS, STEPS, accepted
from sam3ray.engine.vision import FrameFeatures

MOST = 64  # lost objects of a phrase that are remembered and compared with a new one


@dataclass
class Gone:
    """An object that is no longer tracked. `last` is the last frame on which it had a mask."""

    object_id: int
    prompt: int
    score: float
    last: int
    memory: ObjectMemory


@dataclass
class Watch:
    """A new object. `found` says for each lost object how well it fits on each frame compared."""

    object_id: int
    first: int
    found: dict[int, list[float]] = field(default_factory=dict)


class Relinker:
    """Watches the new objects of one clip.

    Attributes:
        watches, gone: by object id.
        frame: the last frame.
        renamed: objects found again on the last frame: id of the new object -> its old id.
    """

    def __init__(self, propagation: Propagation, fill_hole_area: int) -> None:
        self._propagation, self._fill_hole_area = propagation, fill_hole_area
        self.watches: dict[int, Watch] = {}
        self.gone: dict[int, Gone] = {}
        self.renamed: dict[int, int] = {}
        self.frame = 0
        self._going: list[DetectedObject] = []
        propagation.keeps = self._keeps

    def _keeps(self, each: DetectedObject) -> bool:
        self._going.append(each)
        return True

    def after(self, features: FrameFeatures, frame: int, step: LoopStep) -> list[tuple[int, int, float]]:
        """Processes the results of a frame.

        Returns:
            (id, old id, old score) of new objects that turned out to be lost ones. The propagation has been told.
        """
        self.frame = frame
        self._remember(frame)
        objects = {each.object_id: each for each in self._propagation.objects}
        known = objects.keys() | self.gone.keys()
        self.watches = {key: watch for key, watch in self.watches.items() if key in objects}
        for each in [each for each in objects.values() if each.born == frame]:
            lost = self._lost(each, frame)
            if lost:
                self.watches[each.object_id] = Watch(each.object_id, frame, {key: [] for key in lost})
        self.renamed = {}
        if not self.watches:
            return []
        assert step.found is not None
        shown = _with_mask(step.found)
        for watch in self.watches.values():
            watch.found = {key: each for key, each in watch.found.items() if key in known - shown}
            if frame - watch.first in STEPS and watch.found:
                self._probe(features, frame, watch, step.found, watch.object_id in shown)
        return self._decide(step.young)

    def remove(self, object_ids: Collection[int], phrases: Collection[str]) -> None:
        """Stops watching these objects: none of them can turn out to be a lost one."""
        names = self._propagation.phrases
        for each in [e for e in self.gone.values() if e.object_id in object_ids or names[e.prompt] in phrases]:
            self._drop(each.object_id)

    def finish(self) -> list[tuple[int, int, float]]:
        """At the end of the clip, decides about the new objects still watched."""
        return self._decide(frozenset())

    def _remember(self, frame: int) -> None:
        for each in self._going:
            gone = Gone(each.object_id, each.prompt, each.score, frame - each.empty_frames, each.memory)
            self.gone[each.object_id] = gone
            of_phrase = [other for other in self.gone.values() if other.prompt == each.prompt]
            if len(of_phrase) > MOST:
                self._drop(min(of_phrase, key=lambda other: (other.last, -other.object_id)).object_id)
        self._going = []

    def _drop(self, object_id: int) -> None:
        gone = self.gone.pop(object_id, None)
        if gone is not None:
            self._propagation.tracker.forget([gone.memory])
        for watch in self.watches.values():
            watch.found.pop(object_id, None)

    def _lost(self, new: DetectedObject, frame: int) -> list[int]:
        """Objects of its phrase without a mask, the last seen first."""
        last = {
            each.object_id: frame - each.empty_frames
            for each in self._propagation.objects
            if each.prompt == new.prompt and each.empty_frames and each.object_id not in self.watches
        }
        last |= {each.object_id: each.last for each in self.gone.values() if each.prompt == new.prompt}
        return sorted(last, key=lambda key: (-last[key], key))[:MOST]

    @torch.inference_mode()
    def _probe(self, features: FrameFeatures, frame: int, watch: Watch, result: FrameResult, is_shown: bool) -> None:
        if not is_shown:
            for scores in watch.found.values():
                scores.append(0.0)
            return
        tracked = {each.object_id: each.memory for each in self._propagation.objects}
        memories = [_seen(tracked[key] if key in tracked else self.gone[key].memory) for key in watch.found]
        looked = self._propagation.tracker.look(features, frame, memories)
        place = list(result.object_ids).index(watch.object_id)
        mine = result.masks[place : place + 1] > 0
        masks = fill_holes(looked.masks, self._fill_hole_area) > 0
        masks &= (looked.score_logits > 0)[:, None, None]
        shared = intersections(masks, mine).cpu().numpy()
        areas, area = (each.flatten(1).sum(1).cpu().numpy().astype(np.float32) for each in (masks, mine))
        found = ious(shared, areas, area)[:, 0] * looked.score_logits.float().sigmoid().cpu().numpy()
        for scores, value in zip(watch.found.values(), found.tolist(), strict=True):
            scores.append(value)

    def _decide(self, young: frozenset[int]) -> list[tuple[int, int, float]]:
        births = sorted(((each.object_id, each.first) for each in self.watches.values()), key=lambda each: each[::-1])
        # A frame on which either of the two has no mask counts 0.
        scores = {
            new: {key: sum(each[-LOOKS:]) / len(each[-LOOKS:]) for key, each in watch.found.items()}
            for new, watch in self.watches.items()
        }
        pairs = [(new, old) for new, old in accepted(births, scores) if new not in young]
        self.watches = {key: watch for key, watch in self.watches.items() if key in young}
        found = []
        for new, old in pairs:
            score = self._score(old)
            self._propagation.reunite(new, old, score)
            self._drop(old)
            self.renamed[new] = old
            found.append((new, old, score))
        return found

    def _score(self, object_id: int) -> float:
        if object_id in self.gone:
            return self.gone[object_id].score
        return next(each.score for each in self._propagation.objects if each.object_id == object_id)


def _seen(memory: ObjectMemory) -> ObjectMemory:
    """An object's memories of frames on which it was seen. Memories of other frames would say that it is absent."""
    return ObjectMemory(memory.conditioning, {t: each for t, each in memory.tracked.items() if each.passed})


def _with_mask(result: FrameResult) -> set[int]:
    there: Sequence[bool] = (result.masks > 0).flatten(1).any(1).tolist() if len(result.object_ids) else ()
    return {each for each, is_there in zip(result.object_ids, there, strict=True) if is_there}
