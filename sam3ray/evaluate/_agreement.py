"""Compares two runs of the same clips: do they find the same objects, under the same identities?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sam3ray.config import RunSource, run_place
from sam3ray.display.console import add_row
from sam3ray.display.readable import counted
from sam3ray.evaluate._assignment import best_pairs
from sam3ray.failures import UserError
from sam3ray.guard.printable import printable
from sam3ray.guard.processes import in_processes
from sam3ray.guard.redact import redact
from sam3ray.masks import read_rle
from sam3ray.revisions import ClipOperation, Edits
from sam3ray.store.labelled_frames import labelled_frames
from sam3ray.values.annotations import FrameAnnotations

from ._comparison import mask_ious
from ._stored import StoredClip, open_run, read_stored

if TYPE_CHECKING:
    from rich.table import Table

    from sam3ray.store import RunStore

_EVENTS = 100  # changes listed per clip and phrase
_SHOWN = 10  # clips listed in the table


@dataclass(frozen=True)
class Change:
    """A change of id: until `frame` the other run's object `other_id` was `from_id` here, from `frame` on it is
    `to_id`.
    """

    frame: int
    other_id: int
    from_id: int
    to_id: int


@dataclass(frozen=True)
class Agreement:
    """How far two runs agree: on one phrase of one clip, on one clip, or overall. Counts can be added.

    Attributes:
        rows, other_rows: masks in each run, on frames that both runs looked at.
        matched: pairs of masks on one frame with enough IoU, one to one.
        equal: matched pairs with identical pixels.
        iou_sum: sum of the matched pairs' IoU.
        objects, other_objects: number of identities in each run.
        kept: identities of the other run with a single partner here that has no other partner.
        agreeing: matched pairs whose identities are partners, in the best one-to-one pairing of identities.
        switches: how often an object of the other run changes its id here.
        merges: how often an object here changes its id in the other run.
    """

    rows: int = 0
    other_rows: int = 0
    matched: int = 0
    equal: int = 0
    iou_sum: float = 0.0
    objects: int = 0
    other_objects: int = 0
    kept: int = 0
    agreeing: int = 0
    switches: int = 0
    merges: int = 0

    @property
    def overlap(self) -> float | None:
        """Share of all masks that are matched: 2 matched / (rows + other rows)."""
        return _share(2 * self.matched, self.rows + self.other_rows)

    @property
    def idf1(self) -> float | None:
        """IDF1 (Ristani et al. 2016), which is symmetric: share of all masks matched to the right identity."""
        return _share(2 * self.agreeing, self.rows + self.other_rows)

    @property
    def identity(self) -> float | None:
        """Share of the matched pairs whose identities are partners."""
        return _share(self.agreeing, self.matched)

    @property
    def mean_iou(self) -> float | None:
        return _share(self.iou_sum, self.matched)

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def as_json(self) -> dict[str, Any]:
        shares = {name: getattr(self, name) for name in ("overlap", "identity", "idf1", "mean_iou")}
        values = {name: value for name, value in vars(self).items() if name != "iou_sum"} | shares
        return {name: round(value, 6) if isinstance(value, float) else value for name, value in values.items()}


@dataclass(frozen=True)
class AgreementReport:
    """The result of `compare_runs`: overall, by phrase and by clip.

    Attributes:
        changes: by clip, where an object of the other run changes its id here.
        only_here, only_there: clips that only one of the runs has.
    """

    overall: Agreement
    prompts: dict[str, Agreement]
    clips: dict[str, Agreement]
    changes: dict[str, list[Change]] = field(default_factory=dict)
    only_here: tuple[str, ...] = ()
    only_there: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "overall": self.overall.as_json(),
            "prompts": {name: each.as_json() for name, each in self.prompts.items()},
            "clips": {name: each.as_json() for name, each in self.clips.items()},
            "changes": {name: [vars(change) for change in found] for name, found in self.changes.items()},
            "only_here": list(self.only_here),
            "only_there": list(self.only_there),
        }

    def table(self) -> Table:
        """Agreement by phrase, then of the clips that agree least."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title="Against the other run", title_justify="left", box=None, pad_edge=False)
        names = ("", "masks", "other", "matched", "IoU", "same pixels", "ids agree", "IDF1", "objects", "other",
                 "ids kept", "switches", "merges")  # fmt: skip
        for name in names:
            table.add_column(name, justify="right" if name else "left")
        worst = sorted(self.clips, key=lambda clip: (self.clips[clip].idf1 is None, self.clips[clip].idf1, clip))
        unlike = [clip for clip in worst if self.clips[clip].idf1 not in (None, 1.0)][:_SHOWN]
        for name, each in [*self.prompts.items(), ("all", self.overall), *((c, self.clips[c]) for c in unlike)]:
            add_row(table, *_cells(name, each))
        missing = [
            f"{counted(len(clips), 'clip')} only in {where} run: {', '.join(clips[:5])}"
            for clips, where in ((self.only_here, "this"), (self.only_there, "the other"))
            if clips
        ]
        if missing:
            table.caption = Text(printable("; ".join(missing)))
        return table


