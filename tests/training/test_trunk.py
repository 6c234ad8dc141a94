"""Images for the backbone: drawn once, turned often."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sam3ray.shapes import COLOURS, SHAPES
from tools.training import trunk


@pytest.fixture(scope="module")
def drawn():
    return trunk.draw_many(56, 8, 10_000_000)


def test_an_image_and_its_objects_are_turned_alike(drawn):
    def signature(images, ids, i):
        return sorted(map(tuple, np.concatenate([images[i], ids[i][..., None]], -1).reshape(-1, 4).tolist()))

    originals = {tuple(signature(drawn.images, drawn.ids, i)) for i in range(8)}
    seen = trunk.batch(drawn, 40, np.random.default_rng(0))
    assert all(tuple(signature(seen.images, seen.ids, i)) in originals for i in range(40))
    assert not all(any((image == other).all() for other in drawn.images) for image in seen.images), "none was turned"


def test_every_object_has_its_colour_and_shape(drawn):
    for ids, names in zip(drawn.ids, drawn.names, strict=True):
        there = names[np.unique(ids[ids > 0])]
        assert ((there >= 0) & (there < [len(COLOURS), len(SHAPES)])).all()


def test_boxes_hold_their_objects_and_no_more():
    ids = torch.zeros(1, 16, 16, dtype=torch.long)
    ids[0, 3:7, 5:12] = 2
    assert trunk._boxes(ids)[0, 2].tolist() == [5, 3, 12, 7]
