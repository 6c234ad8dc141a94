"""`run.json`, the identity of a run. Created once, never changed."""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Mapping
from typing import Any

from sam3ray.failures import UserError
from sam3ray.guard.jsontext import parse_json
from sam3ray.guard.redact import redact, redact_values

FORMAT = 1


def describe_run(
    fingerprint: Mapping[str, Any],
    config: Mapping[str, Any],
    clips: int,
    manifest_digest: str,
    extra: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The content of `run.json`, without credentials."""
    return {
        "format": FORMAT,
        "run_id": uuid.uuid4().hex,
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "fingerprint": normalised(fingerprint),
        "config": normalised(config),
        "manifest": {"clips": clips, "sha256": manifest_digest},
        **normalised(extra or {}),
    }


def normalised(values: Mapping[str, Any]) -> dict[str, Any]:
    """The value as JSON would return it, with credentials masked."""
    return json.loads(json.dumps(redact_values(values), sort_keys=True, default=str))


def parse(data: bytes, where: str) -> dict[str, Any]:
    """The content of a `run.json`.

    Raises:
        UserError: it is damaged, or its format is unknown to this version.
    """
    try:
        values = parse_json(data)
        known = isinstance(values, dict) and isinstance(values["fingerprint"], dict) and values["format"] == FORMAT
        if not known or not isinstance(values["manifest"]["sha256"], str):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{redact(where)} is damaged or of another version's format; expected format {FORMAT}"
        ) from None
    return values


def outdated(before: Mapping[str, Any], now: Mapping[str, Any], where: str) -> str | None:
    """A sentence if the run was made by an engine whose rows differ, else None."""
    old, new = before.get("engine_version"), now.get("engine_version")
    if old == new or new is None:
        return None
    by = "sam3ray 0.1.0" if old is None else f"engine version {_shown(old)}"
    return (
        f"the run in {redact(where)} was made by {by}, but this is engine version {_shown(new)}, whose rows differ: "
        "the run cannot be continued. It can still be read, verified, rendered, exported and compacted. To label the "
        "rest, use another output, or the version of sam3ray that started it"
    )


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
