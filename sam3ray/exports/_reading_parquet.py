"""Reads changed rows of a `parquet` export, written by any tool."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq

from sam3ray.exports._labels import ClipLabels
from sam3ray.exports._reading import Found, label_of, mask_of, object_id_of
from sam3ray.guard.damaged import why_unreadable
from sam3ray.revisions import Label
from sam3ray.store import layout
from sam3ray.store.storage import Storage


def read_parquet(storage: Storage, labels: ClipLabels) -> Found:
    """Reads `annotations/<clip_id>.parquet`: the columns `frame_index`, `object_id`, `prompt` and `segmentation`.

    Raises:
        ValueError: the file is missing or damaged, a column is missing, or a row's frame was not exported.
    """
    path = layout.annotation_path(labels.clip_id)
    data = storage.read(path)
    if data is None:
        raise ValueError(f"{path} is missing")
    columns = ["frame_index", "object_id", "prompt", "segmentation"]
    try:
        with pq.ParquetFile(io.BytesIO(data)) as file:
            if missing := [name for name in columns if name not in file.schema_arrow.names]:
                raise ValueError(f"{path} has no column {missing[0]}")
            rows = file.read(columns).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as Parquet: {why_unreadable(error)}") from None
    size = labels.height, labels.width
    found: Found = {frame: [] for frame in labels.frames}
    for n, row in enumerate(rows, 1):
        where, frame = f"{path}, row {n}", row["frame_index"]
        if frame not in found:
            raise ValueError(f"{where}: frame {frame!r} was not exported")
        object_id, label = object_id_of(row["object_id"], where), label_of(row["prompt"], where)
        held = next((each for each in labels.objects.get(frame, ()) if each.object_id == object_id), None)
        segmentation = row["segmentation"]
        if held is not None and isinstance(segmentation, dict) and segmentation.get("counts") == held.rle:
            found[frame].append(Label(object_id, label, held))
            continue
        mask = mask_of(segmentation, size, where)
        if mask.any():
            found[frame].append(Label(object_id, label, mask))
    return found
