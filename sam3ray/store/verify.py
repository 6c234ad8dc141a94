"""The audit of a run: checks everything on which readers rely."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from sam3ray.guard.processes import worker_pool
from sam3ray.store import failure_records, layout, summary, windows
from sam3ray.store.audit import Auditor, Checked, Task
from sam3ray.store.compacted import CompactedClip, read_index, version_of
from sam3ray.store.provenance import Provenance
from sam3ray.store.run import RunStore
from sam3ray.store.storage import Entry, Storage
from sam3ray.store.summary import ClipSummary
from sam3ray.values.clip import Clip

WORKERS = 4  # files checked at a time, which bounds memory to a few hundred MB
WORTH_PROCESSES = 64  # number of files that justifies starting processes, which takes a second each

Result = tuple[list[Checked], list[str]]
Spread = Callable[[Callable[[Task], Result], Sequence[Task]], Iterator[Result]]  # results in the order of the tasks

_ROOT_FILES = frozenset({layout.RUN, layout.MANIFEST, layout.CLIPS, layout.REPORT, layout.TRIAGE, layout.DRIVER})


@dataclass
class _Listing:
    """The contents of the output, by kind."""

    annotations: set[str]
    videos: set[str]
    failures: set[str]
    parts: set[str]
    windows: set[str]
    unknown: list[str]


def verify_run(
    output: str,
    storage_options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    sample: int | None = None,
    spread: Spread | None = None,
) -> list[str]:
    """Audit a run.

    Checks that every clip of the manifest is done or has a failure record, and that there are no other clips. For every
    finished clip, checks the schema, the metadata (against `run.json` and other clips), the order of rows, ids,
    prompts, scores, and row counts (also against `clips.parquet`), and that every RLE decodes to the frame's size and
    to exactly its area and box. Merged files of a compacted run are checked in the same way, and compared with the
    clips' own files if those exist.

    Args:
        progress: called from time to time with (clips checked, clips to check).
        sample: check the files of only this many finished clips, chosen at random each time. Checks that need only
            listings still cover all clips.
        spread: where the work is done: `spread_over_processes(n)` or `sam3ray.job.spread_over_cluster`; None: threads
            of this process.

    Returns:
        The problems, one sentence each; empty if there are none.

    Raises:
        UserError: there is no run in this folder.
    """
    store = RunStore(output, storage_options)
    storage = store.storage
    run = store.run_info()
    clips = {clip.clip_id: clip for clip in store.manifest()}
    listing = _sort(storage.walk())
    index = read_index(storage)
    problems = [f"{path}: not a file of a run" for path in sorted(listing.unknown)]
    problems += _check_sets(clips, listing, index)
    problems += _check_failures(storage)
    table, wrong = _read_clips_table(storage, clips, listing.annotations | index.keys())
    problems += wrong

    tasks = _tasks(clips, listing, index, sample)
    total = sum(len(task.clips) for task in tasks)
    checked = 0
    digests: dict[str, str] = {}
    auditor = Auditor(storage, run["fingerprint"])
    provenance = Provenance(run, clips)
    each = spread or partial(storage.each, workers=WORKERS)
    for found, wrong in each(auditor.check, tasks):
        problems += wrong
        for clip in found:
            if digests.setdefault(clip.clip_id, clip.digest) != clip.digest:
                problems.append(f"clip {clip.clip_id}: its own file and the merged one have different rows")
                continue
            problems += _compare_with_table(clip, table) + provenance.problems(clip.clip_id, clip.made)
        checked += len(found)
        if progress is not None:
            progress(checked, total)
    return problems + provenance.disagreements()


def spread_over_processes(workers: int) -> Spread:
    """Run the work in `workers` processes, or in threads of this one if there is little work."""

    def spread(call: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        if workers <= 1 or len(tasks) < WORTH_PROCESSES:
            with ThreadPoolExecutor(WORKERS) as threads:
                yield from threads.map(call, tasks)
            return
        with worker_pool(workers) as pool:
            yield from pool.map(call, tasks, chunksize=8)

    return spread


def _tasks(
    clips: Mapping[str, Clip], listing: _Listing, index: Mapping[str, CompactedClip], sample: int | None
) -> list[Task]:
    """The files to check."""
    own = listing.annotations & clips.keys()
    by_part: dict[str, list[CompactedClip]] = {}
    for held in index.values():
        if held.part in listing.parts and held.clip_id in clips:
            by_part.setdefault(held.part, []).append(held)
    if sample is not None:
        done = sorted(own | {held.clip_id for part in by_part.values() for held in part})
        chosen = sorted(random.SystemRandom().sample(done, min(sample, len(done))))
        merged = [index[clip_id] for clip_id in chosen if clip_id in index and index[clip_id].part in by_part]
        return [Task((clips[clip_id],)) for clip_id in chosen if clip_id in own] + [
            Task((clips[held.clip_id],), held.part, (held,), whole=False) for held in merged
        ]
    return [Task((clips[clip_id],)) for clip_id in sorted(own)] + [
        Task(tuple(clips[held.clip_id] for held in by_part[part]), part, tuple(by_part[part]))
        for part in sorted(by_part)
    ]


def _sort(entries: Iterator[Entry]) -> _Listing:
    found = _Listing(set(), set(), set(), set(), set(), [])
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
        elif folder == layout.RECORDINGS and layout.clip_of(name, ".mp4"):
            pass  # a crash leaves the recording of the unfinished clip
        elif folder == layout.WINDOWS and (clip_id := _window_clip(name)) is not None:
            found.windows.add(clip_id)
        elif folder == layout.EDITS:
            pass  # corrections are checked by `sam3ray.revisions`
        elif entry.path == layout.EXPORT or (folder == layout.SIDECARS and layout.clip_of(name, ".json")):
            pass  # a run that an export has created
        elif entry.path not in _ROOT_FILES and not _is_index(folder, name):
            found.unknown.append(entry.path)
    return found


def _is_index(folder: str, name: str) -> bool:
    return folder == layout.COMPACTED and version_of(name) is not None


def _window_clip(name: str) -> str | None:
    clip_id, _, file = name.partition("/")
    return clip_id if layout.is_window_file(file) and layout.is_clip_id(clip_id) else None


def leftovers(store: RunStore) -> list[str]:
    """Harmless leftovers that the next run removes: windows of finished clips. One sentence each."""
    under_way = windows.clip_windows(store.storage)
    done = store.done_ids() if under_way else set()
    return [
        f"clip {clip_id}: done, but an attempt that ended late left windows; the next run removes them"
        for clip_id in sorted(under_way.keys() & done)
    ]


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
        ("windows", listing.windows),
    ):
        problems += [
            f"clip {clip_id}: has {kind}, and is not in the manifest" for clip_id in sorted(ids - clips.keys())
        ]
    named = {clip.part for clip in index.values()}
    problems += [f"{layout.part_path(part)}: listed in the index but missing" for part in sorted(named - listing.parts)]
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


def _read_clips_table(
    storage: Storage, clips: Mapping[str, Clip], done: set[str]
) -> tuple[Mapping[str, ClipSummary], list[str]]:
    data = storage.read(layout.CLIPS)
    if data is None:
        return {}, []  # the driver writes it from time to time; a new run has none
    summaries = summary.from_parquet(data)
    if summaries.keys() != clips.keys():
        return {}, [f"{layout.CLIPS}: its clips differ from the manifest's"]
    ghosts = [clip_id for clip_id, item in summaries.items() if item.status == "done" and clip_id not in done]
    return summaries, [f"clip {clip_id}: {layout.CLIPS} says done, but there are no annotations" for clip_id in ghosts]


def _compare_with_table(clip: Checked, table: Mapping[str, ClipSummary]) -> list[str]:
    """A clip that was finished after the table was written is not done in it, which is not a problem."""
    said = table.get(clip.clip_id)
    if said is None or said.status != "done" or clip.figures is None:
        return []
    return [
        f"clip {clip.clip_id}: {layout.CLIPS} says {theirs} {name}, its file has {ours}"
        for name, theirs, ours in zip(("frames", "objects", "rows"), _figures(said), clip.figures, strict=True)
        if theirs != ours
    ]


def _figures(said: ClipSummary) -> tuple[int, int, int]:
    return said.frames, said.objects, said.rows
