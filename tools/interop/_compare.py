"""Compares what a tool has read with the rows of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from tests.exports import labels
from tools.interop._place import Row
from tools.interop._result import Result


def true_rows(every: int = 1) -> list[Row]:
    """The clip's rows, by frame and object."""
    return [
        Row(
            frame.frame_index,
            item.object_id,
            item.prompt,
            item.score,
            labels.mask_of(item.object_id, frame.frame_index),
            item.bbox,
        )
        for frame in labels.annotations()[::every]
        for item in frame.objects
    ]


def compared(
    tool: str,
    version: str,
    read: str,
    rows: Sequence[Row],
    *,
    time: str = "-",
    lost: str = "",
    covered: bool = False,
    keyframes: bool = False,
    by_label: bool = False,
    least_iou: float = 1.0,
    id_of: Callable[[Row], int | None] | None = None,
) -> Result:
    """Pairs rows by frame and best fit, then compares masks or boxes, ids, labels and scores.

    Args:
        keyframes: the rows are ends of straight lines. Those in between are interpolated here, as the tool does on its
            screen, and may be half a pixel off.
        covered: the format cannot store overlaps: the higher score keeps the pixel.
        by_label: the format has no ids, and one line per part: all parts with one label on a frame are one object.
        least_iou: a mask with a lower IoU fails the check.
        id_of: the expected id, for formats that renumber objects.
    """
    truth = true_rows()
    if covered:
        truth = _covered(truth)
    if keyframes:
        rows = _between(rows, truth)
    if by_label:
        rows, truth = _united(rows), _united(truth)
    problems = []
    if len(rows) != len(truth):
        problems.append(f"{len(rows)} rows of {len(truth)}")
    fits: list[float] = []
    with_masks = bool(rows) and rows[0].mask is not None
    same_ids = same_scores = True
    scores = any(row.score is not None for row in rows)
    ids = any(row.object_id is not None for row in rows)
    for row in truth:
        found = [each for each in rows if each.frame == row.frame]
        best = max(found, key=lambda each: _fit(each, row), default=None)
        if best is None:
            problems.append(f"nothing on frame {row.frame}")
            continue
        fits.append(_fit(best, row))
        if best.label and best.label != row.label:
            problems.append(f"frame {row.frame}: {best.label!r} for {row.label!r}")
        number = row.object_id if id_of is None else id_of(row)
        same_ids &= best.object_id == number
        same_scores &= best.score is not None and row.score is not None and abs(best.score - row.score) < 1e-5
    worst = min(fits, default=0.0)
    if worst < least_iou:
        problems.append(f"IoU {worst:.3f}")
    exact = "exact" if worst == 1 else f"IoU {worst:.2f} or better"
    return Result(
        tool,
        version,
        read,
        ok=not problems and (same_ids or not ids),
        masks=exact if with_masks else "boxes within half a pixel" if keyframes else f"boxes {exact}",
        ids=("kept" if same_ids else "**changed**") if ids else "-",
        scores=("kept" if same_scores else "changed") if scores else "-",
        time=time,
        lost="; ".join(problems[:3]) or lost,
    )


def _covered(rows: Iterable[Row]) -> list[Row]:
    kept = []
    rows = list(rows)
    for row in rows:
        mask = row.mask
        assert mask is not None
        for other in rows:
            if other.frame == row.frame and (other.score or 0) > (row.score or 0):
                assert other.mask is not None
                mask = mask & ~other.mask
        if mask.any():
            kept.append(Row(row.frame, row.object_id, row.label, row.score, mask, row.box))
    return kept


def _united(rows: Iterable[Row]) -> list[Row]:
    found: dict[tuple[int, str], np.ndarray] = {}
    for row in rows:
        assert row.mask is not None
        key = row.frame, row.label
        found[key] = found[key] | row.mask if key in found else row.mask
    return [Row(frame, None, label, None, mask, None) for (frame, label), mask in found.items()]


def _between(rows: Sequence[Row], truth: Sequence[Row]) -> list[Row]:
    """The rows, and the interpolated ones between two rows of an object where the truth has one."""
    found = {(row.object_id, row.frame): row for row in rows}
    for row in truth:
        if (row.object_id, row.frame) in found:
            continue
        own = sorted(each.frame for each in rows if each.object_id == row.object_id)
        first, last = max(n for n in own if n < row.frame), min(n for n in own if n > row.frame)
        one, two = found[row.object_id, first], found[row.object_id, last]
        share = (row.frame - first) / (last - first)
        assert one.box is not None
        assert two.box is not None
        box = tuple(a + share * (b - a) for a, b in zip(one.box, two.box, strict=True))
        found[row.object_id, row.frame] = replace(one, frame=row.frame, box=box)  # type: ignore[arg-type]
    return list(found.values())


def _fit(one: Row, two: Row) -> float:
    if one.mask is not None and two.mask is not None:
        if one.mask.shape != two.mask.shape:
            return 0.0
        return float((one.mask & two.mask).sum() / max(1, (one.mask | two.mask).sum()))
    a, b = one.box, two.box
    if a is None or b is None:
        return 0.0
    if np.abs(np.subtract(a, b)).max() <= 0.51:
        return 1.0
    inner = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return inner / (areas - inner)
