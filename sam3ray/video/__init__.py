"""Videos in and out: probe, fetch, decode, encode."""

from sam3ray.video._frame import Frame, VideoInfo
from sam3ray.video._probe import probe
from sam3ray.video._reader import VideoReader

__all__ = ["Frame", "VideoInfo", "VideoReader", "probe"]
