"""Objects that clicks, boxes and masks point out, followed through a clip.

Forward, every object starts on the frame of its first prompt; backward, on that of its last; in both
directions, on that of its first, and then also back to the beginning. A prompt on a frame that the
object has already reached refines it from there in the direction of travel. `refine="throughout"`
goes through the clip once more with all prompts known, the way the upstreams' notebooks propagate
again after a correction.

Deliberate differences from transformers 5.23 (T is modeling_, TPR processing_sam3_tracker_video.py),
in both rule sets:

* prompts on any number of frames and objects count, in any order (TPR:736 keeps the last call's);
* an object that is prompted later than others does not exist before (T:1849 makes every frame up to
  its prompt a conditioning frame without a prompt);
* objects may have different numbers of clicks: they are batched by number, not padded (padding is
  attended to, and changes which masks compete);
* one object's prompt leaves the memory of the others alone (T:2793 makes all of them hard masks);
* backward from the first frame yields that frame (T:2864 yields none), and the range is as named.

Under published rules (Meta's sam3_tracking_predictor.py, at 99d02f2) a refinement looks at its frame
alone, starts from the mask that was there, and becomes a conditioning frame. Objects prompted on the
same frame exclude each other in memory. One thing is not taken over: there, a prompt for one object
makes that frame a conditioning frame of all objects, so that adding an object changes the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Literal

import numpy as np
import torch

from sam3ray.annotations import FrameAnnotations
from sam3ray.config import TrackingConfig
from sam3ray.engine.checkpoint import Checkpoint
from sam3ray.engine.following import Followed, Following
from sam3ray.engine.frames import Preprocessor
from sam3ray.engine.interaction import PromptedObject, Round, prompted_objects
from sam3ray.engine.lookahead import LENGTH_HORIZON
from sam3ray.engine.outputs import FrameFacts, FrameMasks, FrameResult, finish
from sam3ray.engine.source import FrameSource, read_backward
from sam3ray.engine.spool import Spool, merged
from sam3ray.engine.tracked import TrackedMasks
from sam3ray.engine.tracker import Tracker
from sam3ray.engine.transfer import indices
from sam3ray.engine.vision import backbone_features
from sam3ray.failures import ClipError, Reason
from sam3ray.prompts import VisualPrompt
from sam3ray.video import Frame

Direction = Literal["forward", "backward", "both"]
Refine = Literal["onward", "throughout"]


class VisualEngine:
    """Follows prompted objects through clips. One clip at a time; nothing of a clip is left when it ends."""

    def __init__(self, checkpoint: Checkpoint, tracking: TrackingConfig | None = None) -> None:
        self._checkpoint = checkpoint
        self._tracking = tracking or TrackingConfig()

    def annotate(
        self,
        source: FrameSource,
        prompts: Iterable[VisualPrompt],
        *,
        direction: Direction = "forward",
        refine: Refine = "onward",
        progress: Callable[[], None] | None = None,
    ) -> Iterator[FrameAnnotations]:
        """As `segment`, with the objects' labels in the rows."""
        given = tuple(prompts)
        labels = [each.label for each in prompted_objects(given, source.height, source.width)]
        results = self.segment(source, given, direction=direction, refine=refine, progress=progress)
        return (masks.annotations(labels) for masks in results)

    def segment(
        self,
        source: FrameSource,
        prompts: Iterable[VisualPrompt],
        *,
        direction: Direction = "forward",
        refine: Refine = "onward",
        progress: Callable[[], None] | None = None,
    ) -> Iterator[FrameMasks]:
        """Segments one clip.

        Args:
            source: its frames; read once for forward and onward, else several times.
            prompts: resolved (see `sam3ray.prompts`); objects keep their ids.
            progress: called after each frame that was worked on: results of passes that cannot
                leave in display order come late.

        Returns:
            One value per frame, in display order; `prompts` in it are places among the objects by
            ascending id, `scores` are 1.

        Raises:
            ValueError: a prompt does not fit the frames.
            ClipError: over_limits, where the prompts that an object starts with only say what it is not;
                empty_range, where a prompt's frame is not among those read.
        """
        objects = prompted_objects(prompts, source.height, source.width)
        if not objects:
            raise ValueError("there must be at least one visual prompt, got none")
        for each in objects:
            _check_start(each, direction, source)
        run = _Run(self._checkpoint, self._tracking, source, objects, direction, refine, progress or (lambda: None))
        return run.results()


