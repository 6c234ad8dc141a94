"""Corrections beside a run: a log of operations that is applied on reading. The model's own files are never touched."""

from sam3ray.revisions._audit import check_edits, count_edits
from sam3ray.revisions._difference import Change, Label, difference
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
from sam3ray.revisions._resolve import read_revision

__all__ = [
    "Accept",
    "Add",
    "Change",
    "ClipOperation",
    "Delete",
    "EditConflict",
    "EditRefused",
    "Edits",
    "Entry",
    "Label",
    "Merge",
    "Rename",
    "ReplaceMask",
    "Revert",
    "SetId",
    "Split",
    "Swap",
    "check_edits",
    "count_edits",
    "difference",
    "read_revision",
]
