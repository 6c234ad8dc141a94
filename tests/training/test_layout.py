"""Checkpoints as files, and training data."""

from __future__ import annotations

import stat

import torch
from transformers import Sam3TrackerVideoModel, Sam3VideoModel, Sam3VideoProcessor

from sam3ray.shapes import COLOURS, SHAPES, parse, phrases
from tools.training import random_checkpoint, samples
from tools.training.layout import make_tokenizer
from tools.training.samples import draw_images, draw_track


def test_a_random_checkpoint_loads_into_both_models_without_a_weight_missing(tmp_path):
    folder = random_checkpoint(tmp_path / "c", image_size=64, layers=1)
    for kind in (Sam3VideoModel, Sam3TrackerVideoModel):
        _, notes = kind.from_pretrained(folder, output_loading_info=True)
        assert not notes["missing_keys"]
        assert not notes["mismatched_keys"]
    assert Sam3VideoProcessor.from_pretrained(folder).target_size == 64
    for file in folder.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o644


def test_the_same_seed_gives_the_same_weights(tmp_path):
    one, two, other = (
        random_checkpoint(tmp_path / n, seed=s, image_size=64, layers=1) for n, s in (("a", 1), ("b", 1), ("c", 2))
    )
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    assert (one / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


def test_words_of_the_vocabulary_are_tokens_of_their_own():
    tokenizer = make_tokenizer()
    for colour in COLOURS:
        for shape in SHAPES:
            assert len(tokenizer(phrases(colour, shape)[0])["input_ids"]) == 4
    assert len(tokenizer("x" * 20)["input_ids"]) == 22


def test_what_an_image_is_asked_for_is_what_it_shows():
    asked = 0
    for seed in range(10_000_000, 10_000_020):
        for image in draw_images(seed, 112, 4):
            assert image.pixels.shape == (3, 112, 112)
            for phrase, masks, boxes in zip(image.phrases, image.masks, image.boxes, strict=True):
                assert len(masks) == len(boxes)
                if parse(phrase) is None:
                    assert not len(masks)
                if len(boxes):
                    asked += 1
                    assert (boxes[:, 2:] > boxes[:, :2]).all()
                    assert masks.amax() > 0.5
    assert asked > 40


def test_tracks_begin_in_sight():
    track = draw_track(10_000_000, 112, 4, 3)
    assert track.pixels.shape == (4, 3, 112, 112)
    assert (track.masks[:, 0].flatten(1).sum(1) >= 24).all()


def test_names_lie_where_their_objects_are_seen(monkeypatch):
    """Where a slab hides an object there is none."""
    covered = hidden = 0
    for seed in range(10_000_000, 10_000_400, 50):
        monkeypatch.setattr(samples, "HIDDEN", 0)
        open_ = draw_track(seed, 112, 6, 3)
        monkeypatch.setattr(samples, "HIDDEN", 1)
        track = draw_track(seed, 112, 6, 3)
        for name, masks in zip(track.names, track.masks[:, :, 4::8, 4::8], strict=True):
            assert (track.seen[masks] == name).all()
            covered += int(masks.sum())
        slab = (track.pixels != open_.pixels).any(1)[:, 4::8, 4::8]
        assert (track.seen[slab] == -1).all()
        assert torch.equal(track.seen[~slab], open_.seen[~slab])
        hidden += int((open_.seen[slab] >= 0).any(-1).sum())
    assert covered > 200
    assert hidden > 20
