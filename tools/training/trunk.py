"""Trains the vision backbone alone: what lies at each patch, how far it reaches, and where its edges are.

A detector teaches its backbone through a few phrases per image, at a hundred times the cost; this way it learns
colours, but hardly shapes. Here every patch of an image counts. An image is drawn once and used often, turned and
mirrored, which does not change the names of colours and shapes. The heads are dropped afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam3ray.shapes import COLOURS, SHAPES, Artist, make_scene

from .samples import OBJECTS, PATCH, draw_spec, name_table, pixels, stream
from .schedule import SIZE_PENALTY, Run

PER_SCENE = 4
DRAWN = 16_000


@dataclass
class Drawn:
    """Drawn images: uint8 (N, S, S, 3), the object at each pixel, uint8 (N, S, S), 0 for none, and the colour and shape
    of each object, int64 (N, 1 + OBJECTS, 2), -1 for none.
    """

    images: np.ndarray
    ids: np.ndarray
    names: np.ndarray


class Heads(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.colour = nn.Linear(width, len(COLOURS))
        self.shape = nn.Linear(width, len(SHAPES))
        self.box = nn.Linear(width, 4)
        self.there = nn.Linear(width, 1)
        self.edges = nn.Linear(width, PATCH * PATCH)


def draw_scene(seed: int, size: int) -> Drawn:
    """Draws a few moments of one scene, since making a scene costs more than drawing a frame."""
    rng = np.random.default_rng([seed, 3])
    artist = Artist(make_scene(draw_spec(rng, seed, size, 24 * PER_SCENE)))
    frames = [artist.frame(24 * i + int(rng.integers(24))) for i in range(PER_SCENE)]
    return Drawn(
        np.stack([f.image for f in frames]),
        np.stack([f.ids for f in frames]).astype(np.uint8),
        name_table(artist.scene)[None].repeat(PER_SCENE, 0),
    )


def draw_many(size: int, count: int, first: int) -> Drawn:
    scenes = list(islice(stream(lambda i: draw_scene(first + i, size), 0), count // PER_SCENE))
    return Drawn(*(np.concatenate([getattr(scene, name) for scene in scenes]) for name in ("images", "ids", "names")))


def batch(drawn: Drawn, count: int, rng: np.random.Generator) -> Drawn:
    """Chooses `count` images of `drawn`, each turned and mirrored in one of eight ways."""
    chosen = rng.integers(len(drawn.images), size=count)
    images, ids = drawn.images[chosen], drawn.ids[chosen]
    for i, way in enumerate(rng.integers(8, size=count)):
        images[i], ids[i] = (np.rot90(a[i], way % 4)[:, :: -1 if way > 3 else 1] for a in (images, ids))
    return Drawn(images, ids, drawn.names[chosen])


def train_trunk(run: Run) -> None:
    """Trains the detector's backbone, which the tracker shares."""
    run.model.requires_grad_(False)
    backbone = run.model.detector_model.vision_encoder.backbone.requires_grad_(True)
    size = backbone.config.image_size
    drawn = draw_many(size, DRAWN, run.options.seed)

    def draw(index: int) -> Drawn:
        return batch(drawn, run.options.images, np.random.default_rng([run.options.seed, index]))

    for seen in run.steps([*backbone.parameters(), *run.helpers.parameters()], draw):
        run.step(losses_of(backbone, run.helpers, seen))


def losses_of(backbone: nn.Module, heads: Heads, seen: Drawn) -> dict[str, Tensor]:
    device = heads.there.weight.device
    with torch.autocast(device.type, dtype=torch.bfloat16):
        hidden = backbone(torch.stack([pixels(image) for image in seen.images]).to(device)).last_hidden_state
    hidden = hidden.float()
    ids = torch.from_numpy(seen.ids).to(device).long()  # (B, S, S)
    middle = PATCH // 2
    at = ids[:, middle::PATCH, middle::PATCH].flatten(1)  # (B, patches)
    names = torch.from_numpy(seen.names).to(device).gather(1, at[..., None].expand(-1, -1, 2))
    there = at > 0
    size = ids.shape[-1]
    patches = F.unfold(ids[:, None].float(), PATCH, stride=PATCH).transpose(1, 2)  # (B, patches, PATCH * PATCH)
    boxes = _boxes(ids).gather(1, at[..., None].expand(-1, -1, 4)) / size
    guess = heads.box(hidden).sigmoid()
    return {
        "colour": F.cross_entropy(heads.colour(hidden).transpose(1, 2), names[..., 0], ignore_index=-1),
        "shape": F.cross_entropy(heads.shape(hidden).transpose(1, 2), names[..., 1], ignore_index=-1),
        "box": 2 * (guess - boxes)[there].abs().sum(-1).mean(),
        "there": F.binary_cross_entropy_with_logits(heads.there(hidden)[..., 0], there.float()),
        "edges": F.binary_cross_entropy_with_logits(heads.edges(hidden), (patches == at[..., None]).float()),
        "size": SIZE_PENALTY * hidden.square().mean(),
    }


def _boxes(ids: Tensor) -> Tensor:
    """Each object's box, xyxy in pixels, for each image (B, 1 + OBJECTS, 4)."""
    found = []
    for k in range(1 + OBJECTS):
        mask = ids == k
        sides = []
        for axis in (1, 2):  # columns, then rows
            line = mask.any(axis).float()
            first, last = line.argmax(1), line.shape[1] - line.flip(1).argmax(1)
            sides.append((first, last))
        (left, right), (top, bottom) = sides
        found.append(torch.stack([left, top, right, bottom], -1))
    return torch.stack(found, 1).float()
