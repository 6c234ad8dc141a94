"""Phrases from any frame and in any direction: order, ids and what comes from where."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest

from sam3ray.engine.outputs import FrameFacts, FrameMasks
from sam3ray.engine.text_direction import segment_from
from sam3ray.failures import ClipError
from sam3ray.masks import EncodedMask
from sam3ray.video import Frame

HEIGHT, WIDTH = 4, 6
MASK = EncodedMask("0", 1, (0, 0, 1, 1))


class Clip:
    """Frames without pictures, of every second index."""

    height, width = HEIGHT, WIDTH

    def __init__(self, length: int) -> None:
        self.frames = [Frame(2 * t, t, t / 10, None) for t in range(length)]  # type: ignore[arg-type]

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        return iter(self.frames[start:stop])


class Finder:
    """Stands in for the text engine: things live on ranges of frame indices and get ids as they are first seen."""

    def __init__(self, lives: dict[str, range]) -> None:
        self.lives = lives

    def segment(
        self, frames: Iterable[Frame], height: int, width: int, prompts: Sequence[str], first_object_id: int
    ) -> Iterator[FrameMasks]:
        ids: dict[str, int] = {}
        for frame in frames:
            seen = [name for name, life in self.lives.items() if frame.index in life]
            for name in seen:
                ids.setdefault(name, first_object_id + len(ids))
            rows = sorted((ids[name], self.names.index(name)) for name in seen)
            n = len(rows)
            yield FrameMasks(
                FrameFacts.of(frame),
                height,
                width,
                tuple(i for i, _ in rows),
                tuple(place for _, place in rows),  # which thing it is
                (1.0,) * n,
                (1.0,) * n,
                (MASK,) * n,
            )

    @property
    def names(self) -> list[str]:
        return list(self.lives)


LIVES = {"always": range(100), "early": range(0, 7), "late": range(15, 100), "middle": range(8, 13)}


def run(direction: Any, start: int = 10, first: int = 1) -> tuple[list[FrameMasks], dict[int, set[str]]]:
    finder = Finder(LIVES)
    results = list(segment_from(finder, Clip(10), ["x"], start, direction, first))  # type: ignore[arg-type]
    things: dict[int, set[str]] = {}
    for result in results:
        for object_id, place in zip(result.object_ids, result.prompts, strict=True):
            things.setdefault(object_id, set()).add(finder.names[place])
    return results, things


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
@pytest.mark.parametrize("start", [0, 2, 10, 18])
def test_every_frame_once_in_order_and_every_id_one_thing(direction, start):
    results, things = run(direction, start)
    assert [result.facts.index for result in results] == list(range(0, 20, 2))
    assert all(len(names) == 1 for names in things.values())
    assert all(list(result.object_ids) == sorted(set(result.object_ids)) for result in results)


def test_each_way_reaches_what_lies_on_it():
    reached = {way: [bool(result.object_ids) for result in run(way)[0]] for way in ("forward", "backward", "both")}
    assert reached["forward"] == [False] * 5 + [True] * 5
    assert reached["backward"] == [True] * 6 + [False] * 4
    assert reached["both"] == [True] * 10


def test_what_is_there_at_the_start_keeps_its_id_both_ways_and_others_do_not_share():
    _, things = run("both", first=7)
    assert things == {7: {"always"}, 8: {"middle"}, 9: {"early"}, 10: {"late"}}


def test_a_start_that_is_not_read_is_an_error():
    with pytest.raises(ClipError, match="frame 5, where the phrases are to be looked for first"):
        run("forward", start=5)
