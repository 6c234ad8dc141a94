"""Recognises values that look like secrets. They are rejected in configurations, and never repeated in messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sam3ray.guard.redact import has_query, has_userinfo, is_secret_name, redact

_ALSO_SECRET = frozenset({"username", "auth", "bearer"})
# These are sent with each request, and a header of any name may contain a token.
_ALSO_SENT = frozenset({"headers", "header", "default_headers", "extra_headers", "cookies", "cookie", "cookie_jar"})
# Values that name a source, not a secret: words that gcsfs accepts as `token`, and azure's `credential` and `anon`.
_HARMLESS = frozenset({"anon", "cloud", "google_default", "cache", "browser", "default"})


def is_secret_key(key: str) -> bool:
    """Whether a value under this key is likely a secret."""
    return is_secret_name(key) or key.lower() in _ALSO_SECRET or key.lower().replace("-", "_") in _ALSO_SENT


def has_password(text: str) -> bool:
    """Whether an address carries `user:password@`."""
    return has_userinfo(text, with_password=True)


def without_password(uri: str) -> str:
    """The address without possible secrets, for messages."""
    return redact(uri)


def _is_secret_value(value: Any) -> bool:
    """An address with a user, a password or a query, or text that looks like a token."""
    return isinstance(value, str) and (has_userinfo(value) or has_query(value) or redact(value) != value)


def find_secrets(options: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys of all values that look like secrets, however deep."""
    found: list[str] = []
    for key, value in options.items():
        dotted = f"{prefix}{key}"
        harmless = value is None or isinstance(value, bool) or (isinstance(value, str) and value in _HARMLESS)
        if isinstance(value, Mapping):
            found += [dotted] if is_secret_key(str(key)) and value else find_secrets(value, f"{dotted}.")
        elif isinstance(value, list):
            found += (
                [dotted]
                if is_secret_key(str(key)) and value
                else find_secrets({str(i): item for i, item in enumerate(value)}, f"{dotted}.")
            )
        elif (is_secret_key(str(key)) and not harmless) or _is_secret_value(value):
            found.append(dotted)
    return found
