"""The outcome of each clip of a run, read from storage alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sam3ray.failures import Failure
from sam3ray.store import compacted, failure_records, layout, summary
from sam3ray.store.storage import Storage
from sam3ray.store.summary import ClipSummary


def outcomes(
    storage: Storage,
    clip_ids: Sequence[str],
    done: Collection[str],
    records: Sequence[Failure] | None,
    metadata_of: Callable[[str], Mapping[str, Any]],
    told: Callable[[int], None] | None = None,
) -> dict[str, ClipSummary]:
    """The summary of each clip, by its id.

    Two listings show which clips are done and which failed. Their figures come from `clips.parquet`, which the driver
    rewrites from time to time; for clips finished since then, from their own files, read in parallel.

    Args:
        done: ids of finished clips.
        records: all failure records; None: list them, and read those needed.
        metadata_of: returns the metadata of a finished clip's file; may raise FileNotFoundError or ValueError.
        told: called from time to time with the number of clips read.
    """
    attempts: dict[str, list[int]] = {}
    if records is None:
        attempts = failure_records.list_attempts(storage, told)
    for record in records or ():
        attempts.setdefault(record.clip_id, []).append(len(attempts.get(record.clip_id, ())) + 1)
    data = storage.read(layout.CLIPS)
    known = summary.from_parquet(data) if data is not None else {}
    found: dict[str, ClipSummary] = {}
    unknown: list[str] = []
    for clip_id in clip_ids:
        if clip_id in done:
            old = known.get(clip_id)
            if old is not None and old.status == "done":
                found[clip_id] = old
            else:
                unknown.append(clip_id)
    index = compacted.read_index(storage) if unknown else {}

    def look(clip_id: str) -> ClipSummary:
        try:
            values = index[clip_id].values() if clip_id in index else metadata_of(clip_id)
            return summary.from_clip_metadata(clip_id, values["clip"], len(attempts.get(clip_id, ())))
        except (FileNotFoundError, KeyError, ValueError):  # done but damaged: `verify` says how
            return summary.from_clip_metadata(clip_id, {}, len(attempts.get(clip_id, ())))

    for number, item in enumerate(storage.each(look, unknown), 1):
        found[item.clip_id] = item
        if told is not None and number % 100 == 0:
            told(number)
    failed = [clip_id for clip_id in clip_ids if clip_id not in done and clip_id in attempts]
    if records is None:
        records = failure_records.read_many(storage, ((c, n) for c in failed for n in attempts[c]))
    by_clip: dict[str, list[Failure]] = {}
    for record in records:
        by_clip.setdefault(record.clip_id, []).append(record)
    for clip_id in clip_ids:
        if clip_id not in found:
            found[clip_id] = summarise_failures(clip_id, by_clip.get(clip_id, []))
    return found


def summarise_failures(clip_id: str, records: Sequence[Failure]) -> ClipSummary:
    """The summary of an unfinished clip, from its failure records in order."""
    if not records:
        return ClipSummary(clip_id)
    settling = [record for record in records if failure_records.is_settled([record])]
    last = settling[-1] if settling else records[-1]
    return ClipSummary(
        clip_id,
        "failed" if settling else "left",
        reason=last.reason.value,
        message=last.message,
        attempts=len(records),
    )
