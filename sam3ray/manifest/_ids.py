"""Clip ids: which are allowed, and how one is derived from an address and a range."""

from __future__ import annotations

import hashlib
import re
import unicodedata

_ALLOWED = re.compile(r"[A-Za-z0-9-][A-Za-z0-9._-]{0,199}")
_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9._-]+")
_SLUG_CHARS = 80

ALLOWED = "1 to 200 of A-Z a-z 0-9 . _ -, not beginning with . or _ (table readers pass over such files)"


def is_clip_id(text: str) -> bool:
    """Whether this may name a clip, and with it a file on any store."""
    return _ALLOWED.fullmatch(text) is not None


def derive_clip_id(identity: str, start_s: float | None, end_s: float | None) -> str:
    """A readable id with 48 bits of SHA-256 of the address and the range.

    Independent of the order of rows, of the machine and of the current directory: `identity` is the address as it
    stands in the manifest, or the path within the folder that is the manifest.
    """
    key = f"{identity}\0{_exact(start_s)}\0{_exact(end_s)}"
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{_slug(identity)}{_range(start_s, end_s)}-{digest}"


def _slug(identity: str) -> str:
    if "://" in identity:
        identity = identity.partition("?")[0].partition("#")[0]
    name = identity.rstrip("/").rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    if dot and stem and len(suffix) <= 5:
        name = stem
    if not name.isascii():
        name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return _NOT_ALLOWED.sub("-", name)[:_SLUG_CHARS].strip("._-") or "clip"


def _range(start_s: float | None, end_s: float | None) -> str:
    if start_s is None and end_s is None:
        return ""
    end = "s-end" if end_s is None else f"-{end_s:g}s"
    return f"-{start_s or 0:g}{end}".replace("+", "")


def _exact(value: float | None) -> str:
    return "" if value is None else float(value).hex()
