"""A window that does not begin the clip: from where on would its objects have been objects, whatever came before?"""

from __future__ import annotations

import pytest

from sam3ray.engine.engine import Engine
from sam3ray.engine.policy import Policy
from sam3ray.engine.session import Session
from tests.engine.pipeline import HEIGHT, WIDTH, Found, clip
from tests.engine.test_relinking import LEFT, World, between

pytestmark = pytest.mark.usefixtures("one_thread")

FRAMES = clip(14)


class Rising(World):
    """One object, which is detected better and better."""

    def __init__(self) -> None:
        super().__init__({0: between(0, 40, LEFT)}, {}, {})

    def script(self, frame: int, prompt: int) -> list[Found]:
        return [Found(LEFT, 0.15, {0: 0.6, 1: 0.65}.get(frame, 0.7 + 0.01 * frame))]


def scores(engine: Engine, *, opening: bool) -> dict[int, float]:
    with Session(engine, HEIGHT, WIDTH, Policy(), length=len(FRAMES)) as session:
        session.opening = opening
        session.add("red")
        found = [each for frame in FRAMES for each in session.step(frame)] + session.finish()
    rows = [each.annotations for each in found]
    assert {each.object_id for frame in rows for each in frame.objects} == {1}
    return {frame.frame_index: frame.objects[0].score for frame in rows}


@pytest.mark.parametrize("opening", [True, False])
def test_the_score_rises_once_where_a_detection_would_have_made_an_object_all_the_same(
    opening: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Rising()
    world.install(monkeypatch)
    found = scores(world.engine(relink=False, new_det_thresh=0.7), opening=opening)
    first = [0.6, 0.6] if not opening else [0.6] * len(FRAMES)
    later = [0.72] * (len(FRAMES) - 2) if not opening else []
    assert [*found.values()] == pytest.approx(first + later)
