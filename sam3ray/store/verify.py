"""The audit of a run: everything a reader relies on, checked against storage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sam3ray.annotations import SCHEMA, read_file_metadata
from sam3ray.manifest import Clip
from sam3ray.store import failure_records, layout, summary
from sam3ray.store.check_clip import BATCH_ROWS, ClipCheck
from sam3ray.store.compacted import CompactedClip, read_index, version_of
from sam3ray.store.run import RunStore
from sam3ray.store.storage import Entry, Storage

WORKERS = 4  # files under check at a time: bounds memory at a few hundred MB

_ROOT_FILES = frozenset({layout.RUN, layout.MANIFEST, layout.CLIPS, layout.REPORT, layout.DRIVER})


@dataclass
class _Listing:
    """What lies in the output, by kind."""

    annotations: set[str]
    videos: set[str]
    failures: set[str]
    parts: set[str]
    unknown: list[str]


def verify_run(
    output: str,
    storage_options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Audit a run.

    Checks that every clip of the manifest is done or has a failure record, that there is nothing else, and of every
    finished clip the schema, the metadata, the order of rows, ids, prompts, scores, that every RLE decodes at the
    frames' size to exactly its area and its box, and the row counts. Of a compacted run the merged files are checked
    likewise, and against the clips' own files where those are still there.

    Args:
        progress: called now and then with (clips checked, clips to check).

    Returns:
        What is wrong, one sentence each; empty if all is well.

    Raises:
        UserError: there is no run in this folder.
    """
    store = RunStore(output, storage_options)
    storage = store.storage
    run = store.run_info()
    clips = {clip.clip_id: clip for clip in store.manifest()}
    listing = _sort(storage.walk())
    index = read_index(storage)
    problems = [f"{path}: no file of a run" for path in sorted(listing.unknown)]
    problems += _check_sets(clips, listing, index)
    problems += _check_failures(storage)
    problems += _check_clips_table(storage, clips, listing.annotations | index.keys())

    fingerprint = run["fingerprint"]
    jobs: list[tuple[str, str]] = [("file", clip_id) for clip_id in sorted(listing.annotations & clips.keys())]
    jobs += [("part", part) for part in sorted({clip.part for clip in index.values()} & listing.parts)]

    def check(job: tuple[str, str]) -> tuple[dict[str, str], list[str]]:
        kind, name = job
        if kind == "file":
            return _check_file(storage, clips[name], fingerprint)
        held = {clip.clip_id: clip for clip in index.values() if clip.part == name}
        return _check_part(storage, name, held, clips, fingerprint)

    digests: dict[str, str] = {}
    total = len(listing.annotations & clips.keys()) + len(index)
    checked = 0
    for found, wrong in storage.each(check, jobs, WORKERS):
        problems += wrong
        for clip_id, digest in found.items():
            if digests.setdefault(clip_id, digest) != digest:
                problems.append(f"clip {clip_id}: its own file and the merged one have different rows")
        checked += len(found)
        if progress is not None:
            progress(checked, total)
    return problems


def _sort(entries: Iterator[Entry]) -> _Listing:
    found = _Listing(set(), set(), set(), set(), [])
    for entry in entries:
        folder, _, name = entry.path.partition("/")
        clip_id: str | None = None
        if folder == layout.ANNOTATIONS and (clip_id := layout.clip_of(name, ".parquet")):
            found.annotations.add(clip_id)
        elif folder == layout.VIDEOS and (clip_id := layout.clip_of(name, ".mp4")):
            found.videos.add(clip_id)
        elif folder == layout.FAILURES and name.count("/") == 1 and _is_record(name):
            found.failures.add(name.partition("/")[0])
        elif folder == layout.COMPACTED and "/" not in name and name.endswith(".parquet"):
            found.parts.add(name)
        elif entry.path not in _ROOT_FILES and not _is_index(folder, name):
            found.unknown.append(entry.path)
    return found


def _is_index(folder: str, name: str) -> bool:
    return folder == layout.COMPACTED and version_of(name) is not None


def _is_record(name: str) -> bool:
    clip_id, _, record = name.partition("/")
    return layout.is_clip_id(clip_id) and layout.record_number(record) is not None