def _check_start(each: PromptedObject, direction: Direction, source: FrameSource) -> None:
    frame = each.frames[-1] if direction == "backward" else each.frames[0]
    if not any(turn.shows_the_object for turn in each.rounds(frame, source.height, source.width)):
        raise ClipError(
            Reason.OVER_LIMITS,
            f"object {each.object_id} starts on frame {frame} (direction {direction}) with negative clicks only; "
            f"allowed: a positive click, a box or a mask there",
            f"frame {frame}",
        )


class _Run:
    """One clip: the passes over its frames, and their results in display order."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        tracking: TrackingConfig,
        source: FrameSource,
        objects: list[PromptedObject],
        direction: Direction,
        refine: Refine,
        progress: Callable[[], None],
    ) -> None:
        self._checkpoint = checkpoint
        self._source = source
        self._size = source.height, source.width
        self._direction = direction
        self._throughout = refine == "throughout"
        self._progress = progress
        self._preprocess = Preprocessor(checkpoint)
        self._tracker = Tracker(
            checkpoint.model,
            tracking.rules,
            tracking.object_batch,
            offload_state=tracking.offload_state,
            video_size=self._size,
        )
        self._following = Following(self._tracker, self._size, keep_for_second_pass=self._throughout)
        self._objects = [Followed(spec) for spec in objects]
        self._place = {each.object_id: place for place, each in enumerate(objects)}
        self._waiting: dict[int, list[Followed]] = {}
        for followed in self._objects:
            for frame in followed.spec.prompts:
                self._waiting.setdefault(frame, []).append(followed)

    def results(self) -> Iterator[FrameMasks]:
        if self._direction == "forward":
            for _, masks in self._forward():
                yield masks
            return
        with Spool(*self._size) as ahead, Spool(*self._size) as behind:
            count = 0
            for position, masks in self._forward() if self._direction == "both" else self._survey():
                ahead.put(position, masks)
                count = position + 1
            for position, masks in self._backward():
                behind.put(position, masks)
            for position in range(count):
                shown = ahead.get(position)
                assert shown is not None
                yield merged(shown, behind.get(position))

    # Passes over the clip

    def _forward(self) -> Iterator[tuple[int, FrameMasks]]:
        if self._throughout:
            self._rehearse(self._read())
        for position, frame in self._read():
            due = self._take(frame.index)
            self._check_passed(frame.index)
            active = [each for each in self._objects if each.born is not None and each.born <= position]
            masks = self._work(position, frame, active, due)
            if self._direction == "both":
                for followed in self._objects:
                    followed.memory.backward_from = followed.born
            yield position, masks
        self._check_passed(None)

    def _survey(self) -> Iterator[tuple[int, FrameMasks]]:
        """Results without objects for all frames; learns where the backward pass begins."""
        self._stop = 0
        missing = set(self._waiting)
        for position, frame in self._read():
            if frame.index in missing:
                missing.discard(frame.index)
                self._stop = position + 1
            self._progress()
            yield position, self._finished(frame, [], None)
        if missing:
            self._check_passed(None, missing)

    def _backward(self) -> Iterator[tuple[int, FrameMasks]]:
        after_forward = self._direction == "both"
        if after_forward:
            self._stop = max((each.born for each in self._objects if each.born is not None), default=0)
        elif self._throughout:
            self._rehearse(read_backward(self._source, self._stop), reverse=True)
        for position, frame in read_backward(self._source, self._stop):
            due = self._take(frame.index)
            active = [
                each for each in self._objects if each.born is not None and self._lies_behind(each.born, position)
            ]
            yield position, self._work(position, frame, active, due, reverse=True)

    def _lies_behind(self, born: int, position: int) -> bool:
        """Whether a backward pass has come to an object; in both directions, forward showed its first frame."""
        return position < born if self._direction == "both" else position <= born

    def _rehearse(self, frames: Iterator[tuple[int, Frame]], *, reverse: bool = False) -> None:
        """Learns what every prompt shows, before the pass that counts, up to the last prompt.

        Published rules track on the way, since a refinement starts from the mask that it corrects;
        transformers' take each prompt alone, as if all had been queued.
        """
        tracks = self._tracker.rules == "published"
        for position, frame in frames:
            due = self._take(frame.index)
            if not reverse:
                self._check_passed(frame.index)
            active = [each for each in self._objects if each.born is not None and tracks]
            if active or due:
                self._follow(position, frame, active, due, reverse)
            self._progress()
            if not self._waiting:
                break
        self._check_passed(None)
        self._following.begin_second_pass([each.memory for each in self._objects])

    # One frame

    def _read(self) -> Iterator[tuple[int, Frame]]:
        """All frames. The tracker has to know the length of a short clip before it begins."""
        frames = self._source.read()
        first = deque(islice(frames, LENGTH_HORIZON))
        self._tracker.num_frames = len(first) if len(first) < LENGTH_HORIZON else None
        return enumerate(chain(_drained(first), frames))

    def _take(self, frame_index: int) -> list[tuple[Followed, tuple[Round, ...]]]:
        """The objects prompted on a frame, once."""
        return [(each, each.spec.rounds(frame_index, *self._size)) for each in self._waiting.pop(frame_index, [])]

    def _check_passed(self, frame_index: int | None, waiting: Iterable[int] | None = None) -> None:
        """Raises if a prompt waits for a frame that lies before `frame_index` (None: the end) and never came."""
        for frame in sorted(self._waiting if waiting is None else waiting):
            if frame_index is None or frame < frame_index:
                ids = ", ".join(str(each.spec.object_id) for each in self._waiting[frame])
                raise ClipError(
                    Reason.EMPTY_RANGE,
                    f"frame {frame}, on which object {ids} is prompted, is not among the frames read "
                    "(see the clip's range and sampling rate)",
                    f"frame {frame}",
                )
            break

    def _work(
        self,
        position: int,
        frame: Frame,
        active: list[Followed],
        due: list[tuple[Followed, tuple[Round, ...]]],
        *,
        reverse: bool = False,
    ) -> FrameMasks:
        objects: list[Followed] = []
        tracked: TrackedMasks | None = None
        if active or due:
            objects, tracked = self._follow(position, frame, active, due, reverse)
        self._progress()
        return self._finished(frame, objects, tracked)

    @torch.inference_mode()
    def _follow(
        self,
        position: int,
        frame: Frame,
        active: list[Followed],
        due: list[tuple[Followed, tuple[Round, ...]]],
        reverse: bool,
    ) -> tuple[list[Followed], TrackedMasks | None]:
        with self._checkpoint.precision():
            hidden = backbone_features(self._checkpoint.model, self._preprocess(frame))
            features = self._tracker.features(hidden)[0]
            return self._following.step(features, position, active, due, reverse=reverse)

    @torch.inference_mode()
    def _finished(self, frame: Frame, objects: list[Followed], tracked: TrackedMasks | None) -> FrameMasks:
        order = sorted(range(len(objects)), key=lambda i: objects[i].spec.object_id)
        ids = [objects[i].spec.object_id for i in order]
        if tracked is None:
            masks, scores = torch.zeros(0, 1, 1), np.zeros(0, np.float32)
        else:
            rows = indices(order, tracked.masks.device)
            masks = tracked.masks[rows]
            scores = tracked.score_logits[rows].float().sigmoid().cpu().numpy()
        result = FrameResult(
            facts=FrameFacts.of(frame),
            object_ids=ids,
            prompts=[self._place[each] for each in ids],
            scores=[1.0] * len(ids),
            track_scores=scores,
            masks=masks,
        )
        return finish(result, range(len(ids)), *self._size)


def _drained(frames: deque[Frame]) -> Iterator[Frame]:
    while frames:
        yield frames.popleft()
