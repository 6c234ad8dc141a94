"""Concepts shown by boxes: on which frames they are used, and how their boxes are encoded.

By Meta's published rules (`add_prompt` with boxes, sam3/model/sam3_video_inference.py), boxes are encoded on their own
frame and take part only in that frame's detection. On all other frames a phrase is looked for without them. An exemplar
without a phrase is looked for only on its own frames, by the word "visual" and its boxes; what it finds there is
tracked.

`tracking.exemplars: everywhere` is sam3ray's addition: the encoded boxes are kept, and take part in the detection on
all later frames.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from sam3ray.engine.source import not_read, passed_over
from sam3ray.engine.stored import Stored
from sam3ray.prompts import describe, place_problem
from sam3ray.values.exemplars import exemplar_problem, named_exemplars
from sam3ray.values.prompts import ExemplarPrompt

VISUAL = "visual"  # the text used in place of a missing phrase, in Meta's code and here

Boxes = tuple[tuple[float, float, float, float], ...]


@dataclass(eq=False)
class Shown:
    """A concept for which a box has been shown.

    Attributes:
        since, until: the number of frames given before it was first shown, and before it was removed.
        said: (frame, encoding (1, boxes + 1, C)) for each frame whose boxes are kept for later frames.
    """

    name: str
    phrase: str
    since: int
    until: int | None = None
    said: list[tuple[int, Stored]] = field(default_factory=list)

    def is_open(self, frame: int) -> bool:
        return self.since <= frame and (self.until is None or frame < self.until)


@dataclass(frozen=True)
class Sought:
    """Something to look for on a frame with the help of boxes.

    Attributes:
        text: a phrase, or VISUAL.
        boxes: boxes on this frame: (centre x, centre y, width, height) as fractions of it.
        signs: for each box, whether it is around an instance.
        frame: the boxes' frame, counted in the pass; -1 if there are none.
        kept: has the encodings of earlier boxes, and gets those of these; None if boxes are used on their own frame
            only.
    """

    name: str
    text: str
    boxes: Boxes = ()
    signs: tuple[bool, ...] = ()
    frame: int = -1
    kept: Shown | None = field(default=None, compare=False)


Asked = str | Sought


def name_of(asked: Asked) -> str:
    return asked if isinstance(asked, str) else asked.name


class Exemplars:
    """The exemplars of a session.

    Attributes:
        waiting, coming: frame index -> exemplars, for frames not given yet, and for frames not processed yet.
        count: number of exemplars added so far.
        shown: concepts for which a box has been shown, by name.
        ended: removed concepts, until all frames given before the removal have been processed.
    """

    def __init__(self, size: tuple[int, int], *, everywhere: bool) -> None:
        self._size = size
        self._everywhere = everywhere
        self.waiting: dict[int, tuple[ExemplarPrompt, ...]] = {}
        self.coming: dict[int, tuple[ExemplarPrompt, ...]] = {}
        self.count = 0
        self.shown: dict[str, Shown] = {}
        self.ended: list[Shown] = []

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all concepts without a phrase."""
        given = [each.name for of in (*self.coming.values(), *self.waiting.values()) for each in of if not each.phrase]
        return tuple(dict.fromkeys([*(each.name for each in self.shown.values() if not each.phrase), *given]))

    def add(self, prompt: ExemplarPrompt) -> ExemplarPrompt:
        """Adds an exemplar for a coming frame. Returns it with its name.

        Raises:
            ValueError: it does not fit the frames.
        """
        height, width = self._size
        (named,) = named_exemplars([prompt], self.count + 1)
        problem = exemplar_problem(named) or place_problem(named, width, height)
        if not problem and named.frame_index < 0:
            problem = "its frame is not known yet; allowed: a frame index from 0"
        if problem:
            raise ValueError(f"{describe(named)}: {problem}")
        boxes = tuple((float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in named.boxes)
        named = replace(named, boxes=boxes, labels=tuple(bool(sign) for sign in named.signs))
        self.count += 1
        self.waiting[named.frame_index] = (*self.waiting.get(named.frame_index, ()), named)
        return named

    def remove(self, name: str, given: int) -> None:
        """Forgets a concept, or the exemplars of a phrase, from the next frame given on."""
        for frame, of_frame in list(self.waiting.items()):
            self.waiting[frame] = tuple(each for each in of_frame if each.name != name)
            if not self.waiting[frame]:
                del self.waiting[frame]
        if name in self.shown:
            shown = self.shown.pop(name)
            shown.until = given
            self.ended.append(shown)

    def look(self, frame_index: int, given: int, phrases: tuple[str, ...], *, looks: bool) -> tuple[Asked, ...]:
        """What to look for on a frame.

        Args:
            given: number of the pass's frames before it.
            phrases: the phrases in force on it.
            looks: False if the frame is looked at only because it has boxes.
        """
        here = self.waiting.pop(frame_index, ())
        if here:
            self.coming[frame_index] = here
        by_name: dict[str, list[ExemplarPrompt]] = {}
        for each in here:
            by_name.setdefault(each.name, []).append(each)
            if each.name not in self.shown and (self._everywhere or not each.phrase):
                self.shown[each.name] = Shown(each.name, each.phrase, given)
        names = dict.fromkeys([*phrases, *self.shown, *by_name])
        asked: list[Asked] = []
        for name in names:
            boxes = by_name.get(name, [])
            kept = self.shown.get(name) if self._everywhere else None
            if boxes:
                asked.append(self._sought(boxes, given, kept))
            elif looks and kept is not None:
                asked.append(Sought(name, kept.phrase or VISUAL, kept=kept))
            elif looks and name in phrases:
                asked.append(name)
        return tuple(asked)

    def _sought(self, exemplars: Iterable[ExemplarPrompt], given: int, kept: Shown | None) -> Sought:
        first = next(iter(exemplars := list(exemplars)))
        boxes: list[tuple[float, float, float, float]] = []
        signs: list[bool] = []
        for each in exemplars:
            height, width = (1, 1) if each.units == "relative" else self._size
            for x0, y0, x1, y1 in each.boxes:
                boxes.append(((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height))
            signs += each.signs
        return Sought(first.name, first.phrase or VISUAL, tuple(boxes), tuple(signs), given, kept)

    def worked(self, frame_index: int, worked: int) -> None:
        """Notes that a frame has been processed, the last of `worked`."""
        self.coming.pop(frame_index, None)
        self.ended = [each for each in self.ended if each.until is None or each.until > worked]

    def still_needed(self, worked: int) -> list[Shown]:
        """Concepts shown so far that frames from `worked` on may still look for."""
        return [each for each in (*self.shown.values(), *self.ended) if each.since < worked]

    def resume(self, shown: Iterable[Shown], prompts: Iterable[ExemplarPrompt], count: int) -> None:
        """Continues from the exemplars of another session."""
        for each in shown:
            if each.until is None:
                self.shown[each.name] = each
            else:
                self.ended.append(each)
        for prompt in prompts:
            self.add(prompt)
        self.count = count

    def check_passed(self, frame_index: int | None, *, reverse: bool) -> None:
        """Raises ClipError (empty_range) if an exemplar waits for a frame before this one (None: the end) that never
        came.
        """
        frame = passed_over(self.waiting, frame_index, reverse=reverse)
        if frame is not None:
            raise not_read(frame, f"on which {self.waiting[frame][0].name!r} is shown by boxes")
