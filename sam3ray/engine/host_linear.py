"""Linear layers on a CPU by oneDNN, where that gives the same numbers as torch's own call, bit for bit.

torch uses MKL, which reaches 89 GFLOP a second on one core of an AMD EPYC; oneDNN reaches 210. Both add up the products
of an output in order, MKL in pieces of up to 192. Whether they agree is tried once for each shape of weights on the
machine at hand; where they do not, torch's own call stays, so that rows are the same on every processor.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FEWEST_ROWS = 64  # below, MKL is as fast
_TRIED_ROWS = (_FEWEST_ROWS, 197, 1027)
_PIECE = 192  # products that MKL adds up before it adds the sum to what it has


class HostLinear(nn.Linear):
    """A linear layer of a model in float32 on a CPU that is not trained."""

    def forward(self, input: Tensor) -> Tensor:
        if (
            not torch.compiler.is_compiling()
            and self.bias is not None
            and input.numel() >= _FEWEST_ROWS * self.in_features
            and _is_plain(input)
            and _is_plain(self.weight)
        ):
            piece = piece_for(*self.weight.shape, torch.get_num_threads())
            # torch adds the bias first to rows in order, and last to others: one piece is the same both ways.
            if piece == self.in_features or (piece and input.is_contiguous()):
                return by_onednn(input, self.weight, self.bias, piece)
        return F.linear(input, self.weight, self.bias)


def use(model: nn.Module) -> None:
    """Turns the linear layers of a model into `HostLinear`, in place."""
    if not torch.backends.mkldnn.is_available():
        return
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = HostLinear


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, nn.Parameter) and tensor.dtype == torch.float32 and tensor.device.type == "cpu"


def by_onednn(input: Tensor, weight: Tensor, bias: Tensor, piece: int) -> Tensor:
    """input @ weight.T + bias, the products of each output added up `piece` at a time."""
    total: Tensor | None = None
    for start in range(0, input.shape[-1], piece):
        part = slice(start, start + piece)
        # Columns of the weights in memory of their own: otherwise oneDNN takes a thousand times as long.
        columns = weight[:, part].contiguous()
        added: Tensor = torch.ops.mkldnn._linear_pointwise(
            input[..., part], columns, bias if total is None else None, "none", [], ""
        )
        total = added if total is None else total.add_(added)
    assert total is not None
    return total


@lru_cache(maxsize=512)
@torch.inference_mode()
def piece_for(out_features: int, in_features: int, threads: int) -> int:
    """How many products at a time give torch's own numbers on this machine with so many threads; 0: none does."""
    numbers = torch.Generator().manual_seed(0)
    weight = torch.randn(out_features, in_features, generator=numbers)
    bias = torch.randn(out_features, generator=numbers)
    inputs = [torch.randn(rows, in_features, generator=numbers) for rows in _TRIED_ROWS]
    for piece in dict.fromkeys((in_features, -(-in_features // 2), _PIECE)):
        if all(torch.equal(by_onednn(x, weight, bias, piece), F.linear(x, weight, bias)) for x in inputs):
            return piece
    return 0
