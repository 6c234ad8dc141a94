"""The text pipeline on tiny random checkpoints, ours and transformers' own, on the same clip."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from transformers import CLIPTokenizer, Sam2VideoVideoProcessor, Sam3VideoModel, Sam3VideoProcessor
from transformers.models.sam3.image_processing_sam3 import Sam3ImageProcessor
from transformers.models.sam3_video import modeling_sam3_video as modeling

from sam3ray.config import TrackingConfig
from sam3ray.engine.checkpoint import Checkpoint
from sam3ray.engine.detector import DetectorLike, Proposals
from sam3ray.engine.engine import Engine
from sam3ray.masks import decode_rle
from sam3ray.video import Frame
from tests.engine.tiny import IMAGE

HEIGHT, WIDTH = 90, 120


def processor(image: int = IMAGE) -> Sam3VideoProcessor:
    letters = string.ascii_lowercase
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    size = {"height": image, "width": image}
    return Sam3VideoProcessor(
        image_processor=Sam3ImageProcessor(size=size),
        video_processor=Sam2VideoVideoProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3),
        tokenizer=CLIPTokenizer(vocab={word: place for place, word in enumerate(vocabulary)}, merges=[]),
        target_size=image,
    )


def checkpoint(model: Sam3VideoModel) -> Checkpoint:
    dtype = next(model.parameters()).dtype
    steps = processor(model.config.tracker_config.image_size)
    return Checkpoint(model, steps, torch.device("cpu"), dtype, autocast=False, info={})


def clip(frames: int, seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> list[Frame]:
    """Blocks that drift over noise."""
    rng = np.random.default_rng(seed)
    background = rng.integers(0, 80, (height, width, 3), dtype=np.uint8)
    colours = rng.integers(100, 255, (4, 3), dtype=np.uint8)
    starts = rng.uniform(0, 60, (4, 2))
    steps = rng.uniform(-1, 1.5, (4, 2))
    out = []
    for t in range(frames):
        image = background.copy()
        for colour, (y, x) in zip(colours, (starts + steps * t).astype(int), strict=True):
            image[max(y, 0) : max(y + 18, 0), max(x, 0) : max(x + 24, 0)] = colour
        out.append(Frame(t, t * 512, t / 25, image))
    return out


@dataclass(frozen=True)
class Found:
    """One scripted detection: an ellipse of logits with a score."""

    centre: tuple[float, float]  # y, x as fractions of the frame
    radius: float
    score: float
    peak: float = 8.0

    def mask(self, size: int) -> torch.Tensor:
        y, x = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
        distance = ((y - self.centre[0]) ** 2 + (x - self.centre[1]) ** 2).sqrt()
        return self.peak * (1 - distance / self.radius).clamp(min=-1)


Script = Callable[[int, int], Sequence[Found]]  # frame, prompt -> detections


@dataclass
class ScriptedDetector:
    """Says what the script says; takes the place of the model's detector on both sides."""

    script: Script
    size: int

    def propose(self, backbone: torch.Tensor, prompts: Sequence[str], first_position: int) -> list[Proposals]:
        return [self._frame(first_position + n, len(prompts)) for n in range(len(backbone))]

    def _frame(self, frame: int, prompts: int) -> Proposals:
        per_prompt = [list(self.script(frame, prompt)) for prompt in range(prompts)]
        queries = max(1, *(len(found) for found in per_prompt))
        probs = torch.zeros(prompts, queries)
        masks = torch.full((prompts, queries, self.size, self.size), -8.0)
        for prompt, found in enumerate(per_prompt):
            for query, each in enumerate(found):
                probs[prompt, query] = each.score
                masks[prompt, query] = each.mask(self.size)
        return Proposals(masks, probs)

    def install(self, model: Sam3VideoModel) -> Callable[..., dict[int, dict[str, torch.Tensor]]]:
        """A `run_detection` for transformers' loop. Scores below its threshold are never asked for."""
        frames = iter(range(10**9))

        def run_detection(inference_session: object, vision_embeds: object) -> dict[int, dict[str, torch.Tensor]]:
            frame = next(frames)
            out = {}
            for prompt in inference_session.prompts:  # type: ignore[attr-defined]
                found = list(self.script(frame, prompt))
                masks = [each.mask(self.size) for each in found]
                out[prompt] = {
                    "bbox": torch.zeros(len(found), 4),
                    "mask": torch.stack(masks) if masks else torch.zeros(0, self.size, self.size),
                    "scores": torch.tensor([each.score for each in found]),
                }
            return out

        return run_detection


@dataclass
class Shown:
    """What one side shows of one frame: object id (from 1) -> value."""

    masks: dict[int, np.ndarray]
    scores: dict[int, float]
    track_scores: dict[int, float]
    prompts: dict[int, str]
    boxes: dict[int, tuple[float, ...]]


def run_transformers(
    model: Sam3VideoModel, frames: Sequence[Frame], prompts: Sequence[str], **options: object
) -> Iterator[Shown]:
    """The way of transformers' documentation."""
    steps = processor()
    dtype = next(model.parameters()).dtype
    session = steps.init_video_session(video=[frame.image for frame in frames], dtype=dtype)
    session = steps.add_text_prompt(session, list(prompts))
    for output in model.propagate_in_video_iterator(session, **options):
        final = steps.postprocess_outputs(session, output)
        phrase = {i: text for text, ids in final["prompt_to_obj_ids"].items() for i in ids}
        ids = final["object_ids"].tolist()
        yield Shown(
            masks={i + 1: mask.numpy() for i, mask in zip(ids, final["masks"], strict=True)},
            scores={i + 1: float(score) for i, score in zip(ids, final["scores"], strict=True)},
            track_scores={i + 1: float(output.obj_id_to_tracker_score.get(i, 0.0)) for i in ids},
            prompts={i + 1: phrase[i] for i in ids},
            boxes={i + 1: tuple(box.tolist()) for i, box in zip(ids, final["boxes"], strict=True)},
        )


