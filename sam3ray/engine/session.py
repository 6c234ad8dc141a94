"""Processes one clip frame by frame. Prompts may change between frames, and the state can be saved (docs/session.md).

A policy with several passes (`policy`) wants the frames once for each: `finish` ends a pass, and `next_pass` says with
which frame the one that follows begins. Objects of phrases and of visual prompts share the frames' features, the ids,
the order in which results leave and the thread that finishes masks; neither kind takes part in the decisions about the
other.

A frame is worked on when `LENGTH_HORIZON` more have been given: a clip that is shorter is tracked otherwise, so the
length must be known. Under `live` it is worked on at once, as a frame of a long clip.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch

from sam3ray.engine.clock import Clock
from sam3ray.engine.concepts import Asked, Concepts
from sam3ray.engine.header import StateError
from sam3ray.engine.hotstart_buffer import HotstartBuffer, LoopStep
from sam3ray.engine.ids import Ids
from sam3ray.engine.interaction import Round
from sam3ray.engine.lookahead import LENGTH_HORIZON, FrameWork, LookAhead
from sam3ray.engine.output_queue import OutputQueue
from sam3ray.engine.outputs import MaskForm
from sam3ray.engine.policy import Pass, Policy
from sam3ray.engine.prompt_tracker import PromptTracker, takes_prompts_alone
from sam3ray.engine.propagation import Propagation
from sam3ray.engine.relinking import Relinker
from sam3ray.engine.result import SessionResult
from sam3ray.engine.tally import Tally
from sam3ray.engine.vision import Sight
from sam3ray.engine.visual_prompts import VisualPrompts
from sam3ray.failures import UserError
from sam3ray.values.exemplars import with_exemplar_phrases
from sam3ray.values.phrases import phrases_problem
from sam3ray.values.prompts import BoxPrompt, ExemplarPrompt, MaskPrompt, PointPrompt, VisualPrompt
from sam3ray.video import Frame

if TYPE_CHECKING:
    from sam3ray.engine.engine import Engine
    from sam3ray.engine.state import Snapshot

_VISUAL = (PointPrompt, BoxPrompt, MaskPrompt)


class Session(AbstractContextManager["Session"]):
    """The state of one clip.

    Args:
        height, width: of the frames, in pixels.
        length: number of frames, where that is known: then nothing waits until it is.
        sight: shared with other sessions on the same frame, which then goes through the vision backbone once.

    Attributes:
        tally: counts of what phrases found.
        progress: called after each frame that was worked on.
        opening: whether the clip begins with the session's first frame. In a later window of a clip, the score of an
            object that began below `new_det_thresh` is that of its first detection from there on, once there is one.
    """

    progress: Callable[[], None]
    opening = True

    def __init__(
        self,
        engine: Engine,
        height: int,
        width: int,
        policy: Policy | None = None,
        *,
        length: int | None = None,
        ids: Ids | None = None,
        masks: MaskForm = "rle",
        sight: Sight | None = None,
    ) -> None:
        if min(height, width) < 1:
            raise ValueError(f"the frames are {width}x{height}; allowed: sizes of at least 1")
        if masks not in get_args(MaskForm):
            raise ValueError(f"masks is {masks!r}; allowed: {', '.join(get_args(MaskForm))}")
        if length is not None and length < 1:
            raise ValueError(f"length is {length}; allowed: at least 1")
        self.engine = engine
        self.size = height, width
        self.policy = policy or Policy()
        self.length = length
        self.masks: MaskForm = masks
        self.ids = ids or Ids()
        self.progress = lambda: None
        self.visual = VisualPrompts(self.size)
        self.concepts = Concepts(self.size, everywhere=engine.tracking.exemplars == "everywhere")
        self.clock = Clock()
        self.pass_number = 0
        self.is_over = False
        self.propagation: Propagation | None = None
        self.relinker: Relinker | None = None
        self.prompt_tracker: PromptTracker | None = None
        self.buffer = HotstartBuffer()
        self.ready: list[SessionResult] = []  # finished, and not returned yet
        checkpoint = engine.checkpoint
        self._outputs = OutputQueue(checkpoint.device, self.size, masks, at_once=self.policy.live)
        batch = 1 if self.policy.live else engine.tracking.frame_batch
        self._ahead = LookAhead(checkpoint, engine.neck, engine.detector, batch, at_once=self.policy.live, sight=sight)
        # Enough for the look-ahead's batches, and to know the length of a short clip.
        self._lag = 0 if self.policy.live else max(2 * batch, LENGTH_HORIZON if length is None else 0)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the session at any point."""
        self.is_over = True
        self._ahead.clear()
        self._outputs.close()

    @property
    def walk(self) -> Pass:
        """The current pass."""
        return self.policy.passes[self.pass_number]

    @property
    def phrases(self) -> tuple[str, ...]:
        return self.concepts.phrases

    @property
    def tally(self) -> Tally:
        return self.propagation.tally if self.propagation is not None else Tally()

    @property
    def is_satisfied(self) -> bool:
        """Whether the pass needs no more frames: a rehearsal ends with the last prompt."""
        return self.walk.rehearsal and not self.visual.waiting and not self.visual.coming

    # Prompts

    def add(self, prompt: str | ExemplarPrompt | VisualPrompt, *, of_phrase: bool = False) -> tuple[int, ...]:
        """Adds a prompt, from the next frame on.

        Args:
            prompt: a phrase; an exemplar; or a click, box or mask, in pixels or fractions of the frame. One that names
                an existing object refines it, whatever found it; otherwise it starts one.
            of_phrase: a click, box or mask is for an object that a phrase will have found by its frame, or finds on it:
                the id is left to that object.

        Returns:
            The ids that the prompt names: none for a phrase or an exemplar, whose objects get theirs when they are
            found, above all ids given until then.

        Raises:
            UserError: a phrase that is empty, too long, or there already in other capitals.
            ValueError: a prompt that does not fit, or is meant for a frame that has been given.
        """
        self._check_open()
        if isinstance(prompt, str):
            if prompt not in self.phrases:
                phrases = (*self.phrases, prompt.strip())
                if problem := phrases_problem(phrases) or self._label_problem(phrases):
                    raise UserError(f"the session {problem}")
                self.engine.check_phrases(phrases)
                self.concepts.add_phrases(phrases[-1:], self.clock.given)
            return ()
        if isinstance(prompt, ExemplarPrompt):
            self._add_exemplar(prompt)
            return ()
        if not isinstance(prompt, _VISUAL):
            raise TypeError(
                "a prompt is a phrase, an ExemplarPrompt, a PointPrompt, a BoxPrompt or a MaskPrompt, "
                f"got {prompt!r:.80}"
            )
        prompt = self.visual.checked(prompt)
        self._check_to_come(prompt.frame_index, f"prompt of object {prompt.object_id}")
        if not of_phrase:
            self.ids.reserve(prompt.object_id)
        self.visual.add(prompt)
        return (prompt.object_id,)

    def _add_exemplar(self, prompt: ExemplarPrompt) -> None:
        phrases, (prompt,), problem = with_exemplar_phrases(self.phrases, [prompt])
        if problem or (problem := self._label_problem(phrases)):
            raise UserError(f"the session {problem}")
        self._check_to_come(prompt.frame_index, "an exemplar")
        new = phrases[len(self.phrases) :]
        self.engine.check_phrases(new)
        self.concepts.add(prompt)
        self.concepts.add_phrases(new, self.clock.given)

    def _label_problem(self, phrases: tuple[str, ...]) -> str | None:
        """The problem if a phrase is also the label of an exemplar."""
        labelled = [ExemplarPrompt((), label=name) for name in self.concepts.labels]
        return with_exemplar_phrases(phrases, labelled)[2]

    def _check_to_come(self, frame_index: int, what: str) -> None:
        if self._is_past(frame_index):
            raise ValueError(
                f"{what} on frame {frame_index}: the session is past it, at frame {self.clock.last_index}; "
                "allowed: a frame that the session has not seen yet"
            )

    def _is_past(self, frame_index: int) -> bool:
        last = self.clock.last_index
        return last is not None and (frame_index >= last if self.walk.reverse else frame_index <= last)

    def remove(self, what: int | str) -> None:
        """Drop an object by its id, or a phrase or an exemplar's name with all that it has found, from the frame on
        that is given next.

        Raises:
            UserError: no such phrase or exemplar is looked for, or no object was ever given that id.
        """
        self._check_open()
        if isinstance(what, str):
            names = (*self.phrases, *self.concepts.labels)
            if what not in names:
                raise UserError(
                    f"the phrase {what!r} is not a phrase of this session; its phrases are {', '.join(names) or 'none'}"
                )
            self.concepts.remove(what, self.clock.given)
        elif not 1 <= what < self.ids.next:
            given = f"the highest id so far is {self.ids.next - 1}" if self.ids.next > 1 else "there are none yet"
            raise UserError(f"no object has the id {what}: {given}")
        else:
            self.visual.withdraw(lambda each: each.object_id == what)
        self.clock.removals.append((self.clock.given, what))

    # Frames

    def step(self, frame: Frame) -> list[SessionResult]:
        """Take the next frame.

        Returns:
            The frames whose results are final by now, under `live` this one.

        Raises:
            ValueError: the frame is no RGB image of the session's size, or does not follow the one before.
            ClipError: empty_range, where the frame of an exemplar or visual prompt was passed over; over_limits, where
                an object starts with prompts that only say what it is not.
        """
        self._check_open()
        self._check_frame(frame)
        self._check_passed(frame.index)
        clock, asked = self.clock, self._asked_on(frame.index)
        begun = clock.phrases_from if clock.phrases_from is not None else clock.given
        finds = self.walk.finds and bool(self.concepts.on(clock.given))
        looked_at = finds or (self.walk.follows and self._follows_on(frame.index))
        if self.walk.follows:
            self.visual.given(frame.index)
        self._ahead.push(frame, clock.given - begun, asked, is_looked_at=looked_at)
        clock.given += 1
        clock.last_index = frame.index
        while len(self._ahead) > self._lag:
            self._work()
        return self._take_ready()

    def _asked_on(self, frame_index: int) -> tuple[Asked, ...]:
        """The concepts to detect on the current frame."""
        clock = self.clock
        if not self.walk.finds:
            return ()
        if clock.phrases_from is None and (self.concepts.on(clock.given) or frame_index in self.concepts.waiting):
            clock.phrases_from = clock.given
        position = clock.given - clock.phrases_from if clock.phrases_from is not None else 0
        looks = position % self.engine.rules.detect_every == 0
        return self.concepts.look(frame_index, clock.given, looks=looks)

    def _check_frame(self, frame: Frame) -> None:
        height, width = self.size
        if frame.image.shape != (height, width, 3) or frame.image.dtype != np.uint8:
            raise ValueError(
                f"frame {frame.index} is an array {frame.image.shape} of {frame.image.dtype}; "
                f"allowed: ({height}, {width}, 3) of uint8, RGB"
            )
        if self._is_past(frame.index):
            last, way = self.clock.last_index, "below" if self.walk.reverse else "above"
            raise ValueError(f"frame {frame.index} comes after frame {last}; allowed in this pass: an index {way} it")

    def finish(self) -> list[SessionResult]:
        """End the pass: no more frames come.

        Raises:
            ClipError: empty_range, where the frame of an exemplar or a visual prompt did not come.
        """
        self._check_open()
        while len(self._ahead) and not self.is_satisfied:
            self._work()
        self._ahead.clear()
        self._check_passed(None)
        if self.relinker is not None:
            for reunion in self.relinker.finish():
                self.buffer.reunite(*reunion)
        for due in self.buffer.flush():
            self.ready += self._outputs.push(due)
        self.ready += self._outputs.flush()
        if self.walk.rehearsal and self.prompt_tracker is not None:
            self.prompt_tracker.end_rehearsal()
        if self.pass_number + 1 == len(self.policy.passes):
            self.close()
        return self._take_ready()

    def next_pass(self, first: int | None = None) -> bool:
        """Begins the next pass, after `finish`; False if there is none.

        Args:
            first: position of its first frame. By default (then in `clock.first`), a pass that goes back after the
                frames were seen forward begins before the last of them on which an object started.
        """
        if self.pass_number + 1 >= len(self.policy.passes):
            return False
        before, seen = self.walk, self.clock
        self.pass_number += 1
        if first is None:
            first = seen.first
            if self.walk.reverse and not before.reverse:
                born = [each.born for each in self.visual.objects.values() if each.born is not None]
                first = max(born, default=0) - 1 if before.follows else seen.given - 1
        self.concepts.begin_pass()
        self.clock = Clock(first=first)
        return True

    # State

    @property
    def next_position(self) -> int:
        """Position of the next frame to give; it decreases in a reverse pass."""
        return self._position(self.clock.given)

    @property
    def rests(self) -> bool:
        """Whether a session saved now and loaded again makes the same batches of frames as this one."""
        return self._ahead.is_between_batches

    def save(self, path: str | PathLike[str], note: str = "") -> None:
        """Writes the state to a file, which appears whole or not at all. The session continues.

        Frames given but not processed are not in it.

        Args:
            note: a text of the caller's own, which `sam3ray.engine.header.read_note` gives back.
        """
        self.snapshot().write(path, note)

    def snapshot(self) -> Snapshot:
        """A copy on the host of what `save` writes, for another thread to write."""
        from sam3ray.engine.state import snapshot

        self._check_open()
        self.ready += self._outputs.flush()
        return snapshot(self)

    def load(self, path: str | PathLike[str]) -> None:
        """Continues where another session was saved, in a new session of the same size and policy.

        The frame to give next is that at `next_position`.

        Raises:
            StateError: the file is missing, damaged, or of another model, clip or version; says which. The session is
                over then.
        """
        from sam3ray.engine.state import restore

        self._check_open()
        try:
            restore(self, path)
        except StateError:
            self.close()
            raise

    def _position(self, frame: int) -> int:
        return self.clock.first + (-frame if self.walk.reverse else frame)

    def _follows_on(self, frame_index: int) -> bool:
        """Whether the frame given now has visual prompts, or may have objects of theirs."""
        if frame_index in self.visual.waiting:
            self.clock.follows = not takes_prompts_alone(self.walk, self.engine.tracking.rules)
            return True
        tracker = self.prompt_tracker
        return self.clock.follows or (tracker is not None and bool(tracker.active(self.next_position, self.walk)))

    def _check_passed(self, frame_index: int | None) -> None:
        """Raises if a prompt waits for a frame that lies before this one on the way (None: the end) and never came."""
        if self.walk.finds:
            self.concepts.check_passed(frame_index, reverse=self.walk.reverse)
        if self.walk.follows:
            self.visual.check_passed(frame_index, reverse=self.walk.reverse)

    def _check_open(self) -> None:
        if self.is_over:
            raise RuntimeError("the session has ended: start a new one")

    def _take_ready(self) -> list[SessionResult]:
        ready, self.ready = self.ready, []
        return ready

    # One frame

    def _work(self) -> None:
        clock = self.clock
        remaining = len(self._ahead)
        work = self._ahead.pop()
        frame = clock.worked
        clock.worked += 1
        clock.worked_index = work.stamp.index
        self.concepts.worked(work.stamp.index, clock.worked)
        self._remove(frame)
        if self.prompt_tracker is None and self.visual:
            total = self.length if self.length is not None else clock.given
            tracker = self.engine.tracker(self.size, self._short(total))
            self.prompt_tracker = PromptTracker(tracker, self.visual, both_ways=self.policy.both_ways)
        step = LoopStep(work.stamp)
        if work.features is not None:
            with torch.inference_mode(), self.engine.checkpoint.precision():
                due = self.visual.due(work.stamp.index)
                if self.walk.finds:
                    step = self._detect(step, work, due, remaining if self.length is None else self.length - frame)
                if self.walk.follows and self.prompt_tracker is not None:
                    given = work.stamp, work.features, self._position(frame), due, self.walk
                    step = replace(step, pointed=self.prompt_tracker.step(*given, meanwhile=self._ahead.fill))
        self.progress()
        if not self.walk.rehearsal:
            for due_frame in self.buffer.push(step):
                self.ready += self._outputs.push(due_frame)

    def _detect(self, step: LoopStep, work: FrameWork, due: dict[int, tuple[Round, ...]], remaining: int) -> LoopStep:
        """The objects found by phrases. Takes the prompts on them out of `due`."""
        if not work.phrases and self.propagation is None:
            return step
        if self.propagation is None:
            self.begin_finding(self.engine.propagation(self.size, self._short(remaining), self.ids))
            assert self.propagation is not None
            rules = self.engine.rules
            self.buffer.delay = 0 if self.policy.live else rules.hotstart_delay * rules.detect_every
        step = self.propagation.step(work, self._ahead.fill, due)
        if self.relinker is not None and work.features is not None:
            for reunion in self.relinker.after(work.features, work.position, step):
                self.buffer.reunite(*reunion)
                step = step.reunited(*reunion)
        return step

    def begin_finding(self, propagation: Propagation) -> None:
        self.propagation = propagation
        propagation.opening = self.opening
        if self.engine.tracking.relink and not self.policy.live:
            self.relinker = Relinker(propagation, self.engine.rules.fill_hole_area)

    def _remove(self, frame: int) -> None:
        clock = self.clock
        gone = {what for at, what in clock.removals if at <= frame}
        clock.removals = [each for each in clock.removals if each[0] > frame]
        ids = {each for each in gone if isinstance(each, int)}
        if gone and self.propagation is not None:
            phrases = {each for each in gone if isinstance(each, str)}
            self.propagation.remove(ids, phrases)
            if self.relinker is not None:
                self.relinker.remove(ids, phrases)
        dropped = self.visual.drop(ids)
        if self.policy.live:
            self.visual.forget_labels()
        if dropped and self.prompt_tracker is not None:
            self.prompt_tracker.tracker.forget([each.memory for each in dropped])

    def _short(self, frames: int) -> int | None:
        """The number of frames as a tracker needs to know it: beyond 15 it makes no difference."""
        return frames if frames < LENGTH_HORIZON and not self.policy.live else None
