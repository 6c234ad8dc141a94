"""Large remote videos: read by ranges, frame for frame as from a local file, and never a mixture of two versions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem

from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError, Reason
from sam3ray.files.sighting import of_info
from sam3ray.video import (
    Anchor,
    ClipFrames,
    Frame,
    FrameIndex,
    VideoCache,
    VideoReader,
    _anchor,
    _probe_remote,
    _ranges,
    probe_uri,
)
from sam3ray.video._fetching import open_by_ranges
from sam3ray.video._index import read_index
from sam3ray.video._opened import ByRanges, VideoSource
from sam3ray.video._pieces import Pieces
from sam3ray.video._ranges import RangedVideo
from sam3ray.video._remote import RemoteFile, RemoteVideo
from tests.servers import Place
from tests.video.media import write_video
from tests.video.ranges import Site, seen, serving
from tests.video.test_clock import with_edits

FRAMES = 150
Answer = tuple[int, dict[str, str], bytes | None]
LIMITS = VideoConfig(ranges_above_bytes=0)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ranges, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(_ranges, "MOST_BLOCKS", 16)
    monkeypatch.setattr(_ranges, "MEMORY_BYTES", 256 * 1024)
    monkeypatch.setattr(_ranges, "_PAUSE_S", 0.001)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 1.6 MB: noise, so that each frame has its share of the bytes."""
    noise = np.random.default_rng(0).integers(0, 255, (FRAMES, 96, 128, 3), np.uint8)
    return write_video(tmp_path_factory.mktemp("noise") / "long.mp4", FRAMES, (128, 96), images=list(noise))


@pytest.fixture(scope="module")
def whole_frames(video: Path) -> list[tuple[Any, ...]]:
    return seen(VideoReader(video))


@pytest.fixture
def site(video: Path) -> Iterator[Site]:
    with serving({"long.mp4": video.read_bytes(), "short.mp4": b"x" * 100}) as site:
        yield site


@pytest.fixture
def cache(tmp_path: Path) -> VideoCache:
    return VideoCache(tmp_path / "cache", 10**8, limits=LIMITS)


def ranged(path: Path) -> RangedVideo:
    data = path.read_bytes()
    return RangedVideo(lambda begin, end: data[begin:end], path.name, len(data))


def on_disk(tmp_path: Path) -> int:
    return sum(each.stat().st_size for each in tmp_path.rglob("*") if each.is_file())


def read_from(source: VideoSource, position: int, **how: Any) -> list[tuple[Any, ...]]:
    return seen(ClipFrames(source, limits=LIMITS, **how).read(position))


VARIETY: dict[str, dict[str, Any]] = {
    "moov_last.mp4": {},
    "moov_first.mp4": {"container_options": {"movflags": "faststart"}},
    "open_groups.mov": {"options": {"x264-params": "open-gop=1:keyint=12:bframes=3:b-pyramid=normal:log=-1"}},
    "no_key_frames.mp4": {"options": {"intra-refresh": "1", "g": "20"}},
    "mpeg4.mp4": {"codec": "mpeg4"},
    "uneven.mp4": {"pts": [40 * i + 5 * (i % 7) for i in range(100)]},
    "sound.mp4": {"sound": "aac"},
    "vp9.mp4": {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "deadline": "realtime"}},
    "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
}


