"""Live video end to end: cameras that come and go, rows that are recorded, ids that go on."""

from __future__ import annotations

import gc
import json
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from typer.testing import CliRunner

import sam3ray
from sam3ray.cameras import Camera, LiveFrame, LiveView, watch
from sam3ray.cli import app
from sam3ray.cli._streams import _forgiving
from sam3ray.cli._watching import _tell
from sam3ray.config import LiveConfig, TrackingConfig
from sam3ray.engine import host_memory
from sam3ray.failures import ClipError, UserError
from sam3ray.shapes import ClipSpec, draw_clip, write_clip
from sam3ray.store import RunStore, verify_run
from sam3ray.video import VideoReader

SPEC = ClipSpec(seed=6, frames=24, width=160, height=90, objects=(2, 3))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("live") / "clip.mp4"
    write_clip(SPEC, path)
    return path


@pytest.fixture(scope="module")
def model() -> sam3ray.Model:
    return sam3ray.load("embedded", device="cpu")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


PUSH = """
import sys, time, av, numpy
from fractions import Fraction
for _ in range(100):
    try:
        out = av.open(sys.argv[1], "w", format="rtsp", options={"rtsp_transport": "tcp"})
        stream = out.add_stream("libx264", rate=30, options={"preset": "ultrafast", "tune": "zerolatency", "g": "5"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for n in range(60):
            frame = av.VideoFrame.from_ndarray(numpy.full((48, 64, 3), 40 + n, numpy.uint8), format="rgb24")
            frame.pts, frame.time_base = n, Fraction(1, 30)
            out.mux(stream.encode(frame))
            time.sleep(0.005)
        sys.exit()
    except OSError:
        time.sleep(0.1)
"""
"""A camera that pushes some frames and is cut off. In a process of its own: libav answers its log under Python's lock,
and would wait for itself."""


@pytest.fixture
def kept_frames() -> Iterator[Callable[[], int]]:
    """How many decoded frames there are, while Python does not look for reference cycles."""

    def count() -> int:
        return sum(isinstance(each, av.VideoFrame) for each in gc.get_objects())

    gc.collect()
    gc.disable()
    before = count()
    yield lambda: count() - before
    gc.enable()


def test_a_camera_that_is_cut_off_comes_back(kept_frames):
    url = f"rtsp://127.0.0.1:{free_port()}/live"
    received = []
    with Camera(url, options={"rtsp_flags": "listen", "listen_timeout": "25"}) as camera:
        for _ in range(2):
            with subprocess.Popen([sys.executable, "-c", PUSH, url]) as pusher:
                frame = camera.take(40)
                assert frame is not None, camera.problem
                assert frame.image.shape == (48, 64, 3)
                received.append(frame.received)
                pusher.wait(40)
            while camera.take(1.0) is not None:
                pass  # what was still on its way
    del frame
    assert kept_frames() <= 2  # the last one and its picture, in the thread that listens still
    assert received[1] > received[0]


def test_only_the_newest_frame_is_kept(clip):
    with Camera(str(clip)) as camera:
        first = camera.take(10)
        time.sleep(0.5)  # of 12 frames a second
        second = camera.take(10)
    assert first is not None
    assert second is not None
    assert second.received - first.received - 1 == second.dropped - first.dropped >= 2


def test_a_file_can_be_looked_at_frame_by_frame(clip):
    with Camera(str(clip), every_frame=True) as camera:
        frames = list(camera)
    assert [frame.received for frame in frames] == list(range(SPEC.frames))
    assert frames[-1].dropped == 0


def test_what_is_no_source_is_said_at_once(tmp_path):
    with pytest.raises(UserError, match="is not a live source"):
        Camera("https://example.org/page.html")
    with pytest.raises(ClipError, match="does not exist"):
        Camera(str(tmp_path / "missing.mp4"))
    with pytest.raises(UserError, match="nothing to look for"):
        sam3ray.live(str(tmp_path / "missing.mp4"), [])


def test_a_source_that_is_not_there_is_said_before_the_model_is_loaded(tmp_path):
    with pytest.raises(ClipError, match="does not exist"):
        sam3ray.live(tmp_path / "nowhere", ["star"], checkpoint=str(tmp_path / "no-checkpoint"))
    for more in ((), ("--display", "--no-browser")):
        done = CliRunner().invoke(app, ["live", "nowhere", "--prompt", "star", "--checkpoint", "no-checkpoint", *more])
        assert done.exit_code == 2
        assert "nowhere" in done.stderr
        assert "a video file" in done.stderr


def test_an_unreachable_camera_says_so():
    url = f"rtsp://user:secret@127.0.0.1:{free_port()}/live"
    with Camera(url, reconnect=False) as camera, pytest.raises(ClipError) as caught:
        camera.take(20)
    assert "secret" not in str(caught.value)


