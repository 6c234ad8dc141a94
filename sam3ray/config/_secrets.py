"""What looks like a secret: such values are refused in configurations and never repeated in messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sam3ray.redact import is_secret_name

_ALSO_SECRET = frozenset({"username", "auth", "bearer", "authorization"})
# gcsfs takes these words as `token`, azure's `credential` and `anon` are switches: they name a source, not a secret.
_HARMLESS = frozenset({"anon", "cloud", "google_default", "cache", "browser", "default"})
_PASSWORD_IN_URI = re.compile(r"://[^/@\s]*:[^/@\s]*@")


def is_secret_key(key: str) -> bool:
    """Whether a value under this key is likely a secret."""
    return is_secret_name(key) or key.lower() in _ALSO_SECRET


def has_password(text: str) -> bool:
    """Whether an address carries `user:password@`."""
    return _PASSWORD_IN_URI.search(text) is not None


def without_password(uri: str) -> str:
    """The address with its `user:password@` blanked, for messages."""
    return _PASSWORD_IN_URI.sub("://***@", uri)


def find_secrets(options: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys of all values that look like secrets, however deep."""
    found: list[str] = []
    for key, value in options.items():
        dotted = f"{prefix}{key}"
        harmless = value is None or isinstance(value, bool) or (isinstance(value, str) and value in _HARMLESS)
        if isinstance(value, Mapping):
            found += [dotted] if is_secret_key(str(key)) and value else find_secrets(value, f"{dotted}.")
        elif isinstance(value, list):
            found += find_secrets({str(i): item for i, item in enumerate(value)}, f"{dotted}.")
        elif (is_secret_key(str(key)) and not harmless) or (isinstance(value, str) and has_password(value)):
            found.append(dotted)
    return found
