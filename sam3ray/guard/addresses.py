"""One spelling for each place: before use, every address is brought to one form, or rejected with a sentence.

There are two forms, because stores are not disks:

* `one_form` is for addresses that are read. Local paths become absolute, without `file://`, doubled slashes, `.` and
  `..`. Schemes become lower case, and aliases are replaced (`s3a` by `s3`). The rest of an address stays the same, byte
  for byte: to an object store, `a//b` and `a/b` are two objects, and a URL is signed as it is written.
* `folder_form` is for folders that are listed and written: outputs. It also drops slashes at the end and rejects
  doubled ones. Clients disagree about these: s3fs writes to `s3://bucket//run` but lists `s3://bucket/run`, so a run
  would never see its own results.
"""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

ALIASES = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az", "local": "file"}
OBJECT_STORES = frozenset({"s3", "gs", "az", "adl"})
# These are read-only, or end with the process that wrote to them.
NOT_WRITABLE = frozenset(
    {"http", "https", "data", "github", "gist", "git", "zip", "tar", "libarchive", "reference", "generic"}
    | {"filecache", "simplecache", "blockcache", "cached"}
)

_SCHEME = re.compile(r"\s*(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
_ONE_SLASH = re.compile(r"(?i)\s*(?P<scheme>s3a?|gs|gcs|azure|az|abfss?|adl|https?|hdfs|s?ftp|file)\s*:(?!//)\s*/?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# Most addresses in a large manifest already have this form.
_PLAIN = re.compile(r"(?:s3|gs|az)://[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9_./=+-]*")


class AddressError(ValueError):
    """An invalid or ambiguous address. The message says why, and what is allowed, without repeating the address."""


def scheme_of(address: str) -> str:
    """The scheme in its single spelling: `s3` for `S3A://bucket/x`, `file` for a path."""
    found = _SCHEME.match(address)
    if found is None:
        return "file"
    scheme = found["scheme"].lower()
    return ALIASES.get(scheme, scheme)


def one_form(address: str) -> str:
    """The single spelling of an address to be read. Keeps a slash at the end, which marks a folder.

    Raises:
        AddressError: the address is not valid.
    """
    if _PLAIN.fullmatch(address):
        return address
    if "::" in address and "://" in address:
        return address  # a chain of file systems, used only if the configuration allows it
    if _CONTROL.search(address):
        raise AddressError("contains control characters; allowed: none")
    found = _SCHEME.match(address)
    if found is None:
        return _local(address)
    scheme, rest = found["scheme"].lower(), found["rest"]
    if scheme in ("file", "local"):
        return _local_of_url(rest)
    if "@" not in rest:  # abfs://container@account.dfs.core.windows.net/x is a form of its own
        scheme = ALIASES.get(scheme, scheme)
    if scheme in OBJECT_STORES and not rest.strip("/"):
        raise AddressError(f"does not name a bucket; allowed: {scheme}://BUCKET/NAME")
    if scheme in OBJECT_STORES and rest.startswith("/"):
        raise AddressError(f"has three slashes, so the bucket name is missing; allowed: {scheme}://BUCKET/NAME")
    if scheme in ("http", "https") and not rest.strip("/"):
        raise AddressError(f"does not name a host; allowed: {scheme}://HOST/NAME")
    return f"{scheme}://{rest}"


def folder_form(address: str) -> str:
    """The single spelling of a folder to be listed and written, without a slash at the end.

    Raises:
        AddressError: the address does not name a writable folder, or clients disagree about which one.
    """
    if "::" in address:
        raise AddressError("chains file systems (`::`), which cannot be written to; allowed: a path or one address")
    form = one_form(address)
    scheme, colon, rest = form.partition("://")
    if not colon:
        return form.rstrip("/") or "/"
    if scheme in NOT_WRITABLE:
        raise AddressError(f"is on {scheme}://, which is read-only; allowed: a path, s3://, gs:// or az://")
    rest = rest.rstrip("/")
    if scheme in OBJECT_STORES:
        names = rest.split("/")
        kept = [name for name in names if name]
        if kept != names:
            raise AddressError(
                "contains a double slash, which object stores treat as a folder with an empty name; "
                f"allowed: {scheme}://{'/'.join(kept)}"
            )
    return f"{scheme}://{rest}"


def _local(path: str) -> str:
    if not path.strip():
        raise AddressError("is empty; allowed: a path or an address")
    slip = _ONE_SLASH.match(path)
    if slip is not None and not os.path.lexists(path):
        scheme, rest = slip["scheme"].lower(), path[slip.end() :].lstrip("/")
        if scheme == "file":
            return _local(f"/{unquote(rest)}")
        raise AddressError(f"has no slash after the colon; allowed: {scheme}://{rest}")
    trailing = "/" if len(path) > 1 and path.endswith("/") else ""
    full = os.path.abspath(os.path.expanduser(path))
    # POSIX allows another meaning for two leading slashes, which no supported system uses.
    return f"/{full.lstrip('/')}" + (trailing if full != "/" else "")


def _local_of_url(rest: str) -> str:
    """`file:///a%20b` and `file://localhost/a%20b` are `/a b`; `file://a/b` is a path from here, as fsspec reads it."""
    if rest.lower().startswith("localhost/"):
        rest = rest[len("localhost") :]
    if not rest.strip():
        raise AddressError("does not name a file; allowed: file:///FOLDER/NAME")
    # A file whose name contains the escape itself wins, because such addresses used to be read so.
    return _local(rest if "%" not in rest or os.path.lexists(os.path.expanduser(rest)) else unquote(rest))
