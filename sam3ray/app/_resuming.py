"""States of runs, kept at intervals: a run with another click on a later frame continues from there.

The rows are those that the whole run would give. What differs are the ids inside the session: a session gives ids
above all given before, while the page numbers the objects that a person begins before those of phrases. `Stop.names`
says which is which.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sam3ray.engine import Session
from sam3ray.failures import UserError
from sam3ray.values.prompts import ExemplarPrompt, VisualPrompt

_FIRST_INTERVAL = 4  # frames between two states, doubled whenever there are too many
_MOST_STATES = 16  # of one run
_MOST_RUNS = 6
_MOST_BYTES = 2 * 2**30  # of all of them, on disk
_MOST_TIME = 0.05  # of the time that a run takes goes into keeping states


@dataclass(frozen=True)
class Asked:
    """What a run's rows depend on.

    Attributes:
        fixed: all but the prompts on objects.
        visual, refinements: on objects that the user began, and on those that phrases found.
        steps: by frame index, how many frames the run sees before.
    """

    fixed: tuple[Any, ...]
    visual: tuple[VisualPrompt, ...]
    refinements: tuple[VisualPrompt, ...]
    exemplars: tuple[ExemplarPrompt, ...]
    steps: Mapping[int, int]

    @property
    def base(self) -> int:
        """Ids of phrases' objects are above it."""
        return max((each.object_id for each in self.visual), default=0)

    def begins_like(self, other: Asked, step: int) -> bool:
        """Whether both runs see the same up to a step, but for the ids of what phrases find."""
        up = other.base - self.base
        refinements = tuple(replace(each, object_id=each.object_id + up) for each in self.refinements)
        return (
            up >= 0
            and (self.fixed, self.exemplars) == (other.fixed, other.exemplars)
            and self.before(step, self.visual) == other.before(step, other.visual)
            and self.before(step, refinements) == other.before(step, other.refinements)
        )

    def before(self, step: int, prompts: tuple[VisualPrompt, ...]) -> list[VisualPrompt]:
        return [each for each in prompts if self.steps[each.frame_index] < step]


@dataclass(frozen=True)
class Stop:
    """A state of a run.

    Attributes:
        step: frames that are behind it; `given` of them had come out.
        next_id: of the session.
        names: id in the session -> id on the page, where they differ.
        found: objects found on the first frame. Of the end only.
    """

    asked: Asked
    path: Path | None
    step: int
    given: int
    next_id: int
    names: Mapping[int, int] = field(default_factory=dict)
    found: int = 0

    @property
    def is_end(self) -> bool:
        """Everything is done: there is nothing to load."""
        return self.path is None

    def names_for(self, base: int) -> dict[int, int]:
        """The names where ids of phrases' objects are above another base, with those of new objects up to it."""
        old, up = self.asked.base, base - self.asked.base
        names = {}
        for here in range(1, self.next_id):
            name = self.names.get(here, here)
            names[here] = name + up if name > old else name
        return names | {self.next_id - 1 + n: old + n for n in range(1, up + 1)}

    def load(self, session: Session, names: Mapping[int, int]) -> None:
        """Raises UserError: the state cannot be used."""
        assert self.path is not None
        session.load(self.path)
        session.visual.waiting.clear()  # of the earlier run, some of which are no longer asked for
        for object_id in names:
            session.ids.reserve(object_id)


@dataclass(frozen=True)
class Names:
    """Ids in a session and on the page, where they can differ."""

    by_here: Mapping[int, int] = field(default_factory=dict)

    def here(self, page: int) -> int:
        """The id in the session."""
        return next((here for here, name in self.by_here.items() if name == page), page)

    def page(self, here: int) -> int:
        return self.by_here.get(here, here)


