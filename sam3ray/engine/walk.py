"""Whole clips: sessions driven over frames that can be read again, results in display order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

from sam3ray.engine.concepts import Concepts
from sam3ray.engine.header import StateError
from sam3ray.engine.ids import Ids
from sam3ray.engine.policy import Direction, Pass, Policy, Refine
from sam3ray.engine.recorder import Kept, Recorder
from sam3ray.engine.result import SessionResult
from sam3ray.engine.session import Session
from sam3ray.engine.source import FrameSource, OnePass, position_of, read_backward, stamps_of
from sam3ray.engine.spool import Spool
from sam3ray.engine.tally import Tally
from sam3ray.engine.visual_prompts import VisualPrompts
from sam3ray.engine.waiting import not_read
from sam3ray.failures import UserError
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.values.exemplars import named_exemplars, with_exemplar_phrases
from sam3ray.values.prompts import ExemplarPrompt, VisualPrompt
from sam3ray.video import Frame

if TYPE_CHECKING:
    from sam3ray.engine.engine import Engine

_LOG = logging.getLogger(__name__)
_START = "where the phrases are to be looked for first"


@dataclass(frozen=True)
class Wanted:
    """The request for a clip.

    Attributes:
        visual: resolved (see `sam3ray.prompts`); objects keep their ids, and those of phrases count up from above them.
        direction, refine: of these.
        start_frame: index in the source of the frame on which phrases are first looked for; None: the first.
        phrase_direction: which way they go from there.
        exemplars: resolved. They go the way of the phrases.
        first_object_id: of what phrases find.
    """

    phrases: Sequence[str] = ()
    visual: Sequence[VisualPrompt] = ()
    direction: Direction = "forward"
    refine: Refine = "onward"
    start_frame: int | None = None
    phrase_direction: Direction = "forward"
    exemplars: Sequence[ExemplarPrompt] = ()
    first_object_id: int = 1

    @property
    def finds(self) -> bool:
        """Whether objects are to be found, by phrases or exemplars."""
        return bool(self.phrases or self.exemplars)

    @property
    def looks_again(self) -> bool:
        """Whether frames are processed more than once, or backward."""
        of_visual = bool(self.visual) and (self.direction, self.refine) != ("forward", "onward")
        return of_visual or (self.finds and self.phrase_direction != "forward")


class Walk:
    """One clip, walked as many times as the request needs.

    Args:
        source: its frames; read once where everything goes forward and onward, else several times.
        progress: called after each processed frame: results of passes that cannot leave in display order come
            late.
        recorder: gets every frame, and is asked where to continue. To continue, the source must be readable again.

    Attributes:
        tally: counts of what phrases found, over all passes.

    Raises:
        ValueError: nothing is wanted, or an exemplar or a visual prompt does not fit the frames, or the way.
        UserError: a phrase is too long, or an exemplar's label is a phrase, too.
        ClipError: over_limits, where the prompts that an object starts with only say what it is not.
    """

    def __init__(
        self,
        engine: Engine,
        source: FrameSource,
        wanted: Wanted,
        progress: Callable[[], None] | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._engine, self._source, self._progress = engine, source, progress
        if wanted.phrase_direction == "both" and wanted.start_frame is None:
            wanted = replace(wanted, phrase_direction="forward")  # from the first frame, both ways are one
        # Phrases that go backward have a separate session, which is not saved.
        self._recorder = recorder if not wanted.finds or wanted.phrase_direction == "forward" else None
        self._kept: Kept | None = None
        self._size = source.height, source.width
        self._sessions: list[Session] = []
        if not wanted.finds and not wanted.visual:
            raise ValueError("at least one prompt is required")
        phrases, exemplars, problem = with_exemplar_phrases(wanted.phrases, named_exemplars(wanted.exemplars))
        if problem:
            raise UserError(f"the clip {problem}")
        self._wanted = wanted = replace(wanted, phrases=phrases, exemplars=exemplars)
        engine.check_phrases(phrases)
        for exemplar in exemplars:
            _check_on_the_way(exemplar, wanted)
            Concepts(self._size, everywhere=False).add(exemplar)  # does it fit the frames?
        if isinstance(source, OnePass) and wanted.looks_again:
            raise ValueError(
                "these frames can be read only once, forward; pass a source that can be read again, such as ClipFrames"
            )
        prompts = VisualPrompts(self._size)
        for prompt in wanted.visual:
            prompts.add(prompts.checked(prompt))
        prompts.check_starts(wanted.direction)
        self._ids = self._fresh_ids()

    def _fresh_ids(self) -> Ids:
        return Ids(max(self._wanted.first_object_id, *(each.object_id + 1 for each in self._wanted.visual), 1))

    @property
    def tally(self) -> Tally:
        total = Tally()
        for session in self._sessions:
            total += session.tally
        return total

    def results(self) -> Iterator[FrameAnnotations]:
        """One value per frame, in display order.

        Raises:
            ClipError: empty_range, where the frame of a visual prompt, or `start_frame`, is not among those read.
        """
        wanted = self._wanted
        with ExitStack() as stack:
            behind = self._phrases_behind(stack) if wanted.finds and wanted.phrase_direction != "forward" else None
            finds = wanted.finds and wanted.phrase_direction != "backward"
            policy = Policy((Pass(finds=finds),))
            if wanted.visual:
                policy = Policy.of(wanted.direction, wanted.refine, finds=finds)
            session = stack.enter_context(self._begun(policy))
            results = self._passes(session, stack)
            for position, frame in results:
                yield merged(frame, behind.get(position)) if behind is not None else frame

    def _begun(self, policy: Policy) -> Session:
        """A session: resumed if the recorder has one of the same clip, otherwise new."""
        if self._recorder is not None:
            for kept in self._recorder.kept():
                session = self._session(policy)
                try:
                    session.load(kept.state)
                except StateError as error:
                    self._recorder.refused(error)
                    self._sessions.remove(session)
                    self._ids = self._fresh_ids()
                    continue
                self._recorder.took_up()
                self._kept = kept
                return session
        session = self._session(policy)
        for prompt in self._wanted.visual:
            session.add(prompt)
        return session

    def _session(self, policy: Policy, length: int | None = None) -> Session:
        session = Session(self._engine, *self._size, policy, ids=self._ids, length=length)
        session.progress = self._progress or session.progress
        self._sessions.append(session)
        return session

    def _passes(self, session: Session, stack: ExitStack) -> Iterator[tuple[int, FrameAnnotations]]:
        """The results of a session by position, in display order."""
        shown = [each for each in session.policy.passes if not each.rehearsal]
        ahead, back = (stack.enter_context(Spool()) for _ in range(2))
        stop = 0  # of a way back that no way forward has prepared
        for number in range(session.pass_number) if len(shown) == 2 else ():
            looks = self._looks(session.policy.passes[number])
            for position, frame in enumerate(self._frames_kept(number) if looks else self._empty()):
                ahead.put(position, frame)
        while True:
            walk = session.walk
            if walk.reverse:
                start = session.next_position + 1
                for position, frame in self._run(session, read_backward(self._source, start)):
                    back.put(position, frame)
            elif walk.rehearsal or len(shown) == 1:
                yield from self._ahead(session)
            else:
                missing = set(session.visual.waiting) if not walk.follows else set()
                for position, frame in self._ahead(session):
                    ahead.put(position, frame)
                    if frame.frame_index in missing:
                        missing.discard(frame.frame_index)
                        stop = position + 1
                if missing:
                    raise session.visual.not_read(min(missing))
                if not self._looks(walk):
                    session.length = len(ahead)  # of which the way back sees a part
            if not session.next_pass(stop - 1 if stop else None):
                break
            if not session.walk.reverse:
                stop = 0
        for position in range(len(ahead)):
            shown_ahead = ahead.get(position)
            assert shown_ahead is not None
            yield position, merged(shown_ahead, back.get(position))

    def _looks(self, walk: Pass) -> bool:
        """Whether a pass processes any frame, rather than only learning the frames' positions."""
        return walk.finds or (walk.follows and bool(self._wanted.visual))

    def _ahead(self, session: Session) -> Iterator[tuple[int, FrameAnnotations]]:
        """The results of a forward pass by position."""
        if not self._looks(session.walk):
            return enumerate(self._empty())
        return self._run(session, self._forward(session))

    def _empty(self) -> Iterator[FrameAnnotations]:
        """All frames, without objects. None is decoded if the source knows its frames."""
        return (FrameAnnotations(each.index, each.pts, each.time_s, *self._size) for each in stamps_of(self._source))

    def _forward(self, session: Session) -> Iterator[tuple[int, Frame]]:
        """All frames; the session is told of the phrases when their turn has come."""
        begun = session.next_position
        is_new = not session.phrases and not session.concepts.count  # else they are looked for already
        finds = session.walk.finds and is_new
        start = self._wanted.start_frame if finds else None
        if finds and start is None:
            self._look_for(session)
        for position, frame in enumerate(self._source.read(begun), begun):
            if start is not None and frame.index >= start:
                if frame.index > start:
                    raise not_read(start, _START)
                self._look_for(session)
                start = None
            yield position, frame
        if start is not None:
            raise not_read(start, _START)

    def _look_for(self, session: Session, *, back: bool = False) -> None:
        """Phrases, and those exemplars that lie on the way from the start."""
        wanted = self._wanted
        for phrase in wanted.phrases:
            session.add(phrase)
        start = wanted.start_frame
        for each in wanted.exemplars:
            if start is None or (each.frame_index <= start if back else each.frame_index >= start):
                session.add(each)

    def _phrases_behind(self, stack: ExitStack) -> Spool:
        """The objects that phrases find from the start backward.

        What is found on the first frame is found on the way forward, too, in the same order: it gets the same ids, and
        whatever is found later on either way gets ids of its own.
        """
        wanted, start = self._wanted, self._position_of_start()
        behind = stack.enter_context(Spool())
        first = self._ids.next
        with self._session(Policy((Pass(reverse=True),)), length=start + 1) as session:
            self._look_for(session, back=True)
            session.clock.first = start
            for position, frame in self._run(session, read_backward(self._source, start + 1)):
                if position < start or wanted.phrase_direction == "backward":  # else the way forward shows the first
                    behind.put(position, frame)
            common = session.propagation is not None and session.clock.phrases_from == 0
            born = session.propagation.found_at_first if session.propagation is not None and common else 0
        self._ids.repeat(range(first, first + born))
        return behind

    def _position_of_start(self) -> int:
        start = self._wanted.start_frame
        position = position_of(self._source, start)
        if position is None:
            raise not_read(start or 0, _START)
        return position

    def _run(self, session: Session, frames: Iterable[tuple[int, Frame]]) -> Iterator[tuple[int, FrameAnnotations]]:
        """One pass. A reverse one is to begin at `session.clock.first`."""
        positions = count(session.clock.first, -1 if session.walk.reverse else 1)
        number = session.pass_number
        for frame in self._frames_kept(number):
            yield next(positions), frame
        self._kept = None
        for finished in self._given(session, frames):
            if self._recorder is not None:
                self._recorder.add(number, finished.frame)
            yield next(positions), finished.frame

    def _given(self, session: Session, frames: Iterable[tuple[int, Frame]]) -> Iterator[SessionResult]:
        worked = session.clock.worked
        for _, frame in frames:
            yield from session.step(frame)
            if session.is_satisfied:
                break
            if self._recorder is not None and session.rests and session.clock.worked > worked:
                worked = session.clock.worked
                self._recorder.at_rest(session.pass_number, session.snapshot)
        yield from session.finish()

    def _frames_kept(self, pass_number: int) -> Iterator[FrameAnnotations]:
        return self._kept.frames(pass_number) if self._kept is not None else iter(())


def merged(first: FrameAnnotations, second: FrameAnnotations | None) -> FrameAnnotations:
    """Both results of one frame; they have no object in common."""
    if second is None:
        return first
    objects = sorted((*first.objects, *second.objects), key=lambda each: each.object_id)
    return replace(first, objects=tuple(objects))


def _check_on_the_way(exemplar: ExemplarPrompt, wanted: Wanted) -> None:
    """Raises ValueError if no pass visits the exemplar's frame."""
    start, frame = wanted.start_frame, exemplar.frame_index
    if start is None or wanted.phrase_direction == "both":
        return
    if frame > start if wanted.phrase_direction == "backward" else frame < start:
        side = "after" if frame > start else "before"
        raise ValueError(
            f"{exemplar.name!r} is shown by boxes on frame {frame}, {side} start_frame, which is {start}; allowed with "
            f"direction {wanted.phrase_direction!r}: a frame on the way from it, or direction 'both'"
        )
