"""Tracks the objects of clicks, boxes and masks from frame to frame.

Forward, an object starts on the frame of its first prompt; backward, on that of its last. A prompt on a later frame in
that direction refines it from there on.

Deliberate differences from transformers 5.23 (T is modeling_, TPR processing_sam3_tracker_video.py), in both rule sets:

* prompts on any number of frames and objects count, in any order (TPR:736 keeps the last call's);
* an object that is prompted later than others does not exist before (T:1849 makes every frame up to its prompt a
  conditioning frame without a prompt);
* objects may have different numbers of clicks: they are batched by number, not padded (padding would take part in
  attention, and change which masks compete);
* one object's prompt leaves the memory of the others alone (T:2793 makes all of them hard masks);
* backward from the first frame yields that frame (T:2864 yields none), and the range is as named.

One rule of Meta's code (sam3_tracking_predictor.py, 99d02f2) is not followed: there, a prompt for one object makes that
frame a conditioning frame of all objects, so that adding an object changes the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sam3ray.engine.interaction import Round
from sam3ray.engine.memory import RuleSet
from sam3ray.engine.outputs import FrameResult
from sam3ray.engine.policy import Pass
from sam3ray.engine.prompting import run_rounds
from sam3ray.engine.tracker import Tracker
from sam3ray.engine.tracker_values import TrackedMasks
from sam3ray.engine.transfer import indices, mark, to_host
from sam3ray.engine.vision import FrameFeatures
from sam3ray.engine.visual_prompts import PromptedObject, VisualPrompts
from sam3ray.video import FrameStamp


class PromptTracker:
    """Drives the tracker for the prompted objects of one clip.

    Args:
        tracker: a tracker that knows the size of the source's frames.
        both_ways: keep what a backward pass from each object's first frame will read.
    """

    def __init__(self, tracker: Tracker, visual: VisualPrompts, *, both_ways: bool) -> None:
        self.tracker = tracker
        self._visual = visual
        self._both_ways = both_ways

    def active(self, position: int, walk: Pass) -> list[PromptedObject]:
        """The objects to find on a frame by their memories, or to show as before."""

        def is_active(born: int | None) -> bool:
            if born is None or takes_prompts_alone(walk, self.tracker.rules):
                return False
            if not walk.reverse:
                return born <= position
            # A way back after a way forward, which has shown the object's first frame.
            return position < born if self._both_ways else position <= born

        return [each for each in self._visual.in_order if is_active(each.born)]

    def step(
        self,
        stamp: FrameStamp,
        features: FrameFeatures,
        position: int,
        prompts: Mapping[int, tuple[Round, ...]],
        walk: Pass,
        meanwhile: Callable[[], None],
    ) -> FrameResult | None:
        """Processes one frame.

        Args:
            prompts: by object. An object that is active is refined, another one starts.
            meanwhile: called once the frame's work is queued, before waiting for it.

        Returns:
            The objects, each in its own group; None if there is none.
        """
        tracker, reverse = self.tracker, walk.reverse
        due = [(self._visual.started(key, rounds, stamp.index), rounds) for key, rounds in sorted(prompts.items())]
        active = self.active(position, walk)
        if not (active or due):
            return None
        due_now = {id(each) for each, _ in due}
        known = [each for each in active if position in each.shown]
        found = [each for each in active if position not in each.shown]
        tracked = tracker.track(features, position, [each.memory for each in found], reverse=reverse)
        plain = [i for i, each in enumerate(found) if id(each) not in due_now]
        if plain:
            part = tracked if len(plain) == len(found) else tracked.of(plain)
            tracker.encode_memory(
                features, position, [found[i].memory for i in plain], tracker.upsample(part.masks), part.score_logits
            )
        objects, results = [found[i] for i in plain], [tracked.of(plain)] if plain else []
        if due:
            objects += [each for each, _ in due]
            results.append(self._prompt(features, position, due, found, tracked, walk))
        for each in known:
            objects.append(each)
            results.append(each.shown[position])
        meanwhile()
        memories = [each.memory for each in objects]
        tracker.prune(position, memories, reverse=reverse, keep_conditioning=walk.rehearsal)
        if self._both_ways and not reverse:
            for each in objects:
                each.memory.backward_from = each.born
        return _result(stamp, objects, TrackedMasks.joined(results)) if objects else None

    def end_rehearsal(self) -> None:
        """Forgets all but the prompted frames."""
        self.tracker.forget_tracked(each.memory for each in self._visual.in_order)

    def _prompt(
        self,
        features: FrameFeatures,
        position: int,
        due: Sequence[tuple[PromptedObject, tuple[Round, ...]]],
        found: Sequence[PromptedObject],
        tracked: TrackedMasks,
        walk: Pass,
    ) -> TrackedMasks:
        places = {id(each): place for place, each in enumerate(found)}
        earlier = {place: tracked.masks[places[id(each)]] for place, (each, _) in enumerate(due) if id(each) in places}
        given = [(each.memory, rounds) for each, rounds in due]
        result = run_rounds(self.tracker, features, position, given, earlier, reverse=walk.reverse)
        for i, (each, _) in enumerate(due):
            if each.born is None:
                each.born = position
            if walk.rehearsal:
                each.shown[position] = result.of([i])
        return result


def takes_prompts_alone(walk: Pass, rules: RuleSet) -> bool:
    """transformers' rules take each prompt alone in a rehearsal, as if all had been queued.

    Published rules track on the way, since a refinement starts from the mask that it corrects.
    """
    return walk.rehearsal and rules == "transformers"


def _result(stamp: FrameStamp, objects: Sequence[PromptedObject], tracked: TrackedMasks) -> FrameResult:
    order = sorted(range(len(objects)), key=lambda i: objects[i].object_id)
    rows = indices(order, tracked.masks.device)
    scores, arrived = to_host(tracked.score_logits[rows].float().sigmoid())
    ordered = [objects[i] for i in order]
    return FrameResult(
        stamp=stamp,
        object_ids=[each.object_id for each in ordered],
        prompts=[each.label for each in ordered],
        groups=list(range(len(ordered))),
        scores=[1.0] * len(ordered),
        track_scores=scores.numpy(),
        masks=tracked.masks[rows],
        ready=mark(tracked.masks.device),
        arrived=arrived,
    )
