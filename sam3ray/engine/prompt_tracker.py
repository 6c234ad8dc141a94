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

from collections.abc import Callable, Sequence

from sam3ray.engine.interaction import Round
from sam3ray.engine.memory import ObjectMemory
from sam3ray.engine.outputs import FrameResult
from sam3ray.engine.prompting import run_rounds
from sam3ray.engine.tracker import Tracker
from sam3ray.engine.tracker_values import TrackedMasks
from sam3ray.engine.transfer import indices, mark, to_host
from sam3ray.engine.vision import FrameFeatures
from sam3ray.engine.visual_prompts import PromptedObject
from sam3ray.video import FrameStamp


class PromptTracker:
    """Drives the tracker for the prompted objects of one clip.

    Args:
        tracker: a tracker that knows the size of the source's frames.

    Attributes:
        rehearsing: whether to keep all prompted frames and their masks, until `begin_second_pass`.
        both_ways: whether to keep what a backward pass from each object's first frame will read.
    """

    def __init__(self, tracker: Tracker, *, rehearsing: bool = False, both_ways: bool = False) -> None:
        self.tracker = tracker
        self.rehearsing = rehearsing
        self.both_ways = both_ways

    def step(
        self,
        stamp: FrameStamp,
        features: FrameFeatures,
        position: int,
        active: Sequence[PromptedObject],
        due: Sequence[tuple[PromptedObject, tuple[Round, ...]]],
        *,
        reverse: bool,
        meanwhile: Callable[[], None],
    ) -> FrameResult | None:
        """Processes one frame.

        Args:
            active: objects to find on this frame from their memories, or with the mask shown before.
            due: objects prompted on it, with their rounds. An object that is also active is refined.
            meanwhile: called once the frame's work is queued, before waiting for it.

        Returns:
            The objects, each in its own group; None if there is none.
        """
        tracker = self.tracker
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
            results.append(self._prompt(features, position, due, found, tracked, reverse))
        for each in known:
            objects.append(each)
            results.append(each.shown[position])
        meanwhile()
        tracker.prune(
            position,
            [each.memory for each in objects],
            reverse=reverse,
            keep_conditioning=self.rehearsing,
        )
        if self.both_ways and not reverse:
            for each in objects:
                each.memory.backward_from = each.born
        return _result(stamp, objects, TrackedMasks.joined(results)) if objects else None

    def begin_second_pass(self, memories: Sequence[ObjectMemory]) -> None:
        """Forgets all but the prompted frames."""
        self.tracker.forget_tracked(memories)
        self.rehearsing = False

    def _prompt(
        self,
        features: FrameFeatures,
        position: int,
        due: Sequence[tuple[PromptedObject, tuple[Round, ...]]],
        found: Sequence[PromptedObject],
        tracked: TrackedMasks,
        reverse: bool,
    ) -> TrackedMasks:
        places = {id(each): place for place, each in enumerate(found)}
        earlier = {place: tracked.masks[places[id(each)]] for place, (each, _) in enumerate(due) if id(each) in places}
        given = [(each.memory, rounds) for each, rounds in due]
        result = run_rounds(self.tracker, features, position, given, earlier, reverse=reverse)
        for i, (each, _) in enumerate(due):
            if each.born is None:
                each.born = position
            if self.rehearsing:
                each.shown[position] = result.of([i])
        return result


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
