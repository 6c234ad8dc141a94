"""Under the published rules a phrase is given what it would be given alone, whatever else is asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sam3ray import ModelConfig, Segmenter
from sam3ray.annotations import FrameAnnotations
from sam3ray.config import TrackingConfig
from sam3ray.engine.engine import Engine
from sam3ray.shapes import ClipSpec, draw_clip
from sam3ray.video import Frame
from tests.engine.pipeline import HEIGHT, WIDTH, Found, ScriptedDetector, checkpoint, clip
from tests.engine.tiny import small_model

PHRASES = ("red", "blue", "green")
FRAMES = clip(13)
# Batch shapes round differently; young objects are removed, hidden and reconditioned within a few frames.
TRACKING = TrackingConfig(
    object_batch=1,
    hotstart_delay=5,
    hotstart_unmatch_thresh=4,
    hotstart_dup_thresh=3,
    recondition_every_nth_frame=3,
    high_conf_thresh=0.0,
    high_iou_thresh=0.1,
    suppress_unmatched_only_within_hotstart=False,
    init_trk_keep_alive=2,
)


def of_phrase(frames: Sequence[FrameAnnotations], phrase: str) -> list[list[tuple[object, ...]]]:
    """The rows of one phrase, its objects numbered as they appear."""
    numbers: dict[int, int] = {}
    return [
        [
            (numbers.setdefault(o.object_id, len(numbers)), o.score, o.track_score, o.bbox, o.area, o.rle)
            for o in frame.objects
            if o.prompt == phrase
        ]
        for frame in frames
    ]


@settings(max_examples=2, deadline=None)
@given(st.integers(0, 2**32 - 1))
@pytest.mark.usefixtures("one_thread")
def test_any_set_of_phrases_gives_each_what_it_gives_alone(seed):
    rng = np.random.default_rng(seed)
    model = small_model(int(rng.integers(0, 3)), 1.0)
    script: dict[str, list[list[Found]]] = {}
    for phrase in PHRASES:
        places = rng.uniform(0.2, 0.8, (3, 2))
        first = int(rng.integers(0, 6))
        script[phrase] = [
            [
                Found((float(y), float(x)), float(rng.uniform(0.08, 0.2)), float(rng.uniform(0.45, 1)))
                for y, x in places[rng.random(3) < 0.7]
                if frame >= first
            ]
            for frame in range(len(FRAMES))
        ]

    def run(phrases: Sequence[str]) -> list[FrameAnnotations]:
        detector = ScriptedDetector(lambda frame, prompt: script[phrases[prompt]][frame], model.low_res_mask_size)
        engine = Engine(checkpoint(model), TRACKING, detector)
        return list(engine.annotate(iter(FRAMES), HEIGHT, WIDTH, phrases))

    together = run(PHRASES)
    for phrase in PHRASES:
        assert of_phrase(together, phrase) == of_phrase(run([phrase]), phrase)


@pytest.mark.usefixtures("one_thread")
def test_on_a_drawn_clip_with_the_checkpoint_in_the_package():
    spec = ClipSpec(seed=7, width=160, height=120, frames=16, fps=10, objects=(3, 5))
    frames = [Frame(index, index, index / 10, drawn.image) for index, drawn in enumerate(draw_clip(spec))]
    tracking = TrackingConfig(object_batch=1, prompt_batch=1)
    segmenter = Segmenter(ModelConfig(checkpoint="embedded", device="cpu"), tracking)
    phrases = ["triangle", "square", "circle", "star"]
    together = list(segmenter.segment(iter(frames), 120, 160, phrases))
    assert len({o.prompt for frame in together for o in frame.objects}) > 1
    for phrase in phrases[:2]:
        alone = list(segmenter.segment(iter(frames), 120, 160, [phrase]))
        assert of_phrase(together, phrase) == of_phrase(alone, phrase)
