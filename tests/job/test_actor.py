"""The actor's plain class, without Ray: its methods in threads, as Ray calls them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from sam3ray.config import JobConfig
from sam3ray.job import intake
from sam3ray.job.actor import ClipActor, WorkOrder
from sam3ray.job.agreement import agreement
from sam3ray.job.graph import Work
from sam3ray.job.intake import Opened
from sam3ray.job.result import ClipResult
from sam3ray.job.worker import ClipWorker
from sam3ray.store import RunStore
from sam3ray.values.clip import Clip
from tests.e2e.clips import write_clip
from tests.job.fakes import DrawnSegmenter

Gives = Callable[[ClipActor, Clip], None]


def dropped(actor: ClipActor, clip: Clip) -> None:
    actor.drop_prefetch(clip.clip_id)


def run(actor: ClipActor, clip: Clip) -> None:
    assert isinstance(actor.run(clip, 0, 1, Work(1)), ClipResult)


@pytest.mark.parametrize("gives_up", [dropped, run])
def test_a_prefetch_that_is_given_up_before_it_begins_says_no(
    gives_up: Gives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error would be taken for the death of the actor."""
    clips = [Clip(f"clip-{n}", str(tmp_path / f"{n}.mp4"), ("red",)) for n in range(2)]
    for number, clip in enumerate(clips):
        write_clip(Path(clip.uri), number, frames=4)
    under_way, may_go_on, check = threading.Event(), threading.Event(), intake.check_source

    def waits(clip: Clip, source: str) -> None:
        if clip is clips[0]:
            under_way.set()
            assert may_go_on.wait(60)
        check(clip, source)

    asked, prefetch = threading.Event(), ClipWorker.prefetch

    def asks(worker: ClipWorker, clip: Clip, first_frames: bool = True) -> Future[Opened]:
        future = prefetch(worker, clip, first_frames)
        if clip is clips[1]:
            asked.set()
        return future

    monkeypatch.setattr(intake, "check_source", waits)
    monkeypatch.setattr(ClipWorker, "prefetch", asks)
    config = JobConfig(manifest="m.csv", output=str(tmp_path / "run"), prompts=("red",), cluster={"gpus_per_actor": 0})
    store = RunStore(config.output)
    store.create_or_open({"a": 1}, {}, clips)
    actor = ClipActor(0)
    actor.load(WorkOrder(config, store, {"a": 1}, DrawnSegmenter, "info", agreement(config, {})))
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(actor.prefetch, clips[0], False)
        assert under_way.wait(60)
        behind = threads.submit(actor.prefetch, clips[1], False)
        assert asked.wait(60)
        gives_up(actor, clips[1])
        may_go_on.set()
        assert first.result(60)
        assert not behind.result(60)
    actor.close()
