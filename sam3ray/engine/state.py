"""The state of a session in a file: what a fresh process needs to continue as if nothing had happened.

One safetensors file: tensors (what objects remember, masks of frames that are held back), and in its metadata one JSON
text with all the rest and a digest over both. Frames that were given but not worked on are not in it: the session that
loads it wants them again, from `Session.next_position` on.

A file is bound to the weights, the rules, the versions of engine, torch and transformers, and the dtype: with any of
them other rows could follow. Batch sizes, the device and where memories are kept are free: they round differently.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sam3ray.engine.exemplars import Shown
from sam3ray.engine.hotstart import Standing
from sam3ray.engine.hotstart_buffer import LoopStep
from sam3ray.engine.memory import NO_ROW, FrameEntry, ObjectMemory
from sam3ray.engine.outputs import FrameMasks, FrameResult, FrameStamp, with_pixels, without_pixels
from sam3ray.engine.prompt_tracker import PromptedObject, PromptTracker
from sam3ray.engine.propagation import DetectedObject, Loan, Tally
from sam3ray.engine.result import SessionResult
from sam3ray.engine.spool import as_json, from_json
from sam3ray.engine.state_schema import (
    ADAPTER,
    ClockState,
    DetectedObjectState,
    ExemplarsState,
    LoanState,
    MemoryState,
    PartState,
    PromptedObjectState,
    PromptTrackerState,
    PropagationState,
    SessionState,
    ShownState,
    StandingState,
    StepState,
)
from sam3ray.engine.tracker import Tracker
from sam3ray.engine.tracker_values import TrackedMasks
from sam3ray.failures import UserError
from sam3ray.masks import decode_rle
from sam3ray.values.prompts import BoxPrompt, MaskPrompt, PointPrompt, VisualPrompt
from sam3ray.values.versions import ENGINE_VERSION

if TYPE_CHECKING:
    from sam3ray.engine.engine import Engine
    from sam3ray.engine.session import Session

FORMAT = 2
_KEY = "sam3ray.session"
_DIGEST = "sam3ray.digest"
_FREE = {"object_batch", "frame_batch", "prompt_batch", "offload_state", "direction", "refine"}


class StateError(UserError):
    """A state cannot be loaded.

    Attributes:
        is_foreign: it is sound, but of another model, other rules or other versions.
    """

    def __init__(self, sentence: str, *, is_foreign: bool = False) -> None:
        super().__init__(sentence)
        self.is_foreign = is_foreign


@dataclass
class _Tensors:
    """The tensors of a state by name, being collected or taken out again, each once and of the shape expected."""

    values: dict[str, torch.Tensor] = field(default_factory=dict)

    def put(self, name: str, tensor: torch.Tensor) -> None:
        self.values[name] = tensor.detach().cpu().contiguous().clone()

    def take(self, name: str, shape: tuple[int | None, ...], dtype: torch.dtype | None = None) -> torch.Tensor:
        """Of this shape (None: any length) and dtype (None: any floating point)."""
        tensor = self.values.pop(name, None)
        if tensor is None:
            raise ValueError(f"the tensor {name} is missing")
        fits = len(shape) == tensor.ndim and all(n in (None, m) for n, m in zip(shape, tensor.shape, strict=True))
        of_type = tensor.dtype == dtype if dtype is not None else tensor.is_floating_point()
        if not fits or not of_type:
            raise ValueError(f"the tensor {name} is {tensor.dtype} of shape {tuple(tensor.shape)}")
        return tensor


def save(session: Session, path: str | os.PathLike[str]) -> None:
    """Writes the state of a session. The file appears whole or not at all."""
    tensors = _Tensors()
    text = ADAPTER.dump_json(_captured(session, tensors)).decode()
    metadata = {_KEY: text, _DIGEST: _digest(text, tensors.values)}
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors.values, temporary, metadata)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def restore(session: Session, path: str | os.PathLike[str]) -> None:
    """Brings a session that has just begun to where another one was saved.

    Raises:
        StateError: the file is missing, damaged, or of another model, clip or version; says which.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = _Tensors({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise StateError(f"the session state {path} cannot be read: {_first_line(error)}") from None
    text = metadata.get(_KEY)
    if text is None:
        raise StateError(f"{path} is not a session state: it has no {_KEY!r}")
    if metadata.get(_DIGEST) != _digest(text, tensors.values):
        raise StateError(f"the session state {path} is damaged: its digest does not match")
    try:
        state = ADAPTER.validate_json(text)
        _check_bound(session, state, path)
        _restored(session, state, tensors)
        if tensors.values:
            raise ValueError(f"the tensor {next(iter(tensors.values))} belongs to no object")
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise StateError(f"the session state {path} is damaged: {where}: {problem['msg']}") from None
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise StateError(f"the session state {path} is damaged: {_first_line(error)}") from None


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
        "tracking": {name: value for name, value in sorted(tracking.items()) if name not in _FREE},
        "rules": asdict(engine.rules),
    }


def _check_bound(session: Session, state: SessionState, path: str | os.PathLike[str]) -> None:
    if state.format != FORMAT:
        raise StateError(f"the session state {path} has format {state.format}; allowed: {FORMAT}", is_foreign=True)
    here = bound_to(session.engine)
    for name, value in here.items():
        saved = state.bound_to.get(name)
        if saved != value:
            if isinstance(value, dict) and isinstance(saved, dict):
                name, value, saved = next(
                    (f"{name}.{key}", value.get(key), saved.get(key))
                    for key in [*value, *saved]
                    if value.get(key) != saved.get(key)
                )
            raise StateError(
                f"the session state {path} was saved with {name} {saved!r:.60}, this session has {value!r:.60}: "
                "the rows could differ, so start the clip again",
                is_foreign=True,
            )
    for name, mine, saved in (
        ("size", list(session.size), list(state.size)),
        ("policy", asdict(session.policy), state.policy),
    ):
        if _as_lists(mine) != _as_lists(saved):
            raise StateError(f"the session state {path} is of a session of another {name}: {saved}, here it is {mine}")
    if session.clock.given or session.phrases or session.labels or session.exemplars.count:
        raise StateError("load a state into a new session, before any prompt or frame")


# Capturing


def _captured(session: Session, tensors: _Tensors) -> SessionState:
    clock = session.clock
    prompts = [
        p for of in (session.waiting, session.coming) for o in of.values() for given in o.values() for p in given
    ]
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
        labels=list(session.labels.items()),
        prompts=[_one_of(prompt) for prompt in prompts],
        clock=ClockState(
            clock.worked,
            clock.first,
            clock.worked_index,
            begun,
            clock.follows and bool(session.prompted),
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


def _step(step: LoopStep, name: str, tensors: _Tensors) -> StepState:
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


def _memories(memories: list[ObjectMemory], tracker: Tracker, name: str, tensors: _Tensors) -> list[MemoryState]:
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


def _propagation(session: Session, tensors: _Tensors) -> PropagationState | None:
    propagation = session.propagation
    if propagation is None:
        return None
    memories = _memories([each.memory for each in propagation.objects], propagation.tracker, "propagation", tensors)
    objects = [
        DetectedObjectState(
            each.object_id,
            each.prompt,
            each.score,
            each.born,
            each.last_occluded,
            each.empty_frames,
            each.pointed_at,
            memory,
        )
        for each, memory in zip(propagation.objects, memories, strict=True)
    ]
    standing = [
        (i, StandingState(s.first_frame, s.keep_alive, s.unmatched_frames, s.is_confirmed, list(s.overlaps.items())))
        for i, s in propagation.hotstart.standing.items()
    ]
    loans = [
        LoanState(each.frame, sorted(each.givers), [o.object_id for o in each.borrowers]) for each in propagation.loans
    ]
    num_frames = propagation.tracker.num_frames
    return PropagationState(
        propagation.phrases, propagation.found_at_first, num_frames, objects, standing, loans, asdict(propagation.tally)
    )


def _exemplars(session: Session, tensors: _Tensors) -> ExemplarsState | None:
    exemplars, worked = session.exemplars, session.clock.worked
    if not exemplars.count:
        return None
    shown = []
    for n, each in enumerate(exemplars.still_needed(worked)):
        said = [(frame, tokens) for frame, tokens in each.said if frame < worked]
        for frame, tokens in said:
            tensors.put(f"exemplars.{n}.{frame}", tokens)
        frames = [(frame, tokens.shape[1]) for frame, tokens in said]
        shown.append(ShownState(each.name, each.phrase, each.since, each.until, frames))
    prompts = [each for of in (exemplars.coming, exemplars.waiting) for given in of.values() for each in given]
    return ExemplarsState(prompts, exemplars.count, shown)


def _prompt_tracker(session: Session, tensors: _Tensors) -> PromptTrackerState | None:
    prompt_tracker = session.prompt_tracker
    if prompt_tracker is None:
        return None
    prompted = [each for _, each in sorted(session.prompted.items())]
    memories = _memories([each.memory for each in prompted], prompt_tracker.tracker, "prompt_tracker", tensors)
    objects = []
    for each, memory in zip(prompted, memories, strict=True):
        for position, shown in each.shown.items():
            name = f"shown.{each.object_id}.{position}"
            tensors.put(f"{name}.masks", shown.masks)
            tensors.put(f"{name}.scores", shown.score_logits)
            tensors.put(f"{name}.ious", shown.iou_scores)
        objects.append(PromptedObjectState(each.object_id, each.label, each.born, list(each.shown), memory))
    return PromptTrackerState(prompt_tracker.tracker.num_frames, prompt_tracker.rehearsing, objects)


# Restoring


@torch.inference_mode()
def _restored(session: Session, state: SessionState, tensors: _Tensors) -> None:
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
    session.labels = dict(state.labels)
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


def _step_again(session: Session, step: StepState, name: str, tensors: _Tensors) -> LoopStep:
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


def _memories_again(saved: list[MemoryState], tracker: Tracker, name: str, tensors: _Tensors) -> list[ObjectMemory]:
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


def _propagation_again(session: Session, saved: PropagationState, tensors: _Tensors) -> None:
    propagation = session.engine.propagation(session.size, saved.num_frames, session.ids)
    memories = _memories_again([each.memory for each in saved.objects], propagation.tracker, "propagation", tensors)
    for each, memory in zip(saved.objects, memories, strict=True):
        if each.prompt >= len(saved.phrases):
            raise ValueError(f"object {each.object_id} has no phrase")
        if not memory.conditioning:
            raise ValueError(f"object {each.object_id} has no conditioning frame")
        propagation.objects.append(
            DetectedObject(
                each.object_id,
                each.prompt,
                each.score,
                each.born,
                memory,
                each.last_occluded,
                each.empty_frames,
                each.pointed_at,
            )
        )
    propagation.hotstart.standing.update(
        (i, Standing(s.first_frame, s.keep_alive, s.unmatched_frames, s.is_confirmed, dict(s.overlaps)))
        for i, s in saved.standing
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
    session.propagation = propagation


def _exemplars_again(session: Session, saved: ExemplarsState, tensors: _Tensors) -> None:
    one = session.engine.checkpoint
    width = one.model.detector_model.geometry_encoder.output_layer_norm.weight.shape[0]
    shown = []
    for n, each in enumerate(saved.shown):
        said = [
            (frame, tensors.take(f"exemplars.{n}.{frame}", (1, count, width)).to(one.device))
            for frame, count in each.said
        ]
        shown.append(Shown(each.name, each.phrase, each.since, each.until, said))
    session.exemplars.resume(shown, saved.prompts, saved.count)


def _prompt_tracker_again(session: Session, saved: PromptTrackerState, tensors: _Tensors) -> None:
    tracker = session.engine.tracker(session.size, saved.num_frames)
    prompt_tracker = PromptTracker(
        tracker, session.size, rehearsing=saved.rehearsing, both_ways=session.policy.both_ways
    )
    memories = _memories_again([each.memory for each in saved.objects], tracker, "prompt_tracker", tensors)
    for each, memory in zip(saved.objects, memories, strict=True):
        if (each.born is None) == bool(memory.conditioning):
            raise ValueError(f"object {each.object_id} was born without a conditioning frame, or has one before")
        shown = {}
        for position in each.shown:
            name = f"shown.{each.object_id}.{position}"
            parts = (("masks", (1, None, None)), ("scores", (1,)), ("ious", (1,)))
            masks, scores, ious = (tensors.take(f"{name}.{kind}", shape).to(tracker.device) for kind, shape in parts)
            shown[position] = TrackedMasks(masks, scores, ious)
        session.prompted[each.object_id] = PromptedObject(each.object_id, each.label, memory, each.born, shown)
    session.prompt_tracker = prompt_tracker


def _digest(text: str, tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _as_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_lists(each) for key, each in value.items()}
    return [_as_lists(each) for each in value] if isinstance(value, list | tuple) else value


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
