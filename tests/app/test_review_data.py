"""A review without a browser: runs on S3, runs under way, recordings, videos that are gone or have changed."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from sam3ray.app import AppOptions
from sam3ray.app._corrections import in_words
from sam3ray.app._library import Library
from sam3ray.app._review import Review
from sam3ray.config import VideoConfig
from sam3ray.failures import UserError
from sam3ray.masks import encode_masks
from sam3ray.shapes import write_clip
from sam3ray.store import RunStore
from sam3ray.values.clip import Clip
from tests.app.conftest import SPEC, make_reviewed
from tests.servers import Place

Open = Callable[..., Review]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_reviewed(tmp_path_factory.mktemp("made")).parent


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A run of one's own, whose videos are beside it."""
    shutil.copytree(made / "run", tmp_path / "run")
    for name in ("first", "second"):
        shutil.copy(made / f"{name}.mp4", tmp_path / f"{name}.mp4")
    return tmp_path / "run"


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    libraries: list[Library] = []

    def open_run(place: str | Path, **storage: Any) -> Review:
        folder = tmp_path / f"page-{len(libraries)}"
        folder.mkdir()
        libraries.append(Library(folder, AppOptions(storage=storage)))
        return Review(0, str(place), storage, libraries[-1], "ann")

    yield open_run
    for library in libraries:
        library.close()


def square() -> dict[str, Any]:
    mask = np.zeros((1, SPEC.height, SPEC.width), bool)
    mask[0, 10:20, 30:50] = True
    return {"counts": encode_masks(mask)[0].rle}


def test_a_run_on_s3_is_reviewed_like_any_other(made, s3_place: Place, opened):
    s3 = s3_place
    files, _ = fsspec.url_to_fs(s3.uri, **s3.options)
    base = s3.uri.partition("://")[2]
    for name in ("first", "second"):
        files.put(str(made / f"{name}.mp4"), f"{base}/{name}.mp4")
    store = RunStore(f"{s3.uri}/run", s3.options)
    clips = [Clip(name, f"{s3.uri}/{name}.mp4", ("circle",)) for name in ("first", "second")]
    store.create_or_open({"schema_version": 1}, {"output": f"{s3.uri}/run"}, clips)
    assert store.commit("first", made / "run" / "annotations" / "first.parquet")
    review = opened(f"{s3.uri}/run", **s3.options)
    assert {each["clip"]: each["status"] for each in review.clips()} == {"first": "done", "second": "left"}
    about = review.picture("first")
    assert (about["width"], about["height"], about["missing"]) == (SPEC.width, SPEC.height, "")
    assert review.edit("first", [{"op": "rename", "object": 1, "label": "ball"}], 0, "ann") == 1
    new_mask = {"op": "replace_mask", "object": 1, "frames": [3, 3], "mask": square()}
    assert review.edit("first", [new_mask], 1, "ann") == 2
    again = opened(f"{s3.uri}/run", **s3.options)
    (row,) = [o for f in again.rows("first")["frames"] if f["i"] == 3 for o in f["o"] if o[0] == 1]
    assert row[1] == "ball"
    assert row[8] == 200  # pixels
    assert again.undo("first", "ann") == 3
    assert review.rows("first")["revision"] == 3  # the other server hears of it
    # The run is under way: what is finished since appears, and is ranked.
    assert set(review.doubts()) == {"first"}
    assert store.commit("second", made / "run" / "annotations" / "second.parquet")
    assert {each["status"] for each in review.clips()} == {"done"}
    assert set(review.doubts()) == {"first", "second"}
    assert all(0 <= each["suspicion"] <= 1 for each in review.doubts().values())


