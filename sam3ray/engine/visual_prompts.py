"""Visual prompts of a session, the frames for which they wait, and their objects."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from sam3ray.engine.interaction import Round, check_prompt, make_rounds
from sam3ray.engine.memory import ObjectMemory
from sam3ray.engine.policy import Direction
from sam3ray.engine.tracker_values import TrackedMasks
from sam3ray.engine.waiting import Waiting
from sam3ray.failures import ClipError, Reason
from sam3ray.prompts import resolve_prompts
from sam3ray.values.prompts import MaskPrompt, VisualPrompt


@dataclass(eq=False)
class PromptedObject:
    """One object of the current clip.

    Attributes:
        label: its label in the rows.
        born: position of the frame whose prompt started it; None before.
        shown: masks on its prompted frames, by position, if a second pass must show them again.
    """

    object_id: int
    label: str = ""
    memory: ObjectMemory = field(default_factory=ObjectMemory)
    born: int | None = None
    shown: dict[int, TrackedMasks] = field(default_factory=dict)


class VisualPrompts(Waiting[VisualPrompt]):
    """The visual prompts of a session.

    Attributes:
        labels: labels of all objects named by prompts, whatever found them.
        objects: objects started by prompts.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self._size = size
        self.labels: dict[int, str] = {}
        self.objects: dict[int, PromptedObject] = {}

    def __bool__(self) -> bool:
        return bool(self.waiting or self.coming or self.objects)

    @property
    def in_order(self) -> list[PromptedObject]:
        """The objects by ascending id."""
        return [each for _, each in sorted(self.objects.items())]

    def checked(self, prompt: VisualPrompt) -> VisualPrompt:
        """Checks a prompt, and decodes its mask.

        Raises:
            ValueError: it does not fit the frames.
        """
        if isinstance(prompt, MaskPrompt) and prompt.png:
            (prompt,) = resolve_prompts((prompt,), self._size[1], self._size[0])
        check_prompt(prompt, *self._size)
        return prompt

    def add(self, prompt: VisualPrompt) -> None:
        """Adds a checked prompt for a frame not given yet."""
        object_id = prompt.object_id
        if prompt.label or object_id not in self.labels:
            self.labels[object_id] = prompt.label
            if object_id in self.objects:
                self.objects[object_id].label = prompt.label
        self.put(prompt)

    def drop(self, object_ids: Collection[int]) -> list[PromptedObject]:
        """Removes objects. Returns those that existed."""
        return [self.objects.pop(each) for each in object_ids if each in self.objects]

    def forget_labels(self) -> None:
        """Drops the labels of objects that are gone, which would accumulate in live video."""
        if len(self.labels) > len(self.objects):
            asked = {each.object_id for each in self.pending}
            self.labels = {each: label for each, label in self.labels.items() if each in self.objects or each in asked}

    def due(self, frame_index: int) -> dict[int, tuple[Round, ...]]:
        """Takes the prompts of the frame being processed, by object."""
        by_object: dict[int, list[VisualPrompt]] = {}
        for prompt in self.coming.pop(frame_index, ()):
            by_object.setdefault(prompt.object_id, []).append(prompt)
        return {object_id: make_rounds(prompts, *self._size) for object_id, prompts in by_object.items()}

    def started(self, object_id: int, rounds: tuple[Round, ...], frame_index: int) -> PromptedObject:
        """The object that a frame's prompts refer to, created if necessary.

        Raises:
            ClipError: over_limits, if it is new and all its clicks are negative.
        """
        each = self.objects.setdefault(object_id, PromptedObject(object_id, self.labels[object_id]))
        if each.born is None:
            _check_start(object_id, frame_index, rounds)
        return each

    def check_starts(self, direction: Direction) -> None:
        """Raises ClipError (over_limits) if an object starts with negative clicks only."""
        for object_id in sorted(self.labels):
            own = [each for each in self.pending if each.object_id == object_id]
            start = (max if direction == "backward" else min)(each.frame_index for each in own)
            first = [each for each in own if each.frame_index == start]
            _check_start(object_id, start, make_rounds(first, *self._size), direction)


def _check_start(object_id: int, frame_index: int, rounds: tuple[Round, ...], direction: str = "") -> None:
    if not any(turn.shows_the_object for turn in rounds):
        way = f" (direction {direction})" if direction else ""
        raise ClipError(
            Reason.OVER_LIMITS,
            f"object {object_id} starts on frame {frame_index}{way} with negative clicks only; "
            f"allowed: a positive click, a box or a mask there",
            f"frame {frame_index}",
        )
