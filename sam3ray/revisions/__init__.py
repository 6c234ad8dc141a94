"""Corrections to a run: a log of operations, applied on reading. The model's own files are never changed."""

from sam3ray.revisions._audit import check_edits, count_edits
from sam3ray.revisions._difference import Change, Label, difference
from sam3ray.revisions._hand import Marks
from sam3ray.revisions._log import Edits, Entry
from sam3ray.revisions._operations import (
    Accept,
    Add,
    ClipOperation,
    Delete,
    EditConflict,
    EditRefused,
    Merge,
    Rename,
    ReplaceMask,
    Revert,
    SetId,
    Split,
    Swap,
)
from sam3ray.revisions._operations import from_json as operation_from_json
from sam3ray.revisions._operations import to_json as operation_as_json
from sam3ray.revisions._refined import CorrectedClip
from sam3ray.revisions._resolve import changes_rows, read_revision, resolved_file

__all__ = [
    "Accept",
    "Add",
    "Change",
    "ClipOperation",
    "CorrectedClip",
    "Delete",
    "EditConflict",
    "EditRefused",
    "Edits",
    "Entry",
    "Label",
    "Marks",
    "Merge",
    "Rename",
    "ReplaceMask",
    "Revert",
    "SetId",
    "Split",
    "Swap",
    "changes_rows",
    "check_edits",
    "count_edits",
    "difference",
    "operation_as_json",
    "operation_from_json",
    "read_revision",
    "resolved_file",
]
