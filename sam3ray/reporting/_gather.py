"""Gathers a run's facts, from storage alone.

Outcomes, frames and times come from `clips.parquet` and the failure records. Phrases, scores, lengths and the ranking
come from rows, clip by clip. With `sample`, only clips spread evenly over the manifest are read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import yaml

from sam3ray.guard.redact import redact
from sam3ray.reporting._facts import ClipCard, FailureGroup, Histogram, PromptFacts, ReportFacts
from sam3ray.screening import Each, rank_clips
from sam3ray.store import ClipSummary, RunStore
from sam3ray.values.clip import Clip

_EXAMPLES = 5  # of a reason
_MOST_PROMPTS = 60
_BINS = 24


def gather(
    store: RunStore,
    *,
    worst: int = 12,
    best: int = 6,
    sample: int | None = None,
    each: Each | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> ReportFacts:
    """Gathers the facts for the page.

    Args:
        worst, best: how many clips to show from either end of the ranking.
        sample: read the rows of only this many finished clips, spread evenly over the manifest; None reads all.
        each, workers, progress: see `rank_clips`.

    Raises:
        UserError: there is no run.
    """
    run = store.run_info()
    clips = store.manifest()
    done = store.done_ids()
    summaries = store.summaries(done)
    finished = [clip for clip in clips if clip.clip_id in done]
    chosen = _spread(finished, sample)
    ids = [clip.clip_id for clip in chosen]
    ranking, damaged = rank_clips(store, ids, each=each, workers=workers, progress=progress)
    rows = ranking.to_pylist()
    objects = [row for row in rows if row["level"] == "object"]
    ranked = [row for row in rows if row["level"] == "clip"]
    prompts, more = _prompts(chosen, objects)
    done_rows = [each for each in summaries.values() if each.status == "done"]
    gpus = float(_get(run, "config", "cluster", "gpus_per_actor") or 0)
    cpus = float(_get(run, "config", "cluster", "cpus_per_actor") or 1)
    seconds = sum(each.seconds for each in summaries.values())
    rendered = store.rendered_ids()
    by_id = {clip.clip_id: clip for clip in clips}
    filled = [row for row in ranked if row["objects"]]
    first = filled[: min(worst, -(-2 * len(filled) // 3))]  # if clips are few, a third is left for the other end
    last = filled[len(first) :][-best:][::-1] if best else []
    return ReportFacts(
        name=store.storage.shown().rstrip("/").rpartition("/")[2],
        output=store.storage.shown(),
        about=_about(run),
        settings=yaml.safe_dump(run.get("config", {}), sort_keys=False, allow_unicode=True),
        outcomes={name: count for name in ("done", "failed", "left") if (count := _count(summaries, name))},
        frames=sum(each.frames for each in done_rows),
        objects=sum(each.objects for each in done_rows),
        rows=sum(each.rows for each in done_rows),
        seconds=seconds,
        device="GPU" if gpus else "CPU",
        device_hours=seconds * (gpus or cpus) / 3600,
        began=min((each.finished_at - each.seconds for each in done_rows if each.finished_at), default=None),
        ended=max((each.finished_at for each in done_rows if each.finished_at), default=None),
        failures=_failures(summaries),
        prompts=prompts,
        more_prompts=more,
        histograms=tuple(_histograms(done_rows, objects)),
        stages=_stages(done_rows),
        worst=[_card(row, by_id, summaries, rendered, row["why"]) for row in first],
        best=[_card(row, by_id, summaries, rendered, "") for row in last],
        looked_at=len(ids),
        damaged=damaged,
    )


def _spread(clips: Sequence[Clip], count: int | None) -> Sequence[Clip]:
    if count is None or len(clips) <= count:
        return clips
    return [clips[at * len(clips) // count] for at in range(count)]


def _get(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _about(run: Mapping[str, Any]) -> dict[str, str]:
    """Identifies the run, in words. Omits what `run.json` lacks."""
    fingerprint = run.get("fingerprint", {})
    model = _get(run, "config", "model") or {}
    checkpoint = _get(run, "checkpoint") or {}
    versions = _get(run, "versions") or {}
    device = run.get("device")
    values = {
        "checkpoint": model.get("checkpoint"),
        "revision": checkpoint.get("commit") or model.get("revision"),
        "precision": _get(fingerprint, "model", "dtype") or model.get("dtype"),
        "device": device if isinstance(device, str) else _get(device, "name") or _get(device, "kind"),
        "manifest": _get(run, "config", "manifest"),
        "clips in the manifest": _get(run, "manifest", "clips"),
        "started": _moment(run.get("created_at")),
        "run id": run.get("run_id"),
        "sam3ray": versions.get("sam3ray"),
        "torch": versions.get("torch"),
        "transformers": versions.get("transformers"),
    }
    return {name: redact(str(value)) for name, value in values.items() if value not in (None, "", {})}


def _moment(stamp: Any) -> str | None:
    try:
        return f"{datetime.fromisoformat(stamp).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except (TypeError, ValueError, OverflowError):
        return None


def _count(summaries: Mapping[str, ClipSummary], status: str) -> int:
    return sum(each.status == status for each in summaries.values())


def _failures(summaries: Mapping[str, ClipSummary]) -> tuple[FailureGroup, ...]:
    groups: dict[str, list[ClipSummary]] = {}
    for each in summaries.values():
        if each.status == "failed":
            groups.setdefault(each.reason or "unknown", []).append(each)
    return tuple(
        FailureGroup(
            reason, len(found), tuple((each.clip_id, redact(each.message)[:600]) for each in found[:_EXAMPLES])
        )
        for reason, found in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    )


def _prompts(clips: Sequence[Clip], objects: Sequence[Mapping[str, Any]]) -> tuple[tuple[PromptFacts, ...], int]:
    asked = Counter(label for clip in clips for label in clip.names)
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in objects:
        found.setdefault(row["prompt"], []).append(row)
    facts = [
        PromptFacts(
            prompt,
            asked.get(prompt, 0),
            len({row["clip_id"] for row in found.get(prompt, ())}),
            len(found.get(prompt, ())),
            sum(row["rows"] for row in found.get(prompt, ())),
            float(np.median([1 - row["low_score"] for row in found[prompt]])) if prompt in found else None,
        )
        for prompt in asked.keys() | found.keys()
    ]
    facts.sort(key=lambda each: (-each.objects, -each.asked, each.prompt))
    return tuple(facts[:_MOST_PROMPTS]), max(0, len(facts) - _MOST_PROMPTS)


def _histograms(done: Sequence[ClipSummary], objects: Sequence[Mapping[str, Any]]) -> list[Histogram]:
    scores = [1 - row["low_score"] for row in objects]
    return [
        _histogram("Detection score", "objects", scores, 0, 1),
        _histogram("Length of a track", "objects, by frames", [row["rows"] for row in objects]),
        _histogram("Length of a clip", "clips, by frames", [each.frames for each in done]),
        _histogram("Objects in a clip", "clips", [each.objects for each in done]),
    ]


def _histogram(
    title: str, note: str, values: Sequence[float], low: float | None = None, high: float | None = None
) -> Histogram:
    """Bins of even width. Outliers at the top share the last bin."""
    if not values:
        return Histogram(title, note, (0.0, 1.0), (0,))
    numbers = np.asarray(values, float)
    low = 0.0 if low is None else low
    whole = high is None
    if high is None:
        high = max(float(np.percentile(numbers, 99.5)), low + 1)
    bins = _BINS
    if whole:  # whole numbers need bins of a whole width
        step = max(1, int(np.ceil((high - low + 1) / _BINS)))
        bins = int(np.ceil((high - low + 1) / step))
        high = low + bins * step
    counts, edges = np.histogram(np.clip(numbers, low, np.nextafter(high, low)), bins, (low, high))
    return Histogram(title, note, tuple(edges.tolist()), tuple(counts.tolist()))


def _stages(done: Sequence[ClipSummary]) -> dict[str, float]:
    """Seconds by stage, the longest first."""
    stages: dict[str, float] = {}
    for each in done:
        for name, seconds in each.timings.items():
            stages[name] = stages.get(name, 0.0) + seconds
    return {name: seconds for name, seconds in sorted(stages.items(), key=lambda item: -item[1]) if seconds > 0}


def _card(
    row: Mapping[str, Any],
    clips: Mapping[str, Clip],
    summaries: Mapping[str, ClipSummary],
    rendered: set[str],
    why: str,
) -> ClipCard:
    clip_id = row["clip_id"]
    return ClipCard(
        clip_id=clip_id,
        uri=redact(clips[clip_id].uri),
        suspicion=row["suspicion"],
        why=why,
        objects=row["objects"],
        rows=row["rows"],
        frames=summaries[clip_id].frames,
        frame_index=row["frame_index"],
        has_video=clip_id in rendered,
    )