def _cells(name: str, a: Agreement) -> list[str]:
    def share(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    return [
        name,
        str(a.rows),
        str(a.other_rows),
        share(a.overlap),
        share(a.mean_iou),
        share(_share(a.equal, a.matched)),
        share(a.identity),
        share(a.idf1),
        str(a.objects),
        str(a.other_objects),
        str(a.kept),
        str(a.switches),
        str(a.merges),
    ]


def compare_runs(
    output: RunSource,
    other: RunSource,
    storage_options: Mapping[str, Any] | None = None,
    iou: float = 0.5,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    *,
    revision: int | str | None = None,
) -> AgreementReport:
    """Measures how far two runs agree on objects and identities. Neither counts as the truth.

    Compares the clips that both have finished, phrase by phrase, on the frames that both have looked at.

    Args:
        output, other: output folders, or the jobs' YAML files, dicts or `JobConfig`s.
        iou: minimum mask IoU for two masks on one frame to count as the same object.
        workers: processes to share the clips among. The report does not depend on it.
        progress: called with the number of clips compared, and of all.
        revision: of `output`: None for the model's own rows; "latest" or a number applies the corrections up to that
            revision.

    Raises:
        UserError: a run has no annotations or damaged ones, the runs share no clip, or frame sizes differ.
    """
    run, other_run = (open_run(*run_place(each, storage_options)) for each in (output, other))
    here, there = run.done_ids(), other_run.done_ids()
    both = sorted(here & there)
    if not both:
        raise UserError(
            f"{redact(run.output)} and {redact(other_run.output)} have no clip in common; clips are matched by id"
        )
    clips: dict[str, Agreement] = {}
    prompts: dict[str, Agreement] = {}
    changes: dict[str, list[Change]] = {}
    edits = Edits(run)
    call = _Compare(run, other_run, iou, edits.operations(edits.number_of(revision)))
    for count, (clip_id, found) in enumerate(zip(both, in_processes(call, both, workers), strict=True), 1):
        clips[clip_id] = Agreement()
        for prompt, (agreement, events) in found.items():
            clips[clip_id] += agreement
            prompts[prompt] = prompts.get(prompt, Agreement()) + agreement
            if events:
                changes[clip_id] = sorted([*changes.get(clip_id, []), *events], key=lambda each: each.frame)
        if progress is not None:
            progress(count, len(both))
    return AgreementReport(
        sum(clips.values(), Agreement()),
        dict(sorted(prompts.items())),
        clips,
        changes,
        tuple(sorted(here - there)),
        tuple(sorted(there - here)),
    )


def object_agreement(run: RunStore, other: RunStore, clip_id: str, iou: float = 0.5) -> dict[int, tuple[float, int]]:
    """How far each object of a clip keeps its identity in the other run.

    For each object, returns the share of its rows on which the other run has it under its partner's id (on frames that
    both runs looked at), and its first row where that is not so.

    Raises:
        UserError: see `compare_runs`.
    """
    one, two = read_stored(run, clip_id), read_stored(other, clip_id)
    frames = _common_frames(one, two)
    pairs: dict[str, dict[tuple[int, int], int]] = {}
    met: list[tuple[int, str, dict[int, int]]] = []
    for t in frames:
        objects = one.frames[t].objects if t in one.frames else ()
        for prompt in dict.fromkeys(item.prompt for item in objects):
            here = _objects(one.frames.get(t), prompt)
            there = _objects(two.frames.get(t), prompt)
            matched = _match(here, there, iou) if there else {}
            met.append((t, prompt, {a: matched.get(a, 0) for a in here}))
            counts = pairs.setdefault(prompt, {})
            for pair in matched.items():
                counts[pair] = counts.get(pair, 0) + 1
    partners = {prompt: _partners(counts) for prompt, counts in pairs.items()}
    total: dict[int, int] = {}
    same: dict[int, int] = {}
    first: dict[int, int] = {}
    for _, prompt, found in met:
        for a, b in found.items():
            if b and partners[prompt].get(a) == b:
                same[a] = same.get(a, 0) + 1
            else:
                first.setdefault(a, total.get(a, 0))
            total[a] = total.get(a, 0) + 1
    return {a: (same.get(a, 0) / count, first.get(a, 0)) for a, count in total.items()}


def _match(here: Mapping[int, tuple[str, Any]], there: Mapping[int, tuple[str, Any]], iou: float) -> dict[int, int]:
    similar = mask_ious([mask for _, mask in here.values()], [mask for _, mask in there.values()])
    keys, other_keys = list(here), list(there)
    pairs = zip(*best_pairs(np.where(similar >= iou, similar, 0.0)), strict=True)
    return {keys[i]: other_keys[j] for i, j in pairs if similar[i, j] >= iou}


@dataclass(frozen=True)
class _Compare:
    run: RunStore
    other: RunStore
    iou: float
    corrections: Mapping[str, Sequence[ClipOperation]]

    def __call__(self, clip_id: str) -> dict[str, tuple[Agreement, list[Change]]]:
        one = read_stored(self.run, clip_id, self.corrections.get(clip_id, ()))
        two = read_stored(self.other, clip_id)
        try:
            sizes = [{(f.width, f.height) for f in each.frames.values()} for each in (one, two)]
            if all(sizes) and sizes[0] != sizes[1]:
                raise ValueError("its frames are " + " in one run and ".join(_shown(each) for each in sizes))
            return compare_clip(one.frames, two.frames, _common_frames(one, two), self.iou)
        except ValueError as error:
            raise UserError(f"clip {clip_id}: {redact(str(error))}") from None


def _shown(sizes: set[tuple[int, int]]) -> str:
    return ", ".join(f"{width}x{height}" for width, height in sorted(sizes)) + " pixels"


def _common_frames(one: StoredClip, two: StoredClip) -> list[int]:
    frames = [set(labelled_frames(each.facts, each.frames.keys())) for each in (one, two)]
    return sorted(frames[0] & frames[1])


def compare_clip(
    here: Mapping[int, FrameAnnotations], there: Mapping[int, FrameAnnotations], frames: Sequence[int], iou: float
) -> dict[str, tuple[Agreement, list[Change]]]:
    """Compares each phrase that occurs on these frames."""
    phrases = dict.fromkeys(
        item.prompt for side in (here, there) for t in frames if t in side for item in side[t].objects
    )
    return {prompt: _compare_phrase(here, there, frames, prompt, iou) for prompt in phrases}


def _compare_phrase(
    here: Mapping[int, FrameAnnotations],
    there: Mapping[int, FrameAnnotations],
    frames: Sequence[int],
    prompt: str,
    iou: float,
) -> tuple[Agreement, list[Change]]:
    rows = [0, 0]
    ids: tuple[set[int], set[int]] = (set(), set())
    together: dict[tuple[int, int], int] = {}
    last: dict[int, int] = {}
    last_there: dict[int, int] = {}
    equal, iou_sum, merges = 0, 0.0, 0
    changes: list[Change] = []
    switches = 0
    for t in frames:
        sides = [_objects(side.get(t), prompt) for side in (here, there)]
        for k, side in enumerate(sides):
            rows[k] += len(side)
            ids[k].update(side)
        if not all(sides):
            continue
        one, two = sides
        similar = mask_ious([mask for _, mask in one.values()], [mask for _, mask in two.values()])
        keys, other_keys = list(one), list(two)
        # Among equals, pairs of the previous frame win, as in CLEAR MOT.
        held = np.array([[last.get(b) == a for b in other_keys] for a in keys])
        worth = np.where(similar >= iou, similar + 10.0 * held, 0.0)
        for i, j in zip(*best_pairs(worth), strict=True):
            if similar[i, j] < iou:
                continue
            a, b = keys[i], other_keys[j]
            together[a, b] = together.get((a, b), 0) + 1
            equal += one[a][0] == two[b][0]
            iou_sum += float(similar[i, j])
            if last.get(b, a) != a:
                switches += 1
                if len(changes) < _EVENTS:
                    changes.append(Change(t, b, last[b], a))
            merges += last_there.get(a, b) != b
            last[b], last_there[a] = a, b
    agreement = Agreement(
        rows=rows[0],
        other_rows=rows[1],
        matched=sum(together.values()),
        equal=equal,
        iou_sum=iou_sum,
        objects=len(ids[0]),
        other_objects=len(ids[1]),
        kept=_kept(together),
        agreeing=_agreeing(together),
        switches=switches,
        merges=merges,
    )
    return agreement, changes


def _objects(frame: FrameAnnotations | None, prompt: str) -> dict[int, tuple[str, Any]]:
    """By id: the run lengths as text, and in the form that is measured."""
    items = () if frame is None else (item for item in frame.objects if item.prompt == prompt and item.area)
    return {item.object_id: (item.rle, read_rle(item.rle, frame.height, frame.width)) for item in items if frame}


def _kept(together: Mapping[tuple[int, int], int]) -> int:
    of_one = [a for a, _ in together]
    of_two = [b for _, b in together]
    return sum(of_one.count(a) == 1 and of_two.count(b) == 1 for a, b in together)


def _agreeing(together: Mapping[tuple[int, int], int]) -> int:
    return sum(together[pair] for pair in _partners(together).items() if pair in together)


def _partners(together: Mapping[tuple[int, int], int]) -> dict[int, int]:
    """Pairs identities one to one, so that as many matched pairs as possible agree."""
    rows = {a: i for i, a in enumerate(dict.fromkeys(a for a, _ in together))}
    columns = {b: j for j, b in enumerate(dict.fromkeys(b for _, b in together))}
    counts = np.zeros((len(rows), len(columns)), np.int64)
    for (a, b), count in together.items():
        counts[rows[a], columns[b]] = count
    ids, other_ids = list(rows), list(columns)
    return {ids[i]: other_ids[j] for i, j in zip(*best_pairs(counts), strict=True)}


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None