class TestFrames:
    @pytest.mark.parametrize("name", VARIETY)
    def test_they_are_those_of_the_local_file(self, tmp_path: Path, name: str) -> None:
        path = write_video(tmp_path / name, 100, **VARIETY[name])
        index, other = read_index(path, LIMITS), read_index(ranged(path), LIMITS)
        assert (index is None) == (other is None) == (name == "mpeg4.mp4")  # whose packets are too small to tell
        if index is not None and other is not None:
            assert (list(other.pts), other.start, other.time_base) == (list(index.pts), index.start, index.time_base)
        assert seen(VideoReader(ranged(path), fps=7, limits=LIMITS)) == seen(VideoReader(path, fps=7, limits=LIMITS))
        for how in ({}, {"start_s": 2.1, "end_s": 3.3}, {"fps": 11.0}):
            assert read_from(ranged(path), 9, **how) == read_from(path, 9, **how)
        assert ClipFrames(ranged(path), limits=LIMITS).info == ClipFrames(path, limits=LIMITS).info

    @pytest.mark.parametrize("begins", [[0], [5], [0, 40], [40, 0]])
    def test_edit_lists_count(self, tmp_path: Path, begins: list[int]) -> None:
        source = write_video(tmp_path / "a.mp4", 60, options={"bf": "0"})
        path = with_edits(source, tmp_path / "b.mp4", [(800, 40 * 16 * begin) for begin in begins])
        assert seen(VideoReader(ranged(path), limits=LIMITS)) == seen(VideoReader(path, limits=LIMITS))
        assert read_from(ranged(path), 7) == read_from(path, 7)

    def test_a_cut_off_file_fails_as_a_local_one(self, tmp_path: Path) -> None:
        whole = write_video(tmp_path / "a.mp4", 100, container_options={"movflags": "faststart"})
        path = tmp_path / "b.mp4"
        path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
        said = []
        for source in (path, ranged(path)):
            with pytest.raises(ClipError) as caught:
                list(VideoReader(source, limits=LIMITS))
            said.append(str(caught.value))
        assert said[0] == said[1]

    def test_key_frames_that_are_none_are_not_started_at(self, tmp_path: Path) -> None:
        """Tables that call every frame a key frame: without `stss`, all are."""
        path = write_video(tmp_path / "a.mp4", 100)
        path.write_bytes(path.read_bytes().replace(b"stss", b"free"))
        assert read_from(ranged(path), 77) == read_from(path, 77)


STREAMS: dict[str, dict[str, Any]] = {
    "b_frames.mkv": {},
    "open_groups.mkv": VARIETY["open_groups.mov"],
    "no_key_frames.mkv": VARIETY["no_key_frames.mp4"],
    "uneven.mkv": VARIETY["uneven.mp4"],
    "alternate.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "12", "g": "20"}},
    "all_key_frames.mkv": {"options": {"g": "1", "bf": "0"}},
    "live.mkv": {"container_options": {"live": "1"}},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "dash.mp4": {"container_options": {"movflags": "frag_keyframe+dash+global_sidx"}},
    "few.mp4": {"container_options": {"movflags": "empty_moov", "frag_duration": "700000"}, "sound": "aac"},
    "b_frames.ts": {"sound": "aac"},
    "mpeg2.mpg": {"codec": "mpeg2video", "time_base": Fraction(1, 25)},
    "plain.avi": {"codec": "mpeg4", "options": {"bf": "0"}},
    "plain.flv": {},
    "plain.wmv": {"codec": "wmv2", "options": {"bf": "0"}},
    "b_frames.asf": {},
    "mpeg2.mxf": {"codec": "mpeg2video", "time_base": Fraction(1, 25)},
    "h264.mxf": {"time_base": Fraction(1, 25)},
}
WITHOUT_ANCHORS = {"b_frames.asf", "h264.mxf"}  # they do not say when a frame is shown, only in which order they decode