def test_a_recording_is_a_run_and_goes_on(clip, model, tmp_path):
    output = tmp_path / "recorded"
    shown: dict[tuple[str, int], set[int]] = {}
    for frame in sam3ray.live(
        clip, ["red circle"], model=model, output=output, every_frame=True, settings=LiveConfig(segment_s=0.5)
    ):
        assert frame.image.shape == (90, 160, 3)
        key = frame.clip, frame.annotations.frame_index
        for ids in shown.values():
            ids -= frame.retracted
        shown[key] = {each.object_id for each in frame.annotations.objects}
    assert len(shown) == SPEC.frames
    assert verify_run(str(output)) == []
    rows = sam3ray.read_annotations(str(output)).to_table().to_pylist()
    recorded: dict[tuple[str, int], set[int]] = {}
    for row in rows:
        recorded.setdefault((row["clip_id"], row["frame_index"]), set()).add(row["object_id"])
    assert recorded == {key: ids for key, ids in shown.items() if ids}  # all that was not retracted
    store = RunStore(str(output))
    clips = store.manifest()
    assert sum(len(list(VideoReader(each.uri))) for each in clips) == SPEC.frames
    about = store.read_clip_metadata(clips[0].clip_id)["clip"]
    assert about["prompts"] == [{"frame": 0, "phrases": ["red circle"]}]
    highest = max(row["object_id"] for row in rows)
    again = sam3ray.live(clip, ["red circle"], model=model, output=output, every_frame=True, record_video=False)
    found = {each.object_id for frame in again for each in frame.annotations.objects}
    assert min(found) > highest  # an id means one object in the whole recording
    assert verify_run(str(output)) == []
    assert json.loads((output / "run.json").read_text())["manifest"]["clips"] == len(clips) + 1


def test_what_was_asked_for_while_it_was_recorded_stands_in_its_manifest(clip, model, tmp_path):
    view = LiveView(model)
    view.set_phrases(["red circle"])
    output = tmp_path / "run"
    frames = watch(str(clip), view, output=output, every_frame=True, record_video=False)
    for number, _ in enumerate(frames):
        if number == 2:
            view.add(sam3ray.BoxPrompt((40, 20, 80, 60), view.next_index, 90, "clicked"))
        if number == 3:
            view.set_phrases(["blue circle", "circle"])
    assert verify_run(str(output)) == []
    (recorded,) = RunStore(str(output)).manifest()
    labels = {row["prompt"] for row in sam3ray.read_annotations(str(output)).to_table().to_pylist()}
    assert "clicked" in labels
    assert labels <= set(recorded.prompts)


def test_clicked_objects_that_have_left_are_forgotten_and_their_number_is_limited(model):
    scene = next(iter(draw_clip(SPEC))).image
    empty = np.zeros_like(scene)
    view = LiveView(model)
    view.set_tracking(TrackingConfig(forget_after_frames=16, max_num_objects=2))
    view.step(scene, 0.0)

    def click() -> None:
        view.add(sam3ray.BoxPrompt((40, 20, 80, 60), view.next_index, view.next_id, "clicked"))

    for n in range(2):
        click()
        view.step(scene, 0.1 + n)
    with pytest.raises(UserError, match="2 clicked objects are followed already"):
        click()
    assert view.clicked == {1, 2}
    for n in range(20):
        found, _, _ = view.step(empty, 3.0 + n)
    assert found.objects == ()
    assert view.clicked == set()
    click()  # there is room again


def sizes(root: Any) -> dict[str, int]:
    """How much the containers hold that can be reached from an object of ours, by the way to them."""
    held: dict[str, int] = {}
    known, rest = set(), [("view", root)]
    while rest:
        way, each = rest.pop()
        if id(each) in known:
            continue
        known.add(id(each))
        if isinstance(each, dict | list | tuple | set | frozenset | deque):
            held[way] = held.get(way, 0) + len(each)
            rest += [(f"{way}[]", one) for one in (each.values() if isinstance(each, dict) else each)]
        elif type(each).__module__.startswith("sam3ray"):
            rest += [(f"{way}.{name}", one) for name, one in getattr(each, "__dict__", {}).items()]
    return held


def test_nothing_grows_with_the_phrases_and_clicks_of_a_long_day(model):
    images = [each.image for each in draw_clip(SPEC)]
    view = LiveView(model)

    def hour(first: int) -> dict[str, int]:
        for n in range(first, first + 24):
            view.set_phrases([("circle",), ("star", "circle"), ()][n % 3])
            if n and n % 2 == 0:
                view.add(sam3ray.PointPrompt(((80.0, 45.0),), (True,), view.next_index, view.next_id, "clicked"))
            for each in list(view.clicked)[:-1]:
                view.drop(each)
            view.step(images[n % 24], n / 12)
        return sizes(view)

    first, second = hour(0), hour(24)
    assert view.next_id > 20
    assert {way: (first.get(way, 0), count) for way, count in second.items() if count > first.get(way, 0)} == {}


def test_freed_memory_is_given_back_while_it_runs(model, monkeypatch):
    given = []
    monkeypatch.setattr(host_memory, "give_back_freed", lambda: given.append(True))
    clock = [0.0]
    monkeypatch.setattr(host_memory.time, "monotonic", lambda: clock[0])
    view = LiveView(model)
    for clock[0] in (1.0, 29.0, 31.0, 40.0, 62.0):
        view.step(np.zeros((90, 160, 3), np.uint8), clock[0])
    assert len(given) == 2


