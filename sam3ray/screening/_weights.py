"""How likely a track is wrong, from its signals.

Logistic. The weights were fitted on 28 drawn clips that the embedded checkpoint had labelled (`benchmarks/triage.py
fit`; 16 of 77 objects wrong). They were kept near 1 where those clips have little evidence, and at .25 or more, so that
no signal makes a track less suspicious. `disagreement` was set by hand: there was no second run to fit it on. Only the
order matters; the figure is not a probability.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import exp

BIAS = -3.1
WEIGHTS: Mapping[str, float] = {
    "low_score": 1.2,
    "unsure": 1.1,
    "dip": 1.1,
    "area_jump": 0.35,
    "shift": 0.9,
    "gaps": 0.4,
    "brief": 2.3,
    "starts_inside": 1.25,
    "ends_inside": 1.65,
    "touching": 1.0,
    "handover": 1.0,
    "doubled": 1.1,
    "disagreement": 3.0,
}


def suspicion(signals: Mapping[str, float]) -> float:
    """0..1."""
    return 1 / (1 + exp(-BIAS - sum(WEIGHTS[name] * value for name, value in signals.items())))


def clip_suspicion(objects: Iterable[float]) -> float:
    """The suspicion that at least one of the objects is wrong, if errors are independent."""
    right = 1.0
    for each in objects:
        right *= 1 - each
    return 1 - right


def reasons(signals: Mapping[str, float], most: int = 3) -> list[str]:
    """Names of the signals that count most, in descending order."""
    counts = {name: WEIGHTS[name] * value for name, value in signals.items()}
    first = sorted((name for name in counts if counts[name] >= 0.12), key=lambda name: (-counts[name], name))
    return first[:most]
