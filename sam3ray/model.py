"""A loaded model: sessions frame by frame, and whole clips."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

from sam3ray.config import ModelConfig, TrackingConfig
from sam3ray.engine.checkpoint import load_checkpoint
from sam3ray.engine.policy import Direction, Policy, PolicyName, Refine
from sam3ray.failures import UserError
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.values.phrases import as_phrases, phrases_problem
from sam3ray.values.prompts import ExemplarPrompt, VisualPrompt
from sam3ray.video import Frame

if TYPE_CHECKING:
    from sam3ray.engine.ids import Ids
    from sam3ray.engine.outputs import MaskForm
    from sam3ray.engine.recorder import Recorder
    from sam3ray.engine.session import Session
    from sam3ray.engine.source import FrameSource


class Model:
    """A loaded model. Load once, use for many clips.

    Attributes:
        model_info: what the model is: checkpoint, revision, dtype, device, rules, thresholds.
        stats: of the clip that `segment` is at, or ended last: `dropped_objects` counts the objects that
            `tracking.max_num_objects` left no room for.
        can_resume: `segment` takes a recorder.
    """

    can_resume = True

    def __init__(
        self,
        model: ModelConfig,
        tracking: TrackingConfig | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Loads the checkpoint onto its device.

        Args:
            storage_options: fsspec options, for a checkpoint on an object store.

        Raises:
            JobStopped: it cannot be loaded; the message says what to do.
        """
        self._checkpoint = load_checkpoint(model, storage_options)
        self._tracking = tracking or TrackingConfig()
        self._rung = -1
        self.set_memory_rung(0)
        self.model_info: dict[str, Any] = self._checkpoint.info | self._engine.info

    def check_phrases(self, phrases: Sequence[str]) -> None:
        """Raises UserError if one is empty, too long, or there twice."""
        if problem := phrases_problem(tuple(phrases)):
            raise UserError(f"the session {problem}")
        self._engine.check_phrases(tuple(phrases))

    @property
    def tracking(self) -> TrackingConfig:
        """The thresholds and batch sizes in force, memory aside."""
        return self._tracking

    @property
    def stats(self) -> dict[str, int]:
        return {"dropped_objects": self._engine.tally.dropped}

    def set_memory_rung(self, rung: int) -> None:
        """Trades speed for memory in the clips to come.

        0 is the configuration's own; 2 works on one frame and an eighth of the objects at a time; 3
        also keeps what objects remember in host memory; 4 also asks for one phrase at a time. Batch
        shapes change the last bits of floating point numbers, so the rung belongs into a clip's metadata.
        """
        from sam3ray.engine import Engine

        if rung == self._rung:
            return
        self._rung = rung
        tracking = self._tracking
        if rung >= 2:
            tracking = tracking.model_copy(
                update={
                    "frame_batch": 1,
                    "object_batch": max(1, tracking.object_batch // 8),
                    "offload_state": tracking.offload_state or rung >= 3,
                    "prompt_batch": 1 if rung >= 4 else tracking.prompt_batch,
                }
            )
        self._engine = Engine(self._checkpoint, tracking)

    def with_tracking(self, tracking: TrackingConfig) -> Model:
        """The same weights under other thresholds. Nothing is loaded again.

        Raises:
            ValueError: the thresholds contradict each other or the checkpoint's.
        """
        other = copy(self)
        other._tracking, other._rung = tracking, -1
        other.set_memory_rung(max(self._rung, 0))
        other.model_info = self._checkpoint.info | other._engine.info
        return other

    def session(
        self,
        height: int,
        width: int,
        policy: PolicyName = "whole",
        *,
        masks: MaskForm = "rle",
        length: int | None = None,
        ids: Ids | None = None,
    ) -> Session:
        """Begins a session on one clip: prompts are added, frames given, results taken (docs/session.md).

        Args:
            height, width: of the frames, in pixels.
            policy: "whole": results are final, and leave `hotstart_delay` - 1 frames late. "live": they leave at once,
                and may be retracted. "backward": frames are given from the last to the first. "both" and "refined": the
                frames are given twice (see `Session.next_pass`).
            masks: "rle" for run lengths, as in annotations; "array" or "tensor" for bool pixels instead.
            length: number of frames, where it is known; else the session waits for 16 before it begins.
            ids: those of an earlier session on the same clip (`Session.ids`): no id is given twice.

        Raises:
            ValueError: a size below 1, or a policy or form of masks that does not exist.
        """
        from sam3ray.engine.session import Session

        return Session(self._engine, height, width, Policy.named(policy), length=length, ids=ids, masks=masks)

    def segment(
        self,
        frames: Iterable[Frame] | FrameSource,
        height: int,
        width: int,
        prompts: str | Sequence[str] = (),
        visual_prompts: Sequence[VisualPrompt] = (),
        *,
        direction: Direction | None = None,
        refine: Refine | None = None,
        start_frame: int | None = None,
        phrase_direction: Direction | None = None,
        exemplars: Sequence[ExemplarPrompt] = (),
        progress: Callable[[], None] | None = None,
        recorder: Recorder | None = None,
    ) -> Iterator[FrameAnnotations]:
        """Labels one clip.

        Args:
            frames: of one size, in display order, read only as far ahead as needed. A `FrameSource`
                (`sam3ray.video.ClipFrames`) where they are looked at more than once: backward, or
                `refine="throughout"`.
            height, width: of the frames, in pixels.
            prompts: a phrase, or a list of phrases; every instance of each is found and followed.
            visual_prompts: clicks, boxes and masks, resolved (`sam3ray.prompts.resolve_prompts`);
                their objects keep their ids, and those of phrases count up from above them.
            direction, refine: of the visual prompts (see `sam3ray.engine.policy`); None takes the
                configuration's.
            start_frame: index of the frame on which phrases are first looked for. None: the first frame; the last,
                where `phrase_direction` is "backward".
            phrase_direction: which way they go from there. None: as `direction`, where there is a `start_frame`; else
                forward.
            exemplars: concepts shown by boxes, resolved (`sam3ray.prompts.resolve_exemplars`). They go the way of the
                phrases, and so do their ids.
            progress: called after each processed frame: what is found backward comes late.
            recorder: saves the clip's progress; another call can continue from there. Not used if phrases go
                backward.

        Returns:
            One value per frame, in order. With phrases, values come some frames late: a new object is watched for
            `hotstart_delay` frames before it is accepted.

        Raises:
            ValueError: nothing is asked for, or an exemplar or a visual prompt does not fit.
            UserError: a phrase is empty, too long or given twice, or an exemplar's label is a phrase, too.
            ClipError: over_limits, where an object starts with prompts that only say what it is not.
        """
        way = direction or self._tracking.direction
        if phrase_direction is None:
            phrase_direction = way if start_frame is not None else "forward"
        return self._engine.annotate(
            frames,
            height,
            width,
            as_phrases(prompts),
            visual_prompts,
            direction=way,
            refine=refine or self._tracking.refine,
            start_frame=start_frame,
            phrase_direction=phrase_direction,
            exemplars=exemplars,
            progress=progress,
            recorder=recorder,
        )


def load(
    checkpoint: str = "facebook/sam3",
    *,
    tracking: TrackingConfig | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Model:
    """Loads a model once, for any number of sessions and clips.

    Args:
        checkpoint: a hub id, a folder, or the address of a folder on an object store, which is fetched once;
            `embedded` is the small one in the package.
        tracking: thresholds and batch sizes.
        storage_options: fsspec options, for a checkpoint on an object store.
        options: of `sam3ray.ModelConfig`: `device`, `dtype`, `revision`, `compile`, `offline`, `cache_dir`.

    Raises:
        UserError: an option that does not exist or does not fit.
        JobStopped: the checkpoint cannot be loaded; the message says what to do.
    """
    from pydantic import ValidationError

    try:
        config = ModelConfig(checkpoint=checkpoint, **options)
    except ValidationError as error:
        raise UserError([_sentence(problem) for problem in error.errors()]) from None
    return Model(config, tracking, storage_options)


def _sentence(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"]) or "an option"
    if problem["type"] == "extra_forbidden":
        allowed = ", ".join(sorted(set(ModelConfig.model_fields) - {"checkpoint"}))
        return f"{name} is not a model option; allowed: {allowed}"
    return f"{name} is {problem['input']!r:.80}: {problem['msg']}"
