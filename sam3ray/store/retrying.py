"""Exponential back-off with full jitter, so that a thousand workers do not retry at the same moment."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sam3ray.failures import ClipError, JobStopped
from sam3ray.faults.machine import disk_fault
from sam3ray.guard.redact import redact
from sam3ray.store.errors import Cause, cause_of, refused, unreachable

T = TypeVar("T")


@dataclass(frozen=True)
class RetryPolicy:
    """How often and for how long to retry.

    The waits between 7 tries add up to about 25 s on average. The libraries below also retry, with their own time-outs,
    so the total time is limited, too: no try starts later than `within_s`.
    """

    tries: int = 7
    base_s: float = 0.5
    cap_s: float = 20.0
    within_s: float = 120.0

    def wait_s(self, failed: int) -> float:
        """Seconds to wait after the `failed`-th failure (from 1)."""
        return random.uniform(0, min(self.cap_s, self.base_s * 2**failed))


def retrying(policy: RetryPolicy, what: str, where: str, call: Callable[[], T]) -> T:
    """Run a storage call, with retries.

    Args:
        what: the verb for messages: "list", "create", "read".
        where: the full address.

    Raises:
        FileExistsError: passed on, because its meaning depends on the caller.
        FileNotFoundError: passed on, because a missing file is often an answer.
        JobStopped: storage rejects the call, and a retry cannot help.
        ClipError: reason `local_disk`: a disk of this machine is full or read-only. Reason `storage`: the call still
            fails after all tries, or this process's credentials are not sufficient.
    """
    began = time.monotonic()
    for failed in range(1, policy.tries + 1):
        try:
            return call()
        except (FileExistsError, FileNotFoundError):
            raise
        except Exception as error:  # classified by cause; errors not from storage are raised again
            disk = None if isinstance(error, (ClipError, JobStopped)) else disk_fault(error)
            if disk is not None:
                raise ClipError(disk.reason, f"cannot {what}: {disk.message}", redact(where)) from None
            cause = cause_of(error)
            if cause is Cause.BUG:
                raise
            # `from None`: the library's own traceback and text may hold signed addresses.
            if cause is Cause.REFUSED:
                raise refused(what, where, error) from None
            if failed == policy.tries or time.monotonic() - began > policy.within_s:
                raise unreachable(what, where, error, failed) from None
        time.sleep(policy.wait_s(failed))
    raise AssertionError("unreachable: the last try returns or raises")