def test_a_recording_that_is_given_up_keeps_what_it_has(clip, model, tmp_path):
    frames = sam3ray.live(
        clip, ["red circle"], model=model, output=tmp_path / "run", every_frame=True, record_video=False
    )
    for _ in range(5):
        next(frames)
    frames.close()
    assert verify_run(str(tmp_path / "run")) == []
    assert sam3ray.read_annotations(str(tmp_path / "run")).count_rows() > 0


def test_another_run_is_not_recorded_into(clip, model, tmp_path):
    RunStore(str(tmp_path)).create_or_open({"schema_version": 1}, {}, [])
    with pytest.raises(UserError, match="choose another output"):
        next(sam3ray.live(clip, ["red circle"], model=model, output=tmp_path))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["CLIP"], "there is nothing to look for"),
        (["CLIP", "--display", "--prompt", ""], "--prompt holds an empty phrase"),
        (["CLIP", "--display", "--prompt", "a\nb"], "--prompt holds a control character"),
        (["CLIP", "--prompt", "star", "--display", "--json"], "give one of the two"),
        (["CLIP", "--prompt", "star", "--no-browser"], "--no-browser is for --display"),
        (["CLIP", "--prompt", "star", "--no-video"], "--no-video is for --output"),
        (["CLIP", "--prompt", "star", "--output", "JOB"], "belongs to a job"),
        (["CLIP", "--prompt", "star", "--output", "JOB", "--display"], "belongs to a job"),
        (["CLIP", "--prompt", "star", "--output", "memory://door"], "ends with this process"),
        (["/dev/video97", "--prompt", "star"], "there is no such camera"),
        (["rtsp://cam:s3cret@127.0.0.1/x", "--prompt", "star", "--every-frame"], "a camera does not wait"),
    ],
)
def test_arguments_that_are_wrong_are_said_before_anything_is_started(clip, tmp_path, arguments, says):
    RunStore(str(tmp_path)).create_or_open({"schema_version": 1}, {}, [])
    given = [{"CLIP": str(clip), "JOB": str(tmp_path)}.get(each, each) for each in arguments]
    done = CliRunner().invoke(app, ["live", *given, "--checkpoint", "no-checkpoint"])
    assert done.exit_code == 2
    assert says in done.stderr
    assert "s3cret" not in done.output


def test_the_command_says_what_it_waits_for_and_what_is_recorded(clip, tmp_path):
    output = tmp_path / "door"
    wanted = ["--prompt", "red circle", "--every-frame", "--json", "--output", str(output)]
    model = ["--checkpoint", "embedded", "--set", "model.device=cpu"]
    done = CliRunner().invoke(app, ["live", str(clip), *wanted, *model])
    assert done.exit_code == 0
    said = [line.removeprefix("sam3ray: ") for line in done.stderr.splitlines()]
    assert said == [
        "loading embedded",
        f"watching {clip}; Ctrl-C ends it",
        f"the recording in {output} has 1 clip; sam3ray app {output} shows it",
    ]
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == SPEC.frames


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"tracking": TrackingConfig(new_det_thresh=0.2)}, "tracking cannot be changed for a loaded model"),
        ({"settings": {"segment": 3}}, "segment is not a key of LiveConfig; allowed: reset_after_s, segment_s"),
        ({"settings": {"segment_s": -3}}, "segment_s is -3"),
        ({"checkpoint": "embedded"}, "pass only one of the two"),
        ({"prompts": "star;\0"}, "a control character"),
    ],
)
def test_arguments_of_the_function_that_are_wrong_are_said_by_the_call(clip, model, given, says):
    with pytest.raises(UserError, match=says):
        sam3ray.live(clip, **{"prompts": "star", "model": model} | given)


def test_settings_of_a_recording_are_keys_as_in_a_configuration(clip, model):
    frames = sam3ray.live(clip, "star", model=model, every_frame=True, settings={"segment_s": 1.0})
    assert [frame.annotations.frame_index for frame in frames] == [n % 12 for n in range(SPEC.frames)]


@pytest.mark.parametrize("records", [False, True])
def test_the_command_ends_when_nobody_reads_it_unless_it_records(monkeypatch, records):
    frame = LiveFrame(np.zeros((2, 2, 3), np.uint8), sam3ray.FrameAnnotations(0, 0, 0.0, 2, 2))
    reader, writer = os.pipe()
    given: list[str] = []

    def frames() -> Iterator[LiveFrame]:
        for _ in range(5):
            given.append(os.read(reader, 9).decode() if len(given) == 1 else "")  # each line comes at once
            if len(given) == 2:
                os.close(reader)
            yield frame

    with open(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", _forgiving(stream))
        _tell(frames(), as_json=True, records=records)
    assert given == ["", '{"clip": '] + ([""] * 3 if records else [])
