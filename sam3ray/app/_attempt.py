"""Carries out one order with a loaded model: yields frames as they are found, in any order, until done or stopped."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice

from sam3ray.app._messages import Found
from sam3ray.app._order import Order
from sam3ray.app._resuming import Asked, Keeper, States, Stop
from sam3ray.engine.result import SessionResult
from sam3ray.engine.session import Session
from sam3ray.engine.source import read_backward
from sam3ray.engine.state import StateError
from sam3ray.failures import UserError
from sam3ray.model import Model
from sam3ray.prompts import resolve_exemplars, resolve_prompts
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.values.prompts import ExemplarPrompt, VisualPrompt
from sam3ray.video import ClipFrames, Frame


class Attempt:
    """Carries out one order.

    Args:
        states: of earlier runs, to go on from; None: begin at the beginning.

    Attributes:
        is_stopped: set it between two values of `run` to end it; frames that the model has already seen still come out.

    Raises:
        ClipError: the video cannot be read.
        UserError: a prompt lies outside the frames asked for.
    """

    def __init__(self, model: Model, order: Order, states: States | None = None) -> None:
        self._order, self._states = order, states
        self._model = model if order.tracking == model.tracking else model.with_tracking(order.tracking)
        self.is_stopped = False
        clip = order.clip
        self._source = ClipFrames(order.path, start_s=clip.start_s, end_s=clip.end_s, fps=clip.fps, limits=order.limits)
        self._size = self._source.height, self._source.width
        self._positions = {index: n for n, index in enumerate(self._source.indices)}
        self._visual = self._resolved(order.visual)
        self._refinements = self._resolved(order.refinements)
        source = self._source
        self._exemplars = resolve_exemplars(order.exemplars, source.width, source.height, source.frame_at)
        self._check_frames((each.frame_index, f"the exemplar {each.name!r}") for each in self._exemplars)
        self._done = self._given = 0
        self._total = order.last - order.first + 1
        self._names: dict[int, int] = {}  # id in the session -> id on the page, where they can differ
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
        while True:
            with self._model.session(
                *self._size, "backward" if order.way == "backward" else "whole", length=self._total
            ) as session:
                try:
                    if stop is not None:
                        self._names = stop.names_for(asked.base)
                        stop.load(session, self._names)
                except StateError:
                    stop, self._names = None, {}
                    continue
                if self._states is not None:
                    self._keeper = self._states.begin(order.id, order.goes_on, stop)
                if stop is None:
                    self._begin(session, order.phrases, self._exemplars)
                else:
                    yield self._goes_on(session, stop, asked)
                done = self._done
                frames = (
                    self._backward(session, order.last + 1 - done, order.first)
                    if order.way == "backward"
                    else self._forward(session, begin=order.first + done)
                )
                yield from self._pass(session, frames, asked=asked)
                return

    def _asked(self) -> Asked:
        order = self._order
        file = os.stat(order.path)
        fixed = (
            order.path, file.st_size, file.st_mtime_ns, order.clip, order.limits, order.phrases, order.tracking,
            order.way, order.first, order.last,
        )  # fmt: skip
        steps = {
            index: order.last - n if order.way == "backward" else n - order.first
            for index, n in self._positions.items()
        }
        return Asked(fixed, self._visual, self._refinements, self._exemplars, steps)

    def _goes_on(self, session: Session, stop: Stop, asked: Asked) -> Found:
        order = self._order
        for prompt in self._visual:
            if asked.steps[prompt.frame_index] >= stop.step:
                session.add(self._in_session(prompt))
        self._done, self._given = stop.step, stop.given
        indices = self._source.indices
        kept = (
            indices[order.last + 1 - stop.given : order.last + 1]
            if order.way == "backward"
            else indices[order.first : order.first + stop.given]
        )
        return Found((), self._done, self._total, kept=tuple(kept))

    def _in_session(self, prompt: VisualPrompt) -> VisualPrompt:
        here = next((here for here, name in self._names.items() if name == prompt.object_id), prompt.object_id)
        return replace(prompt, object_id=here)

    def _both_ways(self) -> Iterator[Found]:
        """From the start to the end; then prompted objects back to the beginning; then what phrases find, back."""
        order = self._order
        born = [self._positions[each.frame_index] for each in self._visual]
        finds = bool(order.phrases or self._exemplars)
        behind = order.start - order.first + 1 if finds and order.start > order.first else 0
        start = self._source.indices[order.start]
        self._total += behind + (max(born) - order.first if born else 0)
        length = order.last - order.first + 1
        with self._model.session(*self._size, "both" if born else "whole", length=length) as session:
            self._begin(session, (), [each for each in self._exemplars if each.frame_index >= start])
            first_id = session.ids.next
            yield from self._pass(session, self._forward(session, order.phrases))
            both = bool(order.phrases) or any(each.frame_index == start for each in self._exemplars)
            found = session.propagation.found_at_first if both and session.propagation is not None else 0
            if born and not self.is_stopped and session.next_pass():
                stop = order.first + session.next_position + 1
                yield from self._pass(session, self._backward(session, stop, order.first))
        if not behind or self.is_stopped:
            return
        # On the frame that both begin with, the same objects are found again, in the same order.
        session.ids.repeat(range(first_id, first_id + found))
        with self._model.session(*self._size, "backward", length=behind, ids=session.ids) as session:
            self._add(session, *order.phrases, *(each for each in self._exemplars if each.frame_index <= start))
            yield from self._pass(session, self._backward(session, order.start + 1, order.first), without=start)

    def _preview(self) -> Iterator[Found]:
        order = self._order
        index = self._source.indices[order.start]
        with self._model.session(*self._size, "live") as session:
            prompts = (*self._visual, *self._refinements, *self._exemplars)
            self._add(session, *order.phrases, *(each for each in prompts if each.frame_index == index))
            frame = next(self._source.read(order.start, order.start + 1))
            yield self._found(session.step(frame), None)

    def _begin(self, session: Session, phrases: Iterable[str], exemplars: Iterable[ExemplarPrompt]) -> None:
        self._add(session, *self._visual, *phrases, *exemplars)

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
        for prompt in self._refinements:
            if prompt.frame_index == frame.index:
                session.add(self._in_session(prompt))

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
            for object_id in {each for of_frame in session.visual.waiting.values() for each in of_frame}:
                session.remove(object_id)  # its frame will not come
            session.exemplars.waiting.clear()
        yield self._found(session.finish(), without)

    def _found(self, results: Iterable[SessionResult], without: int | None) -> Found:
        frames = tuple(self._renamed(each.annotations) for each in results if each.frame_index != without)
        self._given += len(frames)
        return Found(frames, self._done, max(self._total, self._done))

    def _renamed(self, frame: FrameAnnotations) -> FrameAnnotations:
        """With the page's ids."""
        if not self._names:
            return frame
        objects = [replace(each, object_id=self._names.get(each.object_id, each.object_id)) for each in frame.objects]
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
