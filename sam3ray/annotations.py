"""Reads a run's annotations, and names the types that they consist of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sam3ray.config import RunSource, run_place
from sam3ray.revisions import read_revision
from sam3ray.store.annotation_file import (
    AnnotationWriter,
    FileFacts,
    parquet_options,
    read_file_metadata,
    read_frames,
)
from sam3ray.store.reading import annotations_dataset
from sam3ray.values.annotations import (
    SCHEMA,
    TRUTH_SCHEMA,
    FrameAnnotations,
    ObjectAnnotation,
    decode_mask,
)
from sam3ray.values.versions import SCHEMA_VERSION

if TYPE_CHECKING:
    import pyarrow.dataset as ds

__all__ = [
    "AnnotationWriter",
    "FileFacts",
    "FrameAnnotations",
    "ObjectAnnotation",
    "SCHEMA",
    "SCHEMA_VERSION",
    "TRUTH_SCHEMA",
    "decode_mask",
    "load_revision",
    "parquet_options",
    "read_annotations",
    "read_file_metadata",
    "read_frames",
]


def read_annotations(
    output: RunSource, storage_options: Mapping[str, Any] | None = None, *, revision: int | str | None = None
) -> ds.Dataset:
    """The annotations of a run as a lazy pyarrow dataset: `.to_table(filter=..., columns=...)`, `.to_batches()`.

    Lists the folder once, and opens files only when data are requested. A compacted run is read from its merged files.
    Rows of a clip keep their order; clips come in the order of their ids.

    Args:
        output: the run's output folder, on any fsspec storage; or the job's YAML file, dict or `JobConfig`.
        storage_options: fsspec options; they override those of the configuration.
        revision: None for the model's own rows; "latest" or a number applies the corrections up to that revision.
            Corrected clips are then written to local files first.

    Raises:
        UserError: there is neither a run nor a folder of annotations, the revision does not exist, or the log of
            corrections is damaged.
        JobStopped, ClipError: the store refuses access or cannot be reached.
    """
    output, storage_options = run_place(output, storage_options)
    if revision is not None:
        return read_revision(output, revision, storage_options)
    return annotations_dataset(output, storage_options)


def load_revision(
    run: RunSource, revision: int | str = "latest", storage_options: Mapping[str, Any] | None = None
) -> ds.Dataset:
    """The annotations of a run with its corrections: `read_annotations` at a revision, by default the latest."""
    return read_annotations(run, storage_options, revision=revision)
