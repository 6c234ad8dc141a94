"""Runs all frames of a clip through the look-ahead, with the same prompts throughout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sam3ray.engine.lookahead import FrameWork, LookAhead
from sam3ray.video import Frame


def worked(ahead: LookAhead, frames: Iterable[Frame], phrases: tuple[str, ...], batch: int = 1) -> Iterator[FrameWork]:
    """`batch` is the look-ahead's batch size."""
    try:
        for position, frame in enumerate(frames):
            ahead.push(frame, position, phrases)
            while len(ahead) > 2 * batch:
                yield ahead.pop()
        while len(ahead):
            yield ahead.pop()
    finally:
        ahead.clear()
