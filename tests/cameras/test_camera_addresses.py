"""What may be watched, and what people are told when it cannot be."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from sam3ray.cameras import Camera, CameraFrame, check_source
from sam3ray.failures import ClipError, UserError
from tests.cameras.rtsp_camera import RtspCamera, encoded
from tests.cameras.test_live import PUSH, free_port
from tests.video.media import write_video


@pytest.fixture(scope="module")
def units() -> list[list[bytes]]:
    return encoded([np.full((48, 64, 3), 40 + 4 * n, np.uint8) for n in range(40)])


def first(camera: Camera, more: int = 1, seconds: float = 40) -> list[CameraFrame]:
    found: list[CameraFrame] = []
    end = time.monotonic() + seconds
    while len(found) < more:
        frame = camera.take(0.5)
        assert time.monotonic() < end, camera.problem
        if frame is not None:
            found.append(frame)
    return found


def test_a_camera_that_wants_a_password_gets_it_and_nobody_else_does(units, caplog):
    with RtspCamera(units, password="s3cret", cut_after=60) as server:
        url = server.url.replace("//", "//cam:s3cret@")
        told: list[str] = []
        with Camera(url, told=told.append) as camera:
            assert first(camera)[0].image.shape == (48, 64, 3)
            while server.connections < 2:
                camera.take(0.5)
        assert any("the stream has ended; trying again" in each for each in told)
        assert "s3cret" not in "".join([*told, camera.name, caplog.text])


@pytest.mark.parametrize("given", ["", "cam:wr0ng@"])
def test_a_password_that_is_missing_or_wrong_is_said_at_once(units, given):
    with RtspCamera(units, password="s3cret") as server, Camera(server.url.replace("//", f"//{given}")) as camera:
        with pytest.raises(ClipError, match="is wrong" if given else "requires a user name and password") as caught:
            camera.take(30)
        assert "wr0ng" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("rtsp://127.0.0.1:PORT/other", "no stream at this path"),
        ("rtsp://camera.invalid/live", "the host 'camera.invalid' is not known"),
        (f"rtsp://{'a' * 70}.example/live", f"the host '{'a' * 70}.example' is not known"),
        ("srt://127.0.0.1:9", "cannot open srt://"),
    ],
)
def test_what_waiting_does_not_help_ends_it(units, source, says):
    with (
        RtspCamera(units) as server,
        Camera(source.replace("PORT", str(server.port))) as camera,
        pytest.raises(ClipError, match=says),
    ):
        camera.take(30)


@pytest.mark.parametrize("scheme", ["rtsp", "rtmp"])
def test_what_may_come_is_waited_for(scheme, caplog):
    told: list[str] = []
    with (
        caplog.at_level(logging.WARNING),
        Camera(f"{scheme}://127.0.0.1:{free_port()}/live", told=told.append) as camera,
    ):
        end = time.monotonic() + 30
        while not told and time.monotonic() < end:
            camera.take(0.1)
    assert "nothing answers at this host and port; trying again" in told[0]
    assert told[0] in caplog.text


def test_silence_is_noticed(units, monkeypatch):
    monkeypatch.setattr("sam3ray.cameras._address.SILENT_S", 1.0)
    told: list[str] = []
    with RtspCamera(units, silent_after=40) as server, Camera(server.url, told=told.append) as camera:
        first(camera)
        while server.connections < 2:
            camera.take(0.5)
        assert "no data for 1 s" in told[0]
        first(camera)  # and it is there again


@pytest.mark.parametrize(
    ("answer", "says"),
    [(None, "no data for 1 s"), (b"", "sends no stream that can be read"), (b"HTTP/1.1 400 No", "sends no stream")],
)
def test_what_is_no_camera_is_said(monkeypatch, answer, says):
    """A server that accepts and says nothing, one that hangs up, and one of something else."""
    monkeypatch.setattr("sam3ray.cameras._address._ANSWER_S", 1.0)
    told: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"rtsp://cam:s3cret@127.0.0.1:{server.getsockname()[1]}/live"
        with Camera(url, told=told.append) as camera:
            client, _ = server.accept()
            with client:
                if answer is not None:
                    client.recv(4096)
                    client.sendall(answer)
                    client.close()
                end = time.monotonic() + 30
                while not told and time.monotonic() < end:
                    camera.take(0.1)
    assert says in told[0]
    assert "s3cret" not in told[0]


def test_another_size_comes_through(units):
    wide = encoded([np.full((48, 96, 3), 90, np.uint8)] * 10)
    with RtspCamera([*units, *wide]) as server, Camera(server.url) as camera:
        sizes: list[tuple[int, ...]] = []
        while len(set(sizes)) < 2:
            sizes += [frame.image.shape for frame in first(camera)]
    assert sizes[0] == (48, 64, 3)
    assert sizes[-1] == (48, 96, 3)


@pytest.mark.parametrize(("scheme", "form"), [("rtsp", 'format="rtsp"'), ("rtmp", 'format="flv"')])
def test_a_camera_may_push_to_us(scheme, form):
    url = f"{scheme}://127.0.0.1:{free_port()}/live"
    script = PUSH if scheme == "rtsp" else PUSH.replace('format="rtsp", options={"rtsp_transport": "tcp"}', form)
    with Camera(url, listen=True) as camera, pushed(script, url):
        assert first(camera)[0].image.shape == (48, 64, 3)


def pushed(script: str, url: str) -> subprocess.Popen[bytes]:
    class Pusher(subprocess.Popen[bytes]):
        def __exit__(self, *error: object) -> None:
            self.kill()
            super().__exit__(*error)  # type: ignore[arg-type]

    return Pusher([sys.executable, "-c", script, url])


def test_a_port_that_is_taken_is_said():
    told: list[str] = []
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        Camera(f"rtsp://127.0.0.1:{taken.getsockname()[1]}/live", listen=True, told=told.append) as camera,
    ):
        end = time.monotonic() + 30
        while not told and time.monotonic() < end:
            camera.take(0.1)
    assert "cannot listen at this address: Address already in use" in told[0]


@pytest.mark.parametrize(
    ("source", "listen", "says"),
    [
        ("rtsp://", False, "names no host"),
        ("rtsp://host:99999999/x", False, "a host or port that is not valid"),
        ("rtsp://ho\0st/x", False, "a character that cannot be printed"),
        ("rtsp://cam:s3cret@host/\udcff", False, "a character that cannot be printed"),
        ("http://camera/stream", False, "not a live source"),
        ("https://cam:s3cret@camera/x.m3u8", False, r"not a live source; allowed: rtsp://"),
        ("udp://127.0.0.1:9", True, "must begin with rtsp"),
        ("/dev/video0", True, "must begin with rtsp"),
    ],
)
def test_what_is_no_address_is_a_sentence(source, listen, says):
    with pytest.raises(UserError, match=says) as caught:
        Camera(source, listen=listen)
    assert "s3cret" not in str(caught.value)


def test_a_recording_whose_encoder_is_slow_has_every_frame_all_the_same(tmp_path: Path):
    """Frame n of the video is frame n of the rows: where a picture is late, the one before is shown again."""
    from sam3ray.cameras._camera import Received
    from sam3ray.cameras._encoder import _PICTURES, Encoder
    from sam3ray.cameras._segments import Segments
    from sam3ray.video import VideoReader

    published: list[str] = []
    count, segments = _PICTURES * 3, Segments(600.0, 5.0)

    def frames() -> Iterator[Received]:
        for n in range(count):
            image = np.full((48, 64, 3), 20 + 2 * n, np.uint8)

            def slow(image: np.ndarray = image) -> np.ndarray:
                time.sleep(0.005)
                return image

            yield Received(n, 1000 + n / 30, 1000 + n / 30, (48, 64), slow)

    with Encoder(tmp_path, lambda name, path: published.append(f"{name} {len(list(VideoReader(path)))}")) as encoder:
        for frame in frames():
            encoder.put("clip", segments.place(frame.received, frame.clock, frame.at, frame.size), frame)
    assert published == [f"clip {count}"]


def test_sound_alone_is_no_sign_of_life(units, monkeypatch):
    monkeypatch.setattr("sam3ray.cameras._address.BLIND_S", 1.0)
    monkeypatch.setattr("sam3ray.cameras._camera.BLIND_S", 1.0)
    told: list[str] = []
    with RtspCamera(units, silent_after=40, sound=True) as server, Camera(server.url, told=told.append) as camera:
        first(camera)
        while server.connections < 2:
            camera.take(0.5)
        assert "data arrives, but no picture for 1 s" in told[0]
        first(camera)


def test_what_no_camera_should_do_is_said_where_it_is_used(units):
    """An error in the camera's thread is no end of the stream."""

    def heard(_: object) -> None:
        raise ZeroDivisionError("in the thread")

    with RtspCamera(units) as server, Camera(server.url, heard=heard) as camera:
        with pytest.raises(ZeroDivisionError, match="in the thread"):
            camera.take(30)
        assert camera.take(1) is None


@pytest.mark.parametrize("check", [Camera, check_source])
def test_every_frame_of_a_camera_cannot_be_waited_for(check):
    with pytest.raises(UserError, match="a camera does not wait"):
        check("rtsp://127.0.0.1/live", every_frame=True)


def test_a_device_that_is_not_there_is_said_before_the_model_is_loaded():
    with pytest.raises(ClipError, match=r"not_found: /dev/video97: there is no such camera; this machine has"):
        check_source("/dev/video97")


def test_a_file_whose_clock_leaps_by_an_hour_plays_on(tmp_path, monkeypatch):
    monkeypatch.setattr("sam3ray.cameras._camera._LONGEST_WAIT_S", 0.2)
    pts = [0, 40, 80, 3_600_000, 3_600_040]
    path = write_video(tmp_path / "leap.mkv", len(pts), (64, 48), pts=pts, time_base=Fraction(1, 1000))
    with Camera(str(path)) as camera:
        while first(camera)[0].received < len(pts) - 1:
            pass
