"""What a run's corrections come to, and whether they hold together."""

from __future__ import annotations

from sam3ray.failures import UserError
from sam3ray.revisions._log import EDITS, Edits
from sam3ray.revisions._operations import WITH_DATA, Revert
from sam3ray.revisions._resolve import changes_rows
from sam3ray.store import RunStore


def check_edits(store: RunStore) -> list[str]:
    """Problems, one sentence each: a gap in the log, a damaged entry, masks that are missing or changed, a clip whose
    file is not the one that was corrected, operations that do not fit."""
    edits = Edits(store)
    latest = edits.latest()
    problems: list[str] = []
    attempts: dict[str, str] = {}
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
                    f"{EDITS}/{number:08d}.json corrects another file of clip {clip_id} than the one that is there"
                )
    if problems:
        return problems
    for clip_id, operations in edits.operations(latest).items():
        try:
            edits.clip(clip_id, operations)
        except UserError as error:
            problems += error.problems
        except FileNotFoundError:
            problems.append(f"clip {clip_id} has corrections and is not done")
    return problems


def count_edits(store: RunStore) -> dict[str, int]:
    """The newest revision, and how many clips it has corrected and accepted. Empty where nothing was corrected."""
    edits = Edits(store)
    latest = edits.latest()
    if latest == 0:
        return {}
    operations = edits.operations(latest).values()
    return {
        "revision": latest,
        "corrected": sum(changes_rows(each) for each in operations),
        "accepted": sum(any(one.op == "accept" for one in each) for each in operations),
    }
