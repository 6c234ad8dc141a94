"""With `tracking.rules: transformers`, ours and transformers' own loop say the same of the same clip.

transformers runs with its optional kernels (a reference implementation stands in for them) and without two of its
bugs, which `test_text_defects` shows on their own.
"""

import functools
from collections.abc import Sequence

import pytest
import torch

from sam3ray.config import TrackingConfig
from tests.engine.pipeline import (
    Found,
    ScriptedDetector,
    Shown,
    clip,
    kernels,
    mended,
    run_ours,
    run_transformers,
    settings,
)
from tests.engine.pipeline import assert_same as assert_identical
from tests.engine.tiny import tiny_model

SEEDS = [0, pytest.param(5, marks=pytest.mark.slow), pytest.param(7, marks=pytest.mark.slow)]
# No object is removed for want of detections: the tracker of a random checkpoint follows nothing.
KEEP = {"hotstart_unmatch_thresh": 15, "hotstart_dup_thresh": 15}


def both(seed, prompts, script, frames, thresholds, object_batch=1, unmended=False, video_seed=None):
    model = tiny_model(seed)
    video = clip(frames, seed if video_seed is None else video_seed)
    detector = script and ScriptedDetector(script, model.low_res_mask_size)
    replaced = {"run_detection": detector.install(model)} if detector else {}
    if detector:
        thresholds = thresholds | {"det_nms_thresh": 0.0}  # transformers' NMS is part of what the script replaces
    with kernels(), settings(model, **thresholds, **replaced), torch.inference_mode():
        if unmended:
            theirs = list(run_transformers(model, video, prompts))
        else:
            with mended(model):
                theirs = list(run_transformers(model, video, prompts))
    tracking = TrackingConfig(rules="transformers", object_batch=object_batch, **thresholds)
    return list(run_ours(model, video, prompts, tracking, detector)), theirs


def agreement(ours: Sequence[Shown], theirs: Sequence[Shown]) -> float:
    """IoU over all pixels of a clip. Per mask it says little here: random checkpoints make masks of a few pixels."""
    shared = total = 0
    for mine, other in zip(ours, theirs, strict=True):
        for i in mine.masks.keys() | other.masks.keys():
            a, b = (side.masks.get(i) for side in (mine, other))
            shared += int((a & b).sum()) if a is not None and b is not None else 0
            total += int((a | b).sum()) if a is not None and b is not None else int((a if b is None else b).sum())
    return shared / total


def at_first(frame, prompt, count=5):
    """Objects on frame 0; later the detector finds them again, too faintly for new ones."""
    score = 0.9 if frame == 0 else 0.6
    return [
        Found((0.2 + 0.25 * (k // 3) + 0.1 * prompt, 0.15 + 0.3 * (k % 3)), 0.1, score - 0.01 * k) for k in range(count)
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_one_prompt_as_published_by_transformers_itself(seed):
    """Nothing mended: no bug bites where all objects come on frame 0 and none is removed."""
    ours, theirs = both(seed, ["red"], at_first, 20, KEEP, unmended=True)
    assert sum(len(shown.masks) for shown in ours) > 60
    assert_identical(ours, theirs)


@pytest.mark.parametrize("seed", SEEDS)
def test_two_prompts_and_objects_that_enter(seed):
    def script(frame, prompt):
        late = [Found((0.5, 0.8), 0.12, 0.95), Found((0.75, 0.3), 0.15, 0.8)]
        return at_first(frame, prompt, 2) + (late if frame == 4 + 5 * prompt else [])

    ours, theirs = both(seed, ["red", "blue"], script, 14, KEEP)
    assert {"red", "blue"} == {prompt for shown in ours for prompt in shown.prompts.values()}
    assert max(i for shown in ours for i in shown.masks) >= 8
    assert_identical(ours, theirs)


@pytest.mark.parametrize("on_tracks", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_reconditioning(seed, on_tracks):
    """Every fourth frame: more conditioning frames than are ever selected, on both sides."""
    thresholds = KEEP | {
        "recondition_every_nth_frame": 4,
        "recondition_on_trk_masks": on_tracks,
        "assoc_iou_thresh": 0.01,
        "high_iou_thresh": 0.01,
        "high_conf_thresh": 0.1,
    }
    ours, theirs = both(seed, ["red"], at_first, 24, thresholds)
    assert_identical(ours, theirs)


@pytest.mark.parametrize("seed", SEEDS)
def test_removal_of_the_unconfirmed_and_of_duplicates(seed):
    """Objects come at random and mostly go by hotstart, with the checkpoint's own thresholds."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.rand(30, 3, 4, generator=generator)

    def script(frame, prompt):
        return [
            Found((float(y), float(x)), 0.08 + 0.2 * float(r), float(s))
            for y, x, r, s in found[frame]
            if s > 0.5 and frame % 3 == prompt
        ]

    ours, theirs = both(seed, ["red", "blue"], script, 24, {})
    ids = {i for shown in theirs for i in shown.masks}
    assert ids
    assert len(ids) < max(ids), "some objects were removed"
    assert_identical(ours, theirs)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_detector_itself(seed):
    """Scores of a random checkpoint, stretched so that some queries pass on some frames."""
    model = tiny_model(seed)

    def stretch(_module, _inputs, output):
        return (output - output.mean(dim=(0, 2, 3), keepdim=True)) * 40 + 2  # (layers, prompts, queries, 1)

    scoring, presence = model.detector_model.dot_product_scoring, model.detector_model.detr_decoder.presence_head
    hooks = [
        scoring.register_forward_hook(stretch),
        presence.register_forward_hook(lambda _module, _inputs, output: output + 6),
    ]
    try:
        ours, theirs = both(seed, ["red", "blue square"], None, 12, {"det_nms_thresh": 0.6} | KEEP)
    finally:
        for hook in hooks:
            hook.remove()
    assert sum(len(shown.masks) for shown in theirs) > 10
    assert_identical(ours, theirs)


@pytest.mark.parametrize("seed", SEEDS)
def test_objects_in_one_batch_give_the_same_masks(seed):
    script = functools.partial(at_first, count=6)
    ours, theirs = both(seed, ["red"], script, 20, KEEP, object_batch=64)
    assert [list(shown.masks) for shown in ours] == [
        [i for i, mask in shown.masks.items() if mask.any()] for shown in theirs
    ]
    assert agreement(ours, theirs) >= 0.999
