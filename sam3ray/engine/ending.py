"""A window's ending: what later windows need of it, the memories of its objects at the end of its overlap.

It is one safetensors file. Each object's memories and pointers are separate tensors, so that an object can be read
alone. One JSON text in the metadata has the rest, with a digest of each object's tensors. Like a session's state
(`sam3ray.engine.state`), the file belongs to one model, since another one could not use these memories.

Memories serve only frames from `until` on; what earlier frames would read has been dropped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass as checked
from safetensors import safe_open

from sam3ray.engine.header import StateError, read_header
from sam3ray.engine.memory import ObjectMemory, SavedRows
from sam3ray.engine.state import bound_to, check_bound
from sam3ray.engine.stored import (
    STRICT,
    StateTensors,
    digest_of,
    read_text,
    reading,
    write_whole,
)
from sam3ray.engine.tracker import Tracker

if TYPE_CHECKING:
    from sam3ray.engine.engine import Engine
    from sam3ray.engine.session import Session

FORMAT = 5
MOST = 64  # objects of one phrase: those seen last
_KEY, _WHAT = "sam3ray.ending", "window's ending"
_PARTS = ("memories", "pointers")
_Count = Annotated[int, Field(ge=0)]


@checked(config=STRICT)
class RememberedState:
    """One object. Frames in `memory` count from the window's first frame; `rows` are the row counts of its two
    tensors.
    """

    object_id: Annotated[int, Field(ge=1, le=2**31)]
    prompt: str
    memory: ObjectMemory
    rows: tuple[list[int], list[int]]
    digest: str


@checked(config=STRICT)
class EndingState:
    """The state in an ending. `start` and `until` are positions in the clip: of the window's first frame, and after the
    last frame that the memories have seen.
    """

    format: int
    bound_to: dict[str, Any]
    size: tuple[_Count, _Count]
    start: _Count
    until: _Count
    objects: list[RememberedState]


_ADAPTER = TypeAdapter(EndingState)


@dataclass(frozen=True, eq=False)
class Ending:
    """An ending in memory, before it is written."""

    state: EndingState
    tensors: Mapping[int, StateTensors]

    @classmethod
    def of(cls, session: Session, start: int) -> Ending:
        """Copies the ending from a session that has just processed the overlap's last frame and will continue.

        Args:
            start: position in the clip of the session's first frame.
        """
        objects: list[RememberedState] = []
        tensors: dict[int, StateTensors] = {}
        by_phrase: dict[str, int] = {}
        for object_id, phrase, memory in _seen_last_first(session):
            assert session.propagation is not None
            by_phrase[phrase] = by_phrase.get(phrase, 0) + 1
            if by_phrase[phrase] > MOST:
                continue
            saved = session.propagation.tracker.saved([memory])
            own = StateTensors()
            for name, values in zip(_PARTS, (saved.memories, saved.pointers), strict=True):
                own.put(name, values)
            tensors[object_id] = own
            rows, digest = (saved.memory_rows, saved.pointer_rows), digest_of("", own.values)
            objects.append(RememberedState(object_id, phrase, deepcopy(memory), rows, digest))
        until = start + session.clock.worked
        return cls(EndingState(FORMAT, bound_to(session.engine), session.size, start, until, objects), tensors)

    def write(
        self,
        path: str | os.PathLike[str],
        ids: Mapping[int, int],
        note: str = "",
    ) -> None:
        """Writes a file, which appears whole or not at all.

        Args:
            ids: the objects in the window's rows, by their ids when the ending was taken. Others, such as those that
                hotstart has removed since, are omitted.
            note: any text of the caller (see `EndingFile.note`).
        """
        kept = [each for each in self.state.objects if each.object_id in ids]
        objects = [replace(each, object_id=ids[each.object_id]) for each in kept]
        state = replace(self.state, objects=sorted(objects, key=lambda each: each.object_id))
        values = {
            f"{ids[each.object_id]}.{name}": value
            for each in kept
            for name, value in self.tensors[each.object_id].values.items()
        }
        text = _ADAPTER.dump_json(state).decode()
        write_whole(path, _KEY, text, note, digest_of(text + note, {}), values)


def _seen_last_first(session: Session) -> Iterator[tuple[int, str, ObjectMemory]]:
    """All objects that have a memory: id, phrase, memory."""
    propagation = session.propagation
    if propagation is None:
        return
    last = session.clock.worked - 1
    found = [(each.empty_frames, each.object_id, each.prompt, each.memory) for each in propagation.objects]
    if session.relinker is not None:
        gone = session.relinker.gone.values()
        found += [(last - each.last, each.object_id, each.prompt, each.memory) for each in gone]
    for _, object_id, prompt, memory in sorted(found, key=lambda each: each[:2]):
        yield object_id, propagation.phrases[prompt], memory


class EndingFile:
    """An ending on disk; an object's memory is read on demand.

    Attributes:
        start, until: see `EndingState`.
        objects: id -> phrase.
        note: the note that was written.

    Raises:
        StateError: the file is missing, damaged, or of another model, size or version; the message says which.
    """

    def __init__(self, path: str | os.PathLike[str], engine: Engine, size: tuple[int, int]) -> None:
        self._path, self._where = path, f"the window's ending {path}"
        text, self.note, digest = read_header(path, _WHAT, _KEY)
        with reading(self._where):
            if digest != digest_of(text + self.note, {}):
                raise ValueError("its digest does not match")
            state = read_text(_ADAPTER, text, FORMAT, self._where)
            check_bound(self._where, state.bound_to, engine)
            if tuple(state.size) != size:
                raise StateError(f"{self._where} is of frames of {state.size}, here they are of {size}")
            self.start, self.until = state.start, state.until
            self._objects = {each.object_id: each for each in state.objects}
            if len(self._objects) != len(state.objects) or state.until <= state.start:
                raise ValueError("an object is there twice, or no frame was worked on")
        self.objects = {each.object_id: each.prompt for each in state.objects}

    @torch.inference_mode()
    def memory(self, object_id: int, tracker: Tracker) -> ObjectMemory:
        """An object's memory, in the tracker's banks. Frames count from `start`.

        Raises:
            StateError: the file is damaged.
        """
        saved = self._objects[object_id]
        with reading(self._where):
            with safe_open(self._path, framework="pt") as file:
                tensors = {name: file.get_tensor(f"{object_id}.{name}") for name in _PARTS}
            if digest_of("", tensors) != saved.digest:
                raise ValueError(f"the memories of object {object_id} do not match their digest")
            if not saved.memory.conditioning:
                raise ValueError(f"object {object_id} has no conditioning frame")
            memory, (of_memories, of_pointers) = deepcopy(saved.memory), saved.rows
            tracker.adopt([memory], SavedRows(tensors["memories"], of_memories, tensors["pointers"], of_pointers))
        return memory
