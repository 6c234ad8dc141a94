"""The tensors of a session's state, by name, a digest over a state, and how a file of both is written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from sam3ray.faults.causes import first_line


@dataclass
class StateTensors:
    """The tensors of a state by name, being collected or taken out again, each once and of the shape expected."""

    values: dict[str, torch.Tensor] = field(default_factory=dict)

    def put(self, name: str, tensor: torch.Tensor) -> None:
        # A tensor of one element may have any stride and still count as contiguous.
        self.values[name] = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)

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


def digest_of(text: str, tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_whole(path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Writes a safetensors file, which appears whole or not at all."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        save_file(dict(tensors), temporary, metadata)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def what_is_wrong(error: Exception) -> str:
    """In a state that was read: where, and what."""
    if not isinstance(error, ValidationError):
        return first_line(error)
    problem = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
