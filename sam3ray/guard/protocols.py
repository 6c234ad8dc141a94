"""The kinds of storage that an address may name: the usual ones, and those that the configuration adds.

fsspec knows some fifty kinds. Most are harmless but never intended. Some open other addresses (`reference://`,
`zip://`, caches, chains with `::`), so that a row of a manifest could reach any file of the machine that reads it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

from sam3ray.guard.addresses import ALIASES, scheme_of

ALLOWED = frozenset({"file", "s3", "gs", "az", "adl", "http", "https", "memory", *ALIASES})
# These read other addresses, or data within the address. No configuration may allow them.
NEVER = frozenset(
    {"reference", "zip", "tar", "libarchive", "dir", "generic", "data", "dask", "jupyter", "jlab"}
    | {"simplecache", "filecache", "blockcache", "cached", "async_wrapper", "asyncwrapper", "asynclocal"}
)
_CHAIN = re.compile(r"(?i)\s*[a-z0-9+._-]+::|.*::[a-z0-9+._-]+://")
_SCHEME = re.compile(r"\s*([A-Za-z0-9+._-]+):(?://|(?=[^/]*$))")


def protocol_problem(address: str, more: Collection[str] = ()) -> str | None:
    """What is wrong with an address's kind of storage, as "is on ftp://, ...; allowed: ...", or None.

    Args:
        more: kinds that the configuration adds.
    """
    if "::" in address and _CHAIN.match(address) and not _is_web(address):
        return "chains file systems (`::`); allowed: the address of a file or a folder"
    if "://" not in address and not address.strip().lower().startswith(_NO_SLASHES):
        return None
    scheme = scheme_of(address) if "://" in address else address.strip().partition(":")[0].lower()
    added = {name.lower().removesuffix("://") for name in more}
    if scheme in NEVER:
        return f"is on {scheme}://, which reads other files; allowed: the address of the file itself"
    if scheme in ALLOWED or scheme in added:
        return None
    close = difflib.get_close_matches(scheme, sorted(ALLOWED | added), n=1)
    nearest = f"; the nearest is {close[0]}://" if close else ""
    allowed = "a path, s3://, gs://, az://, https:// and the kinds that video.protocols adds"
    return f"is on {scheme}://; allowed: {allowed}{nearest}"


_NO_SLASHES = tuple(f"{name}:" for name in sorted(NEVER))


def _is_web(address: str) -> bool:
    """Whether a `::` is part of a web address, as in signed ones that name services."""
    return re.match(r"(?i)\s*https?://", address) is not None
