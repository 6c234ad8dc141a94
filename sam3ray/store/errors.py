"""What a storage error means: worth another try, beyond cure, or a bug of ours.

Object-store libraries raise what they like. Their classes are told apart by the package that defines them, so that
none of those packages has to be installed.
"""

from __future__ import annotations

import asyncio
import errno
from enum import Enum

from sam3ray.failures import ClipError, JobStopped, Reason
from sam3ray.redact import redact


class Cause(Enum):
    """Whose fault it is."""

    TRANSIENT = "transient"  # throttling, resets, time-outs, 5xx: try again
    REFUSED = "refused"  # permission, credentials, no such bucket, disk full: trying again cannot help
    BUG = "bug"  # not from storage at all


_REFUSED_ERRNO = frozenset(
    {errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG, errno.ENOENT}
    | {errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENOSYS, errno.EFBIG}
)
_LIBRARIES = frozenset(
    {"botocore", "boto3", "aiobotocore", "s3fs", "aiohttp", "azure", "adlfs", "gcsfs", "google", "requests", "urllib3"}
    | {"http", "ssl", "socket", "fsspec", "paramiko", "aiohttp_retry", "pyarrow"}
)
_REFUSED_NAMES = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound"}
    | {"TokenRetrievalError", "UnauthorizedSSOTokenError", "ClientAuthenticationError", "CredentialUnavailableError"}
    | {"DefaultCredentialsError", "RefreshError", "ParamValidationError", "ResourceNotFoundError", "InvalidRegionError"}
    | {"NoRegionError"}
)


def cause_of(error: BaseException) -> Cause:
    """Classify an exception that a filesystem call raised."""
    if isinstance(error, (ClipError, JobStopped)):
        return Cause.BUG  # already told apart further down: pass it on as it is
    if isinstance(error, (PermissionError, FileNotFoundError, NotADirectoryError, IsADirectoryError)):
        return Cause.REFUSED
    status = _http_status(error)
    if status is not None:
        return Cause.REFUSED if status in (400, 401, 403, 404, 405, 411, 501) else Cause.TRANSIENT
    if type(error).__name__ in _REFUSED_NAMES:
        return Cause.REFUSED
    if isinstance(error, OSError):
        if error.errno in _REFUSED_ERRNO or str(error).startswith("Forbidden"):  # gcsfs words a 403 so
            return Cause.REFUSED
        return Cause.TRANSIENT
    if isinstance(error, (TimeoutError, asyncio.TimeoutError, ConnectionError, EOFError)):
        return Cause.TRANSIENT
    if type(error).__module__.split(".")[0] in _LIBRARIES:
        return Cause.TRANSIENT
    return Cause.BUG


def _http_status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    candidates = [getattr(error, "status_code", None), getattr(error, "status", None), getattr(error, "code", None)]
    if isinstance(response, dict):  # botocore.exceptions.ClientError
        candidates.append(response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    for value in candidates:
        if isinstance(value, int) and 400 <= value < 600:
            return value
    return None


def describe(error: BaseException) -> str:
    """The error in one line, without credentials."""
    text = " ".join(str(error).split()) or type(error).__name__
    return redact(text if len(text) <= 500 else text[:500] + "...")


def refused(what: str, where: str, error: BaseException) -> JobStopped:
    hint = ""
    if (
        isinstance(error, PermissionError)
        or type(error).__name__ in _REFUSED_NAMES
        or _http_status(error) in (401, 403)
    ):
        hint = " (check the credentials in the environment and their rights on that folder)"
    return JobStopped(f"cannot {what} {redact(where)}: {describe(error)}{hint}")


def unreachable(what: str, where: str, error: BaseException, tries: int) -> ClipError:
    return ClipError(Reason.STORAGE, f"cannot {what} after {tries} tries: {describe(error)}", redact(where))
