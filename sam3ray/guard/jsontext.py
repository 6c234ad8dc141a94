"""JSON that anybody may have written: a value, or a ValueError, whatever it is."""

from __future__ import annotations

import json
from typing import Any

MAX_BYTES = 64 * 2**20


def parse_json(data: bytes | str, max_bytes: int = MAX_BYTES) -> Any:
    """Raises ValueError for what is no JSON, is nested too deeply to be ours, or is larger than `max_bytes`."""
    if len(data) > max_bytes:
        raise ValueError(f"{len(data)} bytes of JSON; allowed: {max_bytes}")
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
