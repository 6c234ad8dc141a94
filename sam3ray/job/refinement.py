"""A job that follows corrections: the corrected run, its revision, and the corrections of each clip."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pyarrow as pa

from sam3ray.failures import UserError
from sam3ray.guard.redact import redact
from sam3ray.revisions import ClipOperation, CorrectedClip, Edits, changes_rows
from sam3ray.store import RunStore
from sam3ray.store.labelled_frames import labelled_frames
from sam3ray.values.clip import Clip, Manifest


@dataclass(frozen=True)
class Refinement:
    """The corrections that a job follows. Sent to every worker.

    Attributes:
        parent: the run that was corrected.
        run_id: its id, which tells it apart from another run of the same name.
        revision: the last revision to apply.
        only: ids of the clips to track; None means all corrected clips.
    """

    parent: RunStore
    run_id: str
    revision: int
    only: tuple[str, ...] | None = None

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the new run's rows depend on, besides its configuration and clips."""
        return {"refine.run": self.run_id, "refine.revision": self.revision}

    @property
    def facts(self) -> dict[str, Any]:
        """Entries for `run.json`."""
        return {"refines": {"output": redact(self.parent.output), "run_id": self.run_id, "revision": self.revision}}

    @cached_property
    def operations(self) -> Mapping[str, Sequence[ClipOperation]]:
        """The corrections of each clip; only those that change rows."""
        found = Edits(self.parent).operations(self.revision)
        return {clip_id: each for clip_id, each in found.items() if changes_rows(each)}

    def clip(self, clip_id: str) -> tuple[CorrectedClip, Mapping[str, Any]]:
        """The corrected clip, and the metadata of the parent's file."""
        about = self.parent.read_clip_metadata(clip_id)
        operations = self.operations.get(clip_id, ())
        edits = Edits(self.parent)
        rows = edits.clip(clip_id, operations)
        facts = about.get("clip", {})
        labelled = labelled_frames(facts, {frame.frame_index for frame in rows})
        size = (rows[0].height, rows[0].width) if rows else (facts.get("height") or 1, facts.get("width") or 1)
        return CorrectedClip(rows, edits.marks(operations), labelled, size), about

    def clips(self) -> Manifest:
        """The corrected clips in the parent's order, with the corrections as prompts.

        Phrases are not detected again; they only label the rows.

        Raises:
            UserError: there are no corrections, or a requested clip has none.
        """
        corrected = self.operations
        place = redact(self.parent.output)
        if not corrected:
            raise UserError(
                f"{place} has no corrections at revision {self.revision}: there is nothing to refine "
                "(import corrections with `sam3ray import` first)"
            )
        manifest = self.parent.manifest()
        known = {clip.clip_id for clip in manifest}
        wanted = set(corrected) if self.only is None else set(self.only)
        problems = [
            f"--clips {clip_id}: " + ("it has no corrections" if clip_id in known else f"{place} has no such clip")
            for clip_id in sorted(wanted - set(corrected))
        ]
        problems += [
            f"clip {clip_id} has corrections and is not in the manifest" for clip_id in corrected.keys() - known
        ]
        if problems:
            raise UserError(problems)
        places = [n for n, clip in enumerate(manifest) if clip.clip_id in wanted]
        made = {clip.clip_id: clip for clip in self.parent.storage.each(self._prompted, [manifest[n] for n in places])}
        carried = self.parent.carried_columns().take(pa.array(places, pa.int64()))
        return Manifest([made[manifest[n].clip_id] for n in places], carried if carried.num_columns else None)

    def _prompted(self, clip: Clip) -> Clip:
        corrected, about = self.clip(clip.clip_id)
        prompts = corrected.prompts
        named = {prompt.label for prompt in prompts}
        asked = [*clip.prompts, *(each.name for each in clip.exemplars)]
        labels = [*asked, *(label for label in corrected.labels.values() if label not in named)]
        source = about.get("clip", {}).get("source")
        return replace(
            clip,
            prompts=tuple(dict.fromkeys(labels)),
            visual_prompts=prompts,
            exemplars=(),
            source=clip.source or (json.dumps(source) if source else None),
        )


def latest_refinement(parent: RunStore, revision: int | str | None, only: Sequence[str] | None = None) -> Refinement:
    """The refinement for a run and its latest corrections.

    Raises:
        UserError: there is no such run or revision.
    """
    run_id = parent.run_id()
    number = Edits(parent).number_of("latest" if revision is None else revision)
    return Refinement(parent, run_id, number, None if only is None else tuple(only))
