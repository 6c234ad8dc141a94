"""`rules: transformers`: prompted objects as transformers' documented use gives them."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from sam3ray.config import ModelConfig
from sam3ray.engine.checkpoint import Checkpoint, load_checkpoint
from sam3ray.prompts import PointPrompt
from sam3ray.shapes import ClipSpec, draw_clip
from sam3ray.video import Frame
from tests.engine.documented import Session, standalone, trained
from tests.engine.pipeline import clip
from tests.engine.prompted import LAST, LENGTH, MODELS, WORKFLOWS, assert_alike, assert_same, on_frame, run, workflows

pytestmark = pytest.mark.usefixtures("one_thread", "same_kernel")


class TestRandomWeights:
    """The same masks and scores, bit for bit."""

    @pytest.mark.parametrize(
        ("name", "model"),
        [*((name, MODELS[0]) for name in WORKFLOWS), *((name, m) for m in MODELS[1:] for name in ("clicks", "mask"))],
    )
    def test_forward(self, frames, name, model):
        workflow = WORKFLOWS[name]
        theirs = Session(frames, standalone(*model))
        theirs.add(0, [1], **workflow.inputs)
        assert_same(run(frames, workflow.prompts, model=model), theirs.propagate(start_frame_idx=0))

    @pytest.mark.parametrize("name", ["click", "box", "mask"])
    def test_backward(self, frames, name):
        workflow = WORKFLOWS[name]
        theirs = Session(frames)
        theirs.add(LAST, [1], **workflow.inputs)
        prompts = [on_frame(prompt, LAST) for prompt in workflow.prompts]
        assert_same(run(frames, prompts, direction="backward"), theirs.propagate(start_frame_idx=LAST, reverse=True))

    @pytest.mark.parametrize("name", ["click", "mask"])
    def test_both_directions_from_the_middle(self, frames, name):
        workflow = WORKFLOWS[name]
        theirs = Session(frames)
        theirs.add(9, [1], **workflow.inputs)
        forward = theirs.propagate(start_frame_idx=9)
        backward = theirs.propagate(start_frame_idx=9, reverse=True)
        prompts = [on_frame(prompt, 9) for prompt in workflow.prompts]
        ours = run(frames, prompts, direction="both")
        assert_same(ours, {**backward, **forward})
        assert [result.frame_index for result in ours] == list(range(LENGTH))

    def test_several_objects(self, frames):
        theirs = Session(frames)
        theirs.add(0, [2, 5], input_points=[[[[50, 40]], [[20, 60]]]], input_labels=[[[1], [1]]])
        ours = run(frames, [PointPrompt(((50.0, 40.0),), (True,), 0, 2), PointPrompt(((20.0, 60.0),), (True,), 0, 5)])
        # Two objects share a batch here, and one does there: equal up to rounding.
        assert_alike(ours, theirs.propagate(start_frame_idx=0), ids=(2, 5))

    @pytest.mark.parametrize("name", ["click", "mask", "box"])
    def test_refinement_on_a_frame_already_tracked(self, frames, name):
        """Frame by frame: transformers' second propagation would lose the refinement altogether."""
        theirs = Session(frames)
        theirs.add(0, [1], **WORKFLOWS["click"].inputs)
        expected = {t: theirs.segment(t) for t in range(9)}
        theirs.add(8, [1], **WORKFLOWS[name].inputs)
        expected.update({t: theirs.segment(t) for t in range(8, LENGTH)})
        prompts = WORKFLOWS["click"].prompts + [on_frame(prompt, 8) for prompt in WORKFLOWS[name].prompts]
        assert_same(run(frames, prompts), expected)

    def test_all_prompts_known_before_propagation(self, frames):
        theirs = Session(frames)
        for t, name in ((0, "click"), (8, "box"), (15, "mask")):
            theirs.add(t, [1], **WORKFLOWS[name].inputs)
            theirs.segment(t)
        expected = theirs.propagate(start_frame_idx=0)
        prompts = [
            *WORKFLOWS["click"].prompts,
            on_frame(WORKFLOWS["box"].prompts[0], 8),
            on_frame(WORKFLOWS["mask"].prompts[0], 15),
        ]
        assert_same(run(frames, prompts, refine="throughout"), expected)

    @pytest.mark.parametrize("length", [1, 2, 15, 16])
    def test_short_clips(self, length):
        """Below 16 frames the length decides how pointers are encoded."""
        frames = clip(length, seed=3)
        theirs = Session(frames)
        theirs.add(0, [1], **WORKFLOWS["box"].inputs)
        assert_same(run(frames, WORKFLOWS["box"].prompts), theirs.propagate(start_frame_idx=0))


