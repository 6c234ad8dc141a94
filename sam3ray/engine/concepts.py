"""What a session looks for on each frame: phrases, and concepts shown by boxes.

By Meta's published rules (`add_prompt` with boxes, sam3/model/sam3_video_inference.py), boxes are encoded on their own
frame and take part only in that frame's detection. On all other frames a phrase is looked for without them. An exemplar
without a phrase is looked for only on its own frames, by the word "visual" and its boxes; what it finds there is
tracked.

`tracking.exemplars: everywhere` is sam3ray's addition: the encoded boxes are kept, and take part in the detection on
all later frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sam3ray.engine.stored import Stored
from sam3ray.engine.waiting import Waiting
from sam3ray.prompts import describe, place_problem
from sam3ray.values.exemplars import exemplar_problem, named_exemplars
from sam3ray.values.prompts import ExemplarPrompt

VISUAL = "visual"  # the text used in place of a missing phrase, in Meta's code and here

Boxes = tuple[tuple[float, float, float, float], ...]


@dataclass(eq=False)
class Concept:
    """A phrase, or what an exemplar without a phrase shows. Frames count from the first that the pass was given.

    Attributes:
        since, until: the frames from which on it is looked for, and no longer looked for.
        shown_since: the frame from which on boxes are kept for later ones; None if none are.
        said: (frame, encoding (1, boxes + 1, C)) for each frame whose boxes are kept.
    """

    name: str
    phrase: str
    since: int
    until: int | None = None
    shown_since: int | None = None
    said: list[tuple[int, Stored]] = field(default_factory=list)


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
    kept: Concept | None = field(default=None, compare=False)


Asked = str | Sought


def name_of(asked: Asked) -> str:
    return asked if isinstance(asked, str) else asked.name


class Concepts(Waiting[ExemplarPrompt]):
    """The concepts of a session, and the exemplars that wait for their frames.

    Attributes:
        known: also those removed, until all frames given before that have been processed.
        count: number of exemplars added so far.
    """

    def __init__(self, size: tuple[int, int], *, everywhere: bool) -> None:
        super().__init__()
        self._size = size
        self._everywhere = everywhere
        self.known: list[Concept] = []
        self.count = 0

    @property
    def phrases(self) -> tuple[str, ...]:
        return tuple(each.phrase for each in self.known if each.phrase and each.until is None)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the concepts without a phrase."""
        open_now = [each.name for each in self.known if not each.phrase and each.until is None]
        return tuple(dict.fromkeys([*open_now, *(each.name for each in self.pending if not each.phrase)]))

    def add_phrases(self, phrases: Sequence[str], given: int) -> None:
        """Looks for phrases from the next frame given on."""
        self.known += [Concept(phrase, phrase, given) for phrase in phrases]

    def add(self, prompt: ExemplarPrompt) -> None:
        """Adds an exemplar for a coming frame. Its phrase has been added.

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
        self.count += 1
        self.put(replace(named, boxes=boxes, labels=tuple(bool(sign) for sign in named.signs)))

    def remove(self, name: str, given: int) -> None:
        """Forgets a concept and its exemplars from the next frame given on."""
        self.withdraw(lambda each: each.name == name)
        for each in self.known:
            if each.name == name and each.until is None:
                each.until = given

    def begin_pass(self) -> None:
        """Frames count from 0 again."""
        self.known = [each for each in self.known if each.until is None]
        for each in self.known:
            each.since = 0

    def on(self, frame: int) -> list[Concept]:
        """What is looked for on a frame, phrases first."""
        here = [each for each in self.known if each.since <= frame and (each.until is None or frame < each.until)]
        return sorted(here, key=lambda each: not each.phrase)

    def look(self, frame_index: int, given: int, *, looks: bool) -> tuple[Asked, ...]:
        """What to look for on a frame.

        Args:
            given: number of the pass's frames before it.
            looks: False if the frame is looked at only because it has boxes.
        """
        by_name: dict[str, list[ExemplarPrompt]] = {}
        for prompt in self.given(frame_index):
            by_name.setdefault(prompt.name, []).append(prompt)
        names = {each.name for each in self.on(given)}
        self.known += [Concept(name, of[0].phrase, given) for name, of in by_name.items() if name not in names]
        asked: list[Asked] = []
        for each in self.on(given):
            shown = by_name.get(each.name)
            if shown and self._everywhere and each.shown_since is None:
                each.shown_since = given
            kept = each if each.shown_since is not None else None
            if shown:
                asked.append(self._sought(shown, given, kept))
            elif looks and kept is not None:
                asked.append(Sought(each.name, each.phrase or VISUAL, kept=kept))
            elif looks and each.phrase:
                asked.append(each.name)
        return tuple(asked)

    def _sought(self, exemplars: Sequence[ExemplarPrompt], given: int, kept: Concept | None) -> Sought:
        boxes: list[tuple[float, float, float, float]] = []
        signs: list[bool] = []
        for each in exemplars:
            height, width = (1, 1) if each.units == "relative" else self._size
            for x0, y0, x1, y1 in each.boxes:
                boxes.append(((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height))
            signs += each.signs
        return Sought(exemplars[0].name, exemplars[0].phrase or VISUAL, tuple(boxes), tuple(signs), given, kept)

    def worked(self, frame_index: int, worked: int) -> None:
        """Notes that a frame has been processed, the last of `worked`."""
        self.coming.pop(frame_index, None)
        self.known = [each for each in self.known if each.until is None or each.until > worked]

    def saved(self, worked: int) -> list[Concept]:
        """The concepts as of the frames processed: those after them will be given again."""
        return [
            replace(
                each,
                shown_since=None if each.shown_since is None or each.shown_since >= worked else each.shown_since,
                said=[(frame, tokens) for frame, tokens in each.said if frame < worked],
            )
            for each in self.known
            if each.phrase or each.since < worked or each.until is not None
        ]
