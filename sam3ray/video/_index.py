"""Where to start decoding for a range deep in a long video, with frame indices still exact.

Timestamps of all packets up to the range are read without decoding (as fast as the disk): sorted, they are the frames
in display order, so the index of every frame is known. The decoder then starts at a key frame and its frames are
checked against that list one by one. Whatever does not fit the picture (edit lists that drop packets, missing or
repeated timestamps, damage) means decoding from the beginning: slower, never wrong.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from sam3ray.config import VideoConfig
from sam3ray.video._sampling import exact
from sam3ray.video._source import naming_errors, open_container, video_stream

_WORTH_IT_S = 2.0  # ranges that begin before this are decoded from the beginning


@dataclass(frozen=True)
class SeekPoint:
    """A key frame to start at.

    Attributes:
        seek_to: the timestamp to seek to.
        ranks: frame index by pts, for all frames up to the range's beginning and some after it.
        first_rank: index of the key frame.
        wanted_rank: index of the first frame of the range.
    """

    seek_to: int
    ranks: Mapping[int, int]
    first_rank: int
    wanted_rank: int


def find_seek_point(path: str | os.PathLike[str], start_s: float, limits: VideoConfig) -> SeekPoint | None:
    """The last key frame shown at or before the first frame of the range; None: decode from the beginning."""
    if start_s < _WORTH_IT_S:
        return None
    where = os.path.basename(path)
    pts: list[int] = []
    key_frames: list[tuple[int, int]] = []  # (pts, seek_to)
    with open_container(path, limits) as container:
        stream = video_stream(container, limits, where)
        if stream.start_time is None or not stream.time_base:
            return None
        begin = stream.start_time + exact(start_s) / stream.time_base
        with naming_errors(where, "cannot be read"):
            for packet in container.demux(stream):
                if packet.size == 0:
                    continue
                if packet.pts is None or packet.dts is None or packet.is_discard or packet.is_corrupt:
                    return None
                if packet.dts > packet.pts:
                    return None
                pts.append(packet.pts)
                if packet.is_keyframe and packet.pts <= begin:
                    key_frames.append((packet.pts, packet.dts))
                if packet.dts > begin:  # dts never exceeds pts and only grows: nothing before the range can follow
                    break
    ordered = sorted(pts)
    ranks = {value: rank for rank, value in enumerate(ordered)}
    if len(ranks) != len(ordered) or not key_frames:
        return None
    wanted = next((rank for rank, value in enumerate(ordered) if value >= begin), None)
    if wanted is None:
        return None
    at, seek_to = max(key_frames)
    # Later packets could still be shown between those read: indices beyond the last complete one are not vouched for.
    return SeekPoint(seek_to, {p: r for p, r in ranks.items() if r <= wanted}, ranks[at], wanted)
