"""The state of a session in a file: what a fresh process needs to continue as if nothing had happened.

One safetensors file: tensors (what objects remember, masks of frames that are held back), and in its metadata one JSON
text with all the rest and a digest over both. Frames that were given but not worked on are not in it: the session that
loads it wants them again, from `Session.next_position` on.

A file is bound to the weights, the rules, the versions of engine, torch and transformers, and the dtype: with any of
them other rows could follow. Batch sizes, the device and where memories are kept are free: they round differently.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from sam3ray.engine.state_capture import FORMAT, bound_to, captured
from sam3ray.engine.state_restore import restored
from sam3ray.engine.state_schema import ADAPTER, SessionState
from sam3ray.engine.state_tensors import StateTensors, digest_of, what_is_wrong, write_whole
from sam3ray.failures import UserError
from sam3ray.faults.causes import first_line

if TYPE_CHECKING:
    from sam3ray.engine.session import Session

_KEY = "sam3ray.session"
_DIGEST = "sam3ray.digest"
_NOTE = "sam3ray.note"  # of whoever saved the state


class StateError(UserError):
    """A state cannot be loaded.

    Attributes:
        is_foreign: it is sound, but of another model, other rules or other versions.
    """

    def __init__(self, sentence: str, *, is_foreign: bool = False) -> None:
        super().__init__(sentence)
        self.is_foreign = is_foreign


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
        write_whole(path, tensors, {_KEY: self.text, _NOTE: note, _DIGEST: digest_of(self.text + note, tensors)})


def snapshot(session: Session) -> Snapshot:
    tensors = StateTensors()
    return Snapshot(ADAPTER.dump_json(captured(session, tensors)).decode(), tensors)


def restore(session: Session, path: str | os.PathLike[str]) -> None:
    """Brings a session that has just begun to where another one was saved.

    Raises:
        StateError: the file is missing, damaged, or of another model, clip or version; says which.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = StateTensors({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise StateError(f"the session state {path} cannot be read: {first_line(error)}") from None
    text = metadata.get(_KEY)
    if text is None:
        raise StateError(f"{path} is not a session state: it has no {_KEY!r}")
    if metadata.get(_DIGEST) != digest_of(text + metadata.get(_NOTE, ""), tensors.values):
        raise StateError(f"the session state {path} is damaged: its digest does not match")
    try:
        state = ADAPTER.validate_json(text)
        _check_bound(session, state, path)
        restored(session, state, tensors)
        if tensors.values:
            raise ValueError(f"the tensor {next(iter(tensors.values))} belongs to no object")
    except (ValueError, KeyError, IndexError, TypeError) as error:  # pydantic's is a ValueError
        raise StateError(f"the session state {path} is damaged: {what_is_wrong(error)}") from None


def read_note(path: str | os.PathLike[str]) -> str:
    """The note that a state was saved with. Whether the file is whole is told by loading it.

    Raises:
        StateError: the file is missing, or no safetensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return str((file.metadata() or {}).get(_NOTE, ""))
    except (OSError, SafetensorError, ValueError) as error:
        raise StateError(f"the session state {path} cannot be read: {first_line(error)}") from None


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
    if session.clock.given or session.phrases or session.visual.labels or session.exemplars.count:
        raise StateError("load a state into a new session, before any prompt or frame")


def _as_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_lists(each) for key, each in value.items()}
    return [_as_lists(each) for each in value] if isinstance(value, list | tuple) else value
