"""Finds and tracks the objects of phrases in one clip.

The order of a frame: track every object, clean the masks, compare them with the detections, decide (on the host, on
numbers), then write the decisions into the tracker's memory. Only one small tensor of counts and scores is read back
from the device.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from sam3ray.engine.association import Association, associate
from sam3ray.engine.concepts import name_of
from sam3ray.engine.detected import DetectedObject
from sam3ray.engine.detector import Detections, detections_above, nms_by_phrase
from sam3ray.engine.hotstart import Hotstart
from sam3ray.engine.hotstart_buffer import LoopStep
from sam3ray.engine.ids import Ids
from sam3ray.engine.interaction import Round
from sam3ray.engine.lookahead import FrameWork
from sam3ray.engine.outputs import FrameResult
from sam3ray.engine.overlaps import Overlaps, PendingOverlaps
from sam3ray.engine.postprocess import fill_holes
from sam3ray.engine.prompting import run_rounds
from sam3ray.engine.rules import Rules
from sam3ray.engine.suppression import (
    ALWAYS,
    NEVER,
    NO_OBJECT_LOGIT,
    SURE_LOGIT,
    recently_occluded,
    suppress_shrunk,
)
from sam3ray.engine.tally import Tally
from sam3ray.engine.tracker import Tracker
from sam3ray.engine.tracker_values import TrackedMasks
from sam3ray.engine.transfer import indices, mark
from sam3ray.engine.vision import FrameFeatures

_REFINEMENT_WINDOW = 16  # frames; as in Meta's code (sam3_video_inference.py)
_ABSENT_FRAMES = 16  # without a mask, before a full cap lets an object go for a new one


class Propagation:
    """Tracks the objects of one clip.

    Args:
        tracker: a new tracker for this clip.

    Attributes:
        found_at_first: objects found on the first frame.
        opening: whether the tracked frames are the beginning of the clip, see `_confirm`.
        keeps: called with each object to be forgotten: returns True if the callee keeps its memories.
    """

    opening = True
    keeps: Callable[[DetectedObject], bool]

    def __init__(self, tracker: Tracker, rules: Rules, ids: Ids | None = None) -> None:
        self.tracker = tracker
        self._rules = rules
        self._ids = ids or Ids()
        self._pointed: dict[int, tuple[Round, ...]] = {}
        self.phrases: list[str] = []
        self.objects: list[DetectedObject] = []
        self.hotstart = Hotstart(rules)
        self.found_at_first = 0
        self.tally = Tally()
        self.keeps = lambda each: False

    @property
    def object_ids(self) -> frozenset[int]:
        return frozenset(each.object_id for each in self.objects)

    def remove(self, object_ids: Collection[int] = (), phrases: Collection[str] = ()) -> None:
        """Stops tracking these objects, and all objects of these phrases. Other objects' memories do not change."""
        gone = [e for e in self.objects if e.object_id in object_ids or self.phrases[e.prompt] in phrases]
        for each in gone:
            self.hotstart.forget(each.object_id)
        self.tracker.forget([each.memory for each in gone])
        self.objects = [each for each in self.objects if each not in gone]

    def reunite(self, object_id: int, with_id: int, score: float) -> None:
        """Continues an object under the id and score of a lost one, whose state is dropped."""
        for each in [each for each in self.objects if each.object_id == with_id]:
            self.hotstart.forget(with_id)
            self.tracker.forget([each.memory])
            self.objects.remove(each)
        (found,) = [each for each in self.objects if each.object_id == object_id]
        found.object_id, found.score = with_id, score
        self.hotstart.rename(object_id, with_id)
        for givers in (givers for each in self.objects for givers in each.memory.borrowed.values()):
            if object_id in givers:
                givers.remove(object_id)
                givers.add(with_id)
        self.objects.sort(key=lambda each: each.object_id)

    def step(
        self,
        work: FrameWork,
        meanwhile: Callable[[], None],
        prompts: dict[int, tuple[Round, ...]] | None = None,
    ) -> LoopStep:
        """Processes one frame, in order.

        Args:
            meanwhile: called while the device processes this frame, before its numbers are needed.
            prompts: visual prompts on this frame by object; those on objects of phrases, also new ones, are taken out.
        """
        rules, tracker, objects = self._rules, self.tracker, self.objects
        frame, features = work.position, work.features
        assert features is not None
        prompts = {} if prompts is None else prompts
        self._pointed = {each: prompts.pop(each) for each in prompts.keys() & self.object_ids}
        for object_id in self._pointed:
            self.hotstart.confirm(object_id)
        coming = [each for each in prompts if each >= self._ids.next or each in self._ids.repeated]
        self._pointed |= {each: prompts[each] for each in coming}
        tracked = tracker.track(features, frame, [each.memory for each in objects]) if objects else None
        masks = fill_holes(tracked.masks, rules.fill_hole_area) if tracked else None
        detections = self._detections(work)
        overlaps = PendingOverlaps(detections, masks, tracked.score_logits if tracked else None)
        meanwhile()
        among_detections, facts = overlaps.read()
        keep = nms_by_phrase(detections, among_detections, rules.det_nms_thresh)
        if not keep.all():
            detections, facts = detections.take(np.flatnonzero(keep)), facts.of_detections(keep)

        track_prompts = np.array([each.prompt for each in objects], dtype=np.int64)
        found = associate(
            facts.detection_ious,
            detections.scores,
            detections.prompts,
            track_prompts,
            facts.areas == 0,
            rules,
            absent=self._absent(facts) if rules.published else 0,
        )
        if not self.opening:
            self._confirm(found, detections.scores)
        newcomers = [
            DetectedObject(object_id, int(detections.prompts[d]), float(detections.scores[d]), frame)
            for object_id, d in zip(self._ids.take(len(found.new)), found.new, strict=True)
        ]
        # Phrases that were not detected on this frame do not count as missed.
        looked_for = {self.phrases.index(name_of(asked)) for asked in work.phrases}
        missed, empty = (
            [objects[place].object_id for place in places if objects[place].prompt in looked_for]
            for places in (found.unmatched, found.empty)
        )
        removed, hidden = self.hotstart.update(
            self._looks(frame),
            new=[each.object_id for each in newcomers],
            matched=[[objects[place].object_id for place in places] for places in found.matched_tracks],
            unmatched=missed,
            empty=empty,
        )
        shown = None
        if masks is not None:
            shown = self._remember(frame, features, masks, facts, found, detections, removed)
        fresh = self._add(frame, features, newcomers, detections, found)
        if shown is not None and tracked is not None:
            shown = self._refine(frame, features, objects, tracked, shown)
        scores = [1.0 if each.object_id in self._pointed else facts.scores[n] for n, each in enumerate(objects)]
        self._pointed = {}

        present = [place for place, each in enumerate(objects) if each.object_id not in removed]
        result = self._result(work, shown, present, scores, newcomers, fresh)
        is_young = partial(self._is_young, frame=frame + 1)
        for each in objects:
            for lent, givers in list(each.memory.borrowed.items()):
                givers -= removed
                if not givers:
                    tracker.take_back(lent, each.memory)
                elif not is_young(each):
                    del each.memory.borrowed[lent]  # kept for good: no giver can be removed any more
        self._drop(removed, len(newcomers))
        self.objects += newcomers
        for object_id in coming:
            if object_id in self.object_ids:
                del prompts[object_id]
            else:
                self._ids.reserve(object_id)
        self._ids.repeat(())
        tracker.prune(frame, [each.memory for each in self.objects])
        tally = self.tally
        if not tally.frames:
            self.found_at_first = len(newcomers)
        tally.frames += 1
        tally.objects += len(newcomers)
        tally.removed += len(removed)
        tally.dropped = max(tally.dropped, found.dropped)
        young = (each.object_id for each in self.objects if not each.pointed_at and is_young(each))
        return LoopStep(
            work.stamp, result, hidden=frozenset(hidden), removed=frozenset(removed), young=frozenset(young)
        )

    def _looks(self, frame: int) -> int:
        """How often phrases have been looked for, up to this frame. Hotstart counts in these looks."""
        return frame // self._rules.detect_every

    def _is_young(self, each: DetectedObject, frame: int) -> bool:
        """Whether hotstart may still remove the object on a frame."""
        return self.hotstart.is_young(self._looks(each.born), self._looks(frame))

    def _detections(self, work: FrameWork) -> Detections:
        if work.proposals is None:
            return Detections(torch.empty((0, 1, 1)), np.zeros(0, np.float32), np.zeros(0, np.int64))
        names = [name_of(asked) for asked in work.phrases]
        self.phrases += [name for name in names if name not in self.phrases]
        found = detections_above(work.proposals, self._rules.score_threshold_detection)
        numbers = np.array([self.phrases.index(name) for name in names], dtype=np.int64)
        return replace(found, prompts=numbers[found.prompts])

    def _refine(
        self,
        frame: int,
        features: FrameFeatures,
        objects: Sequence[DetectedObject],
        tracked: TrackedMasks,
        shown: torch.Tensor,
    ) -> torch.Tensor:
        """Applies this frame's visual prompts to objects with these masks. Returns the masks to show.

        As in Meta's code, an object's score becomes 1, the frame becomes one of its conditioning frames, and nearby
        conditioning frames made only by a detection become ordinary ones. Unlike there, hotstart never removes or hides
        it again, since a person has confirmed it.
        """
        places = [place for place, each in enumerate(objects) if each.object_id in self._pointed]
        if not places:
            return shown
        due = [(objects[place].memory, self._pointed[objects[place].object_id]) for place in places]
        earlier = {n: tracked.masks[place] for n, place in enumerate(places)}
        result = run_rounds(self.tracker, features, frame, due, earlier)
        for each in (objects[place] for place in places):
            each.score = 1.0
            each.pointed_at.append(frame)
            self.hotstart.confirm(each.object_id)
            near = [t for t in each.memory.conditioning if 0 < abs(t - frame) <= _REFINEMENT_WINDOW]
            if self._rules.published and near:
                self.tracker.make_ordinary(each.memory, [t for t in near if t not in each.pointed_at])
        shown = shown.clone()
        shown[indices(places, shown.device)] = fill_holes(result.masks, self._rules.fill_hole_area).to(shown.dtype)
        return shown

    def _confirm(self, found: Association, scores: np.ndarray) -> None:
        """Corrects scores at the start of a later window, where it is not known what was tracked before.

        An object that was new only because nothing was tracked takes the score of the first detection that would have
        started it anyway.
        """
        enough = self._rules.new_det_thresh
        if not found.matched_tracks:
            return  # nothing was detected, or tracked
        for score, places in zip(scores.tolist(), found.matched_tracks, strict=True):
            matched = [self.objects[place] for place in places]
            if score >= enough and all(each.score < enough for each in matched):
                for each in matched:
                    each.score = score

    def _absent(self, facts: Overlaps) -> int:
        """How many objects have been without a mask for so long that a new object may take their place."""
        areas = facts.areas.tolist()
        return sum(not n and each.empty_frames >= _ABSENT_FRAMES for each, n in zip(self.objects, areas, strict=True))

    def _remember(
        self,
        frame: int,
        features: FrameFeatures,
        masks: torch.Tensor,
        facts: Overlaps,
        found: Association,
        detections: Detections,
        removed: set[int],
    ) -> torch.Tensor:
        """Decides the masks of the tracked objects, and encodes them into memory. Returns the masks to show."""
        rules, tracker, objects = self._rules, self.tracker, self.objects
        reconditioned = self._recondition(frame, features, facts, found, detections)

        last = [
            each.last_occluded if each.last_occluded is not None else ALWAYS if each.object_id in removed else NEVER
            for each in objects
        ]
        prompts = np.array([each.prompt for each in objects])
        gives_way = recently_occluded(
            facts.track_ious,
            np.array(last, dtype=np.int64),
            prompts,
            rules.suppress_overlapping_based_on_recent_occlusion_threshold,
        )
        for place, each in enumerate(objects):
            is_empty = facts.areas[place] == 0
            each.last_occluded = frame if is_empty or gives_way[place] else last[place]
            each.empty_frames = each.empty_frames + 1 if is_empty else 0
        if gives_way.any():
            places = indices(np.flatnonzero(gives_way).tolist(), masks.device)
            masks = masks.index_fill(0, places, NO_OBJECT_LOGIT)

        if rules.published:
            size = tracker.memory_mask_size
            remembered = F.interpolate(masks.unsqueeze(1), (size, size), mode="bilinear").squeeze(1)
        else:
            remembered = masks.clone()
            if not rules.recondition_on_trk_masks:
                for place, detection in reconditioned.items():
                    remembered[place] = (detections.masks[detection] >= 0.5).to(remembered.dtype)
        groups = [np.flatnonzero(prompts == prompt).tolist() for prompt in dict.fromkeys(prompts.tolist())]
        remembered, is_there = suppress_shrunk(remembered, groups, lone=rules.published)
        logits = torch.where(is_there, SURE_LOGIT, -SURE_LOGIT).to(remembered.dtype)
        # Objects with visual prompts on this frame get their memory from the prompts.
        gone = removed | self._pointed.keys()
        staying = [place for place, each in enumerate(objects) if each.object_id not in gone]
        if len(staying) < len(objects):
            index = indices(staying, masks.device)
            remembered, logits = remembered[index], logits[index]
        if staying:
            memories = [objects[place].memory for place in staying]
            tracker.encode_memory(features, frame, memories, remembered, logits)

        if reconditioned and not rules.published:
            masks = masks.clone()
            for place, detection in reconditioned.items():
                masks[place] = detections.masks[detection].to(masks.dtype)
        return masks

    def _recondition(
        self, frame: int, features: FrameFeatures, facts: Overlaps, found: Association, detections: Detections
    ) -> dict[int, int]:
        """Replaces objects' memories by detections that agree with them. Returns object place -> detection."""
        rules, tracker, objects = self._rules, self.tracker, self.objects
        every = rules.recondition_every_nth_frame
        before = (frame - 1) // rules.detect_every * rules.detect_every  # when phrases were last looked for
        if every <= 0 or frame // every == before // every:
            return {}
        # Both codes compare the threshold with the raw logit.
        chosen = {
            place: detection
            for place, detection in found.recondition.items()
            if facts.score_logits[place] > rules.high_conf_thresh
        }
        if not chosen:
            return {}
        memories = [objects[place].memory for place in chosen]
        if rules.published:
            index = indices(list(chosen.values()), detections.masks.device)
            tracker.recondition(features, frame, memories, tracker.mask_prompt(detections.masks[index]))
            givers: dict[tuple[int, int], set[int]] = {}
            for each in (objects[place] for place in chosen):
                givers.setdefault((each.born, each.prompt), set()).add(each.object_id)
            for each in objects:
                of_birth = givers.get((each.born, each.prompt), set())
                if of_birth and each.object_id not in of_birth:
                    tracker.lend(frame, each.memory, set(of_birth))
        else:
            tracker.recondition(features, frame, memories, None)
        return chosen

    def _add(
        self,
        frame: int,
        features: FrameFeatures,
        newcomers: Sequence[DetectedObject],
        detections: Detections,
        found: Association,
    ) -> torch.Tensor | None:
        """Gives the tracker its new objects. Returns their masks to show."""
        if not newcomers:
            return None
        masks = detections.take(np.array(found.new)).masks
        added = self.tracker.add_masks(
            features,
            frame,
            [each.memory for each in newcomers],
            self.tracker.mask_prompt(masks),
            groups=[each.prompt for each in newcomers],
        )
        return self._refine(frame, features, newcomers, added, fill_holes(masks, self._rules.fill_hole_area))

    def _result(
        self,
        work: FrameWork,
        shown: torch.Tensor | None,
        present: Sequence[int],
        track_scores: Sequence[float],
        newcomers: Sequence[DetectedObject],
        fresh: torch.Tensor | None,
    ) -> FrameResult:
        parts = []
        if shown is not None:
            everyone = len(present) == len(shown)
            parts.append(shown if everyone else shown[indices(present, shown.device)])
        if fresh is not None:
            parts.append(fresh.to(parts[0].dtype) if parts else fresh)
        masks = torch.cat(parts) if parts else torch.empty((0, 1, 1))
        everyone_here = [*(self.objects[place] for place in present), *newcomers]
        # The tracker has no score for a new object yet, so the detection's is used.
        scores = np.array(
            [*(track_scores[place] for place in present), *(each.score for each in newcomers)], dtype=np.float32
        )
        return FrameResult(
            stamp=work.stamp,
            object_ids=[each.object_id for each in everyone_here],
            prompts=[self.phrases[each.prompt] for each in everyone_here],
            groups=[each.prompt for each in everyone_here],
            scores=[each.score for each in everyone_here],
            track_scores=scores,
            masks=masks,
            ready=mark(masks.device),
        )

    def _drop(self, removed: set[int], newcomers: int) -> None:
        """Drops removed objects, objects gone for long, and, if new ones need their place, those gone longest."""
        limit = self._rules.forget_after_frames
        others = [each for each in self.objects if each.object_id not in removed]
        excess = max(0, len(others) + newcomers - self._rules.max_num_objects)
        longest_gone = sorted(others, key=lambda each: -each.empty_frames)[:excess]
        makes_room = {each.object_id for each in longest_gone}
        staying, going = [], []
        for each in self.objects:
            if each.object_id in removed:
                going.append(each)
            elif each.object_id in makes_room or (limit is not None and each.empty_frames >= limit):
                if not self.keeps(each):
                    going.append(each)
                self.hotstart.forget(each.object_id)
                self.tally.forgotten += 1
            else:
                staying.append(each)
        if len(staying) < len(self.objects):
            self.tracker.forget([each.memory for each in going])
            self.objects = staying