def run_ours(
    model: Sam3VideoModel,
    frames: Sequence[Frame],
    prompts: Sequence[str],
    tracking: TrackingConfig,
    detector: DetectorLike | None = None,
) -> Iterator[Shown]:
    engine = Engine(checkpoint(model), tracking, detector)
    height, width = frames[0].image.shape[:2]
    for frame in engine.annotate(iter(frames), height, width, prompts):
        each = {o.object_id: o for o in frame.objects}
        yield Shown(
            masks={i: decode_rle(o.rle, height, width) for i, o in each.items()},
            scores={i: o.score for i, o in each.items()},
            track_scores={i: o.track_score for i, o in each.items()},
            prompts={i: o.prompt for i, o in each.items()},
            boxes={i: o.bbox for i, o in each.items()},
        )


class ReferenceKernels:
    """What transformers' optional kernels compute, by other means than ours (scipy, plain loops)."""

    def generic_nms(
        self, ious: torch.Tensor, scores: torch.Tensor, threshold: float, use_iou_matrix: bool
    ) -> torch.Tensor:
        assert use_iou_matrix
        kept: list[int] = []
        for i in sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i)):
            if all(float(ious[i, k]) <= threshold for k in kept):
                kept.append(i)
        return torch.tensor(kept, dtype=torch.long)

    def cc_2d(self, masks: torch.Tensor, get_counts: bool) -> tuple[torch.Tensor, torch.Tensor]:
        assert get_counts
        labels, counts = torch.zeros_like(masks, dtype=torch.int32), torch.zeros_like(masks, dtype=torch.int32)
        for i, mask in enumerate(masks[:, 0].numpy()):
            found, _ = ndimage.label(mask, structure=np.ones((3, 3)))
            sizes = np.bincount(found.ravel())
            sizes[0] = 0
            labels[i, 0] = torch.from_numpy(found)
            counts[i, 0] = torch.from_numpy(sizes[found])
        return labels, counts


def assert_same(ours: Sequence[Shown], theirs: Sequence[Shown], iou: float = 1.0, score: float = 1e-4) -> None:
    """Same ids, prompts and scores on every frame, and masks that agree. Empty masks are not shown by ours."""
    assert len(ours) == len(theirs)
    for t, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        ids = [i for i, mask in other.masks.items() if mask.any()]
        assert list(mine.masks) == ids, f"frame {t}"
        for i in ids:
            where = f"frame {t}, object {i}"
            assert mine.prompts[i] == other.prompts[i], where
            assert abs(mine.scores[i] - other.scores[i]) <= score, where
            assert abs(mine.track_scores[i] - other.track_scores[i]) <= score, where
            both, either = (mine.masks[i] & other.masks[i]).sum(), (mine.masks[i] | other.masks[i]).sum()
            assert both / either >= iou, f"{where}: IoU {both / either}"


@contextmanager
def kernels() -> Iterator[None]:
    """transformers with the post-processing that it skips where its optional kernels are missing."""
    saved = modeling.cv_utils_kernel
    modeling.cv_utils_kernel = ReferenceKernels()
    try:
        yield
    finally:
        modeling.cv_utils_kernel = saved


@contextmanager
def mended(model: Sam3VideoModel) -> Iterator[None]:
    """transformers' loop with two of its bugs out of the way, so that the rest can be compared.

    A new object leaves the state of the others alone, and hotstart removes objects after the outputs are built.
    """
    add, execute, one_frame = (
        model._tracker_add_new_objects,
        model.run_tracker_update_execution_phase,
        (model._det_track_one_frame),
    )
    due: set[int] = set()

    def add_only(inference_session: Any, **arguments: Any) -> None:
        kept = {
            place: {kind: {t: dict(entry) for t, entry in frames.items()} for kind, frames in outputs.items()}
            for place, outputs in inference_session.output_dict_per_obj.items()
        }
        add(inference_session=inference_session, **arguments)
        inference_session.output_dict_per_obj.update(kept)

    def execute_later(tracker_update_plan: dict[str, Any], **arguments: Any) -> None:
        due.update(tracker_update_plan["obj_ids_newly_removed"])
        execute(tracker_update_plan={**tracker_update_plan, "obj_ids_newly_removed": set()}, **arguments)

    def frame_then_removal(inference_session: Any, **arguments: Any) -> Any:
        out = one_frame(inference_session=inference_session, **arguments)
        for object_id in due:
            inference_session.remove_object(object_id)
        due.clear()
        return out

    model._tracker_add_new_objects = add_only
    model.run_tracker_update_execution_phase = execute_later
    model._det_track_one_frame = frame_then_removal
    try:
        yield
    finally:
        for name in ("_tracker_add_new_objects", "run_tracker_update_execution_phase", "_det_track_one_frame"):
            delattr(model, name)


@contextmanager
def settings(model: Sam3VideoModel, **values: object) -> Iterator[None]:
    """Attributes of the model, for a while; None in `values` of a method restores the class's."""
    saved = {name: model.__dict__.get(name) for name in values}
    for name, value in values.items():
        setattr(model, name, value)
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                delattr(model, name)
            else:
                setattr(model, name, value)
