"""`python tests/engine/saved_session.py STATE`: goes on with a session that another process has saved."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from sam3ray import Model, PointPrompt
from sam3ray.config import ModelConfig, TrackingConfig
from sam3ray.shapes import ClipSpec, clip_phrases, draw_clip
from sam3ray.video import Frame

SPEC = ClipSpec(seed=41, width=160, height=120, frames=24, fps=10, objects=(2, 3), look="plain")
TRACKING = TrackingConfig(hotstart_delay=4, hotstart_unmatch_thresh=3, hotstart_dup_thresh=3)
Row = list[object]


def rows(state: Path, save_at: int | None = None) -> list[Row]:
    """[frame given, frame shown, objects] of a session saved before frame `save_at`, or of the rest of a saved one."""
    frames = [Frame(n, n, n / 10, drawn.image) for n, drawn in enumerate(draw_clip(SPEC))]
    model = Model(ModelConfig(checkpoint="embedded", device="cpu", image_size=64), TRACKING)
    session = model.session(SPEC.height, SPEC.width)
    if save_at is None:
        session.load(state)
    else:
        for phrase in clip_phrases(SPEC):
            session.add(phrase)
        session.add(PointPrompt(((80.0, 60.0),), (True,), 1, 9))
    out: list[Row] = []
    for frame in frames[session.next_position :]:
        if frame.index == save_at:
            session.save(state)
        out += [row(frame.index, each) for each in session.step(frame)]
    return out + [row(99, each) for each in session.finish()]


def row(given: int, result: object) -> Row:
    objects = [[each.object_id, each.rle, each.track_score] for each in result.annotations.objects]  # type: ignore[attr-defined]
    return [given, result.frame_index, objects]  # type: ignore[attr-defined]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(rows(Path(sys.argv[1]))))
