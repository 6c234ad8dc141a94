"""Reports comparisons: figures overall, by phrase and by clip, as a table and as JSON.

Recall, precision, IoU, id switches, MOTA, HOTA, pHOTA and IDF1 are TrackEval's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sam3ray.display.console import add_row
from sam3ray.display.readable import counted
from sam3ray.guard.printable import printable

from ._comparison import Comparison
from ._concept import score_concepts
from ._track_eval import combine

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Scores:
    """Figures of one phrase, of one clip, or overall. A figure without meaning is None, such as recall without a true
    object.

    Attributes:
        recall, precision, mota: CLEAR MOT (Bernardin and Stiefelhagen 2008) at the tolerance's IoU.
        mean_iou: mean IoU of the matches (CLEAR's MOTP).
        switches: how often the predicted id matched with a true object changes; `switches_per_1000` is per 1000 true
            boxes.
        j, f: region and outline measure of DAVIS, mean over true objects (`j_and_f` is the mean of the two).
        hota, idf1: Luiten et al. 2021; Ristani et al. 2016.
        phota: HOTA over all true objects, including barely visible ones (SA-Co's phrase HOTA).
        cgf1, pmf1, il_mcc: SA-Co's figure and its two factors, see `ConceptScores`.
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
    phota: float | None
    cgf1: float | None
    pmf1: float | None
    il_mcc: float | None
    absent_frames: int
    absent_rate: float | None

    @property
    def j_and_f(self) -> float | None:
        return None if self.j is None or self.f is None else (self.j + self.f) / 2


@dataclass(frozen=True)
class Report:
    """The comparison of a run with the truth. `missing` lists clips of the truth that the run has not annotated."""

    overall: Scores
    prompts: dict[str, Scores]
    clips: dict[str, Scores]
    missing: tuple[str, ...] = ()
    comparisons: tuple[Comparison, ...] = field(default=(), repr=False)

    def as_json(self) -> dict[str, Any]:
        return {
            "overall": _plain(self.overall),
            "prompts": {prompt: _plain(scores) for prompt, scores in self.prompts.items()},
            "clips": {clip_id: _plain(scores) for clip_id, scores in self.clips.items()},
            "missing_clips": list(self.missing),
        }

    def table(self) -> Table:
        from rich.table import Table
        from rich.text import Text

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
            "pHOTA",
            "cgF1",
            "id switches",
            "absent",
        )
        for name in names:
            table.add_column(name, justify="left" if name == "prompt" else "right")
        rows = [*self.prompts.items()]
        if len(rows) != 1:
            rows.append(("all", self.overall))
        for prompt, s in rows:
            figures = (s.recall, s.precision, s.mean_iou, s.j_and_f, s.hota, s.idf1, s.phota, s.cgf1)
            absent = "" if s.absent_rate is None else f"{100 * s.absent_rate:.1f}%"
            add_row(
                table, prompt, str(s.objects), str(s.true_boxes), *("" if v is None else f"{v:.3f}" for v in figures),
                str(s.switches), absent,
            )  # fmt: skip
        if self.missing:
            missing = ", ".join(self.missing[:5])
            table.caption = Text(
                printable(f"{counted(len(self.missing), 'clip')} of the truth without annotations: {missing}")
            )
        return table


def report_of(comparisons: Iterable[Comparison], missing: tuple[str, ...] = ()) -> Report:
    """Makes a report of comparisons. Objects of different phrases are never compared."""
    all_of_them = tuple(comparisons)

    def by(key: Callable[[Comparison], str]) -> dict[str, Scores]:
        groups: dict[str, list[Comparison]] = {}
        for one in all_of_them:
            groups.setdefault(key(one), []).append(one)
        return {name: score(groups[name]) for name in sorted(groups)}

    return Report(score(all_of_them), by(lambda c: c.prompt), by(lambda c: c.clip_id), missing, all_of_them)


def merge(reports: Iterable[Report]) -> Report:
    """Merges the reports of several clips into one."""
    reports = list(reports)
    return report_of((c for r in reports for c in r.comparisons), tuple(clip for r in reports for clip in r.missing))


def _plain(scores: Scores) -> dict[str, Any]:
    values = {**vars(scores), "j_and_f": scores.j_and_f}
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}


def score(parts: Sequence[Comparison]) -> Scores:
    """Figures over several comparisons. Every box has the same weight."""
    true_boxes, predicted_boxes = sum(p.true_boxes for p in parts), sum(p.predicted_boxes for p in parts)
    found = combine(part.measured for part in parts)
    clear = found["CLEAR"]
    phrase = combine((part.phrase for part in parts), ("HOTA",))["HOTA"]
    matches, switches = int(clear["CLR_TP"]), int(clear["IDSW"])
    absent = [part for part in parts if part.is_absent]
    absent_frames = sum(part.frames for part in absent)
    objects = np.array([pair for part in parts for pair in part.objects]).reshape(-1, 2)
    return Scores(
        clips=len({part.clip_id for part in parts}),
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
        hota=float(np.mean(found["HOTA"]["HOTA"])) if true_boxes else None,
        idf1=float(found["Identity"]["IDF1"]) if true_boxes else None,
        phota=float(np.mean(phrase["HOTA"])) if any(part.concept.true for part in parts) else None,
        **asdict(score_concepts(part.concept for part in parts)),
        absent_frames=absent_frames,
        absent_rate=_share(sum(part.frames_with_output for part in absent), absent_frames),
    )


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None
