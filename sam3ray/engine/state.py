"""The state of a session in a file, from which a new process continues without a difference.

One safetensors file: tensors (what objects remember, masks of frames that are held back), and in its metadata one JSON
text with all the rest and a digest over both. Frames that were given but not worked on are not in it: the session that
loads it needs them again, from `Session.next_position` on.

A file is bound to the weights, the rules, the versions of engine, torch and transformers, and the dtype: with any of
them other rows could follow. Batch sizes, the device and where memories are kept are free: they round differently.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass as checked
from safetensors import safe_open

from sam3ray.engine.clock import Clock
from sam3ray.engine.concepts import Concept
from sam3ray.engine.detected import DetectedObject
from sam3ray.engine.header import SESSION, SESSION_KEY, StateError, read_header
from sam3ray.engine.hotstart import Standing
from sam3ray.engine.hotstart_buffer import HotstartBuffer, LoopStep
from sam3ray.engine.memory import SavedRows
from sam3ray.engine.outputs import FrameResult
from sam3ray.engine.policy import Policy
from sam3ray.engine.prompt_tracker import PromptTracker
from sam3ray.engine.relinking import Gone, Watch
from sam3ray.engine.result import SessionResult
from sam3ray.engine.stored import (
    STRICT,
    StateTensors,
    digest_of,
    read_text,
    reading,
    write_whole,
)
from sam3ray.engine.tally import Tally
from sam3ray.engine.tracker_values import TrackedMasks
from sam3ray.engine.versions import version_of
from sam3ray.engine.visual_prompts import PromptedObject
from sam3ray.masks import decode_rle
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.values.prompts import BoxPrompt, ExemplarPrompt, MaskPrompt, PointPrompt
from sam3ray.values.versions import ENGINE_VERSION

if TYPE_CHECKING:
    from sam3ray.engine.engine import Engine
    from sam3ray.engine.session import Session

__all__ = ["Snapshot", "bound_to", "check_bound", "restore", "snapshot"]

FORMAT = 4
_FREE = {"object_batch", "frame_batch", "prompt_batch", "offload_state", "direction", "refine"}


@checked(config=STRICT)
class LostState:
    frame: int
    gone: list[Gone]
    watches: list[Watch]
    rows: SavedRows


@checked(config=STRICT)
class PropagationState:
    phrases: list[str]
    found_at_first: int
    num_frames: int | None
    objects: list[DetectedObject]
    standing: dict[int, Standing]
    tally: Tally
    rows: SavedRows
    lost: LostState | None


@checked(config=STRICT)
class PromptTrackerState:
    num_frames: int | None
    objects: list[PromptedObject]
    rows: SavedRows


@checked(config=STRICT)
class ConceptsState:
    known: list[Concept]
    prompts: list[ExemplarPrompt]
    count: int


@checked(config=STRICT)
class SessionState:
    format: int
    bound_to: dict[str, Any]
    size: tuple[int, int]
    policy: Policy
    length: int | None
    next_id: Annotated[int, Field(ge=1, le=2**31)]
    again: list[int]
    labels: dict[int, str]
    prompts: list[PointPrompt | BoxPrompt | MaskPrompt]
    clock: Clock
    pass_number: Annotated[int, Field(ge=0)]
    buffer: HotstartBuffer
    ready: list[tuple[FrameAnnotations, frozenset[int], frozenset[int]]]  # finished frame, tentative, retracted
    propagation: PropagationState | None
    prompt_tracker: PromptTrackerState | None
    concepts: ConceptsState


_ADAPTER = TypeAdapter(SessionState)


@dataclass(frozen=True)
class Snapshot:
    """The state of a session, copied to the host: the session can continue while another thread writes it."""

    text: str
    tensors: StateTensors

    @property
    def num_bytes(self) -> int:
        return len(self.text) + sum(each.numel() * each.element_size() for each in self.tensors.values.values())

    def write(self, path: str | os.PathLike[str], note: str = "") -> None:
        """Writes the state and a note. The file appears whole or not at all."""
        tensors = self.tensors.values
        write_whole(path, SESSION_KEY, self.text, note, digest_of(self.text + note, tensors), tensors)


def bound_to(engine: Engine) -> dict[str, Any]:
    """The facts that a state depends on."""
    tracking = engine.tracking.model_dump(mode="json")
    return {
        "engine": ENGINE_VERSION,
        "torch": version_of("torch").partition("+")[0],
        "transformers": version_of("transformers"),
        "dtype": "autocast" if engine.checkpoint.autocast else str(engine.checkpoint.dtype),
        "weights": engine.weights,
        "image_size": engine.checkpoint.model.detector_model.config.image_size,
        "tracking": {n: v for n, v in sorted(tracking.items()) if n not in _FREE and (n != "relink" or v)},
        "rules": asdict(engine.rules),
    }


def snapshot(session: Session) -> Snapshot:
    clock, concepts = session.clock, session.concepts
    begun = clock.phrases_from if clock.phrases_from is not None and clock.phrases_from < clock.worked else None
    for each in session.buffer.steps:
        for result in (each.found, each.pointed):
            if result is not None and result.arrived is not None:
                result.arrived.synchronize()
    finished = [each.in_form("rle") for each in session.ready]
    state = SessionState(
        format=FORMAT,
        bound_to=bound_to(session.engine),
        size=session.size,
        policy=session.policy,
        length=session.length,
        next_id=session.ids.next,
        again=session.ids.repeated,
        labels=session.visual.labels,
        prompts=session.visual.pending,
        clock=replace(
            clock,
            given=clock.worked,
            last_index=clock.worked_index,
            phrases_from=begun,
            follows=clock.follows and bool(session.visual.objects),
        ),
        pass_number=session.pass_number,
        buffer=session.buffer,
        ready=[(each.frame, each.tentative, each.retracted) for each in finished],
        propagation=_propagation(session),
        prompt_tracker=_prompt_tracker(session),
        concepts=ConceptsState(concepts.saved(clock.worked), concepts.pending, concepts.count),
    )
    tensors = StateTensors()
    return Snapshot(_ADAPTER.dump_json(state, context=tensors).decode(), tensors)


def _propagation(session: Session) -> PropagationState | None:
    propagation, relinker = session.propagation, session.relinker
    if propagation is None:
        return None
    tracker, lost = propagation.tracker, None
    if relinker is not None:
        gone = list(relinker.gone.values())
        rows = tracker.saved(each.memory for each in gone)
        lost = LostState(relinker.frame, gone, list(relinker.watches.values()), rows)
    return PropagationState(
        propagation.phrases,
        propagation.found_at_first,
        tracker.read_rules.num_frames,
        propagation.objects,
        propagation.hotstart.standing,
        propagation.tally,
        tracker.saved(each.memory for each in propagation.objects),
        lost,
    )


def _prompt_tracker(session: Session) -> PromptTrackerState | None:
    if session.prompt_tracker is None:
        return None
    tracker, objects = session.prompt_tracker.tracker, session.visual.in_order
    rows = tracker.saved(each.memory for each in objects)
    return PromptTrackerState(tracker.read_rules.num_frames, objects, rows)


def restore(session: Session, path: str | os.PathLike[str]) -> None:
    """Brings a session that has just begun to where another one was saved.

    Raises:
        StateError: the file is missing, damaged, or of another model, clip or version; says which.
    """
    where = f"the session state {path}"
    text, note, digest = read_header(path, SESSION, SESSION_KEY)
    with reading(where):
        with safe_open(path, framework="pt") as file:
            tensors = StateTensors({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        if digest != digest_of(text + note, tensors.values):
            raise ValueError("its digest does not match")
        state = read_text(_ADAPTER, text, FORMAT, where, tensors)
        check_bound(where, state.bound_to, session.engine)
        for name, mine, theirs in (("size", session.size, state.size), ("policy", session.policy, state.policy)):
            if mine != theirs:
                raise StateError(f"{where} is of a session of another {name}: {theirs}, here it is {mine}")
        if session.clock.given or session.phrases or session.visual.labels or session.concepts.count:
            raise StateError("load a state into a new session, before any prompt or frame")
        _restored(session, state)
        if tensors.values:
            raise ValueError(f"the tensor {next(iter(tensors.values))} belongs to no object")


def check_bound(where: str, bound: dict[str, Any], engine: Engine) -> None:
    """Raises StateError if what `where` was saved with is not what the engine has."""
    for name, value in bound_to(engine).items():
        saved = bound.get(name)
        if saved != value:
            if isinstance(value, dict) and isinstance(saved, dict):
                name, value, saved = next(
                    (f"{name}.{key}", value.get(key), saved.get(key))
                    for key in [*value, *saved]
                    if value.get(key) != saved.get(key)
                )
            raise StateError(
                f"{where} was saved with {name} {saved!r:.60}, this session has {value!r:.60}: "
                "the rows could differ, so start the clip again",
                is_foreign=True,
            )


@torch.inference_mode()
def _restored(session: Session, state: SessionState) -> None:
    """Raises ValueError if parts of the state contradict each other."""
    if state.pass_number >= len(session.policy.passes):
        raise ValueError(f"pass_number is {state.pass_number}")
    session.pass_number, session.length = state.pass_number, state.length
    for prompt in state.prompts:
        if isinstance(prompt, MaskPrompt):
            if prompt.png or (prompt.height, prompt.width) != session.size:
                raise ValueError("a mask of a prompt is in another file, or of another size")
            decode_rle(prompt.rle, prompt.height, prompt.width)
        session.add(prompt)
    session.visual.labels = state.labels
    session.ids.next = state.next_id
    session.ids.repeat(state.again)
    if state.clock.given != state.clock.worked:
        raise ValueError("frames were given and not worked on")
    session.clock, session.buffer = state.clock, state.buffer
    session.buffer.steps = deque(_step_again(step, session.engine.checkpoint.device) for step in state.buffer.steps)
    for frame, tentative, retracted in state.ready:
        if (frame.height, frame.width) != session.size:
            raise ValueError("a finished frame is of another size")
        finished = SessionResult(frame, tentative=tentative, retracted=retracted)
        session.ready.append(finished.in_form(session.masks))
    _concepts_again(session, state.concepts)
    if state.propagation is not None:
        _propagation_again(session, state.propagation)
    if state.prompt_tracker is not None:
        _prompt_tracker_again(session, state.prompt_tracker)


def _step_again(step: LoopStep, device: torch.device) -> LoopStep:
    def part(saved: FrameResult | None) -> FrameResult | None:
        if saved is None:
            return None
        columns = (saved.object_ids, saved.prompts, saved.groups, saved.scores, saved.track_scores, saved.masks)
        if (
            {len(each) for each in columns} != {len(saved.masks)}
            or saved.masks.ndim != 3
            or saved.track_scores.ndim != 1
        ):
            raise ValueError("a frame that is held back has columns of different lengths")
        return replace(saved, masks=saved.masks.to(device))

    return replace(step, found=part(step.found), pointed=part(step.pointed))


def _concepts_again(session: Session, saved: ConceptsState) -> None:
    session.engine.check_phrases([each.phrase for each in saved.known if each.phrase])
    one = session.engine.checkpoint
    width = one.model.detector_model.geometry_encoder.output_layer_norm.weight.shape[0]
    for each in saved.known:
        if any(tokens.ndim != 3 or tokens.shape[::2] != (1, width) for _, tokens in each.said):
            raise ValueError(f"the encoded boxes of {each.name!r} are of another shape")
        each.said = [(frame, tokens.to(one.device)) for frame, tokens in each.said]
    concepts = session.concepts
    concepts.known = saved.known
    for prompt in saved.prompts:
        concepts.add(prompt)
    concepts.count = saved.count


def _propagation_again(session: Session, saved: PropagationState) -> None:
    propagation = session.engine.propagation(session.size, saved.num_frames, session.ids)
    propagation.tracker.adopt([each.memory for each in saved.objects], saved.rows)
    _check_found(saved.objects, saved.phrases)
    ids = {each.object_id for each in saved.objects}
    if ids != saved.standing.keys() or len(ids) != len(saved.objects):
        raise ValueError("the objects do not match the list of their states")
    for name in ("phrases", "found_at_first", "objects", "tally"):
        setattr(propagation, name, getattr(saved, name))
    propagation.hotstart.standing = saved.standing
    session.begin_finding(propagation)
    relinker, lost = session.relinker, saved.lost
    if (lost is None) != (relinker is None):
        raise ValueError("it says of lost objects what the session does not ask for, or the other way round")
    if lost is not None and relinker is not None:
        propagation.tracker.adopt([each.memory for each in lost.gone], lost.rows)
        _check_found(lost.gone, saved.phrases)
        relinker.frame = lost.frame
        relinker.gone = {each.object_id: each for each in lost.gone}
        relinker.watches = {each.object_id: each for each in lost.watches}
        if relinker.gone.keys() & ids or len(relinker.gone) != len(lost.gone):
            raise ValueError("an object is lost and tracked, or lost twice")


def _check_found(objects: Sequence[DetectedObject] | Sequence[Gone], phrases: list[str]) -> None:
    for each in objects:
        if not 0 <= each.prompt < len(phrases) or not each.memory.conditioning:
            raise ValueError(f"object {each.object_id} has no phrase or no conditioning frame")


def _prompt_tracker_again(session: Session, saved: PromptTrackerState) -> None:
    tracker = session.engine.tracker(session.size, saved.num_frames)
    tracker.adopt([each.memory for each in saved.objects], saved.rows)
    for each in saved.objects:
        if (each.born is None) == bool(each.memory.conditioning):
            raise ValueError(f"object {each.object_id} was born without a conditioning frame, or has one before")
        for position, shown in each.shown.items():
            parts = shown.masks, shown.score_logits, shown.iou_scores
            if [part.ndim for part in parts] != [3, 1, 1] or {len(part) for part in parts} != {1}:
                raise ValueError(f"what object {each.object_id} showed at {position} is of another shape")
            each.shown[position] = TrackedMasks(*(part.to(tracker.device) for part in parts))
        session.visual.objects[each.object_id] = each
    session.prompt_tracker = PromptTracker(tracker, session.visual, both_ways=session.policy.both_ways)
