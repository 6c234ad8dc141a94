"""Drawn clips whose objects are hard to tell apart: of one shape, they cross, hide, leave the frame and come back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np

from sam3ray.masks import encode_masks
from sam3ray.shapes import Artist, ClipSpec, Scene, make_scene
from sam3ray.shapes.scene import Path as Way
from sam3ray.values.annotations import FrameAnnotations, ObjectAnnotation
from sam3ray.video import Frame

FIRST_SEED = 7_320_000  # used nowhere else, and for no adjustment of a rule
FPS = 12.0


def hard_scene(seed: int, width: int, height: int, frames: int) -> Scene:
    """A drawn scene whose objects have one shape and keep crossing each other; half of them leave and come back."""
    spec = ClipSpec(seed=seed, width=width, height=height, frames=frames, fps=FPS, objects=(4, 5))
    scene = make_scene(spec)
    rng = np.random.default_rng([seed, 1])
    shape = scene.objects[0].shape
    things = []
    for thing in scene.things:
        if thing.colour is None:
            things.append(thing)
            continue
        radius = float(rng.uniform(0.09, 0.14))
        # Beyond the frame by up to 2.5 radii more than it takes to be gone: away for some seconds.
        margin = -radius * float(rng.uniform(1.5, 4.0)) if thing.object_id % 2 else 0.6 * radius
        heading, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.08, 0.22)
        way = Way(
            start=(float(rng.uniform(0.2, scene.aspect - 0.2)), float(rng.uniform(0.2, 0.8))),
            velocity=(float(speed * np.cos(heading)), float(speed * np.sin(heading))),
            box=(margin, margin, scene.aspect - margin, 1.0 - margin),
            sway=(0.0, 0.0),
            rate=(1.0, 1.0),
            phase=(0.0, 0.0),
        )
        things.append(replace(thing, shape=shape, radius=radius, path=way))
    return replace(scene, things=tuple(things))


class Clip:
    """One drawn clip: its frames, and its truth for the one phrase that is asked for."""

    def __init__(self, seed: int, width: int, height: int, frames: int) -> None:
        self.name, self.length, self.size = f"hard-{seed}", frames, (height, width)
        self._scene = hard_scene(seed, width, height, frames)
        self._artist = Artist(self._scene)
        self.prompt = self._scene.objects[0].shape

    @cache  # noqa: B019 - a clip lives as long as it is worked on
    def frame_at(self, position: int) -> Frame:
        return Frame(position, round(position * 90_000 / FPS), position / FPS, self._artist.frame(position).image)

    def read(self, start: int) -> Iterator[Frame]:
        return map(self.frame_at, range(start, self.length))

    def truth(self) -> Iterator[FrameAnnotations]:
        for position in range(self.length):
            drawn = self._artist.frame(position)
            present = [each.object_id for each in self._scene.objects if drawn.mask(each.object_id).any()]
            masks = encode_masks(np.stack([drawn.mask(k) for k in present])) if present else []
            objects = tuple(
                ObjectAnnotation(k, self.prompt, 1.0, 1.0, tuple(map(float, m.bbox)), m.area, m.rle, drawn.visible[k])  # type: ignore[arg-type]
                for k, m in zip(present, masks, strict=True)
            )
            pts = round(position * 90_000 / FPS)
            yield FrameAnnotations(position, pts, position / FPS, *self.size, objects)
