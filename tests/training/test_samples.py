"""What the training is shown is what the scene holds."""

from __future__ import annotations

import numpy as np
import pytest

from sam3ray.shapes import ClipSpec, make_scene
from tools.training import samples

SEED = samples.FIRST_TRAINING_SEED


def test_things_that_meet_lie_on_each_other_and_are_of_one_colour_where_that_is_asked() -> None:
    found = 0
    for seed in range(SEED, SEED + 20):
        scene = make_scene(ClipSpec(seed, 112, 112, 60, objects=(2, 8)))
        colour = {thing.object_id: thing.colour for thing in scene.objects}
        every = samples._meetings(scene)
        alike = samples._meetings(scene, alike=True)
        assert set(alike) == {(t, ids) for t, ids in every if len(ids) == 2 and colour[ids[0]] == colour[ids[1]]}
        found += len(alike)
    assert found > 0


@pytest.mark.parametrize("seed", range(SEED, SEED + 5))
def test_the_boxes_of_a_phrase_go_around_its_masks(seed: int) -> None:
    for image in samples.draw_images(seed, 112, 6):
        assert len(image.phrases) == len(image.masks) == len(image.boxes) == 6
        for masks, boxes in zip(image.masks, image.boxes, strict=True):
            for mask, box in zip(masks.numpy(), boxes.numpy(), strict=True):
                rows, columns = np.nonzero(mask)
                around = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                assert box * 56 == pytest.approx(around, abs=0.75)


def test_a_class_of_several_is_asked_for_more_often_than_one_alone() -> None:
    several = alone = 0
    for seed in range(SEED, SEED + 30):
        for image in samples.draw_images(seed, 112, 8):
            counts = [len(masks) for masks in image.masks if len(masks)]
            several += sum(count > 1 for count in counts)
            alone += sum(count == 1 for count in counts)
    assert several > alone