def test_a_review_of_a_run_on_s3_opens_more_videos_than_the_cache_holds(made, s3_place: Place, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # a cache of our own
    s3, names = s3_place, ("first", "second")
    files, _ = fsspec.url_to_fs(s3.uri, **s3.options)
    for name in names:
        files.put(str(made / f"{name}.mp4"), f"{s3.uri.partition('://')[2]}/{name}.mp4")
    clips = [Clip(name, f"{s3.uri}/{name}.mp4", ("circle",)) for name in names]
    store = RunStore(str(tmp_path / "run"))
    store.create_or_open({"schema_version": 1}, {}, clips)
    for name in names:
        assert store.commit(name, made / "run" / "annotations" / f"{name}.parquet")
    (tmp_path / "page").mkdir()
    largest = max((made / f"{name}.mp4").stat().st_size for name in names)
    library = Library(tmp_path / "page", AppOptions(storage=s3.options, video=VideoConfig(cache_bytes=largest)))
    review = Review(0, str(tmp_path / "run"), {}, library, "ann")
    for name in (*names, *names):
        about = review.picture(name)
        assert (about["missing"], about["width"]) == ("", SPEC.width)
        mask = {"op": "replace_mask", "object": 1, "frames": [3, 3], "mask": square()}
        revision = review.rows(name)["revision"]
        assert review.edit(name, [mask], revision, "ann") == revision + 1
    library.close()


def test_a_clip_whose_video_is_gone_can_still_be_corrected(made, run, opened):
    store = RunStore(str(run.parent / "moved"))
    store.create_or_open({"schema_version": 1}, {}, [Clip("first", str(run.parent / "gone.mp4"), ("circle",))])
    assert store.commit("first", made / "run" / "annotations" / "first.parquet")
    review = opened(run.parent / "moved")
    about = review.picture("first")
    assert about["missing"].startswith("not_found: there is no such file")
    assert (about["width"], about["height"]) == (SPEC.width, SPEC.height)
    rows = review.rows("first")
    assert {each["i"] for each in rows["frames"] if each["o"]} <= set(about["indices"])
    assert len(about["indices"]) == len(about["times"])
    assert review.edit("first", [{"op": "delete", "object": 1}], 0, None) == 1
    assert not [o for each in review.rows("first")["frames"] for o in each["o"] if o[0] == 1]


def test_a_video_of_another_size_is_stretched_under_the_masks(made, run, opened):
    write_clip(dataclasses.replace(SPEC, width=160, height=90), run.parent / "small.mp4")
    store = RunStore(str(run.parent / "other"))
    store.create_or_open({"schema_version": 1}, {}, [Clip("first", str(run.parent / "small.mp4"), ("circle",))])
    assert store.commit("first", made / "run" / "annotations" / "first.parquet")
    review = opened(run.parent / "other")
    about = review.picture("first")
    assert (about["width"], about["height"]) == (SPEC.width, SPEC.height)
    assert f"160x90 pixels now, and the masks {SPEC.width}x{SPEC.height}" in about["other_size"]
    with pytest.raises(UserError, match="new masks cannot be made"):
        review.edit("first", [{"op": "replace_mask", "object": 1, "frames": [3, 3], "mask": square()}], 0, None)


def test_a_recording_gets_more_clips_while_it_is_reviewed(made, run, opened):
    store = RunStore(str(run.parent / "live"))
    store.create_growing({"live": "x"}, {}, {"live": "x"})
    review = opened(run.parent / "live")
    assert review.clips() == []
    store.grow([Clip("first", str(run.parent / "first.mp4"), ("circle",))])
    store.commit("first", made / "run" / "annotations" / "first.parquet")
    assert [(each["clip"], each["status"]) for each in review.clips()] == [("first", "done")]
    assert review.picture("first")["missing"] == ""


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "rename", "object": 1, "label": "a\x00b"},
        {"op": "rename", "object": 1, "label": ""},
        {"op": "rename", "object": 1, "label": "x" * 100_000},
        {"op": "rename", "object": True, "label": "x"},
        {"op": "delete", "object": 1, "frames": [5, 2]},
        {"op": "set_id", "object": 1, "to": 2**40},
        {"op": "replace_mask", "object": 1, "frames": [3, 3], "mask": {"counts": "\x00"}},
        {"op": "replace_mask", "object": 1, "frames": [3, 3], "mask": {"counts": "0" * 10_000_000}},
        {"op": "replace_mask", "object": 1, "frames": [3, 3], "data": "../../../etc/passwd", "sha256": "0"},
        {"op": "add", "object": 1, "frame": 10**9, "mask": {}},
        {"op": "revert", "entries": [1]},
        {"op": "accept", "clip": "second"},
        {"op": "nothing"},
        [],
        None,
    ],
)
def test_an_operation_of_no_page_of_ours_is_refused(run, opened, operation):
    review = opened(run)
    if operation == {"op": "accept", "clip": "second"}:
        review.edit("first", [operation], 0, None)
        accepted = {each["clip"] for each in review.clips() if each["accepted"]}
        assert accepted == {"first"}  # the address decides which clip
        return
    with pytest.raises(UserError):
        review.edit("first", [operation], 0, None)
    assert review.rows("first")["revision"] == 0


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        ({"op": "rename", "object": 2, "label": "{a}"}, "2 is “{a}”"),
        ({"op": "set_id", "object": 2, "to": 5, "frames": [3, 2**31 - 1]}, "2 becomes 5 from frame 3"),
        ({"op": "delete", "object": 2, "frames": [3, 3]}, "2 deleted on frame 3"),
        ({"op": "swap", "object": 2, "other": 4, "frames": [3, 8]}, "2 and 4 swapped on frames 3 to 8"),
        ({"op": "split", "object": 2, "frame": 3, "to": 9}, "2 is 9 from frame 3"),
        ({"op": "revert", "entries": [4, 5]}, "undoes 4, 5"),
    ],
)
def test_corrections_are_listed_in_words(operation, words):
    assert in_words([operation, {"op": "accept", "clip": "first"}]) == f"{words}; accepted"
