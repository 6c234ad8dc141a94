"""Annotations of a run as one dataset, whether or not it has been compacted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sam3ray.failures import UserError
from sam3ray.store import layout
from sam3ray.store.compacted import read_index
from sam3ray.store.storage import Storage
from sam3ray.values.annotations import SCHEMA

if TYPE_CHECKING:
    import pyarrow.dataset as ds


def annotations_dataset(output: str, options: Mapping[str, Any] | None) -> ds.Dataset:
    """See `sam3ray.read_annotations`."""
    return dataset_of(Storage(output, options))


def dataset_of(storage: Storage) -> ds.Dataset:
    """The dataset of a folder. Raises UserError if it has neither a run nor annotations."""
    import pyarrow.dataset as ds  # imports pandas if that is installed, which workers do not need

    # List first, then read the index. A clip's own file is deleted only after the index names the clip, so each clip is
    # found in at least one of the two, whatever happens in between. If both have it, the index decides.
    names = storage.names(layout.ANNOTATIONS)
    index = read_index(storage)
    if not names and not index and not any(map(storage.exists, (layout.RUN, layout.ANNOTATIONS))):
        raise UserError(f"there is no run in {storage.shown()}: it has neither {layout.RUN} nor {layout.ANNOTATIONS}/")
    paths = [layout.part_path(part) for part in sorted({clip.part for clip in index.values()})]
    for name in sorted(names):
        clip_id = layout.clip_of(name, ".parquet")
        if clip_id is not None and clip_id not in index:
            paths.append(f"{layout.ANNOTATIONS}/{name}")
    # The schema is known, so no file is opened to read it.
    return ds.FileSystemDataset.from_paths(
        [storage.full(path) for path in paths], schema=SCHEMA, format=ds.ParquetFileFormat(), filesystem=storage.arrow()
    )
