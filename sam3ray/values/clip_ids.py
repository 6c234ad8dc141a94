"""Clip ids: the allowed characters, and how an id is derived from an address and a range."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from urllib.parse import unquote_plus

_ALLOWED = re.compile(r"[A-Za-z0-9-][A-Za-z0-9._-]{0,199}")
_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9._-]+")
_SLUG_CHARS = 80

# Parameters of signed addresses, in lower case: S3, GCS and similar, CloudFront, Akamai and other networks, tokens.
_SIGNS = re.compile(
    r"x-(?:amz|goog|oss|cos|obs|tos|bce)-.*|sig|signature|expires|expiry|exp|awsaccesskeyid|googleaccessid|ossaccesskeyid"
    r"|policy|key-pair-id|hash-algorithm|hdnts|hdnea|hdntl|hdntoken|hmac|jwt|auth|authorization|auth_key|bearer"
    r"|(?:access|refresh|id|auth|session|security)[_-]?token|token|password|passwd|secret|client[_-]secret"
    r"|api[_-]?key|session[_-]?id|credentials?"
)
# Azure's shared access signatures have short names, which have this meaning only beside a `sig`.
_SAS = frozenset(
    {"sv", "ss", "srt", "sr", "sp", "st", "se", "spr", "sip", "si", "ses", "sdd", "skoid", "sktid", "skt", "ske"}
    | {"sks", "skv", "saoid", "suoid", "scid"}
)

ALLOWED = "1 to 200 of A-Z a-z 0-9 . _ -, not starting with . or _ (table readers skip such files)"


def is_clip_id(text: str) -> bool:
    """Whether this is a valid clip id, and so a safe file name on any store."""
    return _ALLOWED.fullmatch(text) is not None


def derive_clip_id(identity: str, start_s: float | None, end_s: float | None) -> str:
    """A readable id with 48 bits of SHA-256 of the address and the range.

    Independent of the order of rows, of the machine and of the current directory: `identity` is the address as
    written in the manifest, or the path within a folder that serves as the manifest. Signatures are ignored.
    """
    identity = unsigned(identity)
    key = f"{identity}\0{_exact(start_s)}\0{_exact(end_s)}"
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{_slug(identity)}{_range(start_s, end_s)}-{digest}"


def unsigned(uri: str) -> str:
    """The address without its signature, the same for each newly signed address.

    Parameters of the query that sign, expire or authorise are omitted. Those that may select the video (`id=7`,
    `versionId=...`) stay, in their order.
    """
    if "?" not in uri or "://" not in uri:
        return uri
    place, _, query = uri.partition("?")
    query, hash_, fragment = query.partition("#")
    parameters = query.split("&")
    names = [unquote_plus(parameter.partition("=")[0]).lower() for parameter in parameters]
    sas = "sig" in names
    kept = [
        parameter
        for parameter, name in zip(parameters, names, strict=True)
        if not (_SIGNS.fullmatch(name) or (sas and name in _SAS))
    ]
    if len(kept) == len(parameters):
        return uri
    return f"{place}{'?' if kept else ''}{'&'.join(kept)}{hash_}{fragment}"


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
