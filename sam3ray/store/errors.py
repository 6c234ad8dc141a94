"""What a storage error means for a run: worth a retry, permanent, or a bug of ours."""

from __future__ import annotations

from enum import Enum

from sam3ray.failures import ClipError, JobStopped, Reason
from sam3ray.faults.storage import Kind, explain
from sam3ray.guard.redact import redact


class Cause(Enum):
    """The cause of an error."""

    TRANSIENT = "transient"  # throttling, resets, time-outs, 5xx: retry
    REFUSED = "refused"  # permission, credentials, no such bucket, disk full: a retry cannot help
    BUG = "bug"  # not a storage error


def cause_of(error: BaseException) -> Cause:
    """Classify an exception that a filesystem call raised."""
    if isinstance(error, (ClipError, JobStopped)):
        return Cause.BUG  # already classified: pass it on unchanged
    return {Kind.BUSY: Cause.TRANSIENT, Kind.NOT_STORAGE: Cause.BUG}.get(explain(error).kind, Cause.REFUSED)


def describe(error: BaseException) -> str:
    """The error in one line with the store's own code, without credentials and advice."""
    found = explain(error)
    return found.message if not found.code or found.code in found.message else f"{found.code}: {found.message}"


def refused(what: str, where: str, error: BaseException) -> JobStopped | ClipError:
    """The exception for an error that a retry cannot fix. With other credentials, another node may succeed."""
    found = explain(error)
    if found.kind is Kind.CREDENTIALS:
        return ClipError(Reason.STORAGE, f"cannot {what}: {found}", redact(where))
    return JobStopped(f"cannot {what} {redact(where)}: {found}")


def unreachable(what: str, where: str, error: BaseException, tries: int) -> ClipError:
    return ClipError(Reason.STORAGE, f"cannot {what} after {tries} tries: {explain(error)}", redact(where))
