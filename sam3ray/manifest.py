"""The manifest: which clips there are to label, and with what prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sam3ray.prompts import VisualPrompt


@dataclass(frozen=True)
class Clip:
    """One unit of work: a video, or a range of one, and what to find in it.

    Attributes:
        clip_id: `[A-Za-z0-9._-]{1,200}`, not only dots, unique in the manifest.
        uri: a video file or a folder of numbered JPEG/PNG frames, on any fsspec storage.
        prompts: phrases; empty only where visual prompts are given.
        start_s, end_s: range in seconds from the video's start, end exclusive; None is open.
        fps: sample at this rate; None is every frame.
        carried: the manifest's other columns, passed through to `clips.parquet` untouched.
    """

    clip_id: str
    uri: str
    prompts: tuple[str, ...] = ()
    start_s: float | None = None
    end_s: float | None = None
    fps: float | None = None
    visual_prompts: tuple[VisualPrompt, ...] = ()
    carried: Mapping[str, Any] = field(default_factory=dict)
