"""What a comparison found: one line per phrase and one for all, as a table and as JSON.

Recall, precision, IoU, id switches, MOTA, HOTA and IDF1 are TrackEval's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sam3ray.failures import UserError

from ._comparison import Comparison

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Scores:
    """Figures of one phrase, or of all. A figure that has no meaning (recall where nothing was to be found) is None.

    Attributes:
        recall, precision, mota: CLEAR MOT (Bernardin and Stiefelhagen 2008) at the tolerance's IoU.
        mean_iou: of the matches (CLEAR's MOTP).
        switches: changes of the predicted id that a true object is matched with; `switches_per_1000` true boxes.
        j, f: region and outline measure of DAVIS, mean over true objects (`j_and_f` their mean).
        hota, idf1: Luiten et al. 2021; Ristani et al. 2016.
        absent_rate: share of the frames with output, over clips in which nothing of the phrase exists.
    """

    clips: int
    frames: int
    objects: int
    true_boxes: int
    predicted_boxes: int
    recall: float | None
    precision: float | None
    mean_iou: float | None
    switches: int
    switches_per_1000: float | None
    mota: float | None
    j: float | None
    f: float | None
    hota: float | None
    idf1: float | None
    absent_frames: int
    absent_rate: float | None

    @property
    def j_and_f(self) -> float | None:
        return None if self.j is None or self.f is None else (self.j + self.f) / 2


@dataclass(frozen=True)
class Report:
    """The comparison of a run with the truth. `missing` are true clips that the run has no annotations of."""

    overall: Scores
    prompts: dict[str, Scores]
    missing: tuple[str, ...] = ()
    parts: dict[str, list[Comparison]] = field(default_factory=dict, repr=False)

    def as_json(self) -> dict[str, Any]:
        return {
            "overall": _plain(self.overall),
            "prompts": {prompt: _plain(scores) for prompt, scores in self.prompts.items()},
            "missing_clips": list(self.missing),
        }

    def dumps(self) -> str:
        return json.dumps(self.as_json(), indent=2)

    def table(self) -> Table:
        from rich.table import Table

        table = Table(title="Against the truth", title_justify="left", box=None, pad_edge=False)
        names = (
            "prompt",
            "objects",
            "boxes",
            "recall",
            "precision",
            "IoU",
            "J&F",
            "HOTA",
            "IDF1",
            "id switches",
            "absent",
        )
        for name in names:
            table.add_column(name, justify="left" if name == "prompt" else "right")
        rows = [*self.prompts.items()]
        if len(rows) != 1:
            rows.append(("all", self.overall))
        for prompt, s in rows:
            figures = (s.recall, s.precision, s.mean_iou, s.j_and_f, s.hota, s.idf1)
            absent = "" if s.absent_rate is None else f"{100 * s.absent_rate:.1f}%"
            table.add_row(
                prompt, str(s.objects), str(s.true_boxes), *("" if v is None else f"{v:.3f}" for v in figures),
                str(s.switches), absent,
            )  # fmt: skip
        if self.missing:
            table.caption = f"{len(self.missing)} clips of the truth have no annotations: {', '.join(self.missing[:5])}"
        return table


def report_of(parts: dict[str, list[Comparison]], missing: tuple[str, ...] = ()) -> Report:
    """The report of comparisons by phrase; phrases are told apart in the lines, not in the overall figures."""
    prompts = {prompt: score(found) for prompt, found in sorted(parts.items())}
    return Report(score([part for found in parts.values() for part in found]), prompts, missing, parts)


def merge(reports: Iterable[Report]) -> Report:
    """One report of several clips' reports."""
    parts: dict[str, list[Comparison]] = {}
    missing: tuple[str, ...] = ()
    for report in reports:
        missing += report.missing
        for prompt, found in report.parts.items():
            parts.setdefault(prompt, []).extend(found)
    return report_of(parts, missing)


def _plain(scores: Scores) -> dict[str, Any]:
    values = {**vars(scores), "j_and_f": scores.j_and_f}
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}


def score(parts: Sequence[Comparison]) -> Scores:
    """Figures over several comparisons, each box weighing the same.

    Raises:
        UserError: TrackEval is not installed.
    """
    metrics = track_eval()
    true_boxes, predicted_boxes = (sum(getattr(p, name) for p in parts) for name in ("true_boxes", "predicted_boxes"))
    silent = {"PRINT_CONFIG": False}
    data = {str(i): _as_track_eval(part) for i, part in enumerate(parts)}

    def combined(metric: Any) -> Any:
        return metric.combine_sequences({name: metric.eval_sequence(one) for name, one in data.items()})

    clear = combined(metrics.CLEAR({"THRESHOLD": parts[0].iou if parts else 0.5, **silent}))
    matches, switches = int(clear["CLR_TP"]), int(clear["IDSW"])
    absent = [part for part in parts if part.is_absent]
    objects = np.array([pair for part in parts for pair in part.objects]).reshape(-1, 2)
    return Scores(
        clips=len(parts),
        frames=sum(part.frames for part in parts),
        objects=len(objects),
        true_boxes=true_boxes,
        predicted_boxes=predicted_boxes,
        recall=_share(matches, true_boxes),
        precision=_share(matches, predicted_boxes),
        mean_iou=_share(clear["MOTP_sum"], matches),
        switches=switches,
        switches_per_1000=_share(1000 * switches, true_boxes),
        mota=float(clear["MOTA"]) if true_boxes else None,
        j=float(objects[:, 0].mean()) if len(objects) else None,
        f=float(objects[:, 1].mean()) if len(objects) else None,
        hota=float(np.mean(combined(metrics.HOTA())["HOTA"])) if true_boxes else None,
        idf1=float(combined(metrics.Identity(silent))["IDF1"]) if true_boxes else None,
        absent_frames=sum(part.frames for part in absent),
        absent_rate=_share(sum(part.frames_with_output for part in absent), sum(part.frames for part in absent)),
    )


def track_eval() -> Any:
    """TrackEval's metrics.

    Raises:
        UserError: it is not installed.
    """
    try:
        from trackeval import metrics
    except ImportError as error:
        raise UserError(
            f"evaluation needs TrackEval, and {error.name} is not installed: pip install 'sam3ray[eval]', then "
            "pip install --no-deps trackeval"
        ) from None
    return metrics


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _as_track_eval(part: Comparison) -> dict[str, Any]:
    def distinct(ids: list[Any]) -> int:
        return len({int(k) for frame in ids for k in frame})

    return {
        "num_timesteps": part.frames,
        "num_gt_ids": distinct(part.true_ids),
        "num_tracker_ids": distinct(part.predicted_ids),
        "num_gt_dets": part.true_boxes,
        "num_tracker_dets": part.predicted_boxes,
        "gt_ids": part.true_ids,
        "tracker_ids": part.predicted_ids,
        "similarity_scores": part.similarities,
    }
