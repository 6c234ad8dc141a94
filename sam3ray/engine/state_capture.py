"""A session as a state: values, and tensors by name."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sam3ray.engine.hotstart_buffer import LoopStep
from sam3ray.engine.memory import FrameEntry, ObjectMemory
from sam3ray.engine.outputs import FrameResult, without_pixels
from sam3ray.engine.relinking import Relinker
from sam3ray.engine.spool import as_json
from sam3ray.engine.state_schema import (
    ClockState,
    DetectedObjectState,
    ExemplarsState,
    GoneState,
    LoanState,
    MemoryState,
    PartState,
    PromptedObjectState,
    PromptTrackerState,
    PropagationState,
    RelinkingState,
    SessionState,
    ShownState,
    StandingState,
    StepState,
    WatchState,
)
from sam3ray.engine.state_tensors import StateTensors
from sam3ray.engine.tracker import Tracker
from sam3ray.values.prompts import BoxPrompt, MaskPrompt, PointPrompt, VisualPrompt
from sam3ray.values.versions import ENGINE_VERSION

if TYPE_CHECKING:
    from sam3ray.engine.engine import Engine
    from sam3ray.engine.session import Session


FORMAT = 2
_FREE = {"object_batch", "frame_batch", "prompt_batch", "offload_state", "direction", "refine"}


def bound_to(engine: Engine) -> dict[str, Any]:
    """What a state depends on."""
    tracking = engine.tracking.model_dump(mode="json")
    return {
        "engine": ENGINE_VERSION,
        "torch": version("torch").partition("+")[0],
        "transformers": version("transformers"),
        "dtype": "autocast" if engine.checkpoint.autocast else str(engine.checkpoint.dtype),
        "weights": engine.weights,
        "image_size": engine.checkpoint.model.detector_model.config.image_size,
        "tracking": {n: v for n, v in sorted(tracking.items()) if n not in _FREE and (n != "relink" or v)},
        "rules": asdict(engine.rules),
    }


def captured(session: Session, tensors: StateTensors) -> SessionState:
    clock = session.clock
    begun = clock.phrases_from if clock.phrases_from is not None and clock.phrases_from < clock.worked else None
    return SessionState(
        format=FORMAT,
        bound_to=bound_to(session.engine),
        size=session.size,
        policy=asdict(session.policy),
        length=session.length,
        next_id=session.ids.next,
        again=session.ids.repeated,
        phrases=list(session.phrases),
        labels=list(session.visual.labels.items()),
        prompts=[_one_of(prompt) for prompt in session.visual.pending],
        clock=ClockState(
            clock.worked,
            clock.first,
            clock.worked_index,
            begun,
            clock.follows and bool(session.visual.objects),
            [(at, list(phrases)) for at, phrases in clock.asked],
            list(clock.removals),
        ),
        pass_number=session.pass_number,
        delay=session.buffer.delay,
        unsure=sorted(session.buffer.unsure),
        held=[_step(step, f"held.{n}", tensors) for n, step in enumerate(session.buffer.steps)],
        ready=[
            (as_json(without_pixels(each.masks)), sorted(each.tentative), sorted(each.retracted))
            for each in session.ready
        ],
        propagation=_propagation(session, tensors),
        prompt_tracker=_prompt_tracker(session, tensors),
        exemplars=_exemplars(session, tensors),
    )


def _one_of(prompt: VisualPrompt) -> tuple[PointPrompt | None, BoxPrompt | None, MaskPrompt | None]:
    return (
        prompt if isinstance(prompt, PointPrompt) else None,
        prompt if isinstance(prompt, BoxPrompt) else None,
        prompt if isinstance(prompt, MaskPrompt) else None,
    )


def _step(step: LoopStep, name: str, tensors: StateTensors) -> StepState:
    def part(result: FrameResult | None, kind: str) -> PartState | None:
        if result is None:
            return None
        if result.arrived is not None:
            result.arrived.synchronize()
        tensors.put(f"{name}.{kind}.masks", result.masks)
        tensors.put(f"{name}.{kind}.scores", torch.from_numpy(np.asarray(result.track_scores, np.float32)))
        return PartState(list(result.object_ids), list(result.prompts), list(result.groups), list(result.scores))

    return StepState(
        (step.stamp.index, step.stamp.pts, step.stamp.time_s),
        part(step.found, "found"),
        part(step.pointed, "pointed"),
        sorted(step.hidden),
        sorted(step.removed),
        sorted(step.young),
    )


def captured_memories(
    memories: list[ObjectMemory], tracker: Tracker, name: str, tensors: StateTensors
) -> list[MemoryState]:
    """What objects remember, with the rows of the tracker's banks renumbered from 0."""
    rows, pointers = tracker.rows(memories)
    tensors.put(f"{name}.memories", rows.gathered)
    tensors.put(f"{name}.pointers", pointers.gathered)

    def entries(of: dict[int, FrameEntry]) -> list[tuple[int, int, int, bool | None]]:
        return [(t, pointers.number[e.pointer], rows.number[e.memory], e.passed) for t, e in of.items()]

    return [
        MemoryState(entries(each.conditioning), entries(each.tracked), sorted(each.borrowed), each.backward_from)
        for each in memories
    ]


