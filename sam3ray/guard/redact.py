"""Keeps credentials out of everything that is written or shown: messages, records, metadata, logs."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

MASK = "***"

_SECRET_NAME = re.compile(
    r"(?i)(secret|passw|pwd|token|credential|signature|private|sas$|^sas|connection_string|connection_str"
    r"|account_key|access_key|api[_-]?key|^key$|_key$|passphrase|hmac|jwt|bearer|session_?id|cookie|authorization"
    r"|(^|_)auth$)"
)
# Names that look secret but only say where a credential comes from.
_HARMLESS_NAME = re.compile(r"(?i)(_file|_path|_dir|_uri|_url|_id|token_length|max_tokens|tokenizer.*+)$")

# Every unbounded repetition is possessive (`*+`), and no match starts within another one's run. So a text is scanned a
# fixed number of times, whatever it contains.
_ADDRESS = re.compile(r"(?<![A-Za-z0-9+.-])(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,30})://(?P<rest>[^\s]*+)")
_NEXT = re.compile(r"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]{0,30}://")
_QUOTE = re.compile(r"[\"'<>`\\]")
_PORT = re.compile(r"(?:[^:\[\]]*+|\[[^\]]*+\]):\d{0,5}+(?=[/?#]|$)")
_AFTER = ".,;:)]}"  # punctuation of a sentence around an address
# With these schemes, `?` begins a query; in names of other stores it is an ordinary character.
_WEB = frozenset({"http", "https", "ws", "wss", "webdav", "webdavs", "dav", "davs"})
_CAMERAS = frozenset({"rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp"})
# Some cameras have their password in the path, as in `/user=admin_password=x_channel=1`.
_IN_PATH = re.compile(r"(?i)(?P<name>pass(?:word|wd)?=)(?:(?!_[a-z]{1,20}=)[^&?#/])++")
_CONTAINER_FORM = frozenset({"abfs", "abfss", "wasb", "wasbs"})  # container@account is a place, not a user

_PARAMETER = re.compile(
    r"(?i)(?P<name>(?<![A-Za-z0-9_-])(?:X-Amz-(?:Signature|Credential|Security-Token)|X-Goog-(?:Signature|Credential)"
    r"|X-(?:Oss|Cos|Obs|Tos)-(?:Signature|Credential|Security-Token)|sig|signature|AWSAccessKeyId|GoogleAccessId"
    r"|OSSAccessKeyId|AccountKey|SharedAccessSignature|SharedAccessKey|Key-Pair-Id|Policy|hmac|jwt|auth|bearer"
    r"|(?:access|refresh|id|auth|session|security)[_-]?token|token|password|passwd|passphrase|pwd|secret"
    r"|client[_-]secret|api[_-]?key|session[_-]?id|credentials?|hdnts|hdnea)=)"
    r"[^&\s;\"'<>)]++"
)
_HEADER = re.compile(
    r"(?i)(?P<name>(?<![A-Za-z0-9_-])(?:(?:proxy-)?authorization|(?:set-)?cookie|x-api-key|x-auth-token"
    r"|x-amz-security-token|x-goog-iam-authorization-token)['\"]?\s*+[:=]\s*+)[^\r\n,}]++"
)
_BEARER = re.compile(r"(?i)(?<![A-Za-z0-9_-])(?P<name>bearer\s{1,8})[A-Za-z0-9._~+/=-]{8,}+")
_JWT = re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{8,}+(?:\.[A-Za-z0-9_-]*+)?")
_ACCESS_KEY = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")
_HUB_TOKEN = re.compile(r"(?<![A-Za-z0-9_])hf_[A-Za-z0-9]{20,}+")

# Only texts with one of these can match the patterns above; most texts have none.
_SUSPECT = re.compile(r"[@?#=]|eyJ|AKIA|ASIA|hf_|(?i:bearer|auth|cookie|key|token)")

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
    """Whether a key of this name is assumed to hold a credential."""
    return bool(_SECRET_NAME.search(name)) and not _HARMLESS_NAME.search(name)


def remember_secrets(options: Any) -> None:
    """Notes the credentials among fsspec options, so that `redact` masks them wherever they appear in this process."""
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
    if len(value) >= 6 and value not in _known_secrets:  # masking shorter ones would hit ordinary text
        _known_secrets.add(value)
        _known_pattern.cache_clear()


@lru_cache(maxsize=8)
def _known_pattern(environment: tuple[str, ...]) -> re.Pattern[str] | None:
    values = sorted({*_known_secrets, *environment}, key=len, reverse=True)
    return re.compile("|".join(re.escape(value) for value in values)) if values else None


def redact(text: str) -> str:
    """The text with credentials masked.

    Masks known values, the user name and password of every address, and the whole query and fragment of addresses of
    the web and of cameras, whose parameters may have any name. Elsewhere it masks parameters, headers and tokens known
    to be secret. Takes time proportional to the length of the text.
    """
    environment = tuple(os.environ[name] for name in _ENVIRONMENT if len(os.environ.get(name, "")) >= 6)
    known = _known_pattern(environment)
    if known is not None:
        text = known.sub(MASK, text)
    if _SUSPECT.search(text) is None:
        return text
    if "://" in text:
        text = _ADDRESS.sub(_redacted_word, text)
    if "=" in text or ":" in text:
        text = _PARAMETER.sub(rf"\g<name>{MASK}", text)
        text = _HEADER.sub(rf"\g<name>{MASK}", text)
    text = _BEARER.sub(rf"\g<name>{MASK}", text)
    text = _JWT.sub(MASK, text)
    return _HUB_TOKEN.sub(MASK, _ACCESS_KEY.sub(MASK, text))


def has_userinfo(address: str, *, with_password: bool = False) -> bool:
    """Whether an address names a user (`with_password`: and a password) before its host."""
    found = _NEXT.search(address)
    if found is None:
        return False
    end = _userinfo_end(found[0][:-3], address[found.end() :])
    return end > 0 and (not with_password or ":" in address[found.end() : found.end() + end])


def has_query(address: str) -> bool:
    """Whether an address on the web has a query, which may carry a credential."""
    scheme, colon, rest = address.partition("://")
    return bool(colon) and scheme.lower() in _WEB and "?" in rest


def _redacted_word(match: re.Match[str]) -> str:
    """Masks one word of a text that begins with an address, and may contain others, as in `https://a/?u=https://b`."""
    word = match[0]
    starts = [found.start() for found in _NEXT.finditer(word)] + [len(word)]
    addresses, is_open = [""], False
    for start, end in itertools.pairwise(starts):
        piece = word[start:end]
        if is_open:
            addresses[-1] += piece
        else:
            addresses.append(piece)
        is_open = "@" not in piece and (is_open or _begins_password(piece)) and word.find("@", end) >= 0
    return "".join(map(_redacted_address, addresses[1:]))


def _begins_password(piece: str) -> bool:
    """Whether a piece without `@` ends within a password, as `http://user:pass` of `http://user:pass://word@host`."""
    rest = piece.partition("://")[2]
    authority = rest[: _first_of(rest, "/?#\"'<>`\\")]
    return ":" in authority and (authority == rest or not _PORT.match(rest))


def _redacted_address(piece: str) -> str:
    scheme, _, rest = piece.partition("://")
    if (end := _userinfo_end(scheme, rest)) > 0:
        rest = f"{MASK}@{rest[end + 1 :]}"
    if scheme.lower() in _CAMERAS:
        rest = _IN_PATH.sub(rf"\g<name>{MASK}", rest)
    if scheme.lower() in _WEB | _CAMERAS and (question := _first_of(rest, "?#")) < len(rest):
        quote = _QUOTE.search(rest, question)
        query = rest[question + 1 : quote.start() if quote else len(rest)]
        kept = len(query.rstrip(_AFTER))
        if kept:
            rest = f"{rest[: question + 1]}{MASK}{query[kept:]}{rest[quote.start() :] if quote else ''}"
    return f"{scheme}://{rest}"


def _userinfo_end(scheme: str, rest: str) -> int:
    """The place of the `@` after `user` or `user:password`; -1 if there is none. A password may contain any
    character.
    """
    limit = _first_of(rest, "/?#\"'<>`\\")
    authority = rest[:limit]
    if ":" in authority and not _PORT.match(rest):
        return rest.rfind("@")  # a password, because no port number follows the colon
    if scheme.lower() in _CONTAINER_FORM and ":" not in authority:
        return -1
    return authority.rfind("@")


def _first_of(text: str, letters: str) -> int:
    return min((at for letter in letters if (at := text.find(letter)) >= 0), default=len(text))


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
