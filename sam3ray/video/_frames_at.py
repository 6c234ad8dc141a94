"""Single frames of a video, by index, without decoding distant parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError, Reason
from sam3ray.video._frame import Frame
from sam3ray.video._opened import VideoSource, name_of
from sam3ray.video._reader import VideoReader

_BEFORE_S = 0.001  # times are rounded, so begin a little early
_NEAR_S = 4.0  # frames closer together than this are read in one pass


def frames_at(
    path: VideoSource, wanted: Sequence[tuple[int, float]], limits: VideoConfig | None = None
) -> Iterator[Frame]:
    """The frames with these indices, in their order.

    Args:
        path: a local video, or a folder of frames.
        wanted: (index in the source, seconds) of each frame, ascending, as in annotations.

    Raises:
        ClipError: the video cannot be read, or has no such frame at that time.
    """
    limits = limits or VideoConfig()
    rest = list(wanted)
    while rest:
        group = [rest.pop(0)]
        while rest and rest[0][1] - group[-1][1] < _NEAR_S:
            group.append(rest.pop(0))
        yield from _read(path, group, limits)


def _read(path: VideoSource, group: Sequence[tuple[int, float]], limits: VideoConfig) -> Iterator[Frame]:
    start_s = max(0.0, group[0][1] - _BEFORE_S)
    upcoming = iter(group)
    index, time_s = next(upcoming)
    with VideoReader(path, start_s=start_s or None, limits=limits) as video, closing(iter(video)) as frames:  # type: ignore[type-var]
        for frame in frames:
            if frame.index < index:
                continue
            if frame.index > index:
                break
            yield frame
            following = next(upcoming, None)
            if following is None:
                return
            index, time_s = following
    name = name_of(path)
    raise ClipError(Reason.UNREADABLE_VIDEO, f"there is no frame {index} at {time_s:.3f} s", name)
