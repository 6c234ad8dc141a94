"""The tensors of a session's state, by name, and a digest over a state."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import torch


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
