"""What a comparison found: one line per phrase and one for all, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ._match import Counts, PairedTracks

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Scores:
    """Figures of one phrase, or of all. A figure that has no meaning (recall where nothing was to be found) is None.

    Attributes:
        recall, precision: of boxes, at the tolerance's IoU.
        mean_iou: of the matches.
        switches_per_1000: changes of the predicted id of a true object, per 1,000 true boxes.
        j, f: region and boundary measure, mean over true objects (`j_and_f` their mean).
        hota, idf1: from TrackEval; None where it is not installed.
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
    parts: dict[str, list[tuple[Counts, PairedTracks]]] = field(default_factory=dict, repr=False)

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


def report_of(parts: dict[str, list[tuple[Counts, PairedTracks]]], missing: tuple[str, ...] = ()) -> Report:
    """The report of comparisons by phrase; phrases are told apart in the lines, not in the overall figures."""
    prompts = {prompt: score(found) for prompt, found in sorted(parts.items())}
    return Report(score([part for found in parts.values() for part in found]), prompts, missing, parts)


def merge(reports: Iterable[Report]) -> Report:
    """One report of several clips' reports."""
    parts: dict[str, list[tuple[Counts, PairedTracks]]] = {}
    missing: tuple[str, ...] = ()
    for report in reports:
        missing += report.missing
        for prompt, found in report.parts.items():
            parts.setdefault(prompt, []).extend(found)
    return report_of(parts, missing)


def _plain(scores: Scores) -> dict[str, Any]:
    values = {**vars(scores), "j_and_f": scores.j_and_f}
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}


def score(parts: Sequence[tuple[Counts, PairedTracks]]) -> Scores:
    """Figures over several (clip, phrase) comparisons, each box weighing the same."""
    counts = sum((c for c, _ in parts), Counts())
    hota, idf1 = _track_eval([tracks for _, tracks in parts])
    measures = np.array(counts.per_object).reshape(-1, 2)
    return Scores(
        clips=len(parts),
        frames=counts.frames,
        objects=counts.objects,
        true_boxes=counts.true_boxes,
        predicted_boxes=counts.predicted_boxes,
        recall=_share(counts.matches, counts.true_boxes),
        precision=_share(counts.matches, counts.predicted_boxes),
        mean_iou=_share(counts.iou_sum, counts.matches),
        switches=counts.switches,
        switches_per_1000=_share(1000 * counts.switches, counts.true_boxes),
        j=float(measures[:, 0].mean()) if len(measures) else None,
        f=float(measures[:, 1].mean()) if len(measures) else None,
        hota=hota,
        idf1=idf1,
        absent_frames=counts.absent_frames,
        absent_rate=_share(counts.absent_frames_with_output, counts.absent_frames),
    )


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _track_eval(tracks: Sequence[PairedTracks]) -> tuple[float | None, float | None]:
    """HOTA (Luiten et al. 2021) and IDF1 (Ristani et al. 2016) by TrackEval."""
    try:
        from trackeval.metrics import HOTA, Identity
    except ImportError:
        return None, None
    data = {str(i): _as_track_eval(t) for i, t in enumerate(tracks) if any(len(ids) for ids in t.true_ids)}
    if not data:
        return None, None
    hota, identity = HOTA(), Identity({"PRINT_CONFIG": False})
    hotas = hota.combine_sequences({name: hota.eval_sequence(d) for name, d in data.items()})
    identities = identity.combine_sequences({name: identity.eval_sequence(d) for name, d in data.items()})
    return float(np.mean(hotas["HOTA"])), float(identities["IDF1"])


def _as_track_eval(tracks: PairedTracks) -> dict[str, Any]:
    def distinct(ids: list[Any]) -> int:
        return len({int(k) for frame in ids for k in frame})

    return {
        "num_timesteps": len(tracks.true_ids),
        "num_gt_ids": distinct(tracks.true_ids),
        "num_tracker_ids": distinct(tracks.predicted_ids),
        "num_gt_dets": sum(map(len, tracks.true_ids)),
        "num_tracker_dets": sum(map(len, tracks.predicted_ids)),
        "gt_ids": tracks.true_ids,
        "tracker_ids": tracks.predicted_ids,
        "similarity_scores": tracks.similarities,
    }
