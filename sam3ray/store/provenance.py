"""Whether the files of a run were made by what its `run.json` names, of videos as it first saw them, and all alike."""

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
    """What a file's metadata says of its making.

    Attributes:
        where: how messages name the file.
        model: of its model, what must be the same in all files.
        source: how the video looked (`sam3ray.files.sighting`).
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

    What a file or `run.json` does not say, as those of sam3ray 0.1.0 do not, is not compared.

    Args:
        run: the content of `run.json`.
        clips: of the manifest, each with how its video looked at first, where that is known.
    """

    def __init__(self, run: Mapping[str, Any], clips: Mapping[str, Clip]) -> None:
        fingerprint = run["fingerprint"]
        self._clips = clips
        self._run = {
            "dtype": fingerprint.get("model.dtype"),
            "device_kind": run.get("device"),
            "commit": fingerprint.get("checkpoint.commit"),  # absent where the content is known
        }
        self._made: dict[str, Made] = {}

    def problems(self, clip_id: str, made: Made | None) -> list[str]:
        """What the file of this clip says that `run.json` or the manifest does not."""
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
        """How finished clips differ among themselves where they must not."""
        found = []
        for key in ("dtype", "device_kind", "rules"):
            values: dict[str, str] = {}
            for clip_id in sorted(self._made):
                if key in self._made[clip_id].model:
                    values.setdefault(self._made[clip_id].model[key], clip_id)
            if len(values) > 1:
                each = ", ".join(f"{value} (clip {clip_id})" for value, clip_id in values.items())
                found.append(f"clips were made with several values of {key}: {each}")
        of_video: dict[str, str] = {}
        for clip_id in sorted(self._made):
            after = self._made[clip_id].source
            if after is None:
                continue
            other = of_video.setdefault(unsigned(self._clips[clip_id].uri), clip_id)
            before = self._made[other].source or ""
            if how := change(before, after) or change(after, before):
                found.append(
                    f"clips {other} and {clip_id} are of one video, whose content changed between them ({how})"
                )
        return found
