"""Bad videos beside good ones: each bad one has its reason, every good one is done."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sam3ray.failures import UserError
from sam3ray.job.driver import run_job
from sam3ray.store import RunStore, verify_run
from tests.e2e.runs import annotations_of, config_for
from tests.files.test_web import endless, server
from tests.job.fakes import DrawnSegmenter
from tests.video.media import set_display_matrix, write_sound, write_video
from tests.video.test_container_tables import bombs

pytestmark = pytest.mark.usefixtures("local_ray")


def write_manifest(folder: Path, rows: Mapping[str, Path | str]) -> Path:
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["clip_id", "uri", "source"])
        writer.writerows([clip_id, str(path), f"of {clip_id}"] for clip_id, path in rows.items())
    return manifest


@pytest.fixture
def videos(tmp_path: Path) -> dict[str, Path]:
    text = tmp_path / "text.mp4"
    text.write_text("This is no video at all.\n" * 100)
    truncated = write_video(tmp_path / "truncated.mp4")
    truncated.write_bytes(truncated.read_bytes()[: truncated.stat().st_size // 2])
    empty = tmp_path / "empty.mp4"
    empty.touch()
    bomb = tmp_path / "bomb.mp4"
    bomb.write_bytes(bombs(tmp_path)["all tables"])
    os.mkfifo(tmp_path / "fifo.mp4")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    return {
        "good": write_video(tmp_path / "good.mp4", 12),
        "text": text,
        "truncated": truncated,
        "sound": write_sound(tmp_path / "sound.mp4"),
        "missing": tmp_path / "missing.mp4",
        "empty": empty,
        "bomb": bomb,
        "fifo": tmp_path / "fifo.mp4",
        "loop": tmp_path / "loop.mp4",
        "one_frame": write_video(tmp_path / "one.mp4", 1),
        "odd": write_video(tmp_path / "odd.mp4", 5, size=(65, 49), pix_fmt="yuv444p"),
        "rotated": set_display_matrix(write_video(tmp_path / "rotated.mp4", 5, size=(64, 48)), "clockwise"),
    }


def test_each_bad_one_has_its_reason_and_all_good_ones_are_done(videos: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "run"
    with server(endless) as url:
        manifest = write_manifest(tmp_path, {**videos, "endless": f"{url}/a.mp4"})
        config = config_for(manifest, output, actors=1, video={"max_size_bytes": 1_000_000})
        summary = run_job(config, make_segmenter=DrawnSegmenter)
    assert summary.exit_code == 1
    assert (summary.done, summary.left) == (4, 0)
    reasons = {failure.clip_id: failure.reason.value for failure in RunStore(str(output)).failures()}
    assert reasons == {
        "text": "unreadable_video",
        "truncated": "unreadable_video",
        "sound": "no_video_stream",
        "missing": "not_found",
        "empty": "unreadable_video",
        "bomb": "over_limits",
        "fifo": "unreadable_video",
        "loop": "not_found",
        "endless": "over_limits",
    }
    done = annotations_of(output)
    frames = {name: set(table["frame_index"].to_pylist()) for name, table in done.items()}
    assert {name: len(found) for name, found in frames.items()} == {"good": 12, "one_frame": 1, "odd": 5, "rotated": 5}
    sizes = {name: table["segmentation"][0].as_py()["size"] for name, table in done.items()}
    assert sizes == {"good": [48, 64], "one_frame": [48, 64], "odd": [49, 65], "rotated": [64, 48]}
    clips = {row["clip_id"]: row for row in pq.read_table(output / "clips.parquet").to_pylist()}
    assert clips["text"]["status"] == "failed"
    assert clips["text"]["reason"] == "unreadable_video"
    assert clips["odd"]["source"] == "of odd"
    assert verify_run(str(output)) == []


def test_a_clip_id_that_climbs_out_is_refused_before_anything_starts(videos: dict[str, Path], tmp_path: Path) -> None:
    rows = {"good": videos["good"], "../../x": videos["odd"], "": videos["rotated"], "..": videos["odd"]}
    with pytest.raises(UserError) as caught:
        run_job(config_for(write_manifest(tmp_path, rows), tmp_path / "run", actors=1), make_segmenter=DrawnSegmenter)
    assert any("../../x" in problem and "3" in problem for problem in caught.value.problems)
    assert not (tmp_path / "run").exists()
