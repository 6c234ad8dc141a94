"""A small video file."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np


def write_video(path: Path, frames: int, fps: int, size: tuple[int, int] = (64, 48), padding: int = 0) -> Path:
    """`padding`: bytes appended that no player reads."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for i in range(frames):
            image = np.full((size[1], size[0], 3), i * 255 // max(1, frames - 1), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    if padding:
        with path.open("ab") as stream_:
            stream_.write((8 + padding).to_bytes(4, "big") + b"free" + b"\0" * padding)
    return path
