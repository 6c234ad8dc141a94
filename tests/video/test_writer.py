"""Encoding: what is written is what a player gets."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sam3ray.video import VideoReader, VideoWriter
from tests.video.media import picture, write_sound, write_video

MS = Fraction(1, 1000)


def write(path: Path, pts: list[int], size: tuple[int, int] = (64, 48), **options: object) -> Path:
    with VideoWriter(path, *size, MS, Fraction(25), **options) as writer:  # type: ignore[arg-type]
        for i, stamp in enumerate(pts):
            writer.write(picture(i, *size), stamp)
    return path


def test_timing_and_duration_are_kept_exactly(tmp_path: Path) -> None:
    pts = [500, 540, 560, 1000, 1001, 2400]
    path = write(tmp_path / "a.mp4", pts)
    with VideoReader(path) as video:
        assert [round(f.time_s * 1000) for f in video] == [p - 500 for p in pts]
    with av.open(str(path)) as container:
        assert container.duration == 1_940_000  # the last frame lasts a usual one


def test_stamps_that_stand_still_are_moved_on(tmp_path: Path) -> None:
    with VideoReader(write(tmp_path / "a.mp4", [0, 40, 40, 30, 80])) as video:
        times = [round(f.time_s * 1000) for f in video]
    assert len(times) == 5
    assert times == sorted(set(times))
    assert times[-1] == 80


@pytest.mark.parametrize("time_base", [Fraction(1, 10**9), Fraction(1, 2**31 - 1), Fraction(3), Fraction(1, 25)])
@pytest.mark.parametrize("fps", [Fraction(2**31 - 1), Fraction(1, 86400), Fraction(30000, 1001)])
def test_absurd_clocks_are_written_all_the_same(tmp_path: Path, time_base: Fraction, fps: Fraction) -> None:
    path = tmp_path / "a.mp4"
    stamps = [round(Fraction(s) / time_base) for s in (0, 3, 9)]
    with VideoWriter(path, 64, 48, time_base, fps) as writer:
        for i, stamp in enumerate(stamps):
            writer.write(picture(i, 64, 48), stamp)
    with VideoReader(path) as video:
        assert [f.time_s for f in video] == pytest.approx([0, 3, 9], abs=1e-4)


@pytest.mark.parametrize("size", [(64, 48), (63, 48), (64, 47), (63, 47), (2, 2), (1, 1)])
def test_any_size_plays(tmp_path: Path, size: tuple[int, int]) -> None:
    path = write(tmp_path / "a.mp4", [0, 40, 80], size)
    width, height = size
    with VideoReader(path) as video:
        frames = list(video)
    assert frames[0].image.shape == (height + height % 2, width + width % 2, 3)
    assert len(frames) == 3
    if min(size) > 2:  # below that all pixels share one sample of colour
        shown = frames[0].image[:height, :width].astype(int)
        assert np.abs(shown - picture(0, width, height)).mean() < 8


def test_what_browsers_need(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", [0, 40, 80])
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
        assert (codec.color_range, codec.colorspace, codec.color_trc, codec.color_primaries) == (1, 1, 1, 1)


@pytest.mark.parametrize("colour", [(200, 30, 60), (20, 180, 90), (40, 60, 220), (250, 250, 250), (5, 5, 5)])
def test_colours_survive(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    path = tmp_path / "a.mp4"
    with VideoWriter(path, 64, 64, MS, Fraction(25)) as writer:
        writer.write(np.full((64, 64, 3), colour, np.uint8), 0)
    with VideoReader(path) as video:
        (frame,) = video
    assert np.abs(frame.image.astype(int) - colour).max() <= 5


def sound_of(path: Path) -> tuple[str, float, np.ndarray] | None:
    """(codec, first sample's time, samples) of a file's sound."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        frames = list(container.decode(stream))
        samples = np.concatenate([f.to_ndarray().astype(np.float64)[0] for f in frames])
        return stream.codec_context.name, float(frames[0].pts * frames[0].time_base), samples


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "aac"), ("a.mkv", "pcm_s16le"), ("b.mkv", "flac"), ("a.ts", "mp2")]
)
def test_sound_is_kept(tmp_path: Path, name: str, codec: str) -> None:
    source = write_video(tmp_path / name, 25, sound=codec)
    out = write(tmp_path / "out.mp4", [40 * i for i in range(25)], audio_from=source)
    kept = sound_of(out)
    assert kept is not None
    assert kept[0] == "aac"
    assert abs(kept[1]) < 0.06
    assert len(kept[2]) / 44100 == pytest.approx(1.0, abs=0.1)
    steady = kept[2][4000:40000]
    strongest = np.argmax(np.abs(np.fft.rfft(steady))) * 44100 / len(steady)
    assert strongest == pytest.approx(440, abs=3)


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "aac"), ("a.mkv", "pcm_s16le")])
def test_sound_is_cut_to_the_range(tmp_path: Path, name: str, codec: str) -> None:
    source = write_video(tmp_path / name, 75, sound=codec)
    pts = [40 * i for i in range(25, 50)]
    out = write(tmp_path / "out.mp4", pts, audio_from=source, audio_start_s=1.0, audio_end_s=2.0)
    kept = sound_of(out)
    assert kept is not None
    assert kept[1] < 0.06
    assert len(kept[2]) / 44100 == pytest.approx(1.0, abs=0.1)


def test_no_sound_no_audio_stream(tmp_path: Path) -> None:
    source = write_video(tmp_path / "mute.mp4", 5)
    assert sound_of(write(tmp_path / "out.mp4", [0, 40], audio_from=source)) is None
    assert sound_of(write(tmp_path / "out2.mp4", [0, 40], audio_from=tmp_path)) is None


def test_damaged_sound_does_not_cost_the_pictures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = write_sound(tmp_path / "a.mp3", "mp3")
    data = bytearray(source.read_bytes())
    data[len(data) // 2 :] = b"\x00" * (len(data) - len(data) // 2)
    source.write_bytes(data)
    with VideoReader(write(tmp_path / "out.mp4", [0, 40, 2000], audio_from=source)) as video:
        assert len(list(video)) == 3
    source.write_bytes(b"rubbish" * 100)
    with VideoReader(write(tmp_path / "out2.mp4", [0, 40], audio_from=source)) as video:
        assert len(list(video)) == 2
    assert "sound is dropped" in caplog.text


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"

    def fail_half_way() -> None:
        with VideoWriter(path, 64, 48, MS, Fraction(25)) as writer:
            writer.write(picture(0, 64, 48), 0)
            raise RuntimeError("drawing failed")

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert not path.exists()
    with VideoWriter(path, 64, 48, MS, Fraction(25)):
        pass
    assert not path.exists()


def test_a_wrong_image_is_refused(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", 64, 48, MS, Fraction(25))
    with pytest.raises(ValueError, match=r"uint8 \(48, 64, 3\), got float64 \(48, 64\)"):
        writer.write(np.zeros((48, 64)), 0)
    writer.close()
