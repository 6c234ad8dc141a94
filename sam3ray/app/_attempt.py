"""Carries out one order with a loaded model: yields frames as they are found, in any order, until done or stopped."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any, Literal

from sam3ray.app._glances import Glances, facts
from sam3ray.app._messages import Found, Kept
from sam3ray.app._order import Order
from sam3ray.app._resuming import Asked, Behind, Keeper, Names, States, Stop
from sam3ray.engine import Session
from sam3ray.engine.header import StateError
from sam3ray.engine.result import SessionResult
from sam3ray.engine.source import read_backward
from sam3ray.failures import UserError
from sam3ray.model import Model
from sam3ray.prompts import resolve_exemplars, resolve_prompts
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.values.prompts import ExemplarPrompt, VisualPrompt
from sam3ray.video import Frame


class Attempt:
    """Carries out one order.

    Args:
        states: of earlier runs, to go on from; None: begin at the beginning.
        glances: what was looked at before.

    Attributes:
        is_stopped: set it between two values of `run` to end it; frames that the model has already seen still come out.

    Raises:
        ClipError: the video cannot be read.
        UserError: a prompt lies outside the frames asked for.
    """

    def __init__(
        self, model: Model, order: Order, states: States | None = None, glances: Glances | None = None
    ) -> None:
        self._order, self._states = order, states
        self._glances = glances or Glances()
        self._model = model if order.tracking == model.tracking else model.with_tracking(order.tracking)
        self.is_stopped = False
        self._video = self._glances.video(order)
        self._source, self._positions = self._video.source, self._video.positions
        self._size = self._source.height, self._source.width
        self._visual = self._resolved(order.visual)
        self._refinements = self._resolved(order.refinements)
        source = self._source
        self._exemplars = resolve_exemplars(order.exemplars, source.width, source.height, source.frame_at)
        self._check_frames((each.frame_index, f"the exemplar {each.name!r}") for each in self._exemplars)
        self._done = self._given = 0
        self._total = order.last - order.first + 1
        self._ids: Names | Behind = Names()
        self._names: Mapping[int, int] = {}  # id in the session -> id on the page, where they can differ
        self._corrections = self._refinements  # by their ids in the session
        self._keeper: Keeper | None = None

    def run(self) -> Iterator[Found]:
        order = self._order
        if order.is_preview:
            yield from self._preview()
        elif order.way == "both":
            yield from self._both_ways()
        else:
            yield from self._one_way()

    def _one_way(self) -> Iterator[Found]:
        """From one end to the other, or on from where an earlier run saw the same."""
        order = self._order
        asked = self._asked()
        stop = self._states.latest(order.goes_on, asked) if self._states is not None else None
        policy: Literal["whole", "backward"] = "backward" if order.way == "backward" else "whole"
        with self._session(policy, self._total, stop, asked) as (session, stop):
            if self._states is not None:
                self._keeper = self._states.begin(order.id, order.goes_on, stop)
            if stop is None:
                self._add(session, *self._visual, *order.phrases, *self._exemplars)
            else:
                yield self._goes_on(session, stop, asked)
            done = self._done
            frames = (
                self._backward(session, order.last + 1 - done, order.first)
                if order.way == "backward"
                else self._forward(session, begin=order.first + done)
            )
            yield from self._pass(session, frames, asked=asked)

    def _asked(self) -> Asked:
        order = self._order
        steps = {
            index: order.last - n if order.way == "backward" else n - order.first
            for index, n in self._positions.items()
        }
        return Asked((*self._fixed(), order.last), self._visual, self._refinements, self._exemplars, steps)

    def _fixed(self) -> tuple[Any, ...]:
        order = self._order
        return *facts(order), order.phrases, order.tracking, order.way, order.first

    def _goes_on(self, session: Session, stop: Stop, asked: Asked) -> Found:
        order = self._order
        self._add_rest(session, stop, asked)
        self._done, self._given = stop.step, stop.given
        indices = self._source.indices
        kept = (
            indices[order.last + 1 - stop.given : order.last + 1]
            if order.way == "backward"
            else indices[order.first : order.first + stop.given]
        )
        return Found((), self._done, self._total, kept=(Kept(tuple(kept)),))

    def _add_rest(self, session: Session, stop: Stop, asked: Asked) -> None:
        """The prompts that were not in the state."""
        for prompt in asked.visual:
            if asked.steps[prompt.frame_index] >= stop.step:
                session.add(self._in_session(prompt))

    def _in_session(self, prompt: VisualPrompt) -> VisualPrompt:
        return replace(prompt, object_id=self._ids.here(prompt.object_id))

    # Both ways

    def _both_ways(self) -> Iterator[Found]:
        """From the start to the end; then prompted objects back to the beginning; then what phrases find, back.

        What phrases find on the way ahead and on the way back does not depend on the other way, but for its ids: each
        goes on by itself from where an earlier run saw the same.
        """
        order = self._order
        born = [self._positions[each.frame_index] for each in self._visual]
        finds = bool(order.phrases or self._exemplars)
        behind = order.start - order.first + 1 if finds and order.start > order.first else 0
        self._total += behind + (max(born) - order.first if born else 0)
        ahead = self._asked_ahead()
        before = self._states.end(f"{order.goes_on} ahead") if self._states is not None else None
        ids = back = stop = None
        if behind and before is not None:  # corrections name objects as the run did that they are made on
            ids = self._behind(before.found, before.next_id + ahead.base - before.asked.base)
            back = self._asked_behind(ids)
            stop = self._latest("behind", back)
        if stop is not None:
            yield Found((), 0, self._total, kept=(self._kept_behind(stop),))
        end = yield from self._ahead(ahead, born)
        if not behind or end is None:
            return
        if ids is None or ids.found != end.found:
            ids, stop = self._behind(end.found, end.next_id), None
            back = self._asked_behind(ids)
        elif stop is not None and ids.end != end.next_id:
            moved = (ids.end, end.next_id - ids.end)
            yield Found((), self._done, self._total, kept=(replace(self._kept_behind(stop), moved=moved),))
        assert back is not None
        yield from self._back(back, stop, ids, replace(ids, end=end.next_id), behind)

    def _asked_ahead(self) -> Asked:
        order = self._order
        start = self._source.indices[order.start]
        return Asked(
            (*self._fixed(), order.last, "ahead", start),
            self._visual,
            tuple(each for each in self._refinements if each.frame_index >= start),
            tuple(each for each in self._exemplars if each.frame_index >= start),
            {index: n - order.first for index, n in self._positions.items()},
        )

    def _asked_behind(self, ids: Behind) -> Asked:
        """By the ids of its session."""
        order = self._order
        start = self._source.indices[order.start]
        return Asked(
            (*self._fixed(), "behind", start, ids.next),
            (),
            tuple(
                replace(each, object_id=ids.here(each.object_id))
                for each in self._refinements
                if each.frame_index <= start
            ),
            tuple(each for each in self._exemplars if each.frame_index <= start),
            {index: order.start - n for index, n in self._positions.items()},
        )

    def _behind(self, found: int, end: int) -> Behind:
        ids, start = Behind(self._order.base + 1, found, end), self._source.indices[self._order.start]
        named = {each.object_id for each in self._refinements if each.frame_index <= start}
        return replace(ids, strangers=tuple(sorted(each for each in named if not ids.is_known(each))))

    def _kept_behind(self, stop: Stop) -> Kept:
        order = self._order
        frames = self._source.indices[order.start - stop.given : order.start]
        return Kept(tuple(frames), own="none")

    def _ahead(self, asked: Asked, born: list[int]) -> Generator[Found, None, Stop | None]:
        """Returns its end; None: it was stopped before."""
        order, length = self._order, self._order.last - self._order.first + 1
        stop = self._latest("ahead", asked)
        start, indices = order.start, self._source.indices
        if stop is not None and stop.is_end:
            self._begin_states("ahead", stop)
            self._done = length + (max(born) - order.first if born else 0)
            kept = (
                Kept(tuple(indices[order.first : start]), found=False),
                Kept(tuple(indices[start : order.last + 1])),
            )
            yield Found((), self._done, self._total, kept=kept)
            return stop
        with self._session("both", length, stop, asked) as (session, stop):
            self._keeper = self._begin_states("ahead", stop)
            if stop is None:
                self._add(session, *asked.visual, *asked.exemplars)
            else:
                self._add_rest(session, stop, asked)
                self._done, self._given = stop.step, stop.given
                upto = order.first + stop.given
                own = Kept(tuple(indices[order.first : upto]), own="begun", found=False)
                found = Kept(tuple(indices[start : max(start, upto)]), own="none")
                yield Found((), self._done, self._total, kept=(own, found))
            frames = self._forward(session, order.phrases, order.first + self._done)
            yield from self._pass(session, frames, asked=asked)
            keeper, self._keeper = self._keeper, None
            both = bool(order.phrases) or any(each.frame_index == indices[start] for each in self._exemplars)
            found_first = session.propagation.found_at_first if both and session.propagation is not None else 0
            if born and not self.is_stopped and session.next_pass():
                stop_at = order.first + session.next_position + 1
                yield from self._pass(session, self._backward(session, stop_at, order.first))
            if self.is_stopped:
                return None
            end = Stop(asked, None, length, length, session.ids.next, found=found_first)
            if keeper is not None:
                keeper.end(end)
            return end

    def _back(self, asked: Asked, stop: Stop | None, ids: Behind, shown: Behind, behind: int) -> Iterator[Found]:
        """What phrases find from the start back.

        Args:
            ids, shown: by which corrections are named, and what is found.
        """
        order, begun = self._order, self._done
        if stop is not None and stop.is_end:
            self._begin_states("behind", stop)
            self._done += behind
            yield Found((), self._done, self._total)
            return
        with self._session("backward", behind, stop, asked) as (session, stop):
            self._keeper = self._begin_states("behind", stop)
            self._given = stop.given if stop is not None else 0
            if stop is None:
                session.ids.reserve(ids.next - 1)
                # On the frame that both begin with, the same objects are found again, in the same order.
                session.ids.repeat(range(1, ids.found + 1))
                self._add(session, *order.phrases, *asked.exemplars)
            done = stop.step if stop is not None else 0
            self._done = begun + done
            self._ids, self._names, self._corrections = shown, {}, asked.refinements
            frames = self._backward(session, order.start + 1 - done, order.first)
            yield from self._pass(session, frames, self._source.indices[order.start], asked)
            if self._keeper is not None and not self.is_stopped:
                self._keeper.end(Stop(asked, None, behind, behind - 1, session.ids.next))

    def _latest(self, way: str, asked: Asked) -> Stop | None:
        return self._states.latest(f"{self._order.goes_on} {way}", asked) if self._states is not None else None

    def _begin_states(self, way: str, stop: Stop | None) -> Keeper | None:
        if self._states is None:
            return None
        return self._states.begin(f"{self._order.id} {way}", f"{self._order.goes_on} {way}", stop)

    @contextmanager
    def _session(
        self, policy: Literal["whole", "backward", "both"], length: int, stop: Stop | None, asked: Asked
    ) -> Iterator[tuple[Session, Stop | None]]:
        """A session that continues from a state, or begins (None) where the state cannot be used."""
        with ExitStack() as stack:
            session = stack.enter_context(self._model.session(*self._size, policy, length=length))
            if stop is not None:
                try:
                    self._names = stop.names_for(asked.base)
                    stop.load(session, self._names)
                except StateError:
                    stop, self._names = None, {}
                    session = stack.enter_context(self._model.session(*self._size, policy, length=length))
            self._ids = Names(self._names)
            self._corrections = tuple(self._in_session(each) for each in self._refinements)
            yield session, stop

    def _preview(self) -> Iterator[Found]:
        order = self._order
        glance = self._glances.glance(self._video, order.start)
        with self._model.session(*self._size, "live", sight=glance.sight) as session:
            prompts = (*self._visual, *self._refinements, *self._exemplars)
            self._add(session, *order.phrases, *(each for each in prompts if each.frame_index == glance.frame.index))
            yield self._found(session.step(glance.frame), None)

    def _add(self, session: Session, *prompts: str | ExemplarPrompt | VisualPrompt) -> None:
        for prompt in prompts:
            session.add(prompt)

    def _forward(self, session: Session, later: Iterable[str] = (), begin: int | None = None) -> Iterator[Frame]:
        """`later`: phrases for which the session looks from the start on."""
        order = self._order
        position = order.first if begin is None else begin
        for frame in self._source.read(position, order.last + 1):
            if position == order.start:
                for phrase in later:
                    session.add(phrase)
            if position >= order.start or order.way != "both":  # else they are for the way back
                self._refine(session, frame)
            yield frame
            position += 1

    def _backward(self, session: Session, stop: int, first: int) -> Iterator[Frame]:
        for _, frame in islice(read_backward(self._source, stop), max(0, stop - first)):
            if session.walk.finds:
                self._refine(session, frame)
            yield frame

    def _refine(self, session: Session, frame: Frame) -> None:
        """Prompts of objects that phrases have found: added late, since otherwise they would take those ids."""
        for prompt in self._corrections:
            if prompt.frame_index == frame.index:
                session.add(prompt, of_phrase=True)

    def _pass(
        self, session: Session, frames: Iterable[Frame], without: int | None = None, asked: Asked | None = None
    ) -> Iterator[Found]:
        for frame in frames:
            if self.is_stopped:
                break
            self._done += 1
            yield self._found(session.step(frame), without)
            if self._keeper is not None and asked is not None and not self.is_stopped:
                self._keeper.offer(session, asked, self._given, self._names)
        if self.is_stopped:
            for object_id in {each.object_id for of_frame in session.visual.waiting.values() for each in of_frame}:
                session.remove(object_id)  # its frame will not come
            session.concepts.waiting.clear()
        yield self._found(session.finish(), without)

    def _found(self, results: Iterable[SessionResult], without: int | None) -> Found:
        frames = tuple(self._renamed(each.annotations) for each in results if each.frame_index != without)
        self._given += len(frames)
        return Found(frames, self._done, max(self._total, self._done))

    def _renamed(self, frame: FrameAnnotations) -> FrameAnnotations:
        """With the page's ids."""
        objects = [replace(each, object_id=self._ids.page(each.object_id)) for each in frame.objects]
        return replace(frame, objects=tuple(sorted(objects, key=lambda each: each.object_id)))

    def _resolved(self, prompts: tuple[VisualPrompt, ...]) -> tuple[VisualPrompt, ...]:
        source = self._source
        resolved = resolve_prompts(prompts, source.width, source.height, source.frame_at)
        self._check_frames((each.frame_index, f"a prompt of object {each.object_id}") for each in resolved)
        return resolved

    def _check_frames(self, asked: Iterable[tuple[int, str]]) -> None:
        order = self._order
        first, last = (self._source.indices[n] for n in (order.first, order.last))
        for index, what in asked:
            if index not in self._positions or not (order.is_preview or first <= index <= last):
                raise UserError(
                    f"{what} is on frame {index}, and the frames asked for are {first} to {last}: move the range, or "
                    "clear it"
                )
