"""The manifest: which clips there are to label, and with what prompts."""

from sam3ray.manifest._clip import Clip, Manifest
from sam3ray.manifest._ids import derive_clip_id, is_clip_id, unsigned
from sam3ray.manifest._read import read_manifest

__all__ = ["Clip", "Manifest", "derive_clip_id", "is_clip_id", "read_manifest", "unsigned"]
