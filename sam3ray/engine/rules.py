"""The thresholds of one run, and every deliberate difference between this engine and transformers.

The weights and modules are those of `transformers.Sam3VideoModel`; the loop around them is this package's. Where
transformers 5.23 (`models/sam3_video`, `models/sam3_tracker_video`) differs from the code that Meta published with
the weights (facebookresearch/sam3, `sam3/model`), one of three things happens.

Always fixed, whatever the rules
    * Masks and tracker scores stay with the objects that they were made for on a frame where hotstart removes one;
      transformers pairs the ids left after the removal with the masks made before it. (`text`)
    * A new object is added without tracking the others again: their memory of the frame is kept as it was made.
      transformers runs every object twice on such frames and keeps the second, uncorrected result. (`tracker`)
    * Every clip starts empty: ids count from 1, and no object is hidden because another clip hid it. (`text`)
    * Frames are given one at a time, and hotstart still removes objects, because outputs are held back by
      `hotstart_delay` frames; transformers' streaming call never removes any. (`text`)
    * Mask NMS, hole filling and the removal of sprinkles always run, on every device, without optional packages and
      without code fetched at run time. (`postprocess`)
    * Boxes and areas are measured on the final masks, after the step that makes masks exclude each other, and box
      maxima are exclusive. (`outputs`)
    * An empty final mask gives no annotation. (`outputs`)
    * A phrase longer than the text encoder's 32 tokens is an error; transformers passes it on untruncated. (`detector`)
    * The cap on objects drops the worst new detections, and reports how many. A tracked object never gives way to a
      better new one, since half a track is worth less than none. Under `published`, unlike both upstreams, objects
      without a mask for 16 frames make room, the longest gone first; otherwise, objects that left long ago would block
      new ones. (`association`, `propagation`)
    * An object that hotstart removes gives way to those it overlaps at any frame index; upstream's marker for this
      fails after frame 100,000. (`suppression`)
    * Each object's prompts, conditioning frames and memory are its own. (`tracker`, `prompt_tracker`)

By choice: `tracking.rules`
    `published` (the default) follows Meta's code, `transformers` that of transformers. Outside the tracker's core:

    * A new object's mask prompt is where its logits, resized to the memory encoder's input, are positive; transformers
      takes the low-resolution logits >= 0.5, which is smaller, and empty under a faint detection.
    * Reconditioning gives the object the detection as a mask prompt (new pointer, full score), makes all objects of the
      same birth conditioning on that frame, and leaves the output as it is. transformers makes only the matched object
      conditioning, keeps its pointer, and puts out the raw detection; `recondition_on_trk_masks` is its own option and
      has no effect under `published`.
    * A phrase's result does not depend on the other phrases: where it has no tracked object, each of its detections is
      new whatever its score, as in Meta's code, which has one phrase per run. In transformers this holds only while
      no phrase has a tracked object. Only `max_num_objects` couples phrases: new objects of all phrases are admitted
      by score. (`association`)
    * An object's memory of its first frame is its mask prompt, thresholded at the video's resolution and resized back
      to the model's (1152 -> video -> 288 -> 1008). (`tracker`)
    * When hotstart removes an object, the conditioning frames that its reconditioning gave to objects of the same birth
      become ordinary frames again, unless another object was reconditioned there, too. (`propagation`)
    * The shrink rule looks at masks resized to the memory encoder's input, and at lone objects too (an empty one is
      remembered as surely absent); transformers looks at low-resolution masks and leaves lone objects out.
    * `tracking.geometry_token` is a separate option, off by default. Without boxes, Meta's detector still adds the
      geometry encoder's learned token to every phrase; transformers does not. Real weights have yet to show which of
      the two suits the score thresholds. With boxes, both add the token. (`detector`, `geometry`)

    `tracker` lists the differences in the tracker's core (memory selection, pointers, binarisation).

Differences from Meta's code under both rule sets
    * Its API runs the first frame twice, so that frame 0 shows the stored mask prompt with a score of .99995, gives
      overlaps to the later detection and remembers a soft mask. Here each frame is looked at once.
    * Backward, it turns `>` into `<` in the comparison of who was occluded last (sam3_video_base.py:1047 at 99d02f2).
      Here, in both directions, the object occluded more recently in the direction of travel gives way. With that
      comparison fixed, all its outputs equal ours.
    * Its score for memory selection is the mean over a batch of objects, so that an object's memory depends on the
      other objects of its batch. Here it is the object's own score. (`tracker`)
    * After a later start, it reconditions on multiples of 16 of the video's index. Here frames count from the start, so
      that a clip gives the same rows wherever it was cut from.
    * On frames where an exemplar without a phrase is not looked for, it counts the exemplar's objects as missed, so
      that hotstart removes them all eight frames later. Here only objects that are looked for can be missed.
    * Its video predictor takes one box on one frame, and every prompt starts the session over. Here all boxes of a
      frame are used together, as in its image predictor, and prompts accumulate. (`concepts`)
    * Its CPU code for mask NMS keeps the later of two equal scores, its GPU kernel the earlier; here it is always the
      earlier.

By choice, for speed (each costs quality: docs/performance.md)
    * `tracking.detect_every` looks for phrases on every n-th frame. On the others objects are tracked, and none is new,
      matched or missed. Hotstart counts only these frames, so that results are held back n times as long.
      Reconditioning happens on the first of these frames after each multiple of `recondition_every_nth_frame`.
    * `tracking.memory_frames` n reads fewer memories: the conditioning frames and n - 1 others.
    * `model.image_size` runs the whole model on smaller frames.

By choice, for identity (off, and in neither upstream)
    * `tracking.relink` gives a lost object that comes back as a new one its old id. (`relinking`)

Same results by other means
    * Several prompts share a detector call, several frames a backbone call, the objects of a frame the tracker's.
    * Intersections of masks are matrix products of 0/1 masks: whole numbers below 2**24, exact in float32.
    * Masks, scores, histories and features that no later frame reads are dropped at once.
    * `forget_after_frames` (off by default) drops objects whose mask has been empty for this long. Empty masks affect
      no decision about other objects, so these do not change; a forgotten object that returns is a new one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from sam3ray.config import TrackingConfig

if TYPE_CHECKING:
    from transformers import Sam3VideoConfig


@dataclass(frozen=True)
class Rules:
    """The thresholds in force, under the model's own names (see `transformers.Sam3VideoConfig`)."""

    published: bool
    score_threshold_detection: float
    det_nms_thresh: float
    assoc_iou_thresh: float
    trk_assoc_iou_thresh: float
    new_det_thresh: float
    recondition_on_trk_masks: bool
    hotstart_delay: int
    hotstart_unmatch_thresh: int
    hotstart_dup_thresh: int
    suppress_unmatched_only_within_hotstart: bool
    init_trk_keep_alive: int
    max_trk_keep_alive: int
    min_trk_keep_alive: int
    suppress_overlapping_based_on_recent_occlusion_threshold: float
    decrease_trk_keep_alive_for_empty_masklets: bool
    fill_hole_area: int
    recondition_every_nth_frame: int
    high_conf_thresh: float
    high_iou_thresh: float
    max_num_objects: int
    forget_after_frames: int | None
    detect_every: int
    memory_frames: int | None

    @classmethod
    def of(cls, config: Sam3VideoConfig, tracking: TrackingConfig) -> Rules:
        """The checkpoint's values, overridden by those that the job sets.

        Raises:
            ValueError: the two together contradict each other.
        """
        values: dict[str, Any] = {}
        for field in fields(cls):
            if field.name == "published":
                continue
            value = getattr(tracking, field.name)
            values[field.name] = value if value is not None else getattr(config, field.name, None)
        rules = cls(published=tracking.rules == "published", **values)
        rules._check()
        tracker: Any = config.tracker_config
        most = tracker.num_maskmem
        if rules.memory_frames is not None and rules.memory_frames > most:
            raise ValueError(
                f"tracking.memory_frames is {rules.memory_frames}; allowed: 1 to {most}, the checkpoint's own"
            )
        return rules

    def _check(self) -> None:
        if self.hotstart_delay > 0:
            for name in ("hotstart_unmatch_thresh", "hotstart_dup_thresh"):
                if getattr(self, name) > self.hotstart_delay:
                    raise ValueError(
                        f"tracking.{name} is {getattr(self, name)}, above tracking.hotstart_delay, "
                        f"which is {self.hotstart_delay}: it could never take effect"
                    )
        if self.min_trk_keep_alive > self.max_trk_keep_alive:
            raise ValueError(
                f"tracking.min_trk_keep_alive is {self.min_trk_keep_alive}, above tracking.max_trk_keep_alive, "
                f"which is {self.max_trk_keep_alive}"
            )
