"""Videos in and out: probe, fetch, decode, encode."""

from sam3ray.video._frame import Frame, VideoInfo

__all__ = ["Frame", "VideoInfo"]
