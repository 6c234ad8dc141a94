"""Formats numbers and times for people."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def byte_size(count: float) -> str:
    """ "3.4 GB", powers of 1000."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def readable_time(stamp: str | float, now: float | None = None) -> str:
    """A time such as "2026-11-26 05:17 UTC, 3 min ago"; anything but a time is returned unchanged."""
    try:
        at = datetime.fromtimestamp(stamp, UTC) if isinstance(stamp, int | float) else datetime.fromisoformat(stamp)
    except (ValueError, OverflowError, OSError):
        return str(stamp)
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    seconds = (time.time() if now is None else now) - at.timestamp()
    shown = f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return f"{shown}, {readable_span(seconds)} ago" if seconds >= 0 else shown


def readable_span(seconds: float) -> str:
    """A length of time in its largest unit: "40 s", "3 min", "2.5 h", "4 days"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"


def counted(count: int, noun: str, nouns: str = "") -> str:
    """A number with its noun: "0 clips", "1 clip", "1,200 clips". `nouns`: the plural, if it is not noun + "s"."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"
