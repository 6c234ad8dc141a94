"""Whether a video is still the one that was seen first, from what its store tells."""

from __future__ import annotations

import pytest

from sam3ray.files.sighting import change, of_frames, of_info, of_local, of_size

NS = 10**9


@pytest.mark.parametrize(
    ("first", "now", "says"),
    [
        (of_local(5, 1 * NS, 10.0), of_local(5, 1 * NS, 20.0), None),
        (of_local(5, 1 * NS, 10.0), of_local(6, 1 * NS, 20.0), "it had 5 bytes, and has 6"),
        (of_local(5, 1 * NS, 10.0), of_local(5, 12 * NS, 20.0), "it was modified"),
        # A copy on another node, made before the run began.
        (of_local(5, 1 * NS, 10.0), of_local(5, 3 * NS, 20.0), None),
        ('{"size": 5}', of_local(5, 3 * NS, 20.0), None),
        ("", of_local(5, 3 * NS, 20.0), None),
        ("not json", of_local(5, 3 * NS, 20.0), None),
    ],
)
def test_local_files(first: str, now: str, says: str | None) -> None:
    assert change(first, now) == says


S3 = {"size": 5, "ETag": '"a"', "LastModified": "monday"}


def test_a_store_tells_versions_apart() -> None:
    first = of_info(S3, is_web=False)
    # A listing and a look at the object tell different things about the rest.
    assert change(first, of_info({**S3, "LastModified": "2026", "StorageClass": "X"}, is_web=False)) is None
    assert change(first, of_info({**S3, "ETag": '"b"'}, is_web=False)) == "its store reports another version of it"
    assert change(first, of_info({"size": 5}, is_web=False)) is None
    assert change(first, of_info({"size": 7}, is_web=False)) == "it had 5 bytes, and has 7"


def test_web_servers_that_share_an_address_may_have_etags_of_their_own() -> None:
    first = of_info({"size": 5, "ETag": "a", "Last-Modified": "monday"}, is_web=True)
    assert change(first, of_info({"size": 5, "ETag": "b", "Last-Modified": "monday"}, is_web=True)) is None
    assert (
        change(first, of_info({"size": 5, "ETag": "a", "Last-Modified": "tuesday"}, is_web=True)) == "it was modified"
    )
    assert change(of_info({"ETag": "a"}, is_web=True), of_info({"ETag": "b"}, is_web=True)) is not None
    assert change(of_info({}, is_web=True), of_info({"size": 5}, is_web=True)) is None


def test_folders() -> None:
    frames = {"1.png": of_size(5), "2.png": of_size(6)}
    first = of_frames(frames)
    assert change(first, of_frames(dict(reversed(frames.items())))) is None
    assert change(first, of_frames({**frames, "3.png": of_size(1)})) == "it had 2 files, and has 3"
    assert change(first, of_frames({"1.png": of_size(6), "2.png": of_size(5)})) == "some of its frames were replaced"
