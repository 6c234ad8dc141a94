"""Linear layers on a CPU by oneDNN, where that gives the same numbers as torch's own call, bit for bit.

torch uses MKL, which reaches 89 GFLOP a second on one core of an AMD EPYC; oneDNN reaches 210. Both add up the products
of an output in order, MKL in pieces of up to 192. Whether they agree is tried once for each shape of weights on the
machine at hand; where they do not, torch's own call stays, so that rows are the same on every processor.

oneDNN compiles code for each number of rows, up to half a MB, and keeps it. In the tracker, the rows are objects times
what is remembered of each. New numbers never stop coming: 600 frames of live video had a hundred. So oneDNN computes
only the first few numbers of rows in one call. It computes any other number in blocks of three sizes, with the same
bits, since each row is a sum of its own.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FEWEST_ROWS = 64  # below, MKL is as fast
_TRIED_ROWS = (_FEWEST_ROWS, 197, 1027)
_TRIED_BLOCKS = 900
_PIECE = 192  # products that MKL adds up before it adds the sum to what it has
_AT_ONCE = 4  # numbers of rows, for each shape of weights, for which oneDNN compiles code of their own
_BLOCKS = (1024, 512, 256)  # rows, for all other numbers


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
            rows = input.numel() // self.in_features
            # torch adds the bias first to rows in order, and last to others: one piece is the same both ways.
            if piece == self.in_features or (piece and input.is_contiguous()):
                if _is_at_once(rows, *self.weight.shape, torch.get_num_threads()):
                    return by_onednn(input, self.weight, self.bias, piece)
                if rows >= _BLOCKS[-1]:
                    return in_blocks(input, self.weight, self.bias, piece)
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


def in_blocks(input: Tensor, weight: Tensor, bias: Tensor, piece: int) -> Tensor:
    """As `by_onednn`, in blocks of few sizes. The last one may begin among rows that the one before has computed."""
    inputs = input.reshape(-1, input.shape[-1])
    rows = len(inputs)
    output = input.new_empty(rows, len(weight))
    done = 0
    while done < rows:
        size = next((each for each in _BLOCKS if each <= rows - done), _BLOCKS[-1])
        start = min(done, rows - size)
        output[start : start + size] = by_onednn(inputs[start : start + size], weight, bias, piece)
        done = start + size
    return output.view(*input.shape[:-1], len(weight))


def _is_at_once(rows: int, *weights_and_threads: int) -> bool:
    """Whether these rows are among the first few numbers of rows that came for such weights."""
    known = _known.setdefault(weights_and_threads, set())
    if rows not in known and len(known) < _AT_ONCE:
        known.add(rows)
    return rows in known


_known: dict[tuple[int, ...], set[int]] = {}


@lru_cache(maxsize=512)
@torch.inference_mode()
def piece_for(out_features: int, in_features: int, threads: int) -> int:
    """How many products at a time give torch's own numbers on this machine with so many threads; 0: none does."""
    numbers = torch.Generator().manual_seed(0)
    weight = torch.randn(out_features, in_features, generator=numbers)
    bias = torch.randn(out_features, generator=numbers)
    inputs = [torch.randn(rows, in_features, generator=numbers) for rows in _TRIED_ROWS]
    many = torch.randn(_TRIED_BLOCKS, in_features, generator=numbers)
    for piece in dict.fromkeys((in_features, -(-in_features // 2), _PIECE)):
        same = all(torch.equal(by_onednn(x, weight, bias, piece), F.linear(x, weight, bias)) for x in inputs)
        if same and torch.equal(in_blocks(many, weight, bias, piece), F.linear(many, weight, bias)):
            return piece
    return 0
