"""Makes the run that checks export: a short clip with a real video and everything that formats find difficult."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

from sam3ray.video import VideoWriter
from tests.exports import labels

CLIP = "a-clip"
HEIGHT, WIDTH, FRAMES = labels.HEIGHT, labels.WIDTH, labels.FRAMES


def make_run(folder: Path) -> Path:
    """Makes the run. One clip has a ring with a hole and a lone pixel, an object of two parts, one of them a pixel
    wide, an overlap, a gap, a late start, and an id above 1,000. Another clip has no objects.
    """
    folder.mkdir(parents=True)
    video = folder / "a video.mp4"
    with VideoWriter(video, WIDTH, HEIGHT, Fraction(1, 25), Fraction(25)) as writer:
        for index in range(FRAMES):
            writer.write(np.full((HEIGHT, WIDTH, 3), 40 * index, np.uint8), index)
    labels.make_run(folder, uris={CLIP: str(video), "empty": str(video)})
    return folder / "run"
