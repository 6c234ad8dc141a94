"""A state as a session: what `state_capture` made, checked piece by piece."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sam3ray.engine.detected import DetectedObject, Loan
from sam3ray.engine.exemplars import Shown
from sam3ray.engine.hotstart import Standing
from sam3ray.engine.hotstart_buffer import LoopStep
from sam3ray.engine.memory import NO_ROW, FrameEntry, ObjectMemory
from sam3ray.engine.outputs import FrameMasks, FrameResult, with_pixels
from sam3ray.engine.prompt_tracker import PromptTracker
from sam3ray.engine.propagation import Propagation
from sam3ray.engine.relinking import Gone, Relinker, Watch
from sam3ray.engine.result import SessionResult
from sam3ray.engine.spool import from_json
from sam3ray.engine.state_schema import (
    ExemplarsState,
    MemoryState,
    PartState,
    PromptTrackerState,
    PropagationState,
    RelinkingState,
    SessionState,
    StepState,
)
from sam3ray.engine.state_tensors import StateTensors
from sam3ray.engine.tally import Tally
from sam3ray.engine.tracker import Tracker
from sam3ray.engine.tracker_values import TrackedMasks
from sam3ray.engine.visual_prompts import PromptedObject
from sam3ray.masks import decode_rle
from sam3ray.values.prompts import MaskPrompt
from sam3ray.video import FrameStamp

if TYPE_CHECKING:
    from sam3ray.engine.session import Session


@torch.inference_mode()
def restored(session: Session, state: SessionState, tensors: StateTensors) -> None:
    if state.pass_number >= len(session.policy.passes):
        raise ValueError(f"pass_number is {state.pass_number}")
    session.pass_number = state.pass_number
    session.length = state.length
    session.engine.check_phrases(tuple(state.phrases))
    session.phrases = tuple(state.phrases)
    for one_of in state.prompts:
        (prompt,) = [each for each in one_of if each is not None]
        if isinstance(prompt, MaskPrompt):
            if prompt.png:
                raise ValueError("a mask of a prompt is in another file")
            if (prompt.height, prompt.width) != session.size:
                raise ValueError("a mask of a prompt is of another size")
            decode_rle(prompt.rle, prompt.height, prompt.width)
        session.add(prompt)
    session.visual.labels = dict(state.labels)
    session.ids.next = state.next_id
    session.ids.repeat(state.again)
    clock, saved = session.clock, state.clock
    clock.given = clock.worked = saved.worked
    clock.first = saved.first
    clock.last_index = clock.worked_index = saved.worked_index
    clock.phrases_from = saved.phrases_from
    clock.follows = saved.follows
    clock.asked = [(at, tuple(phrases)) for at, phrases in saved.asked]
    clock.removals = list(saved.removals)
    session.buffer.delay = state.delay
    session.buffer.unsure = set(state.unsure)
    for n, step in enumerate(state.held):
        session.buffer.steps.append(_step_again(session, step, f"held.{n}", tensors))
    for value, tentative, retracted in state.ready:
        masks: FrameMasks = with_pixels(from_json(value, *session.size), session.masks)
        session.ready.append(SessionResult(masks, frozenset(tentative), frozenset(retracted)))
    if state.exemplars is not None:
        _exemplars_again(session, state.exemplars, tensors)
    if state.propagation is not None:
        _propagation_again(session, state.propagation, tensors)
    if state.prompt_tracker is not None:
        _prompt_tracker_again(session, state.prompt_tracker, tensors)


def _step_again(session: Session, step: StepState, name: str, tensors: StateTensors) -> LoopStep:
    stamp = FrameStamp(*step.stamp)

    def part(saved: PartState | None, kind: str) -> FrameResult | None:
        if saved is None:
            return None
        n = len(saved.object_ids)
        if not len(saved.prompts) == len(saved.groups) == len(saved.scores) == n:
            raise ValueError(f"{name}.{kind} has lists of different lengths")
        scores = tensors.take(f"{name}.{kind}.scores", (n,), torch.float32)
        masks = tensors.take(f"{name}.{kind}.masks", (n, None, None))
        on_device = masks.to(session.engine.checkpoint.device)
        return FrameResult(
            stamp, saved.object_ids, saved.prompts, saved.groups, saved.scores, scores.numpy(), on_device
        )

    found, pointed = part(step.found, "found"), part(step.pointed, "pointed")
    return LoopStep(stamp, found, pointed, frozenset(step.hidden), frozenset(step.removed), frozenset(step.young))


def restored_memories(
    saved: list[MemoryState], tracker: Tracker, name: str, tensors: StateTensors
) -> list[ObjectMemory]:
    rows = tracker.adopt(
        tensors.take(f"{name}.memories", (None, *tracker.memory_shape), torch.bfloat16),
        tensors.take(f"{name}.pointers", (None, *tracker.pointer_shape), tracker.dtype),
    )
    used: set[tuple[int, int]] = set()

    def row(kind: int, number: int) -> int:
        if number == NO_ROW:
            return NO_ROW
        if not 0 <= number < len(rows[kind]) or (kind, number) in used:
            raise ValueError(f"{name}: row {number} is not there, or has two owners")
        used.add((kind, number))
        return rows[kind][number]

    def entries(of: list[tuple[int, int, int, bool | None]]) -> dict[int, FrameEntry]:
        return {t: FrameEntry(row(1, pointer), row(0, memory), passed) for t, pointer, memory, passed in of}

    return [
        ObjectMemory(entries(each.conditioning), entries(each.tracked), set(each.borrowed), each.backward_from)
        for each in saved
    ]


def _propagation_again(session: Session, saved: PropagationState, tensors: StateTensors) -> None:
    propagation = session.engine.propagation(session.size, saved.num_frames, session.ids)
    memories = restored_memories([each.memory for each in saved.objects], propagation.tracker, "propagation", tensors)
    for each, memory in zip(saved.objects, memories, strict=True):
        if each.prompt >= len(saved.phrases):
            raise ValueError(f"object {each.object_id} has no phrase")
        if not memory.conditioning:
            raise ValueError(f"object {each.object_id} has no conditioning frame")
        propagation.objects.append(DetectedObject(**vars(each) | {"memory": memory}))
    propagation.hotstart.standing.update(
        (object_id, Standing(**vars(each) | {"overlaps": dict(each.overlaps)})) for object_id, each in saved.standing
    )
    by_id = {each.object_id: each for each in propagation.objects}
    if by_id.keys() != propagation.hotstart.standing.keys() or len(by_id) != len(propagation.objects):
        raise ValueError("the objects do not match the list of their states")
    propagation.phrases = list(saved.phrases)
    propagation.found_at_first = saved.found_at_first
    propagation.loans = [
        Loan(e.frame, set(e.givers), [by_id[i] for i in e.borrowers if i in by_id]) for e in saved.loans
    ]
    propagation.tally = Tally(**saved.tally)
    session.begin_finding(propagation)
    if (saved.relinking is None) != (session.relinker is None):
        raise ValueError("it says of lost objects what the session does not ask for, or the other way round")
    if saved.relinking is not None and session.relinker is not None:
        _relinking_again(session.relinker, saved.relinking, propagation, tensors)


def _relinking_again(
    relinker: Relinker, saved: RelinkingState, propagation: Propagation, tensors: StateTensors
) -> None:
    memories = restored_memories([each.memory for each in saved.gone], propagation.tracker, "relinking", tensors)
    for each, memory in zip(saved.gone, memories, strict=True):
        if each.prompt >= len(propagation.phrases) or not memory.conditioning:
            raise ValueError(f"the lost object {each.object_id} has no phrase or no conditioning frame")
        relinker.gone[each.object_id] = Gone(**vars(each) | {"memory": memory})
    if relinker.gone.keys() & propagation.object_ids or len(relinker.gone) != len(saved.gone):
        raise ValueError("an object is lost and tracked, or lost twice")
    relinker.frame = saved.frame
    for watch in saved.watches:
        relinker.watches[watch.object_id] = Watch(**vars(watch) | {"found": dict(watch.found)})


def _exemplars_again(session: Session, saved: ExemplarsState, tensors: StateTensors) -> None:
    one = session.engine.checkpoint
    width = one.model.detector_model.geometry_encoder.output_layer_norm.weight.shape[0]
    shown = []
    for n, each in enumerate(saved.shown):
        said = [
            (frame, tensors.take(f"exemplars.{n}.{frame}", (1, count, width)).to(one.device))
            for frame, count in each.said
        ]
        shown.append(Shown(**vars(each) | {"said": said}))
    session.exemplars.resume(shown, saved.prompts, saved.count)


def _prompt_tracker_again(session: Session, saved: PromptTrackerState, tensors: StateTensors) -> None:
    tracker = session.engine.tracker(session.size, saved.num_frames)
    prompt_tracker = PromptTracker(
        tracker, session.size, rehearsing=saved.rehearsing, both_ways=session.policy.both_ways
    )
    memories = restored_memories([each.memory for each in saved.objects], tracker, "prompt_tracker", tensors)
    for each, memory in zip(saved.objects, memories, strict=True):
        if (each.born is None) == bool(memory.conditioning):
            raise ValueError(f"object {each.object_id} was born without a conditioning frame, or has one before")
        shown = {}
        for position in each.shown:
            name = f"shown.{each.object_id}.{position}"
            parts = (("masks", (1, None, None)), ("scores", (1,)), ("ious", (1,)))
            masks, scores, ious = (tensors.take(f"{name}.{kind}", shape).to(tracker.device) for kind, shape in parts)
            shown[position] = TrackedMasks(masks, scores, ious)
        session.visual.objects[each.object_id] = PromptedObject(**vars(each) | {"memory": memory, "shown": shown})
    session.prompt_tracker = prompt_tracker
