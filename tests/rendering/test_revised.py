"""Videos of a revision lie beside those of the model's own annotations."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from sam3ray.config import RenderConfig, VideoConfig
from sam3ray.job.rendering import RenderOrder, render_one
from sam3ray.revisions import Delete, Edits
from sam3ray.store import RunStore
from sam3ray.video import VideoReader, VideoWriter
from tests.exports.labels import FRAMES, HEIGHT, WIDTH, make_run

CLIP = "a-clip"


@pytest.fixture
def run(tmp_path: Path) -> RunStore:
    video = tmp_path / "video.mp4"
    with VideoWriter(video, WIDTH, HEIGHT, Fraction(1, 25), Fraction(25)) as writer:
        for _ in range(FRAMES):
            writer.write(np.full((HEIGHT, WIDTH, 3), 100, np.uint8), _)
    return make_run(tmp_path, (CLIP,), {CLIP: str(video)})


def drawn_pixels(path: Path) -> int:
    """Of the first frame: how many are not the video's grey."""
    with VideoReader(path) as reader:
        image = next(iter(reader)).image.astype(int)
    return int((np.abs(image - 100).max(axis=2) > 30).sum())


def test_a_revision_is_drawn_into_a_folder_of_its_own(run):
    edits = Edits(run)
    number = edits.append([Delete(CLIP, 1)])
    (clip,) = run.manifest()
    order = RenderOrder(run, RenderConfig(), VideoConfig(), {})
    render_one(order, clip)
    revised = RenderOrder(run, RenderConfig(), VideoConfig(), {}, revision=number, corrections=edits.operations(number))
    render_one(revised, clip)
    own, other = Path(run.output, "videos", f"{CLIP}.mp4"), Path(run.output, "edits", "videos", "1", f"{CLIP}.mp4")
    assert drawn_pixels(own) > 500
    assert drawn_pixels(other) < 50
    assert run.rendered_ids() == run.rendered_ids(number) == {CLIP}
    assert run.rendered_ids(2) == set()
