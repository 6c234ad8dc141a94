"""Measures how a frame's masks overlap. Decisions need no other numbers, which are read back in one piece."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from sam3ray.engine.detector import Detections
from sam3ray.engine.postprocess import intersections, ious
from sam3ray.engine.transfer import to_host


@dataclass(frozen=True, eq=False)
class Overlaps:
    """The numbers for the decisions about one frame, on the host.

    Attributes:
        detection_ious: (detections, tracks)
        track_ious: (tracks, tracks)
        areas: (tracks,) in low-resolution pixels.
        score_logits, scores: (tracks,) float32; scores are 0..1.
    """

    detection_ious: np.ndarray
    track_ious: np.ndarray
    areas: np.ndarray
    score_logits: np.ndarray
    scores: np.ndarray

    def of_detections(self, keep: np.ndarray) -> Overlaps:
        return replace(self, detection_ious=self.detection_ious[keep])


class PendingOverlaps:
    """The numbers of `Overlaps`, on their way from the device in one piece.

    Args:
        detections: number of detections, n.
        masks: (m, h, w) logits of the tracks; None if there are none.
        logits: (m,) the tracks' scores.
    """

    def __init__(self, detections: Detections, masks: torch.Tensor | None, logits: torch.Tensor | None) -> None:
        self._sizes = len(detections), 0 if masks is None else len(masks)
        foreground = [each > 0 for each in (detections.masks, masks) if each is not None and len(each)]
        if not foreground:
            self._packed, self._arrived = torch.zeros(0), None
            return
        everything = foreground[0] if len(foreground) == 1 else torch.cat(foreground)
        parts = [intersections(everything, everything).flatten(), everything.flatten(1).sum(1).float()]
        if logits is not None:
            parts += [logits.float(), logits.float().sigmoid()]
        self._packed, self._arrived = to_host(torch.cat(parts))

    def read(self) -> tuple[np.ndarray, Overlaps]:
        """IoU of the detections among themselves (n, n), and the rest."""
        n, m = self._sizes
        if self._arrived is not None:
            self._arrived.synchronize()
        shared, areas, logits, scores = np.split(self._packed.numpy(), np.cumsum([(n + m) ** 2, n + m, m]))
        overlap = ious(shared.reshape(n + m, n + m), areas, areas)
        return overlap[:n, :n], Overlaps(overlap[:n, n:], overlap[n:, n:], areas[n:], logits, scores)
