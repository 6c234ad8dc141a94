"""The manifest: which clips there are to label, and with what prompts."""

from sam3ray.manifest._read import read_manifest
from sam3ray.values.clip import Clip, Manifest
from sam3ray.values.clip_ids import derive_clip_id, is_clip_id, unsigned

__all__ = ["Clip", "Manifest", "derive_clip_id", "is_clip_id", "read_manifest", "unsigned"]
