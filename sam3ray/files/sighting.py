"""Sightings: a video's size, and the values of its store that change with the content.

A run records a sighting when it first sees a video, as one line of JSON, and compares it whenever it sees the video
again. So rows of different contents are never mixed under one address. This needs no reading and no extra
requests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# In order of trust. For web servers the time of the last change comes first, because servers behind one address may
# give different etags for a file.
_TAGS = ("ETag", "etag", "generation", "crc32c", "Content-MD5", "content_md5")
_TIMES = ("LastModified", "last_modified", "Last-Modified", "updated", "mtime")


def of_local(size: int, mtime_ns: int, seen_at: float) -> str:
    """The sighting of a file on this machine. `seen_at` is the current time in Unix seconds."""
    return _line({"size": size, "modified": round(mtime_ns / 1e9, 6), "seen_at": round(seen_at, 3)})


def of_size(size: int) -> str:
    """The sighting of something of which only the size is known."""
    return _line({"size": size})


def of_info(info: Mapping[str, Any], *, is_web: bool) -> str:
    """The sighting of a file on a store, from fsspec's information."""
    names = (*_TIMES, *_TAGS) if is_web else (*_TAGS, *_TIMES)
    name = next((name for name in names if info.get(name) is not None), None)
    size = info.get("size")
    tag = {} if name is None else {"modified" if name in _TIMES else "etag": str(info[name])}
    return _line({"size": None if size is None else int(size), **tag})


def of_frames(frames: Mapping[str, str]) -> str:
    """The sighting of a folder, from the sightings of its frames by name."""
    given = [json.loads(frames[name]) for name in sorted(frames)]
    sizes = [each.get("size") for each in given]
    tags = [[each.get("etag"), each.get("modified"), size] for each, size in zip(given, sizes, strict=True)]
    total = None if None in sizes else sum(sizes)
    digest = hashlib.sha256(json.dumps(tags).encode()).hexdigest()[:32]
    return _line({"files": len(given), "size": total, "etag": digest})


def change(first: str, now: str) -> str | None:
    """How a video has changed since it was first seen, in words; None if no change is visible.

    On a disk only a later time of change counts, since copies of a file on several nodes have different times.
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
