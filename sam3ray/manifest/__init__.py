"""The manifest: which clips to label, and with which prompts."""

from sam3ray.manifest._read import read_manifest
from sam3ray.values.clip import Clip, Manifest
from sam3ray.values.clip_ids import derive_clip_id, is_clip_id, unsigned

__all__ = ["Clip", "Manifest", "derive_clip_id", "is_clip_id", "read_manifest", "unsigned"]
