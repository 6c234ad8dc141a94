"""The whole job with the embedded checkpoint on a clip that everybody understands: who is found, and who is who.

A red circle passes behind a grey pillar and comes out again; a blue triangle and a green square drift; nothing is
yellow. What is asserted holds with room to spare: the figures of the checkpoint are in docs/checkpoint.md.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest

from sam3ray import decode_mask, read_annotations
from sam3ray.config import JobConfig
from sam3ray.job import run_job
from sam3ray.shapes import Artist, ClipSpec, DrawnFrame, Scene, Thing
from sam3ray.shapes.scene import Path as Course
from sam3ray.store import verify_run
from sam3ray.video import VideoWriter

pytestmark = pytest.mark.usefixtures("local_ray")

SPEC = ClipSpec(seed=1, width=384, height=288, frames=56, fps=12.0)
ASPECT = SPEC.width / SPEC.height
CIRCLE, TRIANGLE, SQUARE = 1, 2, 3
RGB = {"red": (0.85, 0.08, 0.08), "blue": (0.12, 0.2, 0.85), "green": (0.1, 0.65, 0.2)}
PROMPTS = {"red circle": CIRCLE, "blue triangle": TRIANGLE, "green square": SQUARE, "yellow star": None}


def thing(number: int, colour: str | None, shape: str, start: tuple[float, float], velocity: tuple[float, float],
          radius: float) -> Thing:  # fmt: skip
    course = Course(start, velocity, (-9.0, -9.0, 9.0, 9.0), (0.0, 0.0), (1.0, 1.0), (0.0, 0.0))
    rgb = RGB[colour] if colour else (0.35, 0.35, 0.35)
    return Thing(number, colour, shape, rgb, radius, course, 0.0, 0.0, 0.0, "flat", (0.0, 0.0), 0)


@pytest.fixture(scope="module")
def drawn() -> list[DrawnFrame]:
    things = (
        thing(CIRCLE, "red", "circle", (0.15, 0.3), (0.22, 0.0), 0.11),
        thing(TRIANGLE, "blue", "triangle", (1.05, 0.72), (-0.04, 0.01), 0.15),
        thing(SQUARE, "green", "square", (0.2, 0.77), (0.02, -0.01), 0.14),
        thing(0, None, "slab", (0.66, 0.0), (0.0, 0.0), 0.22),
    )
    scene = Scene(SPEC, ASPECT, things, "flat", 1, ((0.8, 0.8, 0.78),) * 2, (0.0, 0.0), 1.0, 0.0, 0.0, 1.0)
    artist = Artist(scene)
    return [artist.frame(index) for index in range(SPEC.frames)]


@pytest.fixture(scope="module")
def rows(drawn: list[DrawnFrame], tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    folder = tmp_path_factory.mktemp("golden")
    with VideoWriter(folder / "pillar.mp4", SPEC.width, SPEC.height, Fraction(1, 12), Fraction(12)) as writer:
        for frame in drawn:
            writer.write(frame.image, frame.index)
    config = JobConfig(
        manifest=str(folder / "*.mp4"),
        output=str(folder / "run"),
        prompts=tuple(PROMPTS),
        model={"checkpoint": "embedded"},
        cluster={"gpus_per_actor": 0, "cpus_per_actor": 1, "actors": {"min": 1, "max": 1}},
    )
    assert run_job(config).exit_code == 0
    assert verify_run(str(folder / "run")) == []
    return read_annotations(str(folder / "run")).to_table()


def of(rows: pa.Table, prompt: str) -> list[dict]:
    return [row for row in rows.to_pylist() if row["prompt"] == prompt]


def test_the_circle_is_wholly_hidden_for_a_while(drawn: list[DrawnFrame]) -> None:
    hidden = [frame.index for frame in drawn if frame.visible[CIRCLE] == 0]
    assert len(hidden) >= 3
    assert min(drawn[0].visible[CIRCLE], drawn[-1].visible[CIRCLE]) > 0.98


@pytest.mark.parametrize("prompt", ["red circle", "blue triangle", "green square"])
def test_each_phrase_finds_its_object_alone_and_under_one_id(
    rows: pa.Table, drawn: list[DrawnFrame], prompt: str
) -> None:
    found, number = of(rows, prompt), PROMPTS[prompt]
    seen = {frame.index for frame in drawn if frame.visible[number] > 0.5}
    assert len({row["object_id"] for row in found}) == 1
    assert len(seen & {row["frame_index"] for row in found}) >= 0.9 * len(seen)
    overlaps = []
    for row in found:
        if row["frame_index"] in seen:
            mask = decode_mask(row)
            truth = drawn[row["frame_index"]].mask(number)
            overlaps.append((mask & truth).sum() / (mask | truth).sum())
    assert np.mean(overlaps) >= 0.8


def test_the_circle_keeps_its_id_behind_the_pillar(rows: pa.Table, drawn: list[DrawnFrame]) -> None:
    hidden = [frame.index for frame in drawn if frame.visible[CIRCLE] == 0]
    found = of(rows, "red circle")
    before = {row["object_id"] for row in found if row["frame_index"] < hidden[0]}
    after = {row["object_id"] for row in found if row["frame_index"] > hidden[-1]}
    assert len(before) == 1
    assert before == after


def test_what_is_not_there_is_not_found(rows: pa.Table) -> None:
    assert of(rows, "yellow star") == []