class TestAnchors:
    """Containers without a table of their frames are continued by a key frame that was passed before."""

    @pytest.fixture(autouse=True)
    def few_are_held(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_anchor, "_HELD", 0)

    @staticmethod
    def passed(path: Path, stop: int, **how: Any) -> Anchor | None:
        clip = ClipFrames(ranged(path), limits=LIMITS, **how)
        assert len(list(clip.read(0, stop))) == stop
        facts = clip.anchors.latest()
        return None if facts is None else Anchor.of(json.loads(json.dumps(facts)))

    @staticmethod
    def read_by(anchor: Anchor | None, source: RangedVideo, start: int, **how: Any) -> list[tuple[Any, ...]]:
        clip = ClipFrames(source, limits=LIMITS, **how)
        clip.anchor = lambda: anchor
        assert clip.needs_anchors
        return seen(clip.read(start))

    @pytest.mark.parametrize("name", STREAMS)
    @pytest.mark.parametrize("how", [{}, {"fps": 11.0, "end_s": 3.7}])
    def test_frames_are_those_of_the_local_file(self, tmp_path: Path, name: str, how: dict[str, Any]) -> None:
        path = write_video(tmp_path / name, 100, **STREAMS[name])
        expected = seen(ClipFrames(path, limits=LIMITS, **how).read())
        anchor = self.passed(path, 32, **how)
        assert (anchor is not None) == (name not in WITHOUT_ANCHORS)
        for start in (32, 29, 39, 2):
            assert self.read_by(anchor, ranged(path), start, **how) == expected[start:]

    def test_what_comes_before_is_not_fetched(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 255, (100, 96, 128, 3), np.uint8)
        path = write_video(tmp_path / "a.mkv", 100, (128, 96), images=list(noise))
        source = ranged(path)
        found = self.read_by(self.passed(path, 90), source, 90)
        assert [frame[0] for frame in found] == list(range(90, 100))
        assert source.fetched_bytes < 0.5 * source.size

    @pytest.mark.parametrize(
        ("name", "options"),
        [("a.mkv", {"live": "1"}), ("a.mp4", {"movflags": "frag_keyframe+empty_moov+default_base_moof"})],
    )
    def test_gigabytes_before_the_key_frame_are_leapt_over(
        self, tmp_path: Path, name: str, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, more = write_video(tmp_path / name, 60, container_options=options), 2**30
        data, index = path.read_bytes(), read_index(ranged(path), LIMITS)
        assert index is not None
        key = index.key_frames[-1]
        assert key.piece is not None
        assert key.byte is not None
        at, given = key.piece, [0]

        def fetch(begin: int, end: int) -> bytes:
            between = bytes(max(0, min(end, at + more) - max(begin, at)))
            return data[begin : min(end, at)] + between + data[max(at, begin - more) : max(at, end - more)]

        def counted(self: Pieces, at: int, most: int) -> bytes:
            found = read_at(self, at, most)
            given[0] += len(found)
            return found

        read_at = Pieces.read_at
        monkeypatch.setattr(Pieces, "read_at", counted)
        moved = replace(key, byte=key.byte + more, piece=at + more)
        long = RangedVideo(fetch, name, len(data) + more)
        long.index = FrameIndex(index.pts, index.start, index.time_base, [moved])
        assert read_from(long, 55) == read_from(path, 55)
        assert given[0] < 2**24
        assert long.fetched_bytes < 2**20

    @pytest.mark.parametrize(
        "change", [{"start": 7}, {"byte": 5}, {"piece": 99}, {"pts_of_key": 1}, {"index": 1}, {"pts": [0] * 40}]
    )
    def test_an_anchor_that_does_not_fit_is_not_used(self, tmp_path: Path, change: dict[str, Any]) -> None:
        path = write_video(tmp_path / "a.mkv", 60)
        anchor = self.passed(path, 40)
        assert anchor is not None
        assert self.read_by(replace(anchor, **change), ranged(path), 41) == read_from(path, 41)

    def test_facts_of_another_kind_are_no_anchor(self) -> None:
        for facts in (None, {}, [], {"position": "1"}):
            assert Anchor.of(facts) is None

    def test_a_clock_that_is_rebuilt_has_none(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "a.ts", 30)
        path.write_bytes(path.read_bytes() * 2)
        assert self.passed(path, 55) is None

    def test_plan_reads_the_beginning_of_long_fragments(
        self, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        noise = list(np.random.default_rng(0).integers(0, 255, (60, 96, 128, 3), np.uint8))
        path = write_video(tmp_path / "a.mp4", 60, (128, 96), images=noise, **STREAMS["fragments.mp4"])
        site.files["fragments.mp4"] = path.read_bytes()
        monkeypatch.setattr(_probe_remote, "BUDGET_BYTES", 2**17)
        facts = probe_uri(f"{site.url}/fragments.mp4", LIMITS)
        assert (facts.width, facts.height, facts.duration_s, facts.has_ranges) == (128, 96, None, True)


class TestHostile:
    def test_fragments_whose_tables_do_not_fit_are_not_opened(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "a.mp4", 60, **STREAMS["fragments.mp4"])
        data = bytearray(path.read_bytes())
        at = data.rindex(b"trun") + 8
        data[at - 4 : at + 4] = b"\0\0\0\0" + (2**31).to_bytes(4, "big")  # frames without a byte each
        path.write_bytes(data)
        with pytest.raises(ClipError, match="its tables list 21474837") as caught:
            list(VideoReader(ranged(path), limits=LIMITS))
        assert caught.value.reason is Reason.OVER_LIMITS

    def test_fragments_do_not_end_early_unnoticed(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "a.mp4", 60, **STREAMS["fragments.mp4"])
        data = bytearray(path.read_bytes())
        at = data.rindex(b"moof") - 4
        data[at : at + 8] = bytes(8)
        path.write_bytes(data)
        with pytest.raises(ClipError, match=f"its data from byte {at} on cannot be read") as caught:
            list(VideoReader(ranged(path), limits=LIMITS))
        assert caught.value.reason is Reason.UNREADABLE_VIDEO

    def test_joined_fragments_fail_as_in_a_local_file(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "a.mp4", 30, **STREAMS["fragments.mp4"])
        path.write_bytes(path.read_bytes() * 2)
        said = []
        for source in (path, ranged(path)):
            with pytest.raises(ClipError, match="joined byte by byte") as caught:
                list(VideoReader(source, limits=LIMITS))
            said.append(str(caught.value))
        assert said[0] == said[1]

    def test_reading_in_circles_ends(self, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_ranges, "_PASS_BYTES", 2**20)
        source = ranged(video)

        def circle() -> None:
            for turn in range(10**4):
                source.read_at(source.size // 5 * (turn % 5), 1)
                source._blocks.clear()

        with pytest.raises(ClipError, match="reading it fetched more than") as caught:
            circle()
        assert caught.value.reason is Reason.OVER_LIMITS
        assert source.fetched_bytes < 3 * source.size + 2**20

    @pytest.mark.parametrize(
        "harm",
        [
            ("}", ""),
            ('"start":', '"begin":'),
            ('"unit":[1,', '"unit":[0,'),
            ('"steps":[[', '"steps":[[1,2147483647],['),
        ],
    )
    def test_a_kept_index_that_is_damaged_is_refused(self, tmp_path: Path, harm: tuple[str, str]) -> None:
        index = read_index(ranged(write_video(tmp_path / "a.mkv", 30)), LIMITS)
        assert index is not None
        text = index.dumps()
        same = FrameIndex.loads(text, 30)
        assert (list(same.pts), same.key_frames, same.start) == (list(index.pts), index.key_frames, index.start)
        assert harm[0] in text
        with pytest.raises(ValueError, match="index of its frames"):
            FrameIndex.loads(text.replace(*harm), 30)


class TestRequests:
    def test_a_later_attempt_fetches_what_remains(
        self, site: Site, cache: VideoCache, tmp_path: Path, whole_frames: list[Any]
    ) -> None:
        size = len(site.files["long.mp4"])
        with cache.open_parts(f"{site.url}/long.mp4") as source:
            assert seen(VideoReader(source, limits=LIMITS)) == whole_frames
        assert site.sent < 1.2 * size
        site.sent = 0
        with cache.open_parts(f"{site.url}/long.mp4") as source:
            assert read_from(source, 135) == whole_frames[135:]
        assert site.sent < 0.3 * size  # a tenth, a group before it, the tables and the beginning
        assert on_disk(tmp_path) == 0

    def test_memory_is_bounded(self, video: Path) -> None:
        source = ranged(video)
        for at in range(0, source.size, 1000):
            source.read_at(at, 1)
        assert sum(map(len, source._blocks.values())) <= 256 * 1024

    def test_reading_on_takes_few_requests(self, site: Site, cache: VideoCache) -> None:
        with cache.open_parts(f"{site.url}/long.mp4") as source:
            list(VideoReader(source, limits=LIMITS))
        assert len(site.ranges) < len(site.files["long.mp4"]) / 4096 / 4

    @pytest.mark.parametrize(
        ("address", "limits"),
        [
            ("long.mp4", VideoConfig(ranges_above_bytes=10**7)),
            ("long.mp4", VideoConfig(ranges_above_bytes=None)),
            ("long.mp4?X-Amz-Signature=abc&X-Amz-Expires=60", LIMITS),  # it may expire before the clip ends
            ("long.mp4?Signature=abc&Expires=1000000000", LIMITS),
            ("long.mp4?token=abc", LIMITS),
            ("short.mp4", LIMITS),  # no video
        ],
    )
    def test_others_are_fetched_whole(self, site: Site, tmp_path: Path, address: str, limits: VideoConfig) -> None:
        with VideoCache(tmp_path / "cache", 10**8, limits=limits).open_parts(f"{site.url}/{address}") as source:
            assert isinstance(source, Path)
            assert source.read_bytes() == site.files[address.partition("?")[0]]

    @pytest.mark.parametrize(
        "query",
        [
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date={now}&X-Amz-Expires=604800&X-Amz-Signature=s3cret",
            "X-Goog-Date={now}&X-Goog-Expires=604800&X-Goog-Signature=s3cret",
            "sv=2024-05-04&se=2126-01-02T03%3A04%3A05Z&sr=b&sp=r&sig=s3cret",
            "Expires=4000000000&Signature=s3cret&Key-Pair-Id=K",
        ],
    )
    def test_signed_addresses_that_are_valid_for_long_are_read_by_ranges(
        self, site: Site, cache: VideoCache, whole_frames: list[Any], query: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        address = f"{site.url}/long.mp4?{query.format(now=datetime.now(UTC).strftime('%Y%m%dT%H%M%SZ'))}"
        with caplog.at_level("DEBUG", "sam3ray"), cache.open_parts(address) as source:
            assert isinstance(source, ByRanges)
            assert read_from(source, 135) == whole_frames[135:]
            site.change = lambda begin, end: (403, {}, b"")  # it has expired all the same
            with pytest.raises(ClipError) as caught:
                source.read_at(source.size // 3, 1)
        assert {path.partition("?")[2] for path in site.asked} == {address.partition("?")[2]}
        assert caught.value.reason is Reason.PERMISSION_DENIED
        assert "s3cret" not in f"{caught.value}{source.name}{caplog.text}"

    def test_what_does_not_fit_the_cache_is_read_by_ranges(self, site: Site, tmp_path: Path) -> None:
        with VideoCache(tmp_path / "cache", 10**5).open_parts(f"{site.url}/long.mp4") as source:
            assert isinstance(source, ByRanges)

    @pytest.mark.parametrize(
        ("name", "how", "is_ranged"),
        [
            *((name, STREAMS[name], True) for name in ("b_frames.ts", "mpeg2.mpg", "plain.avi", "plain.flv")),
            *((name, STREAMS[name], True) for name in ("plain.wmv", "b_frames.asf", "mpeg2.mxf", "h264.mxf")),
            ("vp8.ogv", {"codec": "libvpx", "muxer": "ogg"}, False),
            ("a.nut", {}, False),
        ],
    )
    def test_which_containers_are_read_by_ranges(
        self, site: Site, cache: VideoCache, tmp_path: Path, name: str, how: dict[str, Any], is_ranged: bool
    ) -> None:
        path = write_video(tmp_path / name, 60, **how)
        site.files[name] = path.read_bytes()
        with cache.open_parts(f"{site.url}/{name}") as source:
            assert isinstance(source, ByRanges) == is_ranged
            assert read_from(source, 41) == read_from(path, 41)

    @pytest.mark.parametrize("headers", [{}, {"ETag": '"one"', "Content-Encoding": "br"}])
    def test_a_file_that_could_change_unseen_is_fetched_whole(
        self, site: Site, cache: VideoCache, headers: dict[str, str]
    ) -> None:
        site.headers = headers
        if headers:
            with pytest.raises(ClipError) as caught, cache.open_parts(f"{site.url}/long.mp4"):
                pass
            assert "compressed" in caught.value.message
            return
        with cache.open_parts(f"{site.url}/long.mp4") as source:
            assert isinstance(source, Path)

    def test_a_server_without_ranges(self, site: Site, cache: VideoCache) -> None:
        site.takes_ranges = False
        with cache.open_parts(f"{site.url}/long.mp4") as source:
            assert isinstance(source, Path)
            assert len(seen(VideoReader(source))) == FRAMES

    def test_what_is_in_the_cache_is_read_there(self, site: Site, cache: VideoCache) -> None:
        with cache.open(f"{site.url}/long.mp4"):
            site.sent = 0
        with cache.open_parts(f"{site.url}/long.mp4") as source:
            assert isinstance(source, Path)
        assert site.sent == 0


class TestFaults:
    """From some byte on, the server misbehaves."""

    @pytest.mark.parametrize(
        ("answer", "reason", "words"),
        [
            ((206, {"ETag": '"two"'}, None), Reason.NOT_FOUND, "has changed while it was being read"),
            ((206, {"size": "7"}, None), Reason.NOT_FOUND, "has changed while it was being read"),
            ((416, {}, b""), Reason.STORAGE, "of the"),
            ((206, {"begin": "0"}, None), Reason.STORAGE, "bytes from 0 on"),
            ((206, {}, b"few"), Reason.STORAGE, "3 of the"),
            ((200, {}, b"all of it"), Reason.STORAGE, "did not send the requested part of it"),
            ((403, {}, b""), Reason.PERMISSION_DENIED, "permission denied"),
            ((404, {}, b""), Reason.NOT_FOUND, "no such file"),
            ((503, {}, b""), Reason.STORAGE, "503"),
        ],
    )
    def test_no_frame_comes_from_it(
        self,
        site: Site,
        cache: VideoCache,
        whole_frames: list[Any],
        answer: Answer,
        reason: Reason,
        words: str,
    ) -> None:
        data, (status, headers, body) = site.files["long.mp4"], answer
        whole = len(data)

        def change(begin: int, end: int) -> tuple[int, dict[str, str], bytes] | None:
            if not whole * 0.4 < begin < whole * 0.9:
                return None
            size, first = headers.get("size", str(whole)), headers.get("begin", str(begin))
            told = {"Content-Range": f"bytes {first}-{end - 1}/{size}"} if status == 206 else {}
            return status, {**headers, **told}, data[begin:end] if body is None else body

        site.change = change
        found: list[Frame] = []
        with cache.open_parts(f"{site.url}/long.mp4") as source, pytest.raises(ClipError) as caught:
            found.extend(VideoReader(source, limits=LIMITS))
        assert caught.value.reason is reason, str(caught.value)
        assert words in caught.value.message
        assert 20 < len(found) < 100
        assert seen(found) == whole_frames[: len(found)]

    def test_faults_that_pass_are_survived(self, site: Site, cache: VideoCache) -> None:
        turns = iter(range(10**6))
        site.change = lambda begin, end: (503, {}, b"") if next(turns) % 3 else None
        with cache.open_parts(f"{site.url}/long.mp4") as source:
            assert len(seen(VideoReader(source, limits=LIMITS))) == FRAMES

    def test_more_than_asked_for_is_not_read(self, site: Site, cache: VideoCache) -> None:
        data = site.files["long.mp4"]
        site.change = lambda begin, end: (
            206, {"Content-Range": f"bytes {begin}-{end - 1}/{len(data)}"}, data[begin:]
        )  # fmt: skip
        with cache.open_parts(f"{site.url}/long.mp4") as source:
            assert len(seen(VideoReader(source, limits=LIMITS))) == FRAMES


class TestStores:
    @pytest.mark.parametrize("store", ["s3_place", "azure_place"])
    def test_object_stores(self, tmp_path: Path, request: pytest.FixtureRequest, store: str, video: Path) -> None:
        place: Place = request.getfixturevalue(store)
        uri = place.uri.rsplit("/labels", 1)[0] + "/long.mp4"
        fs = fsspec.filesystem(uri.partition(":")[0], **place.options)
        fs.put_file(str(video), uri)
        cache = VideoCache(tmp_path / "cache", 10**8, place.options, limits=LIMITS)
        with cache.open_parts(uri) as source:
            assert isinstance(source, RangedVideo)
            assert read_from(source, 140) == read_from(video, 140)
            assert source.fetched_bytes < 0.3 * source.size
            fs.pipe_file(uri, video.read_bytes()[::-1], overwrite=True)
            with pytest.raises(ClipError) as caught:
                seen(VideoReader(source, limits=LIMITS))
        assert caught.value.reason is Reason.NOT_FOUND
        assert "has changed while it was being read" in caught.value.message
        assert on_disk(tmp_path / "cache") == 0

    def test_a_store_that_is_asked_after_each_range(self, tmp_path: Path, video: Path) -> None:
        """SFTP and its like: a file system that tells sizes and times."""
        path = Path(shutil.copy(video, tmp_path / "long.mp4"))
        fs = LocalFileSystem()
        sighting = of_info(fs.info(str(path)), is_web=False)
        file = RemoteFile(str(path), path.stat().st_size, "", sighting)
        source = open_by_ranges(fs, RemoteVideo("sftp://host/long.mp4", False, (file,)))
        assert source is not None
        with closing(source):
            assert read_from(source, 140) == read_from(video, 140)
            path.write_bytes(video.read_bytes()[::-1])
            with pytest.raises(ClipError) as caught:
                seen(VideoReader(source, limits=LIMITS))
        assert caught.value.reason is Reason.NOT_FOUND
