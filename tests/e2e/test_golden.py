"""The whole job with the embedded checkpoint on clips that everybody understands: who is found, and who is who.

"pillar": a red circle passes behind a grey pillar and comes out again; a blue triangle and a green square drift;
nothing is yellow. "meeting": a red circle passes before a blue one, and an orange star leaves the frame and comes back.
What is asserted holds with room to spare: the figures of the checkpoint are in docs/checkpoint.md.
"""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from sam3ray import decode_mask, read_annotations
from sam3ray.config import JobConfig
from sam3ray.job import run_job
from sam3ray.shapes import Artist, ClipSpec, DrawnFrame, Scene, Thing
from sam3ray.shapes.scene import Path as Course
from sam3ray.store import verify_run
from sam3ray.video import VideoWriter

pytestmark = pytest.mark.usefixtures("local_ray")

PILLAR = ClipSpec(seed=1, width=384, height=288, frames=42, fps=9.0)
MEETING = ClipSpec(seed=1, width=384, height=288, frames=48, fps=9.0)
ASPECT = PILLAR.width / PILLAR.height
RGB = {"red": (0.85, 0.08, 0.08), "blue": (0.12, 0.2, 0.85), "green": (0.1, 0.65, 0.2), "orange": (0.95, 0.5, 0.05)}
ANYWHERE = (-9.0, -9.0, 9.0, 9.0)
CIRCLE, TRIANGLE, SQUARE = 1, 2, 3
PROMPTS = {"red circle": CIRCLE, "blue triangle": TRIANGLE, "green square": SQUARE}
BACK, FRONT, STAR = 1, 2, 3
Rows = list[dict[str, Any]]


def thing(number: int, colour: str | None, shape: str, start: tuple[float, float], velocity: tuple[float, float],
          radius: float, box: tuple[float, float, float, float] = ANYWHERE) -> Thing:  # fmt: skip
    course = Course(start, velocity, box, (0.0, 0.0), (1.0, 1.0), (0.0, 0.0))
    rgb = RGB[colour] if colour else (0.35, 0.35, 0.35)
    return Thing(number, colour, shape, rgb, radius, course, 0.0, 0.0, 0.0, "flat", (0.0, 0.0), 0)


def draw(spec: ClipSpec, *things: Thing) -> list[DrawnFrame]:
    scene = Scene(spec, ASPECT, things, "flat", 1, ((0.8, 0.8, 0.78),) * 2, (0.0, 0.0), 1.0, 0.0, 0.0, 1.0)
    artist = Artist(scene)
    return [artist.frame(index) for index in range(spec.frames)]


@pytest.fixture(scope="module")
def pillar() -> list[DrawnFrame]:
    return draw(
        PILLAR,
        thing(CIRCLE, "red", "circle", (0.15, 0.3), (0.22, 0.0), 0.11),
        thing(TRIANGLE, "blue", "triangle", (1.05, 0.72), (-0.04, 0.01), 0.15),
        thing(SQUARE, "green", "square", (0.2, 0.77), (0.02, -0.01), 0.14),
        thing(0, None, "slab", (0.66, 0.0), (0.0, 0.0), 0.22),
    )


@pytest.fixture(scope="module")
def meeting() -> list[DrawnFrame]:
    return draw(
        MEETING,
        thing(BACK, "blue", "circle", (0.7, 0.3), (0.0, 0.0), 0.13),
        thing(FRONT, "red", "circle", (0.2, 0.3), (0.2, 0.0), 0.12),
        thing(STAR, "orange", "star", (1.0, 0.72), (0.25, 0.0), 0.17, box=(0.2, -9.0, 1.58, 9.0)),
    )


