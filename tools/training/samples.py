"""Draws training data on the fly: single images with phrases, and short clips with tracks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from sam3ray.shapes import COLOURS, FOREIGN, SHAPES, Artist, ClipSpec, Scene, make_scene, matches, phrases

#: Training draws its scenes from here upwards; evaluation, demo and tests use seeds below.
FIRST_TRAINING_SEED = 10_000_000
PATCH = 8  # pixels a side of what the backbone sees as one token
OBJECTS = 8  # of a clip, at most
HIDDEN = 0.3  # share of the short clips in which an object is hidden for a while
CROSSED = 0.6  # share of them that are cut where two objects meet, if any do
ALIKE = 0.5  # share that are cut where two of one colour meet: what is hardest to follow is rare
FAR = 0.3  # share of the shortest whose frames lie far apart: only its look tells where an object went
TWINS = 2  # a class of which there are several is asked for 1 + TWINS times as often as one alone
LEAST_VISIBLE = 24  # pixels of an object that counts, at 112 x 112
LEAST_FOLLOWED = 48  # and of one that is followed, on its first frame
_LENGTH = 60  # frames of the clips that tracks are cut from


def pixels(image: np.ndarray) -> torch.Tensor:
    """uint8 (H, W, 3) -> (3, H, W) as the processor normalises it."""
    return torch.from_numpy(image).permute(2, 0, 1).float().div_(127.5).sub_(1)


@dataclass
class Image:
    """A frame, and the objects on it that some phrases ask
    for. `masks[p]` (n, size/2, size/2) float coverage, `boxes[p]`
    (n, 4) xyxy relative to the frame."""

    pixels: torch.Tensor
    phrases: list[str]
    masks: list[torch.Tensor]
    boxes: list[torch.Tensor]


def draw_spec(rng: np.random.Generator, seed: int, size: int, frames: int) -> ClipSpec:
    plain = rng.random() < 0.25
    most = int(rng.choice((4, 6, 8)))
    return ClipSpec(
        seed=seed, width=size, height=size, frames=frames, fps=float(rng.choice((8.0, 12.0, 24.0))),
        objects=(1 if rng.random() < 0.9 else 0, most), look="plain" if plain else "mixed",
        aspect=float(rng.uniform(1.0, 1.8)),
    )  # fmt: skip


def draw_images(seed: int, size: int, asked: int) -> list[Image]:
    """Draws two distant moments of one scene, since making a scene costs more than drawing a frame."""
    rng = np.random.default_rng([seed, 1])
    artist = Artist(make_scene(draw_spec(rng, seed, size, 96)))
    return [_ask_about(artist, int(rng.integers(48)) + half, size, asked, rng) for half in (0, 48)]


def _ask_about(artist: Artist, index: int, size: int, asked: int, rng: np.random.Generator) -> Image:
    frame = artist.frame(index)
    found = []
    for thing in artist.scene.objects:
        mask = frame.ids == thing.object_id
        if mask.sum() >= LEAST_VISIBLE and thing.label is not None:
            found.append((thing.label, mask))
    labels = [label for label, _ in found]
    wanted = labels + [label for label in labels if labels.count(label) > 1] * TWINS
    image = Image(pixels(frame.image), [], [], [])
    for _ in range(asked):
        phrase, colour, shape = _ask(rng, wanted)
        hits = [mask for label, mask in found if colour != "none" and matches(colour, shape, label)]
        image.phrases.append(phrase)
        stack = torch.from_numpy(np.stack(hits)).float() if hits else torch.zeros(0, size, size)
        image.boxes.append(torch.tensor([box_of(mask) for mask in hits], dtype=torch.float32).reshape(-1, 4))
        image.masks.append(torch.nn.functional.avg_pool2d(stack[None], 2)[0] if hits else stack[:, ::2, ::2])
    return image


def _ask(rng: np.random.Generator, labels: list[tuple[str, str]]) -> tuple[str, str | None, str | None]:
    """A phrase and its (colour, shape); ("none", ...) for a phrase that names nothing drawn."""
    roll = rng.random()
    if roll < 0.06:
        word = str(rng.choice(FOREIGN))
        return (word if rng.random() < 0.7 else f"{rng.choice(COLOURS)} {word}"), "none", None
    present = labels[int(rng.integers(len(labels)))] if labels else None
    colour: str | None = str(rng.choice(COLOURS))
    shape: str | None = str(rng.choice(SHAPES))
    if present is not None and roll < 0.68:
        colour, shape = present
    elif present is not None and roll < 0.88:  # near misses: only the colour or only the shape is right
        colour, shape = (present[0], shape) if rng.random() < 0.5 else (colour, present[1])
    kind = rng.random()
    if kind < 0.22:
        colour = None
    elif kind < 0.34:
        shape = None
    options = phrases(colour, shape)
    return (options[0] if rng.random() < 0.7 else str(rng.choice(options))), colour, shape


def box_of(mask: np.ndarray) -> list[float]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = mask.shape
    return [columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height]


@dataclass
class Track:
    """A short clip: `pixels` (T, 3, S, S), `masks` (K, T, S, S) bool of K objects; all are visible on frame 0.
    Indices of colours and shapes, -1 for none: `names` (K, 2) of the objects, `seen` (T, S/8, S/8, 2) of whatever lies
    at the middle of each patch."""

    pixels: torch.Tensor
    masks: torch.Tensor
    names: torch.Tensor
    seen: torch.Tensor


def draw_track(seed: int, size: int, frames: int, objects: int) -> Track:
    rng = np.random.default_rng([seed, 2])
    alike = frames > 1 and rng.random() < ALIKE
    while True:
        seed += 1
        scene = make_scene(draw_spec(rng, seed, size, _LENGTH))
        meetings = _meetings(scene, alike=True) if alike else []
        if alike and not meetings:
            continue
        if not alike and frames > 1 and rng.random() < CROSSED:
            meetings = _meetings(scene)
        artist = Artist(scene)
        step = int(rng.choice((1, 1, 2, 3) if frames < 8 else (1, 1, 2)))
        if 1 < frames < 8 and rng.random() < FAR:
            step = int(rng.integers(4, (_LENGTH - 1) // (frames - 1)))
        span = (frames - 1) * step
        first = int(rng.integers(_LENGTH - span))
        wanted: tuple[int, ...] = ()
        if meetings:
            at, wanted = meetings[int(rng.integers(len(meetings)))]
            first = min(max(at - step * int(rng.integers(frames - 1)), 0), _LENGTH - span - 1)
        drawn = [artist.frame(first + step * t) for t in range(frames)]
        ids = [k for k in drawn[0].visible if (drawn[0].ids == k).sum() >= LEAST_FOLLOWED]
        if not ids:
            continue
        ids = [ids[i] for i in rng.permutation(len(ids))]
        chosen = sorted(ids, key=lambda k: k not in wanted)[:objects]
        images = np.stack([f.image for f in drawn])
        masks = np.stack([[f.ids == k for f in drawn] for k in chosen])
        names = name_table(artist.scene)
        seen = names[np.stack([f.ids for f in drawn])[:, PATCH // 2 :: PATCH, PATCH // 2 :: PATCH]]
        if frames > 2 and rng.random() < HIDDEN:
            _hide(images, masks, seen, rng)
        return Track(
            torch.stack([pixels(image) for image in images]), torch.from_numpy(masks),
            torch.from_numpy(names[chosen]), torch.from_numpy(seen),
        )  # fmt: skip


def _meetings(scene: Scene, *, alike: bool = False) -> list[tuple[int, tuple[int, ...]]]:
    """The frames on which an object begins to overlap another one (of the same colour if `alike`), and the ids of both.
    Every meeting counts once, however long it lasts.
    """
    times = np.arange(_LENGTH) / scene.spec.fps
    places = np.array([[thing.path.at(t) for t in times] for thing in scene.things])  # (things, frames, 2)
    found = []
    for i, one in enumerate(scene.things):
        for j, other in enumerate(scene.things[:i]):
            if alike and (one.colour is None or one.colour != other.colour):
                continue
            near = np.hypot(*(places[i] - places[j]).T) < 0.9 * (one.radius + other.radius)
            ids = tuple(k for k in (one.object_id, other.object_id) if k)
            found += [(int(t), ids) for t in np.flatnonzero(np.diff(near.astype(int), prepend=0) > 0) if ids]
    return found


def name_table(scene: Scene) -> np.ndarray:
    """Indices of colour and shape by object id (1 + OBJECTS, 2); -1 for ids without a name and for id 0."""
    names = np.full((1 + OBJECTS, 2), -1)
    for thing in scene.objects:
        if thing.label is not None:
            names[thing.object_id] = COLOURS.index(thing.label[0]), SHAPES.index(thing.label[1])
    return names


def _hide(images: np.ndarray, masks: np.ndarray, seen: np.ndarray, rng: np.random.Generator) -> None:
    """Puts a plain slab before the first object on some frames in the middle. In such short clips, few objects
    disappear behind another one and come out again.
    """
    frames = len(images)
    first = int(rng.integers(1, frames - 1))
    last = int(rng.integers(first + 1, frames))
    rows, columns = np.nonzero(masks[0, first:last].any(0))
    if not len(rows):
        return
    size = images.shape[1]
    margin = rng.integers(1, 8, 4)
    top, left = max(rows.min() - margin[0], 0), max(columns.min() - margin[1], 0)
    bottom, right = min(rows.max() + margin[2], size), min(columns.max() + margin[3], size)
    if (bottom - top) * (right - left) > 0.5 * size * size:
        return
    colour = rng.integers(256, size=3) if rng.random() < 0.5 else np.full(3, rng.integers(256))
    images[first:last, top:bottom, left:right] = colour
    masks[:, first:last, top:bottom, left:right] = False
    middles = np.arange(PATCH // 2, size, PATCH)
    rows, columns = (middles >= top) & (middles < bottom), (middles >= left) & (middles < right)
    seen[first:last, rows[:, None] & columns] = -1


class _Stream(IterableDataset):
    def __init__(self, draw: Callable[[int], Any], start: int) -> None:
        self._draw, self._start = draw, start

    def __iter__(self) -> Iterator[object]:
        seed = self._start
        while True:
            yield self._draw(seed)
            seed += 1


def stream(draw: Callable[[int], Any], start: int) -> Iterator[Any]:
    """Draws batches ahead in a separate process. They depend only on the start."""
    loader = DataLoader(_Stream(draw, start), batch_size=None, num_workers=1, prefetch_factor=4)
    return iter(loader)
