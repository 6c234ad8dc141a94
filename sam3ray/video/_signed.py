"""How long a signed address is valid, from its query (S3, GCS, Azure, CloudFront and similar)."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from urllib.parse import parse_qsl

from sam3ray.values.clip_ids import unsigned

LONG_S = 24 * 3600.0  # an address that is valid for longer is assumed to outlast the work on its clip


def is_short_lived(uri: str, now: float | None = None) -> bool:
    """Whether an address is signed, and expires within `LONG_S` or at an unknown time."""
    if unsigned(uri) == uri:
        return False
    until = valid_until(uri)
    return until is None or until - (time.time() if now is None else now) < LONG_S


def valid_until(uri: str) -> float | None:
    """When a signed address expires, in Unix seconds; None if that is not clear."""
    query = uri.partition("?")[2].partition("#")[0]
    values: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if values.setdefault(name.lower(), value) != value:
            return None
    found = _moments(values)
    known = [moment for moment in found if moment is not None]
    return min(known) if known and len(known) == len(found) else None


def _moments(values: dict[str, str]) -> list[float | None]:
    found: list[float | None] = []
    for vendor in ("amz", "goog"):
        if f"x-{vendor}-expires" in values or f"x-{vendor}-date" in values:
            begin = _moment(values.get(f"x-{vendor}-date", ""))
            seconds = _count(values.get(f"x-{vendor}-expires", ""))
            found.append(None if begin is None or seconds is None else begin + seconds)
    if "sig" in values and "se" in values:  # Azure
        found.append(_moment(values["se"]))
    if "expires" in values:
        found.append(_count(values["expires"]))
    return found


def _count(text: str) -> float | None:
    """A number of seconds; with more digits, it would be milliseconds."""
    return float(text) if re.fullmatch(r"\d{1,10}", text, re.ASCII) else None


def _moment(text: str) -> float | None:
    """Unix seconds of a time in the basic or extended format of ISO 8601; without a zone, it is in UTC."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
