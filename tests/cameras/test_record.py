"""Recordings that are broken off, continued, and made under bad conditions."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sam3ray
from sam3ray.cameras import LiveFrame, _record, live, watch
from sam3ray.cameras._record import Recorder
from sam3ray.cameras._segments import Placed, Segments
from sam3ray.config import LiveConfig, TrackingConfig
from sam3ray.failures import ClipError, JobStopped, Reason, UserError
from sam3ray.masks import encode_masks
from sam3ray.shapes import ClipSpec, write_clip
from sam3ray.store import RunStore, verify_run
from sam3ray.values.annotations import FrameAnnotations, ObjectAnnotation
from sam3ray.video import RgbConverter
from tests.cameras.rtsp_camera import RtspCamera, encoded
from tests.test_full_disk import disk, use_as_temporary

SPEC = ClipSpec(seed=6, frames=24, width=160, height=90, objects=(2, 3))
NOON = 1_790_000_000.0


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("record") / "clip.mp4"
    write_clip(SPEC, path)
    return path


@pytest.fixture(scope="module")
def model() -> sam3ray.Model:
    return sam3ray.load("embedded", device="cpu")


@dataclass
class Said:
    """A view whose answers are given."""

    phrases: tuple[str, ...] = ("star",)
    changed_thresholds: dict[str, Any] = field(default_factory=dict)
    hotstart_delay: int = 1
    model_info: dict[str, Any] = field(default_factory=lambda: {"checkpoint": "said", "dtype": "float32"})
    next_id: int = 1

    def start_ids_at(self, first: int) -> None:
        self.next_id = first

    def begin_anew(self) -> None: ...

    def step(self, image: np.ndarray, time_s: float) -> tuple[FrameAnnotations, frozenset[int], frozenset[int]]:
        return FrameAnnotations(0, 0, time_s, *image.shape[:2]), frozenset(), frozenset()


def one_object(index: int, object_id: int, prompt: str = "star") -> FrameAnnotations:
    mask = np.zeros((1, 8, 8), bool)
    mask[0, 2:4, 2:4] = True
    (encoded,) = encode_masks(mask)
    item = ObjectAnnotation(object_id, prompt, 0.9, 0.9, (2.0, 2.0, 4.0, 4.0), 4, encoded.rle)
    return FrameAnnotations(index, index, index / 30, 8, 8, (item,))


def record(output: Path, view: Said, at: float = NOON, clips: int = 1) -> None:
    """Clips of one frame, with an object each."""
    with Recorder(str(output), "rtsp://camera/live", view, record_video=False) as recorder:
        for number in range(clips):
            view.next_id += 1
            recorder.write(Placed(number, 0, 0.0, 0), at + number, one_object(0, view.next_id - 1), frozenset())


def ids_of(output: Path) -> dict[str, int]:
    rows = sam3ray.read_annotations(str(output)).to_table().to_pylist()
    return {row["clip_id"]: row["object_id"] for row in rows}


def watched(clip: Path, model: sam3ray.Model, output: Path, **more: Any) -> Iterator[LiveFrame]:
    more = {"every_frame": True, "settings": LiveConfig(segment_s=0.5)} | more
    return live(clip, ["red circle"], model=model, output=output, **more)


def test_a_run_that_is_refused_is_left_alone(tmp_path, clip, model):
    RunStore(str(tmp_path)).create_or_open({"schema_version": 1}, {}, [])
    before = sorted(each.name for each in tmp_path.iterdir())
    for _ in range(2):
        with pytest.raises(UserError, match="choose another output"):
            live(clip, ["red circle"], model=model, output=tmp_path)
    with (
        pytest.raises(UserError, match="choose another output"),
        Recorder(str(tmp_path), "a", Said(), record_video=True),
    ):
        pass
    assert sorted(each.name for each in tmp_path.iterdir()) == before
    with RunStore(str(tmp_path)).lease():
        pass  # nobody holds it


def test_a_recording_goes_on_with_any_source_but_not_with_other_settings(tmp_path, clip, model):
    for source in (clip, Path(shutil.copy(clip, tmp_path / "other.mp4"))):
        for _ in watched(source, model, tmp_path / "run"):
            pass
    assert verify_run(str(tmp_path / "run")) == []
    other = model.with_tracking(TrackingConfig(score_threshold_detection=0.3))
    wrong = "model.thresholds.score_threshold_detection is 0.3, the run has 0.5"
    with pytest.raises(UserError, match=wrong):
        next(watched(clip, other, tmp_path / "run"))
    with RunStore(str(tmp_path / "run")).lease():
        pass


def test_an_interrupt_does_not_break_off_a_commit(tmp_path, clip, model, monkeypatch):
    commit, calls = RunStore.commit, []

    def interrupted(store: RunStore, *given: Any) -> bool:
        calls.append(given)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)
        return commit(store, *given)

    monkeypatch.setattr(RunStore, "commit", interrupted)
    shown: set[tuple[str, int]] = set()

    def watch() -> None:
        for frame in watched(clip, model, tmp_path):
            shown.update((frame.clip, each.object_id) for each in frame.annotations.objects)
            time.sleep(0.05)  # where an interrupt arrives

    with pytest.raises(KeyboardInterrupt):
        watch()
    assert verify_run(str(tmp_path)) == []
    rows = sam3ray.read_annotations(str(tmp_path)).to_table().to_pylist()
    assert {(row["clip_id"], row["object_id"]) for row in rows} == shown
    names = {each.clip_id for each in RunStore(str(tmp_path)).manifest()}
    assert {each.stem for each in (tmp_path / "recordings").iterdir()} >= names
    with RunStore(str(tmp_path)).lease():
        pass


def test_ids_go_on_whatever_the_clock_says(tmp_path):
    for at in (NOON, NOON - 86_400, NOON - 43_200):
        record(tmp_path, Said(), at, clips=2)
    assert sorted(ids_of(tmp_path).values()) == [1, 2, 3, 4, 5, 6]
    assert len({name.rpartition("-")[2] for name in ids_of(tmp_path)}) == 6
    assert verify_run(str(tmp_path)) == []


def test_a_clip_whose_process_died_before_the_manifest_named_it_is_added(tmp_path):
    record(tmp_path, Said(), clips=3)
    store = RunStore(str(tmp_path))
    clips = store.manifest()
    store.grow(clips[:-1])
    record(tmp_path, Said(), NOON + 60)
    assert RunStore(str(tmp_path)).manifest()[:3] == clips
    assert sorted(ids_of(tmp_path).values()) == [1, 2, 3, 4]
    assert verify_run(str(tmp_path)) == []


def test_who_has_lost_the_output_changes_nothing_there(tmp_path):
    record(tmp_path, Said())
    before = {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()}
    recorder = Recorder(str(tmp_path), "rtsp://camera/live", Said(), record_video=False)
    recorder.__enter__()
    recorder.write(Placed(0, 0, 0.0, 0), NOON + 60, one_object(0, 7), frozenset())
    recorder._lease.lost = True
    with pytest.raises(JobStopped, match="another process has taken over"):
        recorder.__exit__(None, None, None)
    assert {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file() and each in before} == before
    assert len(ids_of(tmp_path)) == 1


def test_a_store_that_is_away_for_a_while_is_waited_for(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(_record, "_AGAIN_S", 0.01)
    commit, away, back = RunStore.commit, threading.Event(), threading.Event()

    def gone(store: RunStore, *given: Any) -> bool:
        if not back.is_set():
            away.set()
            raise ClipError(Reason.STORAGE, "it does not answer", "s3://cam:s3cret@bucket")
        return commit(store, *given)

    monkeypatch.setattr(RunStore, "commit", gone)
    view = Said()
    with Recorder(str(tmp_path), "rtsp://camera/live", view, record_video=False) as recorder:
        for number in range(3):
            recorder.write(Placed(number, 0, 0.0, 0), NOON + number, one_object(0, number + 1), frozenset())
        assert away.wait(30)
        back.set()
    assert "waits for its storage: storage: it does not answer" in caplog.text
    assert "s3cret" not in caplog.text
    assert sorted(ids_of(tmp_path).values()) == [1, 2, 3]
    back.clear()
    with pytest.raises(JobStopped, match="the result of the recording cannot be written: storage: it does not answer"):
        record(tmp_path, Said(), NOON + 60)  # at the end, nothing waits


def test_each_clip_says_what_was_looked_for_from_which_frame_on(tmp_path):
    view = Said(hotstart_delay=4)
    with Recorder(str(tmp_path), "rtsp://camera/live", view, record_video=False) as recorder:
        for number, index in [(0, 0), (0, 5), (1, 1), (1, 3), (2, 0)]:
            if (number, index) == (1, 3):
                view.phrases, view.changed_thresholds = ("Star", "circle"), {"new_det_thresh": 0.4}
            recorder.write(Placed(number, index, index / 30, 0), NOON + number, one_object(index, 1), frozenset())
    store = RunStore(str(tmp_path))
    said = [store.read_clip_metadata(each.clip_id)["clip"]["prompts"] for each in store.manifest()]
    new = {"phrases": ["Star", "circle"], "thresholds": {"new_det_thresh": 0.4}}
    old = {"phrases": ["star"]}
    assert said == [[{"frame": 0, **old}], [{"frame": 1, **old}, {"frame": 3, **new}], [{"frame": 0, **new}]]
    assert [each.prompts for each in store.manifest()] == [
        ("star",),
        ("star", "Star", "circle"),
        ("Star", "circle", "star"),
    ]
    assert verify_run(str(tmp_path)) == []


def test_a_slow_model_does_not_cut_a_file_that_is_read_frame_by_frame(tmp_path, clip, model):
    frames = watched(clip, model, tmp_path, settings=LiveConfig(reset_after_s=0.15))
    times = []
    for frame in frames:
        times.append(frame.annotations.time_s)
        if len(times) < 4:
            time.sleep(0.3)
    assert times == pytest.approx([n / 12 for n in range(SPEC.frames)], abs=1e-3)
    (recorded,) = RunStore(str(tmp_path)).manifest()
    with sam3ray.video.VideoReader(recorded.uri) as video:
        assert [frame.time_s for frame in video] == pytest.approx(times, abs=1e-3)


def test_without_a_video_of_its_own_the_rows_of_a_file_fit_the_file(tmp_path, clip, model, monkeypatch):
    monkeypatch.chdir(clip.parent)
    frames = list(watched(Path(clip.name), model, tmp_path / "run", record_video=False))
    assert len({each.clip for each in frames}) > 1
    assert [each.annotations.frame_index for each in frames] == list(range(SPEC.frames))
    assert [each.annotations.time_s for each in frames] == pytest.approx([n / 12 for n in range(SPEC.frames)], abs=1e-3)
    assert {each.uri for each in RunStore(str(tmp_path / "run")).manifest()} == {str(clip)}
    assert verify_run(str(tmp_path / "run")) == []


def test_a_relative_output_names_its_videos_from_the_root(tmp_path, clip, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    next(frames := watched(clip, model, Path("door")))
    frames.close()
    (recorded,) = RunStore("door").manifest()
    assert Path(recorded.uri).parent == tmp_path / "door" / "recordings"


@pytest.mark.parametrize("full", ["work", "store"])
def test_a_disk_that_is_full_ends_the_recording_with_a_sentence(tmp_path, clip, model, monkeypatch, full):
    with disk(tmp_path / "small", "300k") as small:
        output = tmp_path / "run"
        if full == "work":
            use_as_temporary(small, monkeypatch)
        else:
            output = small / "run"
        for _ in watched(clip, model, output):
            pass
        before = ids_of(output)
        fill = small / "other"
        with contextlib.suppress(OSError):
            fill.write_bytes(bytes(1 << 20))
        os.truncate(fill, fill.stat().st_size // 4096 * 4096 - 8192)  # 8 kB are left
        with pytest.raises(JobStopped, match=r"of the recording cannot be written: .*full"):
            list(watched(clip, model, output))
        fill.unlink()
        assert ids_of(output).items() >= before.items()
        assert verify_run(str(output)) == []
        for _ in watched(clip, model, output):
            pass
        assert verify_run(str(output)) == []


def test_a_camera_of_a_thousand_frames_a_second_may_run_far_ahead_of_the_frame_that_is_taken(monkeypatch):
    units = encoded([np.full((48, 64, 3), 40 + n, np.uint8) for n in range(60)])
    received: list[int] = []
    with RtspCamera(units, fps=5000) as camera:

        class Slow(RgbConverter):
            def __call__(self, frame: Any) -> np.ndarray:
                behind = len(received) + 1100
                while len(received) < behind:
                    time.sleep(0.01)
                return super().__call__(frame)

        monkeypatch.setattr("sam3ray.cameras._camera.RgbConverter", Slow)
        monkeypatch.setattr(
            "sam3ray.cameras._live.Segments.place",
            lambda self, n, *rest, place=Segments.place: (received.append(n), place(self, n, *rest))[1],
        )
        frames = watch(camera.url, Said())
        first, second = next(frames), next(frames)
        frames.close()
    assert second.dropped > 1000
    assert second.annotations.frame_index == first.annotations.frame_index + second.dropped - first.dropped + 1