def _check_sets(clips: Mapping[str, Clip], listing: _Listing, index: Mapping[str, CompactedClip]) -> list[str]:
    done = listing.annotations | index.keys()
    problems = [
        f"clip {clip_id}: not done, and has no failure record"
        for clip_id in clips
        if clip_id not in done and clip_id not in listing.failures
    ]
    for kind, ids in (
        ("annotations", done),
        ("failure records", listing.failures),
        ("a video", listing.videos),
    ):
        problems += [
            f"clip {clip_id}: has {kind}, and is not in the manifest" for clip_id in sorted(ids - clips.keys())
        ]
    named = {clip.part for clip in index.values()}
    problems += [f"{layout.part_path(part)}: named by the index, and missing" for part in sorted(named - listing.parts)]
    problems += [
        f"{layout.part_path(part)}: left by an interrupted compaction; compact again"
        for part in sorted(listing.parts - named)
    ]
    return problems


def _check_failures(storage: Storage) -> list[str]:
    attempts = failure_records.list_attempts(storage)
    records = failure_records.read_many(
        storage, ((clip_id, n) for clip_id in sorted(attempts) for n in attempts[clip_id])
    )
    return [f"{record.where}: {record.message}" for record in records if record.message == failure_records.DAMAGED]


def _check_clips_table(storage: Storage, clips: Mapping[str, Clip], done: set[str]) -> list[str]:
    data = storage.read(layout.CLIPS)
    if data is None:
        return []  # written by a driver now and then: a young run has none
    summaries = summary.from_parquet(data)
    if summaries.keys() != clips.keys():
        return [f"{layout.CLIPS}: its clips are not those of the manifest"]
    ghosts = [clip_id for clip_id, item in summaries.items() if item.status == "done" and clip_id not in done]
    return [f"clip {clip_id}: {layout.CLIPS} says done, and there are no annotations" for clip_id in ghosts]


def _check_file(storage: Storage, clip: Clip, fingerprint: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    path = layout.annotation_path(clip.clip_id)
    with storage.fetched(path) as local:
        if local is None:
            return {clip.clip_id: ""}, [f"{path}: vanished during the audit"]
        try:
            with pq.ParquetFile(local) as file:
                if not file.schema_arrow.remove_metadata().equals(SCHEMA):
                    return {clip.clip_id: ""}, [f"{path}: not the schema of annotations version 1"]
                check = ClipCheck(clip.clip_id, path, read_file_metadata(file.metadata), fingerprint, _prompts(clip))
                for batch in file.iter_batches(BATCH_ROWS):
                    check.rows(batch)
        except (pa.ArrowException, OSError, ValueError) as error:
            return {clip.clip_id: ""}, [f"{path}: cannot be read: {' '.join(str(error).split())[:200]}"]
    problems = check.finish()
    return {clip.clip_id: check.digest}, problems


def _check_part(
    storage: Storage,
    part: str,
    held: Mapping[str, CompactedClip],
    clips: Mapping[str, Clip],
    fingerprint: Mapping[str, Any],
) -> tuple[dict[str, str], list[str]]:
    path = layout.part_path(part)
    problems: list[str] = []
    checks: dict[str, ClipCheck] = {}
    for clip_id, row in held.items():
        if clip_id in clips:
            where = f"{path}, clip {clip_id}"
            checks[clip_id] = ClipCheck(clip_id, where, row.values(), fingerprint, _prompts(clips[clip_id]))
    with storage.fetched(path) as local:
        if local is None:
            return {}, [f"{path}: vanished during the audit"]
        try:
            with pq.ParquetFile(local) as file:
                if not file.schema_arrow.remove_metadata().equals(SCHEMA):
                    return {}, [f"{path}: not the schema of annotations version 1"]
                for clip_id, batch in by_clip(file):
                    if clip_id in checks:
                        checks[clip_id].rows(batch)
                    else:
                        problems.append(f"{path}: has rows of clip {clip_id!r}, which the index places elsewhere")
        except (pa.ArrowException, OSError, ValueError) as error:
            return {}, [f"{path}: cannot be read: {' '.join(str(error).split())[:200]}"]
    for check in checks.values():
        problems += check.finish()
    return {clip_id: check.digest for clip_id, check in checks.items()}, problems


def by_clip(file: pq.ParquetFile) -> Iterator[tuple[str, pa.RecordBatch]]:
    """The rows of a merged file in order, cut where the clip changes."""
    for batch in file.iter_batches(BATCH_ROWS):
        column = batch.column("clip_id")
        names = column.dictionary.to_pylist()
        codes = column.indices.to_pylist()
        start = 0
        for stop in range(1, len(codes) + 1):
            if stop == len(codes) or codes[stop] != codes[start]:
                yield names[codes[start]], batch.slice(start, stop - start)
                start = stop


def _prompts(clip: Clip) -> set[str]:
    return {*clip.prompts, *(mark.label for mark in clip.visual_prompts)}
