"""Videos: probe, fetch, decode, encode."""

from sam3ray.video._anchor import Anchor
from sam3ray.video._clip_frames import ClipFrames
from sam3ray.video._decode import RgbConverter
from sam3ray.video._folder import DECODING_ERRORS
from sam3ray.video._frame import Frame, FrameStamp, VideoInfo
from sam3ray.video._frame_index import FrameIndex
from sam3ray.video._frames_at import frames_at
from sam3ray.video._opened import VideoSource
from sam3ray.video._probe import check_duration, probe
from sam3ray.video._probe_remote import probe_uri
from sam3ray.video._reader import VideoReader
from sam3ray.video._remote import naming_store_errors
from sam3ray.video._sampling import Sampler
from sam3ray.video._writer import VideoWriter
from sam3ray.video.fetch import IndexKeeper, VideoCache, local_sighting, redact_uri, video_size

__all__ = [
    "DECODING_ERRORS",
    "Anchor",
    "ClipFrames",
    "Frame",
    "FrameIndex",
    "FrameStamp",
    "IndexKeeper",
    "RgbConverter",
    "Sampler",
    "VideoCache",
    "VideoInfo",
    "VideoReader",
    "VideoSource",
    "VideoWriter",
    "check_duration",
    "frames_at",
    "naming_store_errors",
    "probe",
    "probe_uri",
    "local_sighting",
    "redact_uri",
    "video_size",
]
