"""Importing torch and transformers in three quarters of the time."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """The garbage collector is off for the time of some imports.

    torch and transformers make a million objects that stay. The collector would look at them again and again while they
    are made: more than a second of processor time. What is made meanwhile counts as old afterwards, so that the
    collector does not look at all of it at once either. Does nothing where the collector is off already; leaves alone
    what somebody has frozen.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            gc.freeze()
            gc.unfreeze()  # to the oldest generation
        gc.enable()
