"""Files of a state: JSON text, the tensors that it names, a note, and a digest.

pydantic makes the text from the engine's dataclasses. It is read strictly, since a file may come from anywhere. A field
that is `Stored` is kept among the tensors, and the text has its name.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import torch
from pydantic import ConfigDict, PlainSerializer, PlainValidator, TypeAdapter, ValidationError, ValidationInfo
from pydantic_core.core_schema import SerializationInfo
from safetensors import SafetensorError
from safetensors.torch import save_file

from sam3ray.engine.header import DIGEST, NOTE, StateError
from sam3ray.faults.causes import first_line
from sam3ray.faults.damage import damage

STRICT = ConfigDict(strict=True, extra="forbid")
_MOST = 2**63  # no number in a state is larger

_State = TypeVar("_State")


@dataclass
class StateTensors:
    """The tensors of a state by name, while they are collected, or taken out again, each once."""

    values: dict[str, torch.Tensor] = field(default_factory=dict)

    def put(self, name: str, tensor: torch.Tensor) -> None:
        # A tensor of one element may have any stride and still count as contiguous.
        self.values[name] = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)

    def take(self, name: object) -> torch.Tensor:
        tensor = self.values.pop(name, None) if isinstance(name, str) else None
        if tensor is None or not tensor.is_floating_point():
            raise ValueError(f"the tensor {name!r:.40} is {'missing' if tensor is None else tensor.dtype}")
        return tensor


def _put(value: torch.Tensor | np.ndarray, info: SerializationInfo[StateTensors]) -> str:
    assert info.context is not None
    name = str(len(info.context.values))
    info.context.put(name, torch.as_tensor(value))
    return name


def _taken(name: object, info: ValidationInfo[StateTensors]) -> torch.Tensor:
    return info.context.take(name)


Stored = Annotated[torch.Tensor, PlainValidator(_taken), PlainSerializer(_put)]
StoredArray = Annotated[
    np.ndarray, PlainValidator(lambda name, info: _taken(name, info).numpy()), PlainSerializer(_put)
]
# An event of a GPU means nothing to another process.
Fleeting = Annotated[torch.cuda.Event | None, PlainValidator(lambda _: None), PlainSerializer(lambda _: None)]


def read_text(
    adapter: TypeAdapter[_State], text: str, allowed: int, where: str, tensors: StateTensors | None = None
) -> _State:
    """Parses the text of a state in the format `allowed`.

    Raises:
        StateError: it has another format; `where` names the file.
        ValueError: it is damaged; pydantic's errors are ValueErrors, too.
    """
    try:
        state = json.loads(text, parse_int=_bounded)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    found = state.get("format") if isinstance(state, dict) else None
    if found != allowed:
        raise StateError(f"{where} has format {found!r:.40}; allowed: {allowed}", is_foreign=True)
    return adapter.validate_json(text, context=tensors)


def _bounded(digits: str) -> int:
    if len(digits) > 20 or abs(int(digits)) > _MOST:
        raise ValueError(f"{digits:.30} is out of range")
    return int(digits)


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turns errors in the content of a file into a StateError with the place and the problem."""
    try:
        yield
    except (OSError, SafetensorError, ValueError, KeyError, IndexError, TypeError) as error:
        problem = damage(error) if isinstance(error, ValidationError) else first_line(error)
        raise StateError(f"{where} is damaged: {problem}") from None


def write_whole(
    path: str | os.PathLike[str], key: str, text: str, note: str, digest: str, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Writes a file, which appears whole or not at all. `key` names the kind of state."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        save_file(dict(tensors), temporary, {key: text, NOTE: note, DIGEST: digest})
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def digest_of(text: str, tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
