"""What a storage error means to a run: worth another try, permanent, or a bug of ours."""

from __future__ import annotations

from enum import Enum

from sam3ray.failures import ClipError, JobStopped, Reason
from sam3ray.faults.storage import Kind, explain
from sam3ray.guard.redact import redact


class Cause(Enum):
    """Whose fault it is."""

    TRANSIENT = "transient"  # throttling, resets, time-outs, 5xx: try again
    REFUSED = "refused"  # permission, credentials, no such bucket, disk full: trying again cannot help
    BUG = "bug"  # not from storage at all


def cause_of(error: BaseException) -> Cause:
    """Classify an exception that a filesystem call raised."""
    if isinstance(error, (ClipError, JobStopped)):
        return Cause.BUG  # already told apart further down: pass it on as it is
    return {Kind.BUSY: Cause.TRANSIENT, Kind.NOT_STORAGE: Cause.BUG}.get(explain(error).kind, Cause.REFUSED)


def describe(error: BaseException) -> str:
    """The error in one line, with the store's own code, without credentials and advice."""
    found = explain(error)
    return found.message if not found.code or found.code in found.message else f"{found.code}: {found.message}"


def refused(what: str, where: str, error: BaseException) -> JobStopped | ClipError:
    """What trying again here cannot change. Credentials may be one node's alone: another one may fare better."""
    found = explain(error)
    if found.kind is Kind.CREDENTIALS:
        return ClipError(Reason.STORAGE, f"cannot {what}: {found}", redact(where))
    return JobStopped(f"cannot {what} {redact(where)}: {found}")


def unreachable(what: str, where: str, error: BaseException, tries: int) -> ClipError:
    return ClipError(Reason.STORAGE, f"cannot {what} after {tries} tries: {explain(error)}", redact(where))