def _propagation(session: Session, tensors: StateTensors) -> PropagationState | None:
    propagation = session.propagation
    if propagation is None:
        return None
    memories = captured_memories(
        [each.memory for each in propagation.objects], propagation.tracker, "propagation", tensors
    )
    objects = [
        DetectedObjectState(**vars(each) | {"memory": memory})
        for each, memory in zip(propagation.objects, memories, strict=True)
    ]
    standing = [
        (object_id, StandingState(**vars(each) | {"overlaps": list(each.overlaps.items())}))
        for object_id, each in propagation.hotstart.standing.items()
    ]
    loans = [
        LoanState(each.frame, sorted(each.givers), [o.object_id for o in each.borrowers]) for each in propagation.loans
    ]
    return PropagationState(
        propagation.phrases,
        propagation.found_at_first,
        propagation.tracker.num_frames,
        objects,
        standing,
        loans,
        asdict(propagation.tally),
        _relinking(session.relinker, propagation.tracker, tensors),
    )


def _relinking(relinker: Relinker | None, tracker: Tracker, tensors: StateTensors) -> RelinkingState | None:
    if relinker is None:
        return None
    gone = list(relinker.gone.values())
    memories = captured_memories([each.memory for each in gone], tracker, "relinking", tensors)
    return RelinkingState(
        relinker.frame,
        [GoneState(**vars(each) | {"memory": memory}) for each, memory in zip(gone, memories, strict=True)],
        [WatchState(**vars(each) | {"found": list(each.found.items())}) for each in relinker.watches.values()],
    )


def _exemplars(session: Session, tensors: StateTensors) -> ExemplarsState | None:
    exemplars, worked = session.exemplars, session.clock.worked
    if not exemplars.count:
        return None
    shown = []
    for n, each in enumerate(exemplars.still_needed(worked)):
        said = [(frame, tokens) for frame, tokens in each.said if frame < worked]
        for frame, tokens in said:
            tensors.put(f"exemplars.{n}.{frame}", tokens)
        shown.append(ShownState(**vars(each) | {"said": [(frame, tokens.shape[1]) for frame, tokens in said]}))
    prompts = [each for of in (exemplars.coming, exemplars.waiting) for given in of.values() for each in given]
    return ExemplarsState(prompts, exemplars.count, shown)


def _prompt_tracker(session: Session, tensors: StateTensors) -> PromptTrackerState | None:
    prompt_tracker = session.prompt_tracker
    if prompt_tracker is None:
        return None
    prompted = session.visual.in_order
    memories = captured_memories([each.memory for each in prompted], prompt_tracker.tracker, "prompt_tracker", tensors)
    objects = []
    for each, memory in zip(prompted, memories, strict=True):
        for position, shown in each.shown.items():
            name = f"shown.{each.object_id}.{position}"
            tensors.put(f"{name}.masks", shown.masks)
            tensors.put(f"{name}.scores", shown.score_logits)
            tensors.put(f"{name}.ious", shown.iou_scores)
        objects.append(PromptedObjectState(**vars(each) | {"shown": list(each.shown), "memory": memory}))
    return PromptTrackerState(prompt_tracker.tracker.num_frames, prompt_tracker.rehearsing, objects)
