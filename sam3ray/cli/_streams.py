"""The standard streams, made so that a reader that stops reading cannot end the work."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from typing import Any, TextIO, cast


class Forgiving(io.TextIOBase):
    """Passes text on to a stream, and drops what cannot be written.

    Attributes:
        error: why something was dropped: a reader that went away (EPIPE), a full disk, a closed stream.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: Exception | None = None

    def write(self, text: str) -> int:
        if self.error is None:
            try:
                return self._stream.write(text)
            except (OSError, ValueError) as error:  # ValueError: it was closed
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        if self.error is None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._give_up(error)

    def isatty(self) -> bool:
        try:
            return self._stream.isatty()
        except ValueError:
            return False

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def fileno(self) -> int:
        return self._stream.fileno()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _give_up(self, error: Exception) -> None:
        """Discards everything left in buffers, those of libraries included."""
        self.error = error
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def hold_standard_streams() -> None:
    """For a command's process, before anything else is opened.

    A process may be started without some of its three streams. The next file that it opens would take such a number,
    and whatever a library prints would end up in it.
    """
    for number, mode in enumerate((os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # takes the lowest free number
    sys.stdout = _forgiving(sys.stdout)
    sys.stderr = _forgiving(sys.stderr)


def is_read() -> bool:
    """Passes on what was printed, and says whether somebody still reads it."""
    sys.stdout.flush()
    return not isinstance(sys.stdout, Forgiving) or sys.stdout.error is None


def lost_result() -> str:
    """Why the result was not printed completely; empty if the reader merely stopped reading."""
    out = sys.stdout
    if not isinstance(out, Forgiving):
        return ""
    out.flush()
    error = out.error
    if error is None or (isinstance(error, OSError) and error.errno == errno.EPIPE):
        return ""
    return f"the result could not be printed: {getattr(error, 'strerror', None) or error}"


def _forgiving(stream: TextIO | None) -> TextIO:
    if stream is None:
        stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open as long as the process
    if isinstance(stream, io.TextIOWrapper):  # a terminal may lack a character of a file's name
        stream.reconfigure(errors="backslashreplace")
    return cast(TextIO, Forgiving(stream))
