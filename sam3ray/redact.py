"""Keeps credentials out of whatever is written or shown: messages, records, metadata, logs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

MASK = "***"

_SECRET_NAME = re.compile(
    r"(?i)(secret|passw|pwd|token|credential|signature|private|sas$|^sas|connection_string|connection_str"
    r"|account_key|access_key|api_?key|^key$|_key$)"
)
# Names that look secret and are not: they say where a credential comes from, not what it is.
_HARMLESS_NAME = re.compile(r"(?i)(_file|_path|_dir|_uri|_url|_id|token_length|max_tokens|tokenizer.*)$")

_USERINFO = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?:[^/\s@]+|[^/\s@:]+:(?!\d+/)[^\s@]+)@(?=\S)")
_PARAMETER = re.compile(
    r"(?i)(?P<name>\b(?:X-Amz-(?:Signature|Credential|Security-Token)|X-Goog-(?:Signature|Credential)|sig|signature"
    r"|AWSAccessKeyId|AccountKey|SharedAccessSignature|SharedAccessKey|access_token|token|password|secret)=)"
    r"[^&\s;\"'<>)]+"
)
_HEADER = re.compile(r"(?i)(?P<name>\b(?:proxy-)?authorization['\"]?\s*[:=]\s*)[^\r\n,}]+")
_ACCESS_KEY = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}\b")

_ENVIRONMENT = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_CLIENT_SECRET",
    "FSSPEC_S3_KEY",
    "FSSPEC_S3_SECRET",
    "HF_TOKEN",
    "RAY_AUTH_TOKEN",
)
_known_secrets: set[str] = set()


def is_secret_name(name: str) -> bool:
    """Whether a key of this name is taken to hold a credential."""
    return bool(_SECRET_NAME.search(name)) and not _HARMLESS_NAME.search(name)


def remember_secrets(options: Any) -> None:
    """Note the credentials among fsspec options, so that `redact` masks them wherever they turn up in this process."""
    if isinstance(options, Mapping):
        for name, value in options.items():
            if is_secret_name(str(name)) and isinstance(value, str):
                _note(value)
            else:
                remember_secrets(value)
    elif isinstance(options, (list, tuple)):
        for value in options:
            remember_secrets(value)


def _note(value: str) -> None:
    if len(value) >= 6 and value not in _known_secrets:  # masking shorter ones would eat ordinary text
        _known_secrets.add(value)
        _known_pattern.cache_clear()


@lru_cache(maxsize=8)
def _known_pattern(environment: tuple[str, ...]) -> re.Pattern[str] | None:
    values = sorted({*_known_secrets, *environment}, key=len, reverse=True)
    return re.compile("|".join(re.escape(value) for value in values)) if values else None


def redact(text: str) -> str:
    """The text with credentials masked: known values, user names and passwords in URLs, signatures, keys, tokens."""
    environment = tuple(os.environ[name] for name in _ENVIRONMENT if len(os.environ.get(name, "")) >= 6)
    known = _known_pattern(environment)
    if known is not None:
        text = known.sub(MASK, text)
    text = _USERINFO.sub(rf"\g<scheme>{MASK}@", text)
    text = _PARAMETER.sub(rf"\g<name>{MASK}", text)
    text = _HEADER.sub(rf"\g<name>{MASK}", text)
    return _HUB_TOKEN.sub(MASK, _ACCESS_KEY.sub(MASK, text))


def redact_values(value: Any) -> Any:
    """A copy of nested JSON-like values with credentials masked, by key name and by content."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {
            key: MASK if is_secret_name(str(key)) and isinstance(item, str) and item else redact_values(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [redact_values(item) for item in value]
    return value
