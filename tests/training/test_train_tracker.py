"""What training unrolls is what transformers runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from transformers import Sam3TrackerVideoModel, Sam3TrackerVideoProcessor, Sam3VideoProcessor

from sam3ray.config import ModelConfig, TrackingConfig
from sam3ray.engine import load_checkpoint
from sam3ray.engine.engine import Engine
from sam3ray.masks import decode_rle, encode_masks
from sam3ray.prompts import MaskPrompt
from sam3ray.shapes import COLOURS, SHAPES
from sam3ray.video import Frame
from tools.training import random_checkpoint, unroll
from tools.training.prompts import KINDS, clicks
from tools.training.samples import draw_track
from tools.training.tracker import Helpers, draw_batch, tracking_losses

FRAMES = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return random_checkpoint(tmp_path_factory.mktemp("random"), seed=3, image_size=64)


@pytest.fixture(scope="module")
def whole(folder):
    from transformers import Sam3VideoModel

    return Sam3VideoModel.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("kind", ["mask", "click", "box", "click off"])
def test_the_unroll_gives_the_masks_and_scores_of_transformers(folder, whole, kind, monkeypatch):
    monkeypatch.setattr(unroll, "as_detected", lambda masks, generator: masks)
    track = draw_track(10_000_077, 64, FRAMES, 1)
    with torch.no_grad():
        outputs = unroll.unroll(whole, [track], FRAMES, kind, torch.Generator().manual_seed(0), teach=False)

    processor = Sam3VideoProcessor.from_pretrained(folder)
    processor = Sam3TrackerVideoProcessor(processor.image_processor, processor.video_processor)
    model = Sam3TrackerVideoModel.from_pretrained(folder, dtype=torch.float32).eval()
    video = [((frame.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy() for frame in track.pixels]
    session = processor.init_video_session(video=video, dtype=torch.float32)
    given = {}
    if kind == "mask":
        given["input_masks"] = track.masks[0, 0].numpy()
    else:
        points, labels = clicks(track.masks[:, 0], kind, torch.Generator().manual_seed(0))
        if kind == "box":
            given["input_boxes"] = [[points[0].flatten().tolist()]]
        else:
            given |= {"input_points": [[points[0].tolist()]], "input_labels": [[labels[0].tolist()]]}
    processor.add_inputs_to_inference_session(session, frame_idx=0, obj_ids=[1], original_size=(64, 64), **given)
    model(session, frame_idx=0)
    seen = 0
    for output in model.propagate_in_video_iterator(session, start_frame_idx=0):
        t = output.frame_idx
        if t == 0 and kind == "mask":
            continue  # there the mask given is the output, not the decoder's
        score = output.object_score_logits.flatten()[0]
        # Memories pass through bfloat16 in transformers.
        assert score == pytest.approx(float(outputs[t].scores[0]), abs=0.1)
        if score > 0:
            seen += 1
            assert (output.pred_masks[0, 0] - outputs[t].logits[0]).abs().max() < 0.2
    assert seen or float(outputs[1].scores[0]) <= 0


@pytest.mark.parametrize("again", [(), (3,), (2, 5)])
def test_masks_on_later_frames_are_remembered_as_the_engine_does(again, monkeypatch):
    monkeypatch.setattr(unroll, "as_detected", lambda masks, generator: masks)
    checkpoint = load_checkpoint(ModelConfig(checkpoint="embedded", dtype="float32", device="cpu"))
    track = draw_track(10_000_250, 112, FRAMES, 1)
    with torch.no_grad():
        outputs = unroll.unroll(
            checkpoint.model, [track], FRAMES, "mask", torch.Generator().manual_seed(0), False, again=frozenset(again)
        )

    class Source:
        height = width = 112

        def read(self, start=0, stop=None):
            images = [((frame.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy() for frame in track.pixels]
            return iter([Frame(t, t, t / 25, image) for t, image in enumerate(images)][start:stop])

    truth = track.masks[:1].numpy()
    prompts = [MaskPrompt(encode_masks(truth[:, t])[0].rle, 112, 112, t, 1) for t in (0, *again)]
    engine = Engine(checkpoint, TrackingConfig(fill_hole_area=0))
    for t, shown in enumerate(engine.annotate(Source(), 112, 112, (), prompts)):
        assert outputs[t].scores[0] > 0
        if t not in (0, *again):  # there the mask given is the engine's answer
            expected = unroll.upsample(outputs[t].logits, 112)[0].numpy() > 0
            assert (decode_rle(shown.objects[0].rle, 112, 112) != expected).mean() < 0.001


def test_frames_without_gradients_change_nothing_after_them(whole):
    tracks = draw_batch(1, size=64, objects=2, first=10_000_000).tracks
    frames = len(tracks[0].pixels)

    def run(blind):
        return unroll.unroll(whole, tracks, frames, "mask", torch.Generator().manual_seed(0), teach=False, blind=blind)

    late, whole_clip = run(frames - 1), run(0)
    assert len(late) == 1
    assert len(whole_clip) == frames
    assert torch.equal(late[0].logits, whole_clip[-1].logits)
    assert late[0].logits.requires_grad


def test_every_parameter_of_the_tracker_learns(whole):
    track = draw_track(10_000_078, 64, 3, 2)
    whole.train()
    whole.requires_grad_(False)
    whole.tracker_model.requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    found = set()
    for kind in KINDS:
        outputs = unroll.unroll(whole, [track], 3, kind, generator, teach=False)
        whole.zero_grad()
        sum(tracking_losses(outputs, Helpers(128, 64)).values()).backward()
        found |= {n for n, p in whole.tracker_model.named_parameters() if p.grad is not None and p.grad.any()}
    dead = {n for n, p in whole.tracker_model.named_parameters()} - found
    # Multimask tokens and their heads are switched off in this configuration; the rest upstream never reads.
    unused = ("output_hypernetworks_mlps.1", "output_hypernetworks_mlps.2", "output_hypernetworks_mlps.3")
    unused += ("no_memory_positional_encoding", "occlusion_spatial_embedding_parameter", "no_object_pointer")
    assert not {name for name in dead if not any(part in name for part in unused)}
    whole.eval()


def test_memories_that_grow_are_held_down(whole):
    """They are added to position encodings of about 0.5, and attention over larger ones forgets places and colours."""
    track = draw_track(10_000_078, 64, 3, 1)

    def size():
        outputs = unroll.unroll(whole, [track], 3, "mask", torch.Generator().manual_seed(0), teach=False)
        return tracking_losses(outputs, Helpers(128, 64))["size"]

    before = size()
    with torch.no_grad():
        whole.tracker_model.memory_encoder.projection.weight.mul_(30)
    after = size()
    with torch.no_grad():
        whole.tracker_model.memory_encoder.projection.weight.div_(30)
    assert after > 5 * before


def test_attention_to_the_right_thing_is_told_from_attention_to_another(whole):
    track = draw_track(10_000_078, 64, 2, 1)
    whole.tracker_model.set_attn_implementation("eager")

    def look(track):
        with torch.no_grad():
            return unroll.unroll(whole, [track], 2, "mask", torch.Generator().manual_seed(0), teach=False)[1].matched

    first = unroll.token_share(track.masks[:, 0], 64)
    layers = look(track)
    assert len(layers) == 2
    for matched in layers:
        assert matched.shape == (1, 64)
        assert float(matched.min()) >= float(first.min())
        assert float(matched.max()) <= float(first.max())
    everywhere = replace(track, masks=torch.ones_like(track.masks))
    assert all(torch.allclose(matched, torch.ones_like(matched), atol=1e-5) for matched in look(everywhere))


def test_features_are_asked_for_the_names_of_what_lies_there(whole):
    """A head that knows the colours and shapes has nothing to lose; one that takes them for others has."""
    track = draw_track(10_000_078, 64, 3, 2)
    with torch.no_grad():
        outputs = unroll.unroll(whole, [track], 3, "mask", torch.Generator().manual_seed(0), teach=False)
    assert outputs[0].known is None
    known = outputs[2].known
    assert torch.equal(known.names, track.seen[1].flatten(0, 1).expand(2, -1, -1))  # of the frame last remembered
    sure = [output.scores > 0 for output in outputs]
    assert torch.equal(known.name, torch.where(sure[1][:, None], track.names, -1))

    def loss(shift):
        told = []
        for names in (known.names, known.name):
            colour, shape = names.clamp(min=0).unbind(-1)
            colour = F.one_hot((colour + shift) % len(COLOURS), len(COLOURS))
            told.append(100.0 * torch.cat([colour, F.one_hot(shape, len(SHAPES))], -1))
        read = replace(known, top=told[0], memory=told[0], pointer=told[1])
        helpers = Helpers(128, 64)
        helpers.top = helpers.memory = helpers.pointer = torch.nn.Identity()
        losses = tracking_losses([replace(outputs[2], known=read)], helpers)
        return [float(losses[name]) for name in ("top", "memory", "pointer")]

    assert loss(0) == pytest.approx([0, 0, 0], abs=1e-3)
    assert min(loss(1)[:2]) > 10
    nothing = replace(known, names=torch.full_like(known.names, -1), name=torch.full_like(known.name, -1))
    losses = tracking_losses([replace(outputs[2], known=nothing)], Helpers(128, 64))
    assert [float(losses[name].detach()) for name in ("top", "memory", "pointer")] == [0, 0, 0]
