"""Reads a run at a revision: one dataset in which the rows of corrected clips replace the model's.

Each corrected clip becomes a whole-clip file in a local cache. Its name is a digest of the run, the clip's own file and
the operations, so that a name always means the same rows. A file appears whole or not at all. A compacted file that
also has rows of corrected clips is copied to the cache without them. All other files are read lazily where they are.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sam3ray.revisions._log import Edits
from sam3ray.revisions._operations import ClipOperation, to_json
from sam3ray.store import RunStore, layout
from sam3ray.store.annotation_file import AnnotationWriter, parquet_options
from sam3ray.store.compacted import CompactedClip, read_index
from sam3ray.store.labelled_frames import labelled_frames
from sam3ray.store.reading import dataset_of
from sam3ray.values.annotations import SCHEMA, FrameAnnotations

if TYPE_CHECKING:
    import pyarrow.dataset as ds


def read_revision(
    output: str, revision: int | str | None, storage_options: Mapping[str, Any] | None = None
) -> ds.Dataset:
    """The annotations of a run at a revision: None for the model's own rows, or "latest", or a number.

    Raises:
        UserError: there is no such revision, or the log is damaged.
    """
    import pyarrow.dataset as ds  # see `store.reading`

    store = RunStore(output, storage_options)
    edits = Edits(store)
    operations = {
        clip_id: each for clip_id, each in edits.operations(edits.number_of(revision)).items() if changes_rows(each)
    }
    if not operations:
        return dataset_of(store.storage)
    index = read_index(store.storage)
    own = sorted(
        name
        for name in store.storage.names(layout.ANNOTATIONS)
        if (clip_id := layout.clip_of(name, ".parquet")) is not None
        and clip_id not in index
        and clip_id not in operations
    )
    touched_parts = {index[clip_id].part for clip_id in operations if clip_id in index}
    parts = sorted({clip.part for clip in index.values()} - touched_parts)
    remote = [layout.part_path(part) for part in parts] + [f"{layout.ANNOTATIONS}/{name}" for name in own]
    local = [_without(store, part, operations, index) for part in sorted(touched_parts)]
    resolved = {clip_id: resolved_file(edits, clip_id, each) for clip_id, each in sorted(operations.items())}
    if store.storage.is_local and not index:  # all on one file system, so that clips come in the order of their ids
        paths = {name.removesuffix(".parquet"): store.storage.full(f"{layout.ANNOTATIONS}/{name}") for name in own}
        paths |= {clip_id: str(path) for clip_id, path in resolved.items()}
        in_order = [paths[clip_id] for clip_id in sorted(paths, key=lambda each: f"{each}.parquet")]
        return _dataset(in_order, pa.fs.LocalFileSystem())
    local += resolved.values()
    datasets = [
        _dataset([store.storage.full(path) for path in remote], store.storage.arrow()),
        _dataset([str(path) for path in local], pa.fs.LocalFileSystem()),
    ]
    return ds.dataset([each for each in datasets if each.files])


def changes_rows(operations: Sequence[ClipOperation]) -> bool:
    return any(each.op != "accept" for each in operations)


def resolved_file(edits: Edits, clip_id: str, operations: Sequence[ClipOperation]) -> Path:
    """The local file of a whole clip after these operations, created if it is missing."""
    about = edits.store.read_clip_metadata(clip_id)
    clip = about.get("clip", {})
    key = _key(edits.store.output, clip.get("attempt_id"), [to_json(each) for each in operations])

    def make(path: Path) -> None:
        kept = {name: about.get(name, {}) for name in ("fingerprint", "clip", "model", "software")}
        with AnnotationWriter(path, clip_id, kept) as writer:
            frames = {frame.frame_index: frame for frame in edits.clip(clip_id, operations)}
            # Frames without objects, or with none left, were processed and count as well.
            empty = FrameAnnotations(0, 0, 0.0, clip.get("height") or 1, clip.get("width") or 1)
            for index in labelled_frames(clip, frames.keys()):
                writer.write(frames.get(index) or replace(empty, frame_index=index))
            writer.finish()

    return _cached(f"{clip_id}-{key}.parquet", make)


def _without(store: RunStore, part: str, operations: Mapping[str, Any], index: Mapping[str, CompactedClip]) -> Path:
    """A local copy of a compacted file, without the rows of corrected clips."""
    gone = sorted(clip_id for clip_id in operations if clip_id in index and index[clip_id].part == part)

    def make(path: Path) -> None:
        source = _dataset([store.storage.full(layout.part_path(part))], store.storage.arrow())
        with pq.ParquetWriter(path, SCHEMA, **parquet_options()) as writer:
            kept = ~pc.field("clip_id").cast(pa.string()).isin(gone)
            for batch in source.scanner(filter=kept).to_batches():
                if batch.num_rows:
                    writer.write_table(pa.Table.from_batches([batch]).cast(SCHEMA))

    return _cached(f"{_key(store.output, part, gone)}.parquet", make)


def _dataset(paths: list[str], filesystem: Any) -> ds.FileSystemDataset:
    import pyarrow.dataset as ds  # see `store.reading`

    return ds.FileSystemDataset.from_paths(paths, schema=SCHEMA, format=ds.ParquetFileFormat(), filesystem=filesystem)


def _key(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


def cache_folder() -> Path:
    """The cache of this user on this machine. It may be deleted while it is not in use."""
    folder = Path(tempfile.gettempdir()) / f"sam3ray-{os.getuid()}" / "revisions"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.parent.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder.parent} belongs to another user")
    return folder


def _cached(name: str, make: Callable[[Path], None]) -> Path:
    path = cache_folder() / name
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as work:
            made = Path(work) / "file.parquet"
            make(made)
            os.replace(made, path)
    return path
