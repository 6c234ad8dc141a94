"""A resumable stage of training: optimiser, learning rate over wall time, moving average, log, state on disk."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .samples import stream

SIZE_PENALTY = 0.005  # on a feature's square, which must stay near the scale of the position encodings added to it


@dataclass(frozen=True)
class Options:
    """Options of one stage. `minutes` of wall time decide its length and the learning rate's cosine."""

    name: str
    minutes: float
    rate: float
    seed: int
    images: int = 8
    warmup_steps: int = 100
    decay: float = 0.02
    average: float = 0.999
    clip: float = 1.0


class Run:
    """A running stage. Its state on disk is replaced atomically every `save_s` seconds; a killed stage resumes from
    it.
    """

    def __init__(
        self, model: Any, helpers: Any, tokenizer: Any, folder: Path, options: Options, save_s: float = 120.0
    ) -> None:
        self.model, self.helpers, self.tokenizer, self.folder, self.options = model, helpers, tokenizer, folder, options
        self._save_s = save_s
        self._state = folder / f"{options.name}.pt"
        self._log = folder / f"{options.name}.jsonl"
        self._sums: dict[str, float] = defaultdict(float)
        self._summed = 0  # steps since the last line of the log

    @property
    def progress(self) -> float:
        """How much of the stage has passed, 0..1."""
        return min(1.0, self.spent_s / (60 * self.options.minutes))

    def steps(self, parameters: list[Tensor], draw: Callable[[int], Any]) -> Iterator[Any]:
        """Yields batches until the stage's time is up. Call `step` for each."""
        self._parameters = [p for p in parameters if p.requires_grad]
        decayed = [p for p in self._parameters if p.ndim > 1]
        plain = [p for p in self._parameters if p.ndim <= 1]
        options = self.options
        self._optimiser = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": options.decay}, {"params": plain, "weight_decay": 0.0}],
            lr=options.rate, betas=(0.9, 0.98), fused=True,
        )  # fmt: skip
        self._average = [p.detach().clone() for p in self._parameters]
        self.count, self.spent_s = 0, 0.0
        if self._state.exists():
            state = torch.load(self._state, map_location="cpu", weights_only=True)
            self.count, self.spent_s = state["count"], state["spent_s"]
            self._optimiser.load_state_dict(state["optimiser"])
            with torch.no_grad():
                for p, raw in zip(self._parameters, state["raw"], strict=True):
                    p.copy_(raw)
                for average, kept in zip(self._average, state["average"], strict=True):
                    average.copy_(kept)
        batches = stream(draw, self.count)
        self._saved = self._mark = time.monotonic()
        while self.progress < 1:
            warm = min(1.0, (self.count + 1) / options.warmup_steps)
            rate = options.rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.progress)))
            for group in self._optimiser.param_groups:
                group["lr"] = rate
            yield next(batches)
            now = time.monotonic()
            self.spent_s += now - self._mark
            self._mark = now
            if now - self._saved > self._save_s:
                self.save()
                self._saved = now
        self.save()
        with torch.no_grad():
            for p, average in zip(self._parameters, self._average, strict=True):
                p.copy_(average)

    def step(self, losses: dict[str, Tensor]) -> None:
        loss = torch.stack(list(losses.values())).sum()
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self.options.clip)
        if not torch.isfinite(norm):
            self._sums["skipped"] += 1
            return
        self._optimiser.step()
        self.count += 1
        decay = min(self.options.average, (1 + self.count) / (10 + self.count))
        with torch.no_grad():
            torch._foreach_lerp_(self._average, [p.detach() for p in self._parameters], 1 - decay)
        for name, value in losses.items():
            self._sums[name] += value.detach().item()
        self._sums["norm"] += float(norm)
        self._summed += 1
        self._sums["total"] += float(loss.detach())
        if self.count % 50 == 0:
            line = {"step": self.count, "minutes": round(self.spent_s / 60, 2)}
            line |= {name: round(value / self._summed, 4) for name, value in self._sums.items()}
            self._sums.clear()
            self._summed = 0
            with self._log.open("a") as log:
                log.write(json.dumps(line) + "\n")
            spent, all_of_it = line["minutes"], self.options.minutes
            print(
                f"{self.options.name}: {spent:.1f} of {all_of_it:.1f} min, step {self.count}, loss {line['total']}",
                file=sys.stderr,
            )

    def save(self) -> None:
        state = {
            "options": asdict(self.options),
            "count": self.count,
            "spent_s": self.spent_s,
            "optimiser": self._optimiser.state_dict(),
            "raw": [p.detach() for p in self._parameters],
            "average": self._average,
        }
        partial = self._state.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self._state)
