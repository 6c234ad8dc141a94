"""SIGTERM ends the command as Ctrl-C does, with exit code 130, from its first import to its last moment.

Importing this changes nothing in a process that is not the `sam3ray` command.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130
_NUMBERS = (signal.SIGINT, signal.SIGTERM)


def is_command() -> bool:
    """`sam3ray ...`, or `python -m sam3ray ...`."""
    folder, name = os.path.split(sys.argv[0] if sys.argv else "")
    return name in ("sam3ray", "sam3ray.exe") or (name == "__main__.py" and os.path.basename(folder) == "sam3ray")


def leave_at_once() -> None:
    """For the time before and after the work, when there is nothing to clean up."""
    _handle(_leave)


def interrupt() -> None:
    """During the work: KeyboardInterrupt in the main thread, so that it ends cleanly. A second signal exits at once."""
    _handle(_raise)


def _handle(handler: object) -> None:
    with contextlib.suppress(ValueError):  # not the main thread
        for number in _NUMBERS:
            signal.signal(number, handler)  # type: ignore[arg-type]


def _leave(number: int, frame: FrameType | None) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"sam3ray: interrupted\n")
    os._exit(INTERRUPTED)


def _raise(number: int, frame: FrameType | None) -> None:
    leave_at_once()
    raise KeyboardInterrupt


def _ignore() -> None:
    # The interpreter's very end puts other handlers back to the system's, which end a process without a code.
    _handle(signal.SIG_IGN)


if is_command():
    atexit.register(_ignore)  # the first registered runs last
    leave_at_once()
