"""The sightings of a run's videos: a worker must find each video unchanged since it was first seen.

A video is first seen at the start of the run, if it is on this machine or in a listing of a store; else when its first
clip is finished. `manifest.parquet` and each clip's file keep the sighting, and the worker gets it with the clip. No
extra request is needed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sam3ray.failures import ClipError, Reason
from sam3ray.files import is_local, local_path
from sam3ray.files.sighting import change
from sam3ray.guard.redact import redact
from sam3ray.store import ClipSummary
from sam3ray.values.clip import Clip
from sam3ray.values.clip_ids import unsigned
from sam3ray.values.prompts import MaskPrompt
from sam3ray.video import local_sighting

_LOG = logging.getLogger(__name__)
_NAMED = 5  # changed videos that are named
BUDGET_S = 30.0  # limit on looking at local files before a job: a slow disk must not delay it


def check_source(clip: Clip, now: str) -> None:
    """Raise ClipError (not_found: the run's original video no longer exists) if the clip's video has changed."""
    if clip.source is not None and (how := change(clip.source, now)):
        raise ClipError(
            Reason.NOT_FOUND,
            f"the video has changed since the run first saw it ({how}); restore the original, or use another output",
            redact(clip.uri),
        )


def first_sight(clips: Iterable[Clip]) -> list[Clip]:
    """The clips with the sightings of their local files. Other files are left to the worker."""
    deadline = time.monotonic() + BUDGET_S
    seen: dict[str, str | None] = {}

    def look(uri: str) -> str | None:
        if uri not in seen:
            try:
                path = Path(local_path(uri))
                # A folder must be listed frame by frame, which is left to the worker.
                seen[uri] = None if time.monotonic() > deadline or path.is_dir() else local_sighting(path)
            except OSError:
                seen[uri] = None
        return seen[uri]

    return [
        replace(clip, source=look(clip.uri)) if clip.source is None and is_local(clip.uri) else clip for clip in clips
    ]


def with_digests(clips: Iterable[Clip], digests: Mapping[str, str]) -> list[Clip]:
    """The clips with the digests of their mask files, by address."""
    found = []
    for clip in clips:
        if any(isinstance(each, MaskPrompt) and each.png in digests for each in clip.visual_prompts):
            prompts = (
                replace(each, sha256=digests.get(each.png, "")) if isinstance(each, MaskPrompt) and each.png else each
                for each in clip.visual_prompts
            )
            clip = replace(clip, visual_prompts=tuple(prompts))
        found.append(clip)
    return found


class Sources:
    """First sightings by clip, and by video for clips without one.

    Args:
        clips: the job's clips.
        first: first sightings by clip id, as stored in the run.
        done: clips that are already done.
    """

    def __init__(self, clips: Sequence[Clip], first: Mapping[str, str], done: Mapping[str, ClipSummary]) -> None:
        self._first = first
        self._of_video: dict[str, str] = {}
        for clip in clips:
            summary = done.get(clip.clip_id)
            if summary is not None and summary.source:
                self._of_video.setdefault(unsigned(clip.uri), summary.source)

    def with_first_sight(self, clip: Clip) -> Clip:
        """The clip with the sighting that its worker compares with."""
        first = self._first.get(clip.clip_id) or self._of_video.get(unsigned(clip.uri))
        return replace(clip, source=first)

    def saw(self, clip: Clip, source: str) -> None:
        """Notes the sighting of a finished clip's video."""
        if source:
            self._of_video.setdefault(unsigned(clip.uri), source)

    def changes(self, clips: Iterable[Clip]) -> Iterator[str]:
        """The clips whose videos have changed, and how. `clips` have their current sightings."""
        for clip in clips:
            first = self.with_first_sight(clip).source
            if first is not None and clip.source is not None and (how := change(first, clip.source)):
                yield f"{clip.clip_id} ({how})"

    def tell_changes(self, clips: Iterable[Clip]) -> None:
        """Warns of changed videos. Their open clips will fail; finished clips stay."""
        changed = list(self.changes(clips))
        if changed:
            more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
            _LOG.warning("videos have changed since the run first saw them: %s%s", ", ".join(changed[:_NAMED]), more)
