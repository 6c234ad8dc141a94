"""Results of a long session: memory is bounded, and what was found stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sam3ray.app import _results
from sam3ray.app._library import NotHere
from sam3ray.app._order import Order
from sam3ray.app._results import Result, Results
from sam3ray.config import VideoConfig
from sam3ray.values.annotations import FrameAnnotations, ObjectAnnotation
from sam3ray.values.clip import Clip


def made(n: int, how: str = "done") -> Result:
    def row(object_id: int) -> ObjectAnnotation:
        return ObjectAnnotation(object_id, "a “star”", 0.7, 1 / 3, (0.1, 2.0, 3.5, 4.0), 7, f"rle {n}")

    rows = [
        FrameAnnotations(index, 512 * index, index / 3, 90, 160, tuple(map(row, range(1, index + 1))))
        for index in (2, 0, 1)
    ]
    result = Result(Order(f"order{n}", "clip.mp4", Clip("clip", "clip.mp4"), VideoConfig()), "c1", {}, how=how)
    result.add(rows)
    return result


def in_memory(results: Results) -> list[str]:
    return [each.order.id for each in results.of_clip("c1") if each._frames is not None]


@pytest.fixture
def results(tmp_path: Path, monkeypatch) -> Results:
    monkeypatch.setattr(_results, "_IN_MEMORY", 2)
    return Results(tmp_path / "results")


def test_only_the_latest_are_in_memory_and_all_are_there(results):
    results.put(made(0, "running"))
    for n in range(1, 60):
        results.put(made(n))
    assert in_memory(results) == ["order0", "order58", "order59"]
    for n in range(1, 60):
        found = results.get(f"order{n}")
        assert found.frames == made(n).frames
        assert list(found.frames) == [2, 0, 1]
        assert json.dumps(found.as_json())
    results.put(made(60))
    assert in_memory(results) == ["order0", "order59", "order60"]


def test_a_disk_without_room_keeps_them_in_memory(results, tmp_path):
    (tmp_path / "results").write_text("no folder")
    for n in range(5):
        results.put(made(n))
    assert len(in_memory(results)) == 5
    assert results.get("order0").frames == made(0).frames


def test_those_that_began_first_give_way_on_the_disk(results, tmp_path, monkeypatch):
    for n in range(4):
        results.put(made(n))
    held = results.get("order0")
    size = sum(each.stat().st_size for each in (tmp_path / "results").iterdir())
    monkeypatch.setattr(_results, "_KEPT_BYTES", size + 20)  # room for two, not for three
    results.put(made(4))
    assert [each.order.id for each in results.of_clip("c1")] == [f"order{n}" for n in range(1, 5)]
    assert sum(each.stat().st_size for each in (tmp_path / "results").iterdir()) <= size + 20
    with pytest.raises(NotHere, match="run again"):
        results.get("order0")
    with pytest.raises(NotHere, match="run again"):
        len(held.frames)