@dataclass(frozen=True)
class Behind:
    """Ids of what phrases find on the way back from the middle, in its separate session and on the page.

    What was found on the first frame has the ids that it has on the way ahead; the others come after all found ahead.

    Attributes:
        first: on the page, of the first object found on the first frame; `found` of them.
        end: on the page, above all found ahead.
        strangers: ids on the page of objects that are prompted on the way back and were found ahead only.
    """

    first: int
    found: int
    end: int
    strangers: tuple[int, ...] = ()

    @property
    def next(self) -> int:
        """In the session, of the first object that is new."""
        return self.found + len(self.strangers) + 1

    def here(self, page: int) -> int:
        """The id in the session."""
        if page >= self.end:
            return self.next + page - self.end
        if page in self.strangers:
            return self.found + 1 + self.strangers.index(page)
        return page - self.first + 1

    def page(self, here: int) -> int:
        if here >= self.next:
            return self.end + here - self.next
        return self.first - 1 + here if here <= self.found else self.strangers[here - self.found - 1]

    def is_known(self, page: int) -> bool:
        """Whether it is met on the way back."""
        return self.first <= page < self.first + self.found or page >= self.end


class States:
    """The states of the latest runs, each under a name; a run both ways has two, for its two ways.

    Args:
        folder: for their files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs: OrderedDict[str, list[Stop]] = OrderedDict()
        self._count = 0

    def latest(self, run: str, asked: Asked) -> Stop | None:
        """Where a run with this request continues an earlier run."""
        fitting = [each for each in self._runs.get(run, ()) if each.asked.begins_like(asked, each.step)]
        return max(fitting, key=lambda each: each.step, default=None)

    def begin(self, run: str, after: str = "", stop: Stop | None = None) -> Keeper:
        """Keeps states of a run that begins, or that continues another one."""
        stops = [each for each in self._runs.get(after, ()) if stop is not None and each.step <= stop.step]
        self._runs[run] = stops
        self._runs.move_to_end(run)
        while len(self._runs) > _MOST_RUNS:
            self._runs.popitem(last=False)
        self._clear()
        return Keeper(self, stops, stop.step if stop is not None else 0)

    def end(self, run: str) -> Stop | None:
        """The end of a run; None if it has not come so far."""
        return next((each for each in self._runs.get(run, ()) if each.is_end), None)

    def next_path(self) -> Path:
        self._count += 1
        return self._folder / f"{self._count}.safetensors"

    def fit(self, stops: list[Stop]) -> bool:
        """Thins out a run's states where there are too many; says whether it did."""
        size = sum(each.stat().st_size for each in self._folder.iterdir())
        is_thinned = len(stops) > _MOST_STATES or (size > _MOST_BYTES and len(stops) > 1)
        if is_thinned:
            del stops[-2::-2]  # the last one stays
        while size > _MOST_BYTES and len(self._runs) > 1 and next(iter(self._runs.values())) is not stops:
            self._runs.popitem(last=False)
            size = 0
        self._clear()
        return is_thinned

    def _clear(self) -> None:
        used = {each.path for stops in self._runs.values() for each in stops}  # of an end: None
        for path in self._folder.iterdir():
            if path not in used:
                path.unlink()


class Keeper:
    """Keeps states of one run as it goes on."""

    def __init__(self, states: States, stops: list[Stop], step: int) -> None:
        self._states, self._stops, self._last = states, stops, step
        self._interval = _FIRST_INTERVAL
        self._not_before = 0.0

    def end(self, stop: Stop) -> None:
        """The run is done."""
        self._stops[:] = [*(each for each in self._stops if not each.is_end), stop]

    def offer(self, session: Session, asked: Asked, given: int, names: Mapping[int, int]) -> None:
        """Keeps the session's state if it is time to. A full disk only means that there is no state."""
        step, now = session.clock.worked, time.perf_counter()
        if not session.rests or step < self._last + self._interval or now < self._not_before:
            return
        path = self._states.next_path()
        try:
            session.save(path)
        except (OSError, UserError):
            self._not_before = float("inf")
            return
        self._last = step
        self._stops.append(Stop(asked, path, step, given, session.ids.next, dict(names)))
        if self._states.fit(self._stops):
            self._interval *= 2
        done = time.perf_counter()
        self._not_before = done + (done - now) / _MOST_TIME
