"""Explains errors of stores, whether from reading or writing.

Each library raises its own errors. They are recognised by the code that the store sent, else by the HTTP status, else
by their class. Classes are known by the package that defines them, so that none of these packages must be installed.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sam3ray.faults.causes import causes
from sam3ray.guard.redact import redact


class Kind(Enum):
    """What is wrong."""

    GONE = "gone"  # no such object, folder or bucket
    DENIED = "denied"  # these credentials lack the right
    CREDENTIALS = "credentials"  # none, expired, unknown, or signed by a wrong clock
    ARCHIVED = "archived"  # the object must be restored first
    ELSEWHERE = "elsewhere"  # another region or endpoint
    REFUSED = "refused"  # any other error that a retry cannot fix
    BUSY = "busy"  # throttling, resets, time-outs, 5xx: retry
    NOT_STORAGE = "not storage"  # not a storage error


@dataclass(frozen=True)
class StoreError:
    """An error of a store.

    Attributes:
        code: the store's own ("ExpiredToken"); empty if it sent none.
        message: the store's own reason, in one line, without credentials.
        advice: what to do; may be empty.
    """

    kind: Kind
    code: str
    message: str
    advice: str = ""

    def __str__(self) -> str:
        said = self.message
        if self.code and self.code not in said:
            said = f"{self.code}: {said}" if said else self.code
        return f"{said} ({self.advice})" if self.advice else said


_CODES = {
    Kind.GONE: "NoSuchKey NoSuchBucket NoSuchVersion NoSuchUpload BlobNotFound ContainerNotFound ResourceNotFound",
    Kind.DENIED: (
        "AccessDenied AllAccessDisabled AccountProblem InvalidPayer NotSignedUp CrossLocationLoggingProhibited "
        "AuthorizationFailure AuthorizationPermissionMismatch AuthorizationSourceIPMismatch "
        "AuthorizationProtocolMismatch InsufficientAccountPermissions AccountIsDisabled PublicAccessNotPermitted"
    ),
    Kind.CREDENTIALS: (
        "ExpiredToken ExpiredTokenException TokenRefreshRequired InvalidToken InvalidAccessKeyId SignatureDoesNotMatch "
        "RequestExpired RequestTimeTooSkewed AuthFailure InvalidSecurity MissingSecurityHeader InvalidClientTokenId "
        "UnrecognizedClientException CredentialsNotSupported AuthenticationFailed InvalidAuthenticationInfo "
        "NoAuthenticationInformation"
    ),
    Kind.ARCHIVED: "InvalidObjectState BlobArchived BlobBeingRehydrated",
    Kind.ELSEWHERE: (
        "PermanentRedirect TemporaryRedirect Redirect AuthorizationHeaderMalformed IllegalLocationConstraintException "
        "InvalidLocationConstraint 301 307"
    ),
}
_CLASSES = {
    Kind.CREDENTIALS: (
        "NoCredentialsError PartialCredentialsError CredentialRetrievalError ProfileNotFound TokenRetrievalError "
        "UnauthorizedSSOTokenError ClientAuthenticationError CredentialUnavailableError DefaultCredentialsError "
        "RefreshError"
    ),
    Kind.ELSEWHERE: "NoRegionError InvalidRegionError",
    Kind.REFUSED: "ParamValidationError",
    Kind.GONE: "ResourceNotFoundError",
}
_KIND_OF_CODE = {code: kind for kind, codes in _CODES.items() for code in codes.split()}
_KIND_OF_CLASS = {name: kind for kind, names in _CLASSES.items() for name in names.split()}
_REFUSED_STATUS = frozenset({400, 401, 403, 404, 405, 411, 501})
_REFUSED_ERRNO = frozenset(
    {errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG, errno.ENOENT}
    | {errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENOSYS, errno.EFBIG}
)
_LIBRARIES = frozenset(
    {"botocore", "boto3", "aiobotocore", "s3fs", "aiohttp", "azure", "adlfs", "gcsfs", "google", "requests", "urllib3"}
    | {"http", "ssl", "socket", "fsspec", "paramiko", "aiohttp_retry", "pyarrow"}
)
_ADVICE = {
    Kind.DENIED: "check the credentials in the environment and their rights on that folder",
    Kind.CREDENTIALS: "check the credentials in the environment, and renew them if they have expired",
    Kind.ARCHIVED: "it is archived: restore it first, or remove it from the manifest",
}
_ADVICE_BY_ERRNO = {
    errno.ENOTDIR: "part of this path is a file: choose another folder",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.ELOOP: "a link in this path leads back to itself",
    errno.ENOSPC: "make room, or choose a folder on another disk",
    errno.EDQUOT: "make room, or choose a folder on another disk",
    errno.EROFS: "choose a folder that can be written to",
    errno.EACCES: "check who owns this path, and who may read and write it",
    errno.EPERM: "check who owns this path, and who may read and write it",
}
_NO_CONNECTION = frozenset(
    {"EndpointConnectionError", "ConnectTimeoutError", "ServiceRequestError", "ClientConnectorError"}
)


def explain(error: BaseException) -> StoreError:
    """Explains an exception raised by a file system call."""
    code, said = _sent_by_store(error)
    kind = _kind_of(error, code)
    if code.isdigit():
        code = ""  # only a status: a response to HEAD has no body with a reason
    message = " ".join((said or _in_words(error)).split()) or type(error).__name__
    message = redact(message if len(message) <= 500 else message[:500] + "...")
    return StoreError(kind, code, message, _advice(kind, error))


def _kind_of(error: BaseException, code: str) -> Kind:
    if code in _KIND_OF_CODE:
        return _KIND_OF_CODE[code]
    if code.startswith("KMS"):
        return Kind.DENIED
    if type(error).__name__ in _KIND_OF_CLASS:
        return _KIND_OF_CLASS[type(error).__name__]
    if isinstance(error, PermissionError):
        return Kind.DENIED
    if isinstance(error, FileNotFoundError):
        return Kind.GONE
    if isinstance(error, (NotADirectoryError, IsADirectoryError)):
        return Kind.REFUSED
    status = http_status(error)
    if status is not None:
        by_status = {401: Kind.DENIED, 403: Kind.DENIED, 404: Kind.GONE, 410: Kind.GONE}
        return by_status.get(status, Kind.REFUSED if status in _REFUSED_STATUS else Kind.BUSY)
    if isinstance(error, OSError):
        if str(error).startswith("Forbidden"):  # gcsfs's text for a 403
            return Kind.DENIED
        return Kind.REFUSED if error.errno in _REFUSED_ERRNO else Kind.BUSY
    if isinstance(error, (TimeoutError, ConnectionError, EOFError)):
        return Kind.BUSY
    return Kind.BUSY if type(error).__module__.split(".")[0] in _LIBRARIES else Kind.NOT_STORAGE


def _advice(kind: Kind, error: BaseException) -> str:
    code, said = _sent_by_store(error)
    if code == "RequestTimeTooSkewed":
        return "set this machine's clock"
    if code.startswith("KMS") or "kms:" in said.lower():
        return "the key that encrypts it must allow these credentials to use it: kms:Decrypt, kms:GenerateDataKey"
    if kind is Kind.ELSEWHERE:
        region = _region(error)
        where = f", {region}," if region else ""
        return f"set the region of the bucket{where} as AWS_DEFAULT_REGION or storage.client_kwargs.region_name"
    if type(error).__name__ == "NoCredentialsError":
        return "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a public bucket anon: true"
    if _unreached(error) is not None or type(error).__name__ in _NO_CONNECTION:
        return "check the address and this machine's network"
    if not code and isinstance(error, OSError) and http_status(error) is None and error.errno in _ADVICE_BY_ERRNO:
        return _ADVICE_BY_ERRNO[error.errno]
    return _ADVICE.get(kind, "")


_WORDS = {"NoCredentialsError": "no credentials were found", "NoRegionError": "no region is set"}


def _in_words(error: BaseException) -> str:
    """Its message without error numbers, repeated paths and a library's additions."""
    if (words := _WORDS.get(type(error).__name__)) is not None:
        return words
    if (link := _unreached(error)) is not None:
        host, port, why = link
        return f"{host}:{port} cannot be reached: {why}"
    if isinstance(error, OSError) and error.strerror and str(error).startswith("[Errno "):
        return error.strerror
    return str(error)


