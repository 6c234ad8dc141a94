"""Prompts that wait for their frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from sam3ray.failures import ClipError, Reason
from sam3ray.values.prompts import ExemplarPrompt, VisualPrompt

_Prompt = TypeVar("_Prompt", bound=VisualPrompt | ExemplarPrompt)


class Waiting(Generic[_Prompt]):
    """Prompts by the source index of their frame, in the order given.

    Attributes:
        waiting, coming: for frames not given yet, and for frames not processed yet.
    """

    def __init__(self) -> None:
        self.waiting: dict[int, tuple[_Prompt, ...]] = {}
        self.coming: dict[int, tuple[_Prompt, ...]] = {}

    @property
    def pending(self) -> list[_Prompt]:
        """All prompts that have not been processed."""
        return [each for prompts in (*self.coming.values(), *self.waiting.values()) for each in prompts]

    def put(self, prompt: _Prompt) -> None:
        self.waiting[prompt.frame_index] = (*self.waiting.get(prompt.frame_index, ()), prompt)

    def withdraw(self, is_gone: Callable[[_Prompt], bool]) -> None:
        """Removes prompts for frames not given yet."""
        left = {frame: tuple(e for e in prompts if not is_gone(e)) for frame, prompts in self.waiting.items()}
        self.waiting = {frame: prompts for frame, prompts in left.items() if prompts}

    def given(self, frame_index: int) -> tuple[_Prompt, ...]:
        """The prompts of the frame that is given now."""
        here = self.waiting.pop(frame_index, ())
        if here:
            self.coming[frame_index] = here
        return here

    def check_passed(self, frame_index: int | None, *, reverse: bool) -> None:
        """Raises ClipError (empty_range) if one waits for a frame before this one (None: the end) that never came."""
        first = max(self.waiting, default=None) if reverse else min(self.waiting, default=None)
        if first is None or (frame_index is not None and (first <= frame_index if reverse else first >= frame_index)):
            return
        raise self.not_read(first)

    def not_read(self, frame_index: int) -> ClipError:
        """The error for a frame that prompts wait for and that does not come."""
        first, *_ = prompts = self.waiting[frame_index]
        if isinstance(first, ExemplarPrompt):
            return not_read(frame_index, f"on which {first.name!r} is shown by boxes")
        ids = sorted({each.object_id for each in prompts if not isinstance(each, ExemplarPrompt)})
        return not_read(frame_index, f"on which object {', '.join(map(str, ids))} is prompted")


def not_read(frame_index: int, what: str) -> ClipError:
    """The error for a required frame that does not come. `what` describes the frame, such as "on which ..."."""
    return ClipError(
        Reason.EMPTY_RANGE,
        f"frame {frame_index}, {what}, is not among the frames read (see the clip's range and sampling rate)",
        f"frame {frame_index}",
    )
