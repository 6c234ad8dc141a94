"""Annotated videos beside a running job, and later from a finished one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import av
import pytest

from sam3ray.failures import Failure, UserError
from sam3ray.job import ClipResult, render_run, run_job
from sam3ray.job.observe import Snapshot
from sam3ray.job.reporting import report
from tests.e2e.clips import write_clips
from tests.e2e.runs import annotations_of, config_for
from tests.job.fakes import DrawnSegmenter

pytestmark = pytest.mark.usefixtures("local_ray")


class Watching:
    """Keeps what it is told."""

    def __init__(self, seen: list[Snapshot]) -> None:
        self.seen = seen

    def update(self, snapshot: Snapshot) -> None:
        self.seen.append(snapshot)

    def clip_done(self, result: ClipResult) -> None: ...

    def clip_failed(self, failure: Failure) -> None: ...

    def close(self) -> None: ...


def frames_of(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_videos_follow_the_clips_and_what_is_missing_comes_later(tmp_path: Path) -> None:
    manifest = write_clips(tmp_path / "clips", 3, frames=[8, 6, 7])
    output = tmp_path / "run"
    config = config_for(manifest, output, actors=1, render={"enabled": True})
    summary = run_job(config, make_segmenter=DrawnSegmenter)
    assert (summary.done, summary.rendered, summary.exit_code) == (3, 3, 0)
    videos = {path.stem: frames_of(path) for path in (output / "videos").iterdir()}
    assert videos == {"clip-000": 8, "clip-001": 6, "clip-002": 7}

    (output / "videos" / "clip-001.mp4").unlink()
    (output / "videos" / "clip-002.mp4").unlink()
    (tmp_path / "clips" / "clip-002.mp4").unlink()  # its source is gone: the clip stays done all the same
    again = run_job(config, make_segmenter=DrawnSegmenter)
    assert (again.done, again.skipped, again.rendered, again.exit_code) == (0, 3, 1, 0)
    assert list(again.render_failures) == ["clip-002"]
    assert "not_found" in again.render_failures["clip-002"]
    assert len(annotations_of(output)) == 3

    before = (output / "videos" / "clip-000.mp4").stat().st_mtime_ns
    later = render_run(str(output), ["clip-000", "clip-002"])
    assert (later.rendered, later.skipped, later.exit_code) == (0, 1, 1)
    assert (output / "videos" / "clip-000.mp4").stat().st_mtime_ns == before
    anew = render_run(str(output), ["clip-000"], overwrite=True)
    assert (anew.rendered, anew.exit_code) == (1, 0)
    assert (output / "videos" / "clip-000.mp4").stat().st_mtime_ns > before

    # The job has left a page without stills; `report` makes them as tasks; a job that finds nothing to do leaves them.
    page = output / "report.html"
    assert "sam3ray report</code> adds stills" in page.read_text()
    done = report(output)
    assert (done.clips, done.looked_at, done.stills, list(done.without_stills)) == (3, 3, 12, ["clip-002"])
    assert "not_found" in done.without_stills["clip-002"]
    assert page.read_text().count("data:image/jpeg;base64,") == 12
    run_job(config, make_segmenter=DrawnSegmenter)
    assert page.read_text().count("data:image/jpeg;base64,") == 12


def test_what_is_not_done_cannot_be_rendered(tmp_path: Path) -> None:
    manifest = write_clips(tmp_path / "clips", 1, frames=3)
    (tmp_path / "clips" / "clip-000.mp4").write_bytes(b"")
    run_job(config_for(manifest, tmp_path / "run", actors=1), make_segmenter=DrawnSegmenter)
    with pytest.raises(UserError) as caught:
        render_run(str(tmp_path / "run"), ["clip-000", "clip-999"])
    assert caught.value.problems[0].startswith("clip 'clip-999' is not in the manifest")
    assert caught.value.problems[1] == "clip 'clip-000' is not done, so there is nothing to render"
    with pytest.raises(UserError, match="there is no run in"):
        render_run(str(tmp_path / "nothing"))


def test_rendering_gets_the_cpus_of_actors_that_have_nothing_left_to_do(tmp_path: Path) -> None:
    """Two CPUs, both of which the actors hold, whose minimum is two."""
    manifest = write_clips(tmp_path / "clips", 2, frames=[6, 5])
    config = config_for(
        manifest, tmp_path / "run", cpus=1, render={"enabled": True}, cluster={"actors": {"min": 2, "max": 2}}
    )
    seen: list[Snapshot] = []
    summary = run_job(config, make_segmenter=DrawnSegmenter, progress=Watching(seen))
    assert (summary.done, summary.rendered, summary.exit_code) == (2, 2, 0)
    assert {snapshot.videos for snapshot in seen} == {2}
    assert seen[-1].rendered == 2


def test_a_task_that_asks_for_more_cpus_than_there_are_renders_all_the_same(tmp_path: Path) -> None:
    manifest = write_clips(tmp_path / "clips", 1, frames=4)
    config = config_for(manifest, tmp_path / "run", actors=1, render={"enabled": True, "cpus_per_task": 64})
    summary = run_job(config, make_segmenter=DrawnSegmenter)
    assert (summary.rendered, summary.exit_code) == (1, 0)
    (tmp_path / "run" / "videos" / "clip-000.mp4").unlink()
    assert render_run(str(tmp_path / "run")).rendered == 1


def test_a_rendering_process_without_progress_is_ended(tmp_path: Path) -> None:
    code = (
        "import time\nfrom sam3ray.job.watchdog import Watchdog\n"
        "with Watchdog(lambda: int(time.monotonic() - began) if time.monotonic() - began < 2 else 2, 0.8):\n"
        "    time.sleep(60)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import time; began = time.monotonic()\n{code}"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "Timeout" in done.stderr