@pytest.fixture(scope="module")
def found(
    pillar: list[DrawnFrame], meeting: list[DrawnFrame], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Rows]:
    """The rows of each clip."""
    folder = tmp_path_factory.mktemp("golden")
    asked = {"pillar": (pillar, [*PROMPTS, "yellow star"]), "meeting": (meeting, ["circle", "orange star"])}
    clips = []
    for clip_id, (drawn, prompts) in asked.items():
        height, width = drawn[0].ids.shape
        with VideoWriter(folder / f"{clip_id}.mp4", width, height, Fraction(1, 9), Fraction(9)) as writer:
            for frame in drawn:
                writer.write(frame.image, frame.index)
        clips.append({"uri": str(folder / f"{clip_id}.mp4"), "clip_id": clip_id, "prompts": prompts})
    (folder / "clips.jsonl").write_text("\n".join(map(json.dumps, clips)))
    config = JobConfig(
        manifest=str(folder / "clips.jsonl"),
        output=str(folder / "run"),
        model={"checkpoint": "embedded"},
        cluster={"gpus_per_actor": 0, "cpus_per_actor": 1, "actors": {"min": 1, "max": 1}},
    )
    assert run_job(config).exit_code == 0
    assert verify_run(str(folder / "run")) == []
    rows = read_annotations(str(folder / "run")).to_table().to_pylist()
    return {clip_id: [row for row in rows if row["clip_id"] == clip_id] for clip_id in asked}


def of(rows: Rows, prompt: str) -> Rows:
    return [row for row in rows if row["prompt"] == prompt]


def overlap(row: dict[str, Any], drawn: list[DrawnFrame], number: int) -> float:
    mask, truth = decode_mask(row), drawn[row["frame_index"]].mask(number)
    return float((mask & truth).sum() / (mask | truth).sum())


def hidden(drawn: list[DrawnFrame], number: int) -> list[int]:
    return [frame.index for frame in drawn if frame.visible.get(number, 0) == 0]


def test_the_circle_and_the_star_are_wholly_hidden_for_a_while(
    pillar: list[DrawnFrame], meeting: list[DrawnFrame]
) -> None:
    for drawn, number in ((pillar, CIRCLE), (meeting, STAR)):
        assert len(hidden(drawn, number)) >= 3
        assert min(drawn[0].visible[number], drawn[-1].visible[number]) > 0.98
    assert min(frame.visible[BACK] for frame in meeting) < 0.2


@pytest.mark.parametrize("prompt", PROMPTS)
def test_each_phrase_finds_its_object_alone_and_under_one_id(
    found: dict[str, Rows], pillar: list[DrawnFrame], prompt: str
) -> None:
    rows, number = of(found["pillar"], prompt), PROMPTS[prompt]
    seen = {frame.index for frame in pillar if frame.visible[number] > 0.5}
    assert len({row["object_id"] for row in rows}) == 1
    assert len(seen & {row["frame_index"] for row in rows}) >= 0.9 * len(seen)
    assert np.mean([overlap(row, pillar, number) for row in rows if row["frame_index"] in seen]) >= 0.8


def test_the_circle_keeps_its_id_behind_the_pillar(found: dict[str, Rows], pillar: list[DrawnFrame]) -> None:
    out_of_sight = hidden(pillar, CIRCLE)
    rows = of(found["pillar"], "red circle")
    before = {row["object_id"] for row in rows if row["frame_index"] < out_of_sight[0]}
    after = {row["object_id"] for row in rows if row["frame_index"] > out_of_sight[-1]}
    assert len(before) == 1
    assert before == after


def test_what_is_not_there_is_not_found(found: dict[str, Rows]) -> None:
    assert of(found["pillar"], "yellow star") == []


def test_two_that_cross_keep_their_ids_and_their_masks(found: dict[str, Rows], meeting: list[DrawnFrame]) -> None:
    rows = of(found["meeting"], "circle")
    owners: dict[int, set[int]] = {BACK: set(), FRONT: set()}
    for row in rows:
        owners[max(owners, key=lambda number: overlap(row, meeting, number))].add(row["object_id"])
    assert len(owners[BACK]) == len(owners[FRONT]) == 1
    assert owners[BACK] != owners[FRONT]
    for number, (object_id,) in owners.items():
        seen = {frame.index for frame in meeting if frame.visible[number] > 0.8}
        masks = [
            overlap(row, meeting, number)
            for row in rows
            if row["object_id"] == object_id and row["frame_index"] in seen
        ]
        assert len(masks) >= 0.9 * len(seen)
        assert np.mean(masks) >= 0.85


def test_who_leaves_the_frame_and_comes_back_is_the_same(found: dict[str, Rows], meeting: list[DrawnFrame]) -> None:
    away = hidden(meeting, STAR)
    rows = of(found["meeting"], "orange star")
    assert len({row["object_id"] for row in rows}) == 1
    assert {row["frame_index"] < away[0] for row in rows} == {True, False}
    assert not {row["frame_index"] for row in rows} & set(away)
