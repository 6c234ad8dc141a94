"""An error and what it was raised from: libraries translate each other's."""

from __future__ import annotations

from collections.abc import Iterator

_MOST = 10  # a longer chain is a loop


def first_line(error: BaseException, most: int = 200) -> str:
    """What a library said, as far as it fits into a sentence of ours."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:most]


def causes(error: BaseException | None, *, hidden: bool = False) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on.

    Args:
        hidden: also what a library hides with `from None`.
    """
    for _ in range(_MOST):
        if error is None:
            return
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ and not hidden else error.__context__)
