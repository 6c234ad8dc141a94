"""What comes out of a video: which frames, when, how they look; and what is said of the ones that cannot be read."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError, Reason
from sam3ray.video import Frame, VideoReader, probe
from sam3ray.video import _reader as reader_module
from tests.video.media import MATRICES, picture, plain_decode, set_display_matrix, write_sound, write_video


def read(path: Path, **options: object) -> list[Frame]:
    with VideoReader(path, **options) as video:  # type: ignore[arg-type]
        return list(video)


def fails(path: Path, reason: Reason, **options: object) -> ClipError:
    with pytest.raises(ClipError) as caught:
        read(path, **options)
    assert caught.value.reason is reason, str(caught.value)
    assert path.name in caught.value.where
    return caught.value


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "options"),
    [
        ("a.mp4", "libx264", "yuv420p", {}),
        ("open_gop.mp4", "libx264", "yuv420p", {"x264-params": "open-gop=1:keyint=10:bframes=3"}),
        ("a.mkv", "libx265", "yuv420p10le", {"x265-params": "log-level=none:keyint=10:pools=none"}),
        ("a.webm", "libvpx-vp9", "yuv420p", {"deadline": "realtime", "cpu-used": "8"}),
        ("a.ts", "libx264", "yuv420p", {}),
        ("a.avi", "mpeg4", "yuv420p", {"bf": "0"}),
        ("b.mov", "mpeg4", "yuv420p", {}),
        ("a.mp4", "libx264", "yuv444p", {}),
    ],
)
def test_frames_and_timestamps_are_those_of_a_plain_decode(
    tmp_path: Path, name: str, codec: str, pix_fmt: str, options: dict[str, str]
) -> None:
    time_base = Fraction(1, 25) if name.endswith("avi") else Fraction(1, 1000)
    path = write_video(tmp_path / name, 25, codec=codec, pix_fmt=pix_fmt, options=options, time_base=time_base)
    expected = plain_decode(path)
    frames = read(path)
    assert [f.index for f in frames] == list(range(25))
    assert [f.pts for f in frames] == [pts for pts, _ in expected]
    assert frames[0].time_s == 0
    assert [f.time_s for f in frames] == pytest.approx([i / 25 for i in range(25)], abs=0.0011)
    for frame, (_, image) in zip(frames, expected, strict=True):
        assert frame.image.dtype == np.uint8
        assert frame.image.flags.c_contiguous
        assert np.array_equal(frame.image, image)


def test_variable_frame_rate_keeps_each_time(tmp_path: Path) -> None:
    pts = [0, 40, 50, 300, 301, 1000, 1900, 1933]
    frames = read(write_video(tmp_path / "vfr.mp4", len(pts), pts=pts))
    assert [round(f.time_s * 1000) for f in frames] == pts


def test_a_late_start_counts_from_zero(tmp_path: Path) -> None:
    path = write_video(tmp_path / "late.ts", 10, pts=[5000 + 40 * i for i in range(10)])
    frames = read(path)
    assert frames[0].pts > 0
    assert [round(f.time_s, 2) for f in frames] == [round(0.04 * i, 2) for i in range(10)]


@pytest.mark.parametrize("name", MATRICES)
def test_display_matrix_is_applied_as_players_do(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / "phone.mp4", 3, (64, 48))
    upright = plain_decode(path)[0][1]
    set_display_matrix(path, name)
    turn = {
        "as_is": lambda image: image,
        "clockwise": lambda image: np.rot90(image, -1),
        "upside_down": lambda image: np.rot90(image, 2),
        "counterclockwise": lambda image: np.rot90(image, 1),
        "mirrored": np.fliplr,
        "flipped": np.flipud,
    }[name]
    frame = read(path)[0]
    assert np.array_equal(frame.image, turn(upright))
    info = probe(path, VideoConfig())
    assert (info.height, info.width) == frame.image.shape[:2]
    assert info.rotation == {"clockwise": 90, "counterclockwise": 270}.get(name, info.rotation)


def test_facts_of_a_recording_that_begins_between_key_frames(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.ts", 40, options={"g": "12", "bf": "2"}).read_bytes()
    path = tmp_path / "tuned_in_late.ts"
    path.write_bytes(whole[: 4 * 188] + whole[len(whole) // 376 * 188 :])
    with av.open(str(path)) as container:
        assert not next(container.demux(video=0)).is_keyframe
    info = probe(path, VideoConfig())
    assert (info.width, info.height, info.codec) == (64, 48, "h264")
    assert read(path)[0].image.shape == (48, 64, 3)


def to_yuv_reference(rgb: tuple[int, int, int], matrix: int, full_range: bool) -> tuple[int, int, int]:
    """BT.601 / BT.709 from the definitions, 8 bits."""
    kr, kb = (0.2126, 0.0722) if matrix == 1 else (0.299, 0.114)
    r, g, b = (value / 255 for value in rgb)
    y = kr * r + (1 - kr - kb) * g + kb * b
    cb, cr = (b - y) / (2 - 2 * kb), (r - y) / (2 - 2 * kr)
    if full_range:
        return round(255 * y), round(128 + 255 * cb), round(128 + 255 * cr)
    return round(16 + 219 * y), round(128 + 224 * cb), round(128 + 224 * cr)


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("matrix", [1, 5])
@pytest.mark.parametrize("full_range", [False, True])
def test_colours_follow_the_tagged_matrix_and_range(tmp_path: Path, bits: int, matrix: int, full_range: bool) -> None:
    colours = [(200, 30, 60), (20, 180, 90), (40, 60, 220), (250, 250, 250), (5, 5, 5), (128, 128, 128)]
    path = tmp_path / "flat.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p" if bits == 8 else "yuv420p10le"
        stream.codec_context.color_range = 2 if full_range else 1
        stream.codec_context.colorspace = matrix
        for i, colour in enumerate(colours):
            frame = av.VideoFrame(32, 32, stream.pix_fmt)
            for plane, value in zip(frame.planes, to_yuv_reference(colour, matrix, full_range), strict=True):
                samples = np.full(plane.buffer_size // (1 if bits == 8 else 2), value, np.uint8 if bits == 8 else "<u2")
                plane.update((samples if bits == 8 else samples << 2).tobytes())
            frame.pts, frame.color_range, frame.colorspace = i, 2 if full_range else 1, matrix
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    for frame, colour in zip(read(path), colours, strict=True):
        middle = frame.image[8:24, 8:24].reshape(-1, 3).astype(int)
        assert np.abs(middle - colour).max() <= 4, (colour, middle[0])


def test_odd_sizes_and_single_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "odd.mkv", 1, (63, 37), codec="ffv1", pix_fmt="yuv420p")
    (frame,) = read(path)
    assert frame.image.shape == (37, 63, 3)
    assert np.abs(frame.image.astype(int) - picture(0, 63, 37)).mean() < 4
    assert np.array_equal(frame.image, plain_decode(path)[0][1])


def test_cover_art_is_not_the_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "song.mkv", 1, (300, 300), codec="mjpeg", pix_fmt="yuvj420p", options={"bf": "0"})
    with av.open(str(path)) as source, av.open(str(tmp_path / "song.mp4"), "w") as out:
        cover = out.add_stream_from_template(source.streams.video[0])
        cover.disposition = av.stream.Disposition.attached_pic
        tone = out.add_stream("aac", rate=44100, layout="mono")
        packet = next(source.demux(video=0))
        packet.stream = cover
        out.mux(packet)
        from tests.video.media import write_tone

        write_tone(out, tone, 0.5)
    error = fails(tmp_path / "song.mp4", Reason.NO_VIDEO_STREAM)
    assert "audio" in error.message


class TestRanges:
    def test_a_range_is_half_open_and_keeps_source_indices(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "a.mp4", 50)
        assert [f.index for f in read(path, start_s=0.4, end_s=0.6)] == [10, 11, 12, 13, 14]
        assert [f.index for f in read(path, end_s=0.08)] == [0, 1]
        assert [f.index for f in read(path, start_s=1.93)] == [49]

    @pytest.mark.parametrize(
        ("name", "codec", "options"),
        [
            ("a.mp4", "libx264", {}),
            ("open_gop.mp4", "libx264", {"x264-params": "open-gop=1:keyint=12:bframes=3:b-pyramid=2"}),
            ("intra_refresh.mp4", "libx264", {"x264-params": "intra-refresh=1:keyint=12"}),
            ("open_gop.mkv", "libx265", {"x265-params": "log-level=none:keyint=12:open-gop=1:bframes=4:pools=none"}),
            ("a.webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
            ("a.ts", "libx264", {}),
            ("a.avi", "mpeg4", {"bf": "0"}),
        ],
    )
    def test_seeking_changes_nothing(self, tmp_path: Path, name: str, codec: str, options: dict[str, str]) -> None:
        time_base = Fraction(1, 25) if name.endswith("avi") else Fraction(1, 1000)
        path = write_video(tmp_path / name, 120, codec=codec, options=options, time_base=time_base)
        everything = read(path)
        for start_s in (2.0, 2.9, 3.5, 4.72):
            expected = [f for f in everything if start_s <= round(f.time_s, 6) < start_s + 0.5]
            got = read(path, start_s=start_s, end_s=start_s + 0.5)
            assert [(f.index, f.pts) for f in got] == [(f.index, f.pts) for f in expected]
            assert all(np.array_equal(a.image, b.image) for a, b in zip(got, expected, strict=True))

    def test_a_seek_does_not_decode_what_lies_before(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write_video(tmp_path / "a.mp4", 200)
        decoded = []
        real = reader_module.decode

        def counting(*args: object, **kwargs: object) -> object:
            for frame in real(*args, **kwargs):  # type: ignore[arg-type]
                decoded.append(frame.index)
                yield frame

        monkeypatch.setattr(reader_module, "decode", counting)
        assert [f.index for f in read(path, start_s=6.0, end_s=6.2)] == [150, 151, 152, 153, 154]
        assert min(decoded) >= 130

    @pytest.mark.parametrize("selection", [{"start_s": 5.0}, {"start_s": 0.41, "end_s": 0.43}, {"end_s": 0.0}])
    def test_nothing_selected_is_an_empty_range(self, tmp_path: Path, selection: dict[str, float]) -> None:
        error = fails(write_video(tmp_path / "a.mp4"), Reason.EMPTY_RANGE, **selection)
        assert "0.8 s" in error.message


class TestDamage:
    def test_rubbish(self, tmp_path: Path) -> None:
        path = tmp_path / "text.mp4"
        path.write_text("this is no video\n" * 100)
        fails(path, Reason.UNREADABLE_VIDEO)
        path.write_bytes(b"")
        assert "empty" in fails(path, Reason.UNREADABLE_VIDEO).message
        path.unlink()
        fails(path, Reason.NOT_FOUND)

    @pytest.mark.parametrize("muxer", ["mp4", "mp3"])
    def test_sound_alone(self, tmp_path: Path, muxer: str) -> None:
        path = write_sound(tmp_path / f"sound.{muxer}", "aac" if muxer == "mp4" else "mp3")
        fails(path, Reason.NO_VIDEO_STREAM)

    def test_a_playlist_does_not_reach_other_files(self, tmp_path: Path) -> None:
        secret = write_video(tmp_path / "secret.ts")
        path = tmp_path / "list.mp4"
        path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n")
        fails(path, Reason.UNREADABLE_VIDEO)
        path.with_suffix(".m3u8").write_text(path.read_text())
        fails(path.with_suffix(".m3u8"), Reason.UNREADABLE_VIDEO)
        path.write_text(f"ffconcat version 1.0\nfile {secret}\n")
        fails(path, Reason.UNREADABLE_VIDEO)

    @pytest.mark.parametrize(
        ("name", "options"),
        [("a.mp4", {"movflags": "+faststart"}), ("frag.mp4", {"movflags": "+frag_keyframe"}), ("a.mkv", {})],
    )
    @pytest.mark.parametrize("kept", [0.6, 0.9])
    def test_a_cut_off_file_is_never_taken_for_a_short_one(
        self, tmp_path: Path, name: str, options: dict[str, str], kept: float
    ) -> None:
        whole = write_video(tmp_path / "whole.mp4", 60, (160, 120), options={"crf": "5"})
        path = tmp_path / name
        with av.open(str(whole)) as source, av.open(str(path), "w", options=options) as out:
            stream = out.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    out.mux(packet)
        assert len(read(path)) == 60
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * kept)])
        error = fails(path, Reason.UNREADABLE_VIDEO)
        assert "cut off" in error.message
        assert "cut off: it ends after the frame at" in fails(path, Reason.UNREADABLE_VIDEO, end_s=99.0).message

    def test_a_range_before_the_cut_is_fine(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "a.mkv", 60, (160, 120), options={"crf": "5"})
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * 0.7)])
        assert [f.index for f in read(path, end_s=0.2)] == [0, 1, 2, 3, 4]

    def test_an_unindexed_mp4_without_its_end(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "a.mp4")
        path.write_bytes(path.read_bytes()[:-200])
        fails(path, Reason.UNREADABLE_VIDEO)

    def test_a_partial_last_packet_of_a_stream_is_dropped(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "a.ts", 40, options={"bf": "0"})
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 3 // 4])
        indices = [f.index for f in read(path)]
        assert 20 <= len(indices) < 40
        assert indices == list(range(len(indices)))

    def test_damage_in_the_middle_names_the_place(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "a.mp4", 40, options={"bf": "0"})
        with av.open(str(path)) as container:
            packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
        data = bytearray(path.read_bytes())
        position, size = packets[20]
        data[position : position + size] = b"\xff" * size
        path.write_bytes(data)
        assert "after the frame at 0.76" in fails(path, Reason.UNREADABLE_VIDEO).message

    def test_a_change_of_size_is_an_error(self, tmp_path: Path) -> None:
        path = tmp_path / "two_sizes.h264"
        parts = [
            write_video(tmp_path / f"{width}.h264", 5, (width, 48), muxer="h264", options={"bf": "0"}).read_bytes()
            for width in (64, 96)
        ]
        path.write_bytes(b"".join(parts))
        assert "96x48" in fails(path, Reason.UNREADABLE_VIDEO).message


class TestLimits:
    @pytest.mark.parametrize(
        "limit",
        [{"max_pixels": 64 * 48 - 1}, {"max_duration_s": 0.5}, {"max_size_bytes": 100}, {"max_frames": 19}],
    )
    def test_each_limit(self, tmp_path: Path, limit: dict[str, float]) -> None:
        path = write_video(tmp_path / "a.mp4")
        error = fails(path, Reason.OVER_LIMITS, limits=VideoConfig(**limit))
        assert "allowed: at most" in error.message or "more than 19" in error.message

    def test_what_is_allowed_counts_for_the_range(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "a.mp4", 50)
        assert len(read(path, end_s=0.4, limits=VideoConfig(max_frames=10, max_duration_s=0.5))) == 10

    @pytest.mark.parametrize("busy", [False, True])
    def test_a_decoder_that_stands_still(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy: bool) -> None:
        path = write_video(tmp_path / "a.mp4")
        real, release = reader_module.decode, threading.Event()

        def stuck(*args: object, **kwargs: object) -> object:
            for frame in real(*args, **kwargs):  # type: ignore[arg-type]
                if frame.index == 3:
                    while not release.wait(0 if busy else 30):
                        pass
                yield frame

        monkeypatch.setattr(reader_module, "decode", stuck)
        got = []
        with pytest.raises(ClipError) as caught:
            got.extend(VideoReader(path, limits=VideoConfig(max_frame_decode_s=0.3 if busy else 0.1)))
        release.set()
        assert caught.value.reason is Reason.OVER_LIMITS
        assert "no frame was decoded" in caught.value.message

    def test_a_decoder_that_waits_for_a_core_is_given_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write_video(tmp_path / "a.mp4", 6)
        real = reader_module.decode

        def starved(*args: object, **kwargs: object) -> object:
            for frame in real(*args, **kwargs):  # type: ignore[arg-type]
                time.sleep(0.8 if frame.index == 3 else 0)
                yield frame

        monkeypatch.setattr(reader_module, "decode", starved)
        assert len(list(VideoReader(path, limits=VideoConfig(max_frame_decode_s=0.4)))) == 6

    def test_a_slow_consumer_is_not_the_decoders_fault(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "a.mp4", 6)
        count = 0
        with VideoReader(path, limits=VideoConfig(max_frame_decode_s=0.3, queue_frames=1)) as video:
            for _ in video:
                time.sleep(0.35 if count < 2 else 0)
                count += 1
        assert count == 6


class TestThread:
    def alive(self) -> int:
        return sum(t.name == "sam3ray-decode" for t in threading.enumerate())

    def test_stopping_early_ends_the_thread(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "a.mp4", 60)
        with VideoReader(path) as video:
            for frame in video:
                if frame.index == 3:
                    break
        assert self.alive() == 0
        frames = iter(VideoReader(path))
        next(frames)
        del frames
        gc.collect()
        assert self.alive() == 0

    def test_a_reader_can_be_iterated_again(self, tmp_path: Path) -> None:
        with VideoReader(write_video(tmp_path / "a.mp4", 12)) as video:
            assert next(iter(video)).index == 0
            assert [f.index for f in video] == list(range(12))
        assert self.alive() == 0

    def test_it_stays_within_the_queue(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        decoded = []
        real = reader_module.decode

        def counting(*args: object, **kwargs: object) -> object:
            for frame in real(*args, **kwargs):  # type: ignore[arg-type]
                decoded.append(frame.index)
                yield frame

        monkeypatch.setattr(reader_module, "decode", counting)
        with VideoReader(write_video(tmp_path / "a.mp4", 60), limits=VideoConfig(queue_frames=4)) as video:
            next(iter(video))
            time.sleep(0.5)
            assert len(decoded) <= 6  # one taken, four queued, one in hand

    def test_a_forked_process_can_let_go_of_it(self, tmp_path: Path) -> None:
        """The thread may have been forked in the middle of anything: here, while it held the queue's lock."""
        frames = iter(VideoReader(write_video(tmp_path / "a.mp4", 60)))
        next(frames)
        ahead = frames.gi_frame.f_locals["ahead"]  # type: ignore[attr-defined]
        with ahead._queue.mutex:
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                frames.close()  # type: ignore[attr-defined]
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert next(frames).index == 1
        frames.close()  # type: ignore[attr-defined]
