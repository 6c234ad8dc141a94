"""Writes the report: as a job's last step, or later with stills, which CPU tasks render.

Crash contract: the page is replaced in one step. A process that dies before that leaves the old page.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sam3ray.config import ClusterConfig, RunSource, VideoConfig, run_place
from sam3ray.failures import ClipError, UserError
from sam3ray.guard.redact import redact
from sam3ray.job.cluster import connected
from sam3ray.job.rendering import NICENESS, TASK_OPTIONS
from sam3ray.reporting import ClipCard, ReportFacts, Still, StillsOrder, gather, stills_of, write_page
from sam3ray.store import RunStore, layout
from sam3ray.values.clip import Clip

_LOG = logging.getLogger(__name__)

AT_THE_END = 200  # clips whose rows are read for the page at the end of a job
_STILLS_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Reported:
    """The page that was written.

    Attributes:
        looked_at: number of clips whose rows were read.
        stills: number of stills on it. `without_stills`: why the other clips have none.
    """

    report: str
    clips: int
    looked_at: int
    stills: int
    size_bytes: int
    without_stills: Mapping[str, str]


def report(
    run: RunSource,
    storage_options: Mapping[str, Any] | None = None,
    *,
    clips: int = 12,
    stills: bool = True,
    sample: int | None = None,
    workers: int = 1,
    cluster: str | ClusterConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Reported:
    """Writes `report.html` into the run, with stills of the clips to look at first.

    Args:
        run: the output folder, or the job's YAML file, dict or `JobConfig`.
        storage_options: fsspec options; they override those of the configuration.
        clips: number of clips shown of those most likely wrong; half as many others are shown for comparison.
        stills: False writes the page without pictures, which does not need Ray.
        sample: read the rows of only this many clips, spread evenly over the manifest; None reads all.
        workers: processes that read rows.
        cluster: the Ray cluster that makes the stills: "auto" or host:port; None starts Ray on this machine.
        progress: called with the number of clips read and their total.

    Raises:
        UserError: there is no run.
        JobStopped: storage or Ray cannot be reached.
    """
    if not 1 <= clips <= 200:
        raise UserError(f"clips is {clips}; allowed: 1 to 200")
    output, options = run_place(run, storage_options)
    store = RunStore(output, options)
    facts = gather(store, worst=clips, best=clips // 2, sample=sample, workers=workers, progress=progress)
    if stills:
        place = cluster if isinstance(cluster, ClusterConfig) else ClusterConfig(address=cluster)
        facts = _with_stills(store, options, facts, place)
    size = write_page(store, facts)
    cards = [*facts.worst, *facts.best]
    return Reported(
        report=redact(store.path(layout.REPORT)),
        clips=facts.clips,
        looked_at=facts.looked_at,
        stills=sum(len(card.stills) for card in cards),
        size_bytes=size,
        without_stills={card.clip_id: card.no_stills for card in cards if card.no_stills},
    )


def leave_report(store: RunStore) -> None:
    """The page of a job that has ended, without stills. Errors are logged and do not change the job's result."""
    try:
        write_page(store, gather(store, sample=AT_THE_END, each=store.storage.each))
    except Exception as error:  # noqa: BLE001 - an error of the page must not change the job's result
        _LOG.warning("%s could not be written: %s", layout.REPORT, redact(str(error)))


def _with_stills(
    store: RunStore, options: Mapping[str, Any], facts: ReportFacts, cluster: ClusterConfig
) -> ReportFacts:
    cards = [*facts.worst, *facts.best]
    if not cards:
        return replace(facts, with_stills=True)
    saved = store.run_info()["config"].get("video", {})
    order = StillsOrder(store, options, VideoConfig.model_validate(saved, strict=False))
    by_id = {clip.clip_id: clip for clip in store.manifest()}
    with connected(cluster):
        found = _make_stills(order, [(by_id[card.clip_id], card.frame_index) for card in cards])
    filled = [_filled(card, each) for card, each in zip(cards, found, strict=True)]
    count = len(facts.worst)
    return replace(facts, worst=filled[:count], best=filled[count:], with_stills=True)


def _filled(card: ClipCard, found: Sequence[Still] | str) -> ClipCard:
    return replace(card, no_stills=found) if isinstance(found, str) else replace(card, stills=tuple(found))


def _make_stills(order: StillsOrder, clips: Sequence[tuple[Clip, int | None]]) -> list[Sequence[Still] | str]:
    """Each clip's stills, or why there are none."""
    import ray

    task = ray.remote(_stills_task).options(**TASK_OPTIONS, num_cpus=1)
    shared = ray.put(order)
    refs = [task.remote(shared, clip, suspect) for clip, suspect in clips]
    found: list[Sequence[Still] | str] = []
    for ref in refs:
        try:
            found.append(ray.get(ref, timeout=_STILLS_TIMEOUT_S))
        except ray.exceptions.GetTimeoutError:
            ray.cancel(ref, force=True)
            found.append(f"rendering them took longer than {_STILLS_TIMEOUT_S:.0f} s")
        except ray.exceptions.RayError as error:
            found.append(f"the process died: {redact(str(error).splitlines()[0])[:200]}")
    return found


def _stills_task(order: StillsOrder, clip: Clip, suspect: int | None) -> Sequence[Still] | str:
    """In a Ray worker: the stills, or the error."""
    import os

    os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    try:
        return stills_of(order, clip, suspect)
    except Exception as error:  # noqa: BLE001 - any error becomes this clip's note on the page
        text = str(error) if isinstance(error, ClipError) else f"{type(error).__name__}: {error}"
        return redact(" ".join(text.split()))[:300]
