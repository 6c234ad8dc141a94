"""A loaded model, for sessions frame by frame and for whole clips."""

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
    from sam3ray.engine.vision import Sight


class Model:
    """A loaded model. Load once, use for many clips.

    Attributes:
        model_info: identifies the model: checkpoint, revision, dtype, device, rules, thresholds.
        stats: counts for the current or last clip of `segment`: `dropped_objects` is the number of objects dropped
            because of `tracking.max_num_objects`.
        can_resume: whether `segment` takes a recorder.
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
            JobStopped: the checkpoint cannot be loaded; the message says what to do.
        """
        self._checkpoint = load_checkpoint(model, storage_options)
        self._tracking = tracking or TrackingConfig()
        self._rung = -1
        self.set_memory_rung(0)
        self.model_info: dict[str, Any] = self._checkpoint.info | self._engine.info

    def check_phrases(self, phrases: Sequence[str]) -> None:
        """Raises UserError if a phrase is empty, too long or given twice."""
        if problem := phrases_problem(tuple(phrases)):
            raise UserError(f"the session {problem}")
        self._engine.check_phrases(tuple(phrases))

    @property
    def tracking(self) -> TrackingConfig:
        """The thresholds and batch sizes in force, apart from the memory rung."""
        return self._tracking

    @property
    def stats(self) -> dict[str, int]:
        return {"dropped_objects": self._engine.tally.dropped}

    def set_memory_rung(self, rung: int) -> None:
        """Trades speed for memory in later clips.

        0 is the configuration's own; 2 works on one frame and an eighth of the objects at a time; 3
        also keeps what objects remember in host memory; 4 also asks for one phrase at a time. Batch sizes change the
        last bits of floating-point numbers, so a clip's metadata must record the rung.
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
        """A model with the same weights and other thresholds. Loads nothing again.

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
        sight: Sight | None = None,
    ) -> Session:
        """Begins a session on one clip: add prompts, give frames, take results (docs/session.md).

        Args:
            height, width: size of the frames, in pixels.
            policy: "whole": results are final, and come `hotstart_delay` - 1 frames late. "live": they come at once,
                and may be retracted. "backward": give frames from the last to the first. "both" and "refined": give the
                frames twice (see `Session.next_pass`).
            masks: "rle" for run lengths, as in annotations; "array" or "tensor" for bool pixels instead.
            length: number of frames, if known; else the session waits for 16 frames before it begins.
            ids: the ids of an earlier session on the same clip (`Session.ids`), so that no id is given twice.
            sight: shared by sessions that are given the same frame, as for a click after a click: the frame goes
                through the vision backbone once.

        Raises:
            ValueError: a size is below 1, or there is no such policy or form of masks.
        """
        from sam3ray.engine.session import Session

        return Session(
            self._engine, height, width, Policy.named(policy), length=length, ids=ids, masks=masks, sight=sight
        )

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
            frames: of one size, in display order, read only as far ahead as needed. Must be a `FrameSource`
                (`sam3ray.video.ClipFrames`) if frames are needed more than once: backward, or with
                `refine="throughout"`.
            height, width: of the frames, in pixels.
            prompts: a phrase, or a list of phrases; every instance of each is found and followed.
            visual_prompts: clicks, boxes and masks, resolved (`sam3ray.prompts.resolve_prompts`);
                their objects keep their ids, and those of phrases count up from above them.
            direction, refine: of the visual prompts (see `sam3ray.engine.policy`); None takes the
                configuration's.
            start_frame: index of the frame on which phrases are first looked for. None: the first frame, or the last if
                `phrase_direction` is "backward".
            phrase_direction: direction from there. None: like `direction` if there is a `start_frame`, else forward.
            exemplars: concepts shown by boxes, resolved (`sam3ray.prompts.resolve_exemplars`). Direction and ids are as
                for phrases.
            progress: called after each processed frame, since values of a backward pass come late.
            recorder: saves the clip's progress; another call can continue from there. Not used if phrases go
                backward.

        Returns:
            One value per frame, in order. With phrases, values come some frames late: a new object is watched for
            `hotstart_delay` frames before it is accepted.

        Raises:
            ValueError: there is no prompt, or an exemplar or visual prompt does not fit.
            UserError: a phrase is empty, too long or given twice, or an exemplar's label is also a phrase.
            ClipError: over_limits, if an object starts with negative clicks only.
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
        options: keys of `sam3ray.ModelConfig`: `device`, `dtype`, `revision`, `compile`, `offline`, `cache_dir`.

    Raises:
        UserError: an option does not exist, or has a wrong value.
        JobStopped: the checkpoint cannot be loaded; the message says what to do.
    """
    return Model(ModelConfig(checkpoint=checkpoint, **options), tracking, storage_options)
