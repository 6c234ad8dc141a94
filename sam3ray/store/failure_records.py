"""Failed attempts as files: `failures/<clip_id>/<n>.json`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace

from sam3ray.failures import Failure, Reason
from sam3ray.guard.jsontext import parse_json
from sam3ray.guard.printable import json_text
from sam3ray.guard.redact import redact, redact_values
from sam3ray.store import layout
from sam3ray.store.storage import Storage

DAMAGED = "the failure record is damaged"


def is_settled(records: Iterable[Failure]) -> bool:
    """Whether these attempts settle a clip, so that later runs skip it until its records are cleared."""
    return any(record.final and record.reason.is_charged for record in records)


def list_attempts(storage: Storage, told: Callable[[int], None] | None = None) -> dict[str, list[int]]:
    """The numbers of each clip's recorded attempts, ascending; by one listing."""
    found: dict[str, list[int]] = {}
    for entry in storage.walk(layout.FAILURES, told):
        parts = entry.path.split("/")
        if len(parts) == 3 and layout.is_clip_id(parts[1]):
            number = layout.record_number(parts[2])
            if number is not None:
                found.setdefault(parts[1], []).append(number)
    return {clip_id: sorted(numbers) for clip_id, numbers in found.items()}


def write(storage: Storage, failure: Failure) -> int:
    """Add a record. Returns its number, one above the highest that exists.

    Each record is created only if its name is free, else the next number is tried: no two records share a number.
    The first record of a clip, usually the only one, needs no listing. If the process dies, there is a complete record
    or none.
    """
    folder = layout.failure_folder(failure.clip_id)
    number = 1
    while True:
        numbered = replace(failure, attempt=failure.attempt or number)
        if storage.create_bytes(_to_json(numbered), layout.failure_path(failure.clip_id, number)):
            return number
        taken = (layout.record_number(name) for name in storage.names(folder)) if number == 1 else ()
        number = max((n for n in taken if n is not None), default=number) + 1


def read(storage: Storage, clip_id: str, number: int) -> Failure | None:
    """Read one record; None if it has been cleared. A damaged record is reported as damaged and settles nothing."""
    path = layout.failure_path(clip_id, number)
    data = storage.read(path)
    if data is None:
        return None
    try:
        return _from_json(data, clip_id, number)
    except (ValueError, TypeError, KeyError, OverflowError, AttributeError):
        return Failure(clip_id, Reason.INTERNAL, DAMAGED, path, attempt=number)


def read_many(storage: Storage, attempts: Iterable[tuple[str, int]]) -> list[Failure]:
    """Read records in parallel; returned in the given order."""
    found = storage.each(lambda key: read(storage, *key), attempts)
    return [record for record in found if record is not None]


def _to_json(failure: Failure) -> bytes:
    values = asdict(failure)
    values |= {
        "reason": failure.reason.value,
        "message": redact(failure.message),
        "where": redact(failure.where),
        "traceback": redact(failure.traceback),
        "versions": redact_values(failure.versions),
        "recorded_at": round(time.time(), 3),
    }
    return json_text(values, indent=2).encode() + b"\n"


def _from_json(data: bytes, clip_id: str, number: int) -> Failure:
    values = parse_json(data)
    return Failure(
        clip_id=clip_id,
        reason=Reason(values["reason"]),
        message=str(values["message"]),
        where=str(values.get("where", "")),
        traceback=str(values.get("traceback", "")),
        seconds=float(values.get("seconds", 0.0)),
        versions={str(k): str(v) for k, v in dict(values.get("versions") or {}).items()},
        attempt=int(values.get("attempt") or number),
        final=bool(values.get("final", False)),
        window=str(values.get("window", "")),
    )
