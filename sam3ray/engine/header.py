"""What a state's file says of itself without its tensors, and the error of one that cannot be used.

Does not import torch: who only asks what a file is, or catches the error, need not wait seconds for it.
"""

from __future__ import annotations

import os

from safetensors import SafetensorError, safe_open

from sam3ray.failures import UserError
from sam3ray.faults.causes import first_line

DIGEST, NOTE = "sam3ray.digest", "sam3ray.note"
SESSION_KEY, SESSION = "sam3ray.session", "session state"


class StateError(UserError):
    """A state cannot be loaded.

    Attributes:
        is_foreign: whether the state is intact, but of another model, other rules or other versions.
    """

    def __init__(self, sentence: str, *, is_foreign: bool = False) -> None:
        super().__init__(sentence)
        self.is_foreign = is_foreign


def read_note(path: str | os.PathLike[str]) -> str:
    """The note that was saved with a session. Does not check that the file is intact; loading it does.

    Raises:
        StateError: the file is missing, or no safetensors.
    """
    return read_header(path, SESSION)[1]


def read_header(path: str | os.PathLike[str], what: str, key: str = NOTE) -> tuple[str, str, str]:
    """Text, note and digest of a file.

    Raises:
        StateError: the file is missing, is not safetensors, or is of another kind.
    """
    try:
        with safe_open(path, framework="np") as file:  # "pt" would import torch
            metadata = file.metadata() or {}
    except (OSError, SafetensorError, ValueError) as error:
        raise StateError(f"the {what} {path} cannot be read: {first_line(error)}") from None
    if key != NOTE and key not in metadata:
        raise StateError(f"{path} is not a {what}: it has no {key!r}")
    return metadata.get(key, ""), metadata.get(NOTE, ""), metadata.get(DIGEST, "")
