"""Counts what a format could not hold."""

from __future__ import annotations

from collections import Counter

SENTENCES = {
    "track_scores": "track scores dropped (rows)",
    "scores": "detection scores dropped (rows)",
    "masks": "masks reduced to boxes (rows)",
    "overlap_pixels": "pixels given to one of several overlapping masks",
    "hidden_objects": "objects covered completely on a frame (rows)",
    "renumbered": "object ids renumbered (objects; the map is in the sidecar)",
    "labels": "labels dropped (rows)",
    "tracks": "track identity kept as an attribute only (objects)",
    "times": "timestamps dropped (frames)",
    "keyframes": "boxes left to linear interpolation (rows; exact within half a pixel)",
    "split": "masks split into several lines (further components)",
    "left_out": "objects dropped because the format allows fewer ids (objects)",
}


class Losses(Counter[str]):
    """Kind (see `SENTENCES`) -> count."""

    def sentences(self) -> list[str]:
        return [f"{SENTENCES[kind]}: {count:,}" for kind, count in sorted(self.items()) if count]
