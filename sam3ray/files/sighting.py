"""How a video's content looks from outside: its size, and what its store changes when the content changes.

A run notes it at first sight, as one line of JSON, and compares whenever it meets the video again: rows of two
contents are never mixed under one address. Nothing is read for it, and no store asked more than it is anyway.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# In order of trust. On a web server the time of the last change comes first: servers that share an address give each
# file an etag of their own.
_TAGS = ("ETag", "etag", "generation", "crc32c", "Content-MD5", "content_md5")
_TIMES = ("LastModified", "last_modified", "Last-Modified", "updated", "mtime")


def of_local(size: int, mtime_ns: int, seen_at: float) -> str:
    """Of a file on this machine. `seen_at`: Unix seconds now."""
    return _line({"size": size, "modified": round(mtime_ns / 1e9, 6), "seen_at": round(seen_at, 3)})


def of_size(size: int) -> str:
    """Of something of which nothing else is known."""
    return _line({"size": size})


def of_info(info: Mapping[str, Any], *, is_web: bool) -> str:
    """Of a file on a store, from what fsspec tells of it."""
    names = (*_TIMES, *_TAGS) if is_web else (*_TAGS, *_TIMES)
    name = next((name for name in names if info.get(name) is not None), None)
    size = info.get("size")
    tag = {} if name is None else {"modified" if name in _TIMES else "etag": str(info[name])}
    return _line({"size": None if size is None else int(size), **tag})


def of_frames(frames: Mapping[str, str]) -> str:
    """Of a folder, from the sightings of its frames by name."""
    given = [json.loads(frames[name]) for name in sorted(frames)]
    sizes = [each.get("size") for each in given]
    tags = [[each.get("etag"), each.get("modified"), size] for each, size in zip(given, sizes, strict=True)]
    total = None if None in sizes else sum(sizes)
    digest = hashlib.sha256(json.dumps(tags).encode()).hexdigest()[:32]
    return _line({"files": len(given), "size": total, "etag": digest})


def change(first: str, now: str) -> str | None:
    """How a video has changed since it was first seen, in words; None where it has not, as far as can be told.

    On a disk a later time of change counts alone: copies of a file on several nodes have times of their own.
    """
    before, after = _parsed(first), _parsed(now)
    for key, words in (("files", "files"), ("size", "bytes")):
        if key in before and key in after and before[key] != after[key]:
            return f"it had {before[key]} {words}, and has {after[key]}"
    if "etag" in before and "etag" in after and before["etag"] != after["etag"]:
        return (
            "its store reports another version of it" if "files" not in before else "some of its frames were replaced"
        )
    if "modified" in before and "modified" in after and before["modified"] != after["modified"]:
        since = before.get("seen_at")
        if since is None or (isinstance(after["modified"], float | int) and after["modified"] > since):
            return "it was modified"
    return None


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps({key: value for key, value in values.items() if value is not None}, sort_keys=True)


def _parsed(line: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}