def _unreached(error: BaseException) -> tuple[str, int, str] | None:
    """Host, port and reason of a failed connection of aiohttp; None for other errors."""
    for link in causes(error):
        host, port, cause = (getattr(link, name, None) for name in ("host", "port", "os_error"))
        if isinstance(host, str) and isinstance(port, int) and isinstance(cause, OSError):
            refused = isinstance(cause, ConnectionRefusedError) or cause.errno == errno.ECONNREFUSED
            why = "nothing listens there" if refused else (cause.strerror or str(cause) or "no connection")
            return host, port, why
    return None


def _sent_by_store(error: BaseException) -> tuple[str, str]:
    """The store's own code and message; empty if it sent none."""
    for link in causes(error):
        response = getattr(link, "response", None)
        if isinstance(response, Mapping) and isinstance(response.get("Error"), Mapping):  # botocore's ClientError
            sent = response["Error"]
            return str(sent.get("Code", "")), str(sent.get("Message", ""))
        code = getattr(link, "error_code", None)  # azure's HttpResponseError
        if code:
            message = str(getattr(link, "message", link))
            return str(getattr(code, "value", code)), message.partition("\n")[0]
    return "", ""


def _region(error: BaseException) -> str:
    for link in causes(error):
        response = getattr(link, "response", None)
        if isinstance(response, Mapping):
            headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
            found = response.get("Error", {}).get("Region") or headers.get("x-amz-bucket-region") or ""
            return str(found) if str(found).replace("-", "").isalnum() else ""
    return ""


def http_status(error: BaseException) -> int | None:
    """The HTTP status in an exception of botocore, aiohttp, gcsfs or azure; None if there is none."""
    response = getattr(error, "response", None)
    candidates = [getattr(error, name, None) for name in ("status_code", "status", "code")]
    if isinstance(response, Mapping):
        candidates.append(response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    for value in candidates:
        if isinstance(value, int) and 400 <= value < 600:
            return value
    return None


def tells_too_little(error: BaseException) -> bool:
    """Whether a store rejected a request without a reason, as in a response to HEAD, which has no body."""
    code, _ = _sent_by_store(error)
    return code in ("400", "403", "301")


def asked_again(error: Exception, fs: Any, path: str) -> Exception:
    """The store's error with its reason, from repeating the request as a GET of one byte."""
    if not tells_too_little(error):
        return error
    try:
        fs.cat_file(path, start=0, end=1)
    except Exception as fuller:  # noqa: BLE001 - whatever it is, it replaces an error with less information
        return fuller if not tells_too_little(fuller) else error
    return error
