"""The chain of an error's causes, because libraries wrap each other's errors."""

from __future__ import annotations

from collections.abc import Iterator

_MOST = 10  # a longer chain is a loop


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of a library's message, short enough for a sentence of ours."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:most]


def causes(error: BaseException | None, *, hidden: bool = False) -> Iterator[BaseException]:
    """The error, its cause, the cause's cause, and so on.

    Args:
        hidden: include causes that a library hides with `from None`.
    """
    for _ in range(_MOST):
        if error is None:
            return
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ and not hidden else error.__context__)
