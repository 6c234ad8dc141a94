"""Times that grow, whatever a container says."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam3ray.config import JobConfig, VideoConfig
from sam3ray.failures import ClipError, Reason
from sam3ray.manifest import Clip
from sam3ray.planning._foresight import foreseen
from sam3ray.video import ClipFrames, VideoReader, probe_uri
from sam3ray.video._clock import Clock, Stamp
from sam3ray.video._sampling import Sampler
from tests.video.media import plain_decode, remux, write_video
from tests.video.test_folder import write_frames

STEP = 40


def run(
    shown: Sequence[int | None], order: Sequence[int] = (), *, delay: int = 3, start: int | None = None, **options: Any
) -> list[tuple[int, bool]]:
    """(ticks, is_rebuilt) of frames with these stamps in display order, decoded in the given order, a few late.

    Every group of 10 in display order begins with a key frame.
    """
    order = order or range(len(shown))
    clock: Clock[int] = Clock(0.001, STEP, start, **options)
    came, inside, timed = 0, {}, []
    for count, frame in enumerate(order, 1):
        inside[frame] = clock.sent(Stamp(shown[frame], None, frame % 10 == 0))
        while came in inside and count > came + delay:
            timed += clock.shown(inside[came], came)
            came += 1
    while came < len(shown):
        timed += clock.shown(inside[came], came)
        came += 1
    timed += clock.end()
    assert [t.item for t in timed] == list(range(len(shown)))
    assert all(a.pts < b.pts for a, b in pairwise(timed))
    assert all(t.ticks == t.pts - (timed[0].pts - timed[0].ticks) for t in timed)
    assert not timed or timed[0].ticks >= 0
    return [(t.ticks, t.is_rebuilt) for t in timed]


def decoding_order(count: int, b_frames: int) -> list[int]:
    """I P B B P B B ...: each reference before the frames shown between it and the last one."""
    order: list[int] = []
    for first in range(0, count, 10):
        group = list(range(first, min(first + 10, count)))
        order.append(group.pop(0))
        while group:
            part, group = group[: b_frames + 1], group[b_frames + 1 :]
            order += [part[-1], *part[:-1]]
    return order


STAMPS = st.lists(st.one_of(st.none(), st.integers(-3000, 20000)), min_size=1, max_size=60)


@given(STAMPS, st.integers(0, 3), st.booleans())
def test_whatever_the_stamps_are_no_frame_is_lost_and_time_grows(
    stamps: list[int | None], b_frames: int, leaps: bool
) -> None:
    run(stamps, decoding_order(len(stamps), b_frames), leaps=leaps)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(0, 3), st.integers(-500, 500), st.booleans())
def test_a_good_clock_comes_out_as_it_went_in(gaps: list[int], b_frames: int, first: int, leaps: bool) -> None:
    stamps = [first + sum(gaps[:i]) for i in range(len(gaps))]
    for start in (None, first, first - 7):
        got = run(stamps, decoding_order(len(stamps), b_frames), start=start, leaps=leaps)
        assert got == [(stamp - (first if start is None else start), False) for stamp in stamps]


@given(st.lists(st.integers(3, 40), min_size=2, max_size=5), st.integers(0, 3))
def test_clocks_that_start_again_go_on(lengths: list[int], b_frames: int) -> None:
    stamps, order = [], []
    for length in lengths:
        order += [len(stamps) + i for i in decoding_order(length, b_frames)]
        stamps += [STEP * i for i in range(length)]
    clock: Clock[int] = Clock(0.001, STEP, 0)
    keys = {sum(lengths[:i]) for i in range(len(lengths))}
    numbers = {i: clock.sent(Stamp(stamps[i], None, i in keys)) for i in order}
    timed = [t for i in range(len(stamps)) for t in clock.shown(numbers[i], i)] + list(clock.end())
    assert [t.ticks for t in timed] == [STEP * i for i in range(len(stamps))]


@given(st.integers(1, 60), st.integers(1, 5))
def test_stamps_in_decoding_order_are_put_in_display_order(count: int, b_frames: int) -> None:
    order = decoding_order(count, b_frames)
    shown: list[int | None] = [None] * count
    for place, frame in enumerate(order):
        shown[frame] = STEP * place
    assert [t for t, _ in run(shown, order, delay=b_frames + 1)] == [STEP * i for i in range(count)]


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        ([0, 40, 40, 80, 120], [0, 40, 60, 80, 120]),
        ([0, 40, None, None, 160], [0, 40, 80, 120, 160]),
        ([0, 40, 30, 80], [0, 30, 40, 80]),
        ([None, None, None], [0, 40, 80]),
        ([0] * 30, [40 * i for i in range(30)]),
        ([0, 1, 2, 2, 2, 2], [0, 1, 2, 42, 82, 122]),
        ([500, 540, None], [0, 40, 80]),
    ],
)
def test_missing_and_repeated_stamps(stamps: list[int | None], expected: list[int]) -> None:
    assert [t for t, _ in run(stamps, start=stamps[0])] == expected


def test_a_stamp_that_stays_hands_over_to_the_rate_and_takes_over_again() -> None:
    stamps = [0, 40, *[80] * 20, *[80 + 50 * i for i in range(1, 4)]]
    assert [t for t, _ in run(stamps)] == [40 * i for i in range(22)] + [880, 930, 980]


def test_a_leap_is_a_pause_or_a_splice() -> None:
    stamps = [0, 40, 80, 1_000_000, 1_000_040]
    assert [t for t, _ in run(stamps)] == stamps
    assert run(stamps, leaps=True) == [(0, False), (40, False), (80, False), (120, True), (160, True)]
    slow = [0, 20_000, 40_000]
    assert [t for t, _ in run(slow, leaps=False)] == slow


# Real containers


def joined(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def parts(folder: Path, suffix: str, **options: Any) -> list[Path]:
    options = {"time_base": Fraction(1, 25), **options}
    return [write_video(folder / f"{count}{suffix}", count, **options) for count in (55, 30)]


def late(folder: Path, seconds: int) -> Path:
    stamps = [seconds * 1000 + 40 * i for i in range(30)]
    return write_video(folder / f"late{seconds}.ts", 30, pts=stamps)


MAKERS: dict[str, Callable[[Path], Path]] = {
    "ts": lambda d: joined(d / "a.ts", *parts(d, ".ts")),
    "ts_ahead": lambda d: joined(d / "a.ts", parts(d, ".ts")[0], late(d, 300)),
    "ts_behind": lambda d: joined(d / "a.ts", late(d, 300), parts(d, ".ts")[0]),
    "ts_three": lambda d: joined(d / "a.ts", late(d, 50), late(d, 90000), *parts(d, ".ts")),
    "ps": lambda d: joined(d / "a.mpg", *parts(d, ".mpg", codec="mpeg2video")),
    "mkv": lambda d: joined(d / "a.mkv", *parts(d, ".mkv", time_base=Fraction(1, 1000))),
    "webm": lambda d: joined(d / "a.webm", *parts(d, ".webm", codec="libvpx", time_base=Fraction(1, 1000))),
    "avi_joined": lambda d: joined(d / "a.avi", *parts(d, ".avi", codec="mpeg4", options={"bf": "0"})),
    "avi_mpeg4": lambda d: write_video(d / "a.avi", 60, codec="mpeg4", time_base=Fraction(1, 25)),
    "avi_h264": lambda d: write_video(d / "a.avi", 60, options={"bf": "3"}, time_base=Fraction(1, 25)),
    "h264": lambda d: joined(d / "a.h264", *parts(d, ".h264")),
    "hevc": lambda d: write_video(
        d / "a.hevc", 60, codec="libx265", options={"x265-params": "log-level=none:keyint=10:pools=none"}
    ),
    "gif": lambda d: write_video(d / "a.gif", 60, codec="gif", pix_fmt="rgb8", time_base=Fraction(1, 100)),
    "mjpeg_avi": lambda d: write_video(
        d / "a.avi", 60, codec="mjpeg", pix_fmt="yuvj420p", time_base=Fraction(1, 25), options={"bf": "0"}
    ),
    "decoding_order": lambda d: remux(
        write_video(d / "b.mp4", 60), d / "a.mkv", lambda n, p: (n * 40, n * 40), time_base=Fraction(1, 1000)
    ),
    "one_stamp": lambda d: remux(
        write_video(d / "b.mp4", 60, options={"bf": "0"}), d / "a.mkv", lambda n, p: (0, 0), time_base=Fraction(1, 1000)
    ),
    "wrapped": lambda d: write_video(
        d / "a.ts", 60, time_base=Fraction(1, 90000), pts=[2**33 - 126000 - 3600 * 30 + 3600 * i for i in range(60)]
    ),
}
REBUILT = set(MAKERS) - {"avi_joined", "gif", "mjpeg_avi", "wrapped"}


@pytest.mark.parametrize("name", MAKERS)
def test_all_ways_to_a_frame_agree(tmp_path: Path, name: str) -> None:
    path = MAKERS[name](tmp_path)
    images = [image for _, image in plain_decode(path)]
    times = [i / 25 for i in range(len(images))]
    with VideoReader(path) as video:
        everything = list(video)
        assert video.clock == ("rebuilt" if name in REBUILT else "container")
        unit = video.info.time_base
    assert [f.time_s for f in everything] == pytest.approx(times, abs=1e-6)
    assert all(np.array_equal(f.image, image) for f, image in zip(everything, images, strict=True))
    assert [f.pts - everything[0].pts for f in everything] == [round(Fraction(f.time_s) / unit) for f in everything]

    for start_s, end_s, fps in ((None, None, 5.0), (2.1, 2.9, None), (2.04, None, 7.0), (0.5, 1.0, 3.0)):
        sampler = Sampler(unit, start_s, end_s, fps)
        wanted = [f.index for f in everything if sampler.wants(round(Fraction(f.time_s) / unit))]
        with VideoReader(path, start_s=start_s, end_s=end_s, fps=fps) as video:
            read = list(video)
        clip = ClipFrames(path, start_s=start_s, end_s=end_s, fps=fps)
        assert [f.index for f in read] == list(clip.indices) == wanted
        for frames in (read[2:], list(clip.read(2))):
            assert [(f.index, f.pts, f.time_s) for f in frames] == [
                (everything[i].index, everything[i].pts, everything[i].time_s) for i in wanted[2:]
            ]
            assert all(np.array_equal(f.image, images[f.index]) for f in frames)
    clip = ClipFrames(path)
    for moment in (0.0, 0.41, 2.3, 99.0):
        assert clip.frame_at(moment) == bisect_right(times, moment + 1e-9) - 1
    if name == "one_stamp":
        return  # its headers promise a millisecond
    facts = probe_uri(str(path), VideoConfig())
    assert facts.duration_s is None or facts.duration_s == pytest.approx(len(images) / 25, abs=0.05)


def test_a_bad_stamp_shifts_its_own_frame_alone(tmp_path: Path) -> None:
    good = write_video(tmp_path / "b.mp4", 60, options={"bf": "0"})
    path = remux(good, tmp_path / "a.mkv", lambda n, p: (40 * (n - (n == 30)),) * 2, time_base=Fraction(1, 1000))
    with VideoReader(path, start_s=2.2) as video:
        assert [f.index for f in video] == list(range(55, 60))
    with VideoReader(path) as video:
        times = [round(1000 * f.time_s) for f in video]
    assert times == [40 * n for n in range(60)]


@pytest.mark.parametrize("name", ["a.flv", "a.mp4", "a.wmv", "fragments.mp4"])
def test_frames_that_no_library_reads_fail_the_clip(tmp_path: Path, name: str) -> None:
    codec, options = ("wmv2", {"bf": "0"}) if name.endswith("wmv") else ("libx264", {})
    one = write_video(tmp_path / f"one_{name}", 30, codec=codec, options=options)
    if name.startswith("fragments"):
        one = remux(one, tmp_path / "f.mp4", None, options={"movflags": "+frag_keyframe+empty_moov+default_base_moof"})
    path = joined(tmp_path / name, one, one)
    with pytest.raises(ClipError, match="joined byte by byte") as caught, VideoReader(path) as video:
        list(video)
    assert caught.value.reason is Reason.UNREADABLE_VIDEO
    config = JobConfig(manifest="none", output="/none", prompts=("a",))
    if name.startswith("fragments"):
        with pytest.raises(ClipError, match="joined byte by byte"):
            probe_uri(str(path), VideoConfig())
    else:
        foreseen_of = partial(foreseen, facts=probe_uri(str(path), VideoConfig()), config=config)
        failure = foreseen_of(Clip("c", str(path)))
        assert failure is not None
        assert failure.reason is Reason.UNREADABLE_VIDEO
        assert foreseen_of(Clip("c", str(path), end_s=1.0)) is None
        with VideoReader(path, end_s=1.0) as video:
            assert len(list(video)) == 25
    assert foreseen(Clip("c", str(one)), probe_uri(str(one), VideoConfig()), config) is None
    with VideoReader(one) as video:
        assert len(list(video)) == 30


def test_fragments_that_go_on_after_their_header_came_again_are_read(tmp_path: Path) -> None:
    whole = remux(
        write_video(tmp_path / "b.mp4", 40),
        tmp_path / "f.mp4",
        None,
        options={"movflags": "+frag_keyframe+empty_moov+default_base_moof"},
    )
    data = whole.read_bytes()
    header, third = data[: data.index(b"moof") - 4], data.rindex(b"moof", 0, data.rindex(b"moof")) - 4
    path = tmp_path / "again.mp4"
    path.write_bytes(data[:third] + header + data[third:])
    with VideoReader(path) as video:
        assert len(list(video)) == 40


PIDS = {"mpegts_start_pid": "0x300"}


@pytest.mark.parametrize("name", ["a.ts", "long.ts", "ad.ts", "larger.ts"])
def test_a_program_change_fails_the_clip(tmp_path: Path, name: str) -> None:
    one = write_video(tmp_path / "one.ts", 40)
    size = (128, 96) if name == "larger.ts" else (64, 48)
    other = remux(write_video(tmp_path / "2.mp4", 40, size), tmp_path / "2.ts", None, options=PIDS)
    parts = {"long.ts": [one] * 100 + [other], "ad.ts": [one, other, one]}.get(name, [one, other])
    path = joined(tmp_path / name, *parts)
    with pytest.raises(ClipError, match="where the program changes"), VideoReader(path, fps=1) as video:
        list(video)
    with pytest.raises(ClipError, match="where the program changes"):
        list(ClipFrames(path).read(1))
    assert "where the program changes" in (probe_uri(str(path), VideoConfig()).unread_rest or "")
    if name != "larger.ts":
        with VideoReader(path, end_s=1.0) as video:
            assert len(list(video)) == 25


def test_programs_side_by_side_are_no_change(tmp_path: Path) -> None:
    path = tmp_path / "a.ts"
    with (
        av.open(str(write_video(tmp_path / "1.mp4", 60))) as first,
        av.open(str(write_video(tmp_path / "2.mp4", 80, (32, 32), options={"crf": "1"}))) as second,
        av.open(str(path), "w") as out,
    ):
        packets = []
        for source in (first, second):
            stream = out.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    packets.append(packet)
        for packet in sorted(packets, key=lambda p: float((p.dts or 0) * p.time_base)):
            out.mux(packet)
    with VideoReader(path) as video:
        assert len(list(video)) == 60
    assert probe_uri(str(path), VideoConfig()).unread_rest is None


def with_edits(source: Path, target: Path, edits: Sequence[tuple[int, int]]) -> Path:
    """An MP4 with another edit list: (milliseconds, where they begin in units of the track)."""
    data = bytearray(source.read_bytes())
    entries = b"".join(struct.pack(">IiHH", lasts, begins, 1, 0) for lasts, begins in edits)
    at = data.index(b"elst") - 4
    box = struct.pack(">I4sII", 16 + len(entries), b"elst", 0, len(edits)) + entries
    longer = len(box) - int.from_bytes(data[at : at + 4], "big")
    data[at : at + len(box) - longer] = box
    for name in (b"moov", b"trak", b"edts"):
        place = data.rindex(name, 0, at + 4) - 4
        data[place : place + 4] = struct.pack(">I", int.from_bytes(data[place : place + 4], "big") + longer)
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("b_frames", ["0", "2"])
@pytest.mark.parametrize("begins", [(0, 0), (40, 0), (0, 10), (50, 0, 25)], ids=str)
def test_edit_lists_that_show_parts_again_keep_their_clock(
    tmp_path: Path, b_frames: str, begins: tuple[int, ...]
) -> None:
    source = write_video(tmp_path / "a.mp4", 80, options={"bf": b_frames})
    with av.open(str(source)) as container:
        stream = container.streams.video[0]
        unit = stream.time_base
        first = -min(p.dts for p in container.demux(stream) if p.dts is not None)
    assert unit is not None
    frame = round(Fraction(1, 25) / unit)
    path = with_edits(source, tmp_path / "b.mp4", [(800, first + frame * begin) for begin in begins])
    expected = plain_decode(path)
    assert len(expected) == 20 * len(begins)
    with VideoReader(path) as video:
        frames = list(video)
    assert [f.time_s for f in frames] == pytest.approx([i / 25 for i in range(len(expected))], abs=1e-6)
    assert all(np.array_equal(f.image, image) for f, (_, image) in zip(frames, expected, strict=True))


def test_a_picture_that_is_not_shown_is_no_frame(tmp_path: Path) -> None:
    """VP8 has packets that only others refer to."""
    path = tmp_path / "a.webm"
    whole = write_video(tmp_path / "whole.webm", 120, codec="libvpx")
    with av.open(str(whole)) as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size:
                if number % 10 == 5:
                    packet.update(bytes([bytes(packet)[0] & 0xEF]) + bytes(packet)[1:])
                packet.stream = stream
                out.mux(packet)
    with VideoReader(path) as video:
        everything = [(f.index, f.time_s) for f in video]
    assert len(everything) == 108
    with VideoReader(path, start_s=4.0) as video:
        assert [(f.index, f.time_s) for f in video] == [(i, t) for i, t in everything if t >= 4.0]
    assert list(ClipFrames(path, start_s=4.0).indices) == [i for i, t in everything if t >= 4.0]


def test_a_recording_that_begins_between_key_frames_counts_what_is_shown(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.ts", 120, options={"g": "12", "bf": "2"}).read_bytes()
    path = tmp_path / "tuned_in_late.ts"
    path.write_bytes(whole[: 4 * 188] + whole[len(whole) // 8 // 188 * 188 :])
    with VideoReader(path) as video:
        everything = [(f.index, f.time_s) for f in video]
    with VideoReader(path, start_s=3.0) as video:
        assert [(f.index, f.time_s) for f in video] == [(i, t) for i, t in everything if t >= 3.0]
    assert list(ClipFrames(path, start_s=3.0).indices) == [i for i, t in everything if t >= 3.0]


def test_a_folder_says_which_file_a_frame_is(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "f", [f"shot_{i * 5}.png" for i in range(10)])
    with VideoReader(folder, start_s=0.1, fps=10) as video:
        indices = [f.index for f in video]
        assert video.frame_names == {i: f"shot_{i * 5}.png" for i in indices}
        assert video.clock == "folder_fps"
    clip = ClipFrames(folder, start_s=0.1, fps=10)
    list(clip.read(1))
    assert clip.frame_names == {i: f"shot_{i * 5}.png" for i in indices[1:]}


@pytest.mark.parametrize(
    ("kind", "codecs", "sentence"),
    [
        ("mpegts", ("libx264", "mpeg2video"), "where the program changes"),
        ("nut", ("mpeg4", "mpeg4"), "several files were joined byte by byte"),
    ],
)
def test_a_second_part_that_would_be_lost_fails_the_clip(
    tmp_path: Path, kind: str, codecs: Sequence[str], sentence: str
) -> None:
    data = b""
    for n, codec in enumerate(codecs):
        path = tmp_path / f"{n}.{kind}"
        with av.open(str(path), "w", format=kind) as container:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for index in range(10):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * index, np.uint8), format="rgb24")
                frame.pts = index
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        with VideoReader(path) as video:
            assert len(list(video)) == 10
        data += path.read_bytes()
    both = tmp_path / f"both.{kind}"
    both.write_bytes(data)
    with pytest.raises(ClipError, match=sentence), VideoReader(both) as video:
        list(video)
    assert probe_uri(str(both), VideoConfig()).unread_rest is not None
