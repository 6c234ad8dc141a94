"""Summarizes a run's corrections, and checks that they are consistent."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow.parquet as pq

from sam3ray.failures import UserError
from sam3ray.revisions._log import EDITS, Edits
from sam3ray.revisions._operations import WITH_DATA, ClipOperation, Revert
from sam3ray.revisions._resolve import changes_rows, resolved_file
from sam3ray.store import RunStore
from sam3ray.store.annotation_file import read_file_metadata
from sam3ray.store.check_clip import BATCH_ROWS, ClipCheck


def check_edits(store: RunStore, revision: int | str | None = "latest") -> list[str]:
    """Lists problems, one sentence each.

    Finds gaps in the log, damaged entries, missing or changed masks, clips whose file is not the one that was
    corrected, operations that do not fit, and corrected rows that are invalid.

    Args:
        revision: the last revision to check.
    """
    edits = Edits(store)
    problems: list[str] = []
    attempts: dict[str, str] = {}
    latest = edits.number_of(revision)
    for number in range(1, latest + 1):
        try:
            entry = edits.entry(number)
        except UserError as error:
            problems += error.problems
            continue
        for operation in entry.operations:
            if isinstance(operation, WITH_DATA) and not isinstance(operation, Revert):
                try:
                    edits.load(operation)
                except UserError as error:
                    problems += error.problems
        for clip_id, attempt in entry.attempts.items():
            if clip_id not in attempts:
                try:
                    attempts[clip_id] = edits.attempt_of(clip_id)
                except UserError as error:
                    problems += error.problems
                    attempts[clip_id] = attempt
            if attempts[clip_id] != attempt:
                problems.append(
                    f"{EDITS}/{number:08d}.json corrects a different file of clip {clip_id} from the current one"
                )
    if problems:
        return problems
    for clip_id, operations in edits.operations(latest).items():
        problems += _check_rows(edits, clip_id, operations, latest)
    return problems


def _check_rows(edits: Edits, clip_id: str, operations: Sequence[ClipOperation], revision: int) -> list[str]:
    try:
        path = resolved_file(edits, clip_id, operations)
    except UserError as error:
        return list(error.problems)
    except FileNotFoundError:
        return [f"clip {clip_id} has corrections but is not done"]
    except ValueError as error:
        return [f"clip {clip_id} at revision {revision}: {error}"]
    with pq.ParquetFile(path) as file:
        about = read_file_metadata(file.metadata)
        check = ClipCheck(
            clip_id, f"clip {clip_id} at revision {revision}", about, about["fingerprint"], None, one_prompt=False
        )
        for batch in file.iter_batches(BATCH_ROWS):
            check.rows(batch)
    return check.finish()


def count_edits(store: RunStore, revision: int | str | None = "latest") -> dict[str, int]:
    """The latest revision, with the numbers of corrected and of accepted clips. Empty if nothing was corrected."""
    edits = Edits(store)
    number = edits.number_of(revision)
    if number == 0:
        return {}
    operations = edits.operations(number).values()
    return {
        "revision": number,
        "corrected": sum(changes_rows(each) for each in operations),
        "accepted": sum(any(one.op == "accept" for one in each) for each in operations),
    }
