"""Predicts from a video's headers whether a clip will fail, with the reason `run` would record, and its frame count."""

from __future__ import annotations

from sam3ray.config import JobConfig
from sam3ray.failures import ClipError, Reason
from sam3ray.files import is_local
from sam3ray.values.clip import Clip
from sam3ray.video import VideoInfo, check_duration


def foreseen(clip: Clip, facts: VideoInfo, config: JobConfig) -> ClipError | None:
    """The failure that the clip will end in, as far as headers show; None if none is expected."""
    size, room = facts.size_bytes, config.video.cache_bytes
    if not is_local(clip.uri) and size is not None and size > room and not facts.has_ranges:
        return ClipError(Reason.OVER_LIMITS, f"it has {size} bytes, the video cache holds {room}")
    # Where a truncated Matroska file ends is not known; a clip's range may end before that.
    if facts.intact_s is not None and (clip.end_s is None or 0 < facts.intact_s < clip.end_s):
        return ClipError(Reason.UNREADABLE_VIDEO, "the file is cut off: frames that it lists are missing")
    try:
        check_duration(facts, clip.start_s, clip.end_s, config.video, clip.clip_id)
    except ClipError as error:
        return error
    duration = _duration(facts)
    if facts.unread_rest is not None and (clip.end_s is None or (duration is not None and clip.end_s >= duration)):
        return ClipError(Reason.UNREADABLE_VIDEO, facts.unread_rest)
    if duration is None or facts.duration_is_estimate:
        return None
    start = clip.start_s or 0.0
    if min(duration, duration if clip.end_s is None else clip.end_s) <= start:
        return ClipError(Reason.EMPTY_RANGE, f"the range begins at {start:g} s, the video ends at {duration:g} s")
    work = work_of(clip, facts, config)
    if work is not None and work[0] > config.video.max_frames:
        return ClipError(
            Reason.OVER_LIMITS, f"the clip has more than {config.video.max_frames} frames (video.max_frames)"
        )
    return None


def work_of(clip: Clip, facts: VideoInfo, config: JobConfig) -> tuple[int, float] | None:
    """(frames after sampling, seconds of video) of a clip that `foreseen` accepts; None if headers do not show it."""
    duration = _duration(facts)
    if duration is None:
        return None
    seconds = min(duration, duration if clip.end_s is None else clip.end_s) - (clip.start_s or 0.0)
    if seconds <= 0:
        return None  # the duration is only an estimate: the range may lie within the video after all
    rate = clip.fps or config.video.fps
    source_rate = facts.frame_count / duration if facts.frame_count else float(facts.fps or 25)
    return max(1, round(seconds * min(rate or source_rate, source_rate))), seconds


def _duration(facts: VideoInfo) -> float | None:
    if facts.duration_s is None and facts.frame_count and facts.fps:
        return float(facts.frame_count / facts.fps)
    return facts.duration_s
