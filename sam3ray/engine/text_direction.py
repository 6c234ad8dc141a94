"""Phrases looked for from any frame, forward, backward or both ways.

Each way is a run of its own that begins on the same frame. What is found on that frame is found in
both, in the same order, and so has the same ids; an object that is first seen later on one of the two
ways gets an id that the other does not use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from sam3ray.engine.outputs import FrameFacts, FrameMasks
from sam3ray.engine.source import FrameSource, read_backward
from sam3ray.engine.spool import Spool
from sam3ray.engine.text import TextEngine
from sam3ray.engine.visual import Direction
from sam3ray.failures import ClipError, Reason


def segment_from(
    engine: TextEngine,
    source: FrameSource,
    prompts: Sequence[str],
    start_frame: int,
    direction: Direction = "forward",
    first_object_id: int = 1,
    progress: Callable[[], None] = lambda: None,
) -> Iterator[FrameMasks]:
    """Segments one clip by phrases, beginning on one of its frames.

    Args:
        source: its frames, to be read again.
        start_frame: index in the source video of the frame where the phrases are first looked for.
        progress: called after each frame of the backward way, whose results come late.

    Yields:
        One value per frame, in display order, as `TextEngine.segment`. Frames that are not reached have no objects.

    Raises:
        ClipError: empty_range, where `start_frame` is not among the frames read.
    """
    size = source.height, source.width
    start = _position(source, start_frame)
    with Spool(*size) as behind:
        highest = 0
        shared: set[int] = set()
        if direction != "forward":
            frames = (frame for _, frame in read_backward(source, start + 1))
            for offset, masks in enumerate(engine.segment(frames, *size, prompts, first_object_id)):
                behind.put(start - offset, masks)
                highest = max(highest, *masks.object_ids, 0)
                if offset == 0:
                    shared.update(masks.object_ids)
                progress()
        for position, frame in enumerate(source.read(0, start)):
            yield behind.get(position) or _nothing(FrameFacts.of(frame), size)
        if direction == "backward":
            found = behind.get(start)
            assert found is not None
            yield found
            for frame in source.read(start + 1):
                yield _nothing(FrameFacts.of(frame), size)
            return
    born_here: set[int] = set()
    for offset, masks in enumerate(engine.segment(source.read(start), *size, prompts, first_object_id)):
        if offset == 0:
            born_here = shared | set(masks.object_ids)
        # Ids of what is born later begin above all that the way back has used.
        lift = max(0, highest - max(born_here, default=first_object_id - 1))
        yield replace(masks, object_ids=tuple(i if i in born_here else i + lift for i in masks.object_ids))


def _position(source: FrameSource, start_frame: int) -> int:
    for position, frame in enumerate(source.read()):
        if frame.index == start_frame:
            return position
    raise ClipError(
        Reason.EMPTY_RANGE,
        f"frame {start_frame}, where the phrases are to be looked for first, is not among the frames read "
        "(see the clip's range and sampling rate)",
        f"frame {start_frame}",
    )


def _nothing(facts: FrameFacts, size: tuple[int, int]) -> FrameMasks:
    return FrameMasks(facts, *size, object_ids=(), prompts=(), scores=(), track_scores=(), masks=())