EMBEDDED = Path(str(resources.files("sam3ray"))) / "embedded" / "model.safetensors"
DRAWN = list(draw_clip(ClipSpec(seed=6, frames=LENGTH, width=320, height=180, objects=(2, 3))))
ON_CIRCLE = workflows([(111, 65), (98, 55), (125, 75)], (185, 57), (87, 41, 136, 90), DRAWN[0].mask(1))


@pytest.mark.skipif(not EMBEDDED.exists(), reason="the package holds no checkpoint")
class TestTrainedWeights:
    """The checkpoint in the package, on a circle drawn at (111, 65).

    Whatever it makes of them, the masks agree: it is trained anew now and then, so no pixel is asked for. Each kind of
    prompt is here once; in every direction they are above.
    """

    @pytest.fixture(scope="class")
    def drawn(self) -> list[Frame]:
        return [Frame(each.index, each.index * 512, each.index / 12, each.image) for each in DRAWN]

    @pytest.fixture(scope="class")
    def weights(self) -> Checkpoint:
        return load_checkpoint(ModelConfig(checkpoint="embedded", device="cpu", dtype="float32"))

    @pytest.mark.parametrize("name", ["negative click", "box and clicks", "mask"])
    def test_forward(self, drawn, weights, name):
        theirs = Session(drawn, *trained())
        theirs.add(0, [1], **ON_CIRCLE[name].inputs)
        ours = run(drawn, ON_CIRCLE[name].prompts, model=weights)
        assert_alike(ours, theirs.propagate(start_frame_idx=0))

    @pytest.mark.parametrize("name", ["click"])
    def test_backward(self, drawn, weights, name):
        theirs = Session(drawn, *trained())
        theirs.add(LAST, [1], **ON_CIRCLE[name].inputs)
        prompts = [on_frame(prompt, LAST) for prompt in ON_CIRCLE[name].prompts]
        ours = run(drawn, prompts, model=weights, direction="backward")
        assert_alike(ours, theirs.propagate(start_frame_idx=LAST, reverse=True))

    def test_both_directions_from_the_middle(self, drawn, weights):
        theirs = Session(drawn, *trained())
        theirs.add(9, [1], **ON_CIRCLE["box"].inputs)
        expected = theirs.propagate(start_frame_idx=9) | theirs.propagate(start_frame_idx=9, reverse=True)
        prompts = [on_frame(prompt, 9) for prompt in ON_CIRCLE["box"].prompts]
        assert_alike(run(drawn, prompts, model=weights, direction="both"), expected)

    @pytest.mark.parametrize("name", ["negative click", "mask"])
    def test_refinement_on_a_frame_already_tracked(self, drawn, weights, name):
        theirs = Session(drawn, *trained())
        theirs.add(0, [1], **ON_CIRCLE["click"].inputs)
        expected = {t: theirs.segment(t) for t in range(9)}
        theirs.add(8, [1], **ON_CIRCLE[name].inputs)
        expected.update({t: theirs.segment(t) for t in range(8, LENGTH)})
        prompts = ON_CIRCLE["click"].prompts + [on_frame(prompt, 8) for prompt in ON_CIRCLE[name].prompts]
        assert_alike(run(drawn, prompts, model=weights), expected)

    def test_several_objects(self, drawn, weights):
        theirs = Session(drawn, *trained())
        theirs.add(0, [2, 5], input_points=[[[[111, 65]], [[233, 64]]]], input_labels=[[[1], [1]]])
        clicks = [PointPrompt(((111.0, 65.0),), (True,), 0, 2), PointPrompt(((233.0, 64.0),), (True,), 0, 5)]
        assert_alike(run(drawn, clicks, model=weights), theirs.propagate(start_frame_idx=0), ids=(2, 5))
