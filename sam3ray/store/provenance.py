"""Checks that a run's files agree with its `run.json`, the first sightings of their videos, and each other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sam3ray.files.sighting import change
from sam3ray.values.clip import Clip
from sam3ray.values.clip_ids import unsigned

_KEYS = ("dtype", "device_kind", "commit", "rules")


@dataclass(frozen=True)
class Made:
    """A file's metadata about how it was made.

    Attributes:
        where: how messages name the file.
        model: properties of the model that must be the same in all files.
        source: the video's sighting (`sam3ray.files.sighting`).
    """

    where: str
    model: Mapping[str, str]
    source: str | None = None

    @classmethod
    def of(cls, where: str, metadata: Mapping[str, Any]) -> Made:
        model, clip = metadata.get("model"), metadata.get("clip")
        source = clip.get("source") if isinstance(clip, dict) else None
        named = model if isinstance(model, dict) else {}
        return cls(
            where,
            {key: str(named[key]) for key in _KEYS if named.get(key) is not None},
            json.dumps(source) if isinstance(source, dict) else None,
        )


class Provenance:
    """Compares finished clips, in any order.

    Values missing in a file or in `run.json`, such as those of sam3ray 0.1.0, are not compared.

    Args:
        run: the content of `run.json`.
        clips: the manifest's clips, with the first sightings of their videos, if known.
    """

    def __init__(self, run: Mapping[str, Any], clips: Mapping[str, Clip]) -> None:
        fingerprint = run["fingerprint"]
        self._clips = clips
        self._run = {
            "dtype": fingerprint.get("model.dtype"),
            "device_kind": run.get("device"),
            "commit": fingerprint.get("checkpoint.commit"),  # absent if the content is known
        }
        self._made: dict[str, Made] = {}

    def problems(self, clip_id: str, made: Made | None) -> list[str]:
        """Differences between the file of this clip and `run.json` or the manifest."""
        if made is None:
            return []
        self._made[clip_id] = made
        found = [
            f"{made.where}: was made with {key} {made.model[key]}, but the run has {wanted}"
            for key, wanted in self._run.items()
            if wanted is not None and key in made.model and made.model[key] != wanted
        ]
        first = self._clips[clip_id].source
        if first is not None and made.source is not None and (how := change(first, made.source)):
            found.append(f"{made.where}: was made from a different version of its video than the run first saw ({how})")
        return found

    def disagreements(self) -> list[str]:
        """Differences among finished clips that must not exist."""
        found = []
        for key in ("dtype", "device_kind", "rules"):
            values: dict[str, str] = {}
            for clip_id in sorted(self._made):
                if key in self._made[clip_id].model:
                    values.setdefault(self._made[clip_id].model[key], clip_id)
            if len(values) > 1:
                each = ", ".join(f"{value} (clip {clip_id})" for value, clip_id in values.items())
                found.append(f"clips were made with different values of {key}: {each}")
        of_video: dict[str, str] = {}
        for clip_id in sorted(self._made):
            after = self._made[clip_id].source
            if after is None:
                continue
            other = of_video.setdefault(unsigned(self._clips[clip_id].uri), clip_id)
            before = self._made[other].source or ""
            if how := change(before, after) or change(after, before):
                found.append(
                    f"clips {other} and {clip_id} are from one video, whose content changed between them ({how})"
                )
        return found
