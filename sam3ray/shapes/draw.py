"""Draws the frames of a scene, with the exact mask of every object.

A pixel belongs to the frontmost object that covers at least half of it over the exposure: the masks of a frame never
overlap. Distances are signed and analytic, so that edges are correct at any resolution and with pixels of any shape.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .scene import ClipSpec, Scene, Thing, make_scene

_TIP, _NOTCH = 1.35, 0.58  # the star's outer and inner radius, in radii
_EXPOSURES = 4


@dataclass(frozen=True)
class DrawnFrame:
    """One drawn frame.

    Attributes:
        image: uint8 [H, W, 3] RGB.
        ids: uint16 [H, W], the visible object of each pixel, 0 for none.
        visible: each object id of the clip -> its visible share, 0..1. Parts outside the frame count as hidden.
    """

    index: int
    image: NDArray[np.uint8]
    ids: NDArray[np.uint16]
    visible: dict[int, float]

    def mask(self, object_id: int) -> NDArray[np.bool_]:
        return self.ids == object_id


def draw_clip(spec: ClipSpec) -> Iterator[DrawnFrame]:
    """The frames of a clip, in order."""
    artist = Artist(make_scene(spec))
    for index in range(spec.frames):
        yield artist.frame(index)


class Artist:
    """Draws any frame of one scene; keeps only its background."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        spec = scene.spec
        self.height, self.width = spec.height, spec.width
        self._background = _background(scene)
        self._ys = ((np.arange(self.height) + 0.5) / self.height).astype(np.float32)
        self._xs = ((np.arange(self.width) + 0.5) / self.width * scene.aspect).astype(np.float32)
        self._pixel = math.sqrt(scene.aspect / (self.width * self.height))

    def frame(self, index: int) -> DrawnFrame:
        scene, spec = self.scene, self.scene.spec
        time_s = index / spec.fps
        image = self._view(time_s)
        ids = np.zeros((self.height, self.width), np.uint16)
        whole: dict[int, float] = {}
        for thing in scene.things:
            found = self._cover(thing, time_s)
            if thing.object_id:
                whole[thing.object_id] = max(self._area(thing, time_s), 1.0)
            if found is None:
                continue
            window, cover, paint = found
            image[window] += cover[..., None] * (paint - image[window])
            ids[window][cover >= 0.5] = thing.object_id
        if scene.noise:
            rng = np.random.default_rng([scene.background_seed, index])
            image += scene.noise * rng.standard_normal(image.shape, np.float32)
        image *= 255.0 * scene.light
        np.clip(image, 0, 255, out=image)
        counts = np.bincount(ids.ravel(), minlength=max(whole, default=0) + 1)
        visible = {k: float(min(counts[k] / area, 1.0)) for k, area in sorted(whole.items())}
        return DrawnFrame(index, np.round(image).astype(np.uint8), ids, visible)

    def _view(self, time_s: float) -> NDArray[np.float32]:
        margin_y = self._background.shape[0] - self.height
        margin_x = self._background.shape[1] - self.width
        if not margin_x:
            return self._background.copy()
        dx, dy = (p * time_s for p in self.scene.pan)
        x = round(margin_x * (0.5 + 0.5 * math.sin(dx * 20)))
        y = round(margin_y * (0.5 + 0.5 * math.sin(dy * 20)))
        return self._background[y : y + self.height, x : x + self.width].copy()

    def _area(self, thing: Thing, time_s: float) -> float:
        """The whole object's area in pixels, visible or not."""
        r = _radius(thing, time_s)
        shares = {
            "circle": math.pi,
            "square": (2 * 0.88) ** 2,
            "triangle": 3 * math.sqrt(3) * 0.64**2,
            "star": 5 * _TIP * _NOTCH * math.sin(math.pi / 5),
            "slab": 4 * 0.7 * 3.0,
        }
        return shares[thing.shape] * r * r / (self._pixel**2)

    def _cover(
        self, thing: Thing, time_s: float
    ) -> tuple[tuple[slice, slice], NDArray[np.float32], NDArray[np.float32]] | None:
        """The window an object touches, the share of each pixel it covers, and its paint there."""
        scene = self.scene
        frame_s = scene.shutter / scene.spec.fps
        moments = [time_s] if not frame_s else [time_s + frame_s * (i / (_EXPOSURES - 1) - 0.5) for i in range(4)]
        places = [thing.path.at(t) for t in moments]
        reach = _radius(thing, time_s) * (3.2 if thing.shape == "slab" else 1.5) + 3 * self._pixel
        x0 = int((min(p[0] for p in places) - reach) / scene.aspect * self.width)
        x1 = int((max(p[0] for p in places) + reach) / scene.aspect * self.width) + 1
        y0 = int((min(p[1] for p in places) - reach) * self.height)
        y1 = int((max(p[1] for p in places) + reach) * self.height) + 1
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, self.width), min(y1, self.height)
        if x0 >= x1 or y0 >= y1:
            return None
        cover = np.zeros((y1 - y0, x1 - x0), np.float32)
        soft = scene.softness * self._pixel
        for (x, y), t in zip(places, moments, strict=True):
            dx = self._xs[None, x0:x1] - np.float32(x)
            dy = self._ys[y0:y1, None] - np.float32(y)
            turn = thing.angle + thing.spin * t
            c, s = np.float32(math.cos(turn)), np.float32(math.sin(turn))
            depth = _signed_distance(thing.shape, c * dx + s * dy, c * dy - s * dx, _radius(thing, t))
            cover += np.clip(0.5 - depth / soft, 0, 1)
        cover /= len(places)
        x, y = thing.path.at(time_s)
        paint = self._paint(thing, (self._xs[x0:x1] - x) / thing.radius, (self._ys[y0:y1] - y) / thing.radius)
        return (slice(y0, y1), slice(x0, x1)), cover, paint

    def _paint(self, thing: Thing, u: NDArray[np.float32], v: NDArray[np.float32]) -> NDArray[np.float32]:
        rgb = np.asarray(thing.rgb, np.float32)
        if thing.style == "flat":
            return np.broadcast_to(rgb, (len(v), len(u), 3))
        if thing.style == "shaded":
            light = 0.92 + 0.10 * (thing.shade[0] * u[None, :] + thing.shade[1] * v[:, None])
        elif thing.style == "rimmed":
            light = np.where(np.hypot(u[None, :], v[:, None]) > 0.75, 0.72, 1.0)
        else:
            a, b = thing.shade
            light = 0.88 + 0.12 * np.sin(9 * a * u[None, :] + 5 * b * v[:, None]) * np.sin(
                7 * b * u[None, :] + 8 * v[:, None]
            )
        return np.clip(light, 0.6, 1.1)[..., None].astype(np.float32) * rgb


def _radius(thing: Thing, time_s: float) -> float:
    return thing.radius * (1 + thing.pulse * math.sin(1.7 * time_s + thing.angle))


def _signed_distance(shape: str, x: NDArray[np.float32], y: NDArray[np.float32], radius: float) -> NDArray[np.float32]:
    """Distance to the outline, negative inside, exact but for the outside of corners."""
    if shape == "circle":
        return np.sqrt(x * x + y * y) - np.float32(radius)
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.88 * radius)
    if shape == "slab":
        return np.maximum(np.abs(x) - np.float32(0.7 * radius), np.abs(y) - np.float32(3 * radius))
    if shape == "triangle":
        k = np.float32(math.sqrt(3) / 2)
        return np.maximum(y, k * np.abs(x) - y / 2) - np.float32(0.64 * radius)
    # Star: fold the plane into one half of one point, then the distance to the line from tip to notch.
    tip, notch, half = _TIP * radius, _NOTCH * radius, math.pi / 5
    angle = np.abs((np.arctan2(y, x) + half) % (2 * half) - half)
    r = np.sqrt(x * x + y * y)
    fx, fy = r * np.cos(angle), r * np.sin(angle)
    nx, ny = notch * math.sin(half), tip - notch * math.cos(half)
    length = math.hypot(nx, ny)
    return ((fx - np.float32(tip)) * np.float32(nx / length) + fy * np.float32(ny / length)).astype(np.float32)


def _background(scene: Scene) -> NDArray[np.float32]:
    """float32 [H, W, 3] in 0..1, larger than the frame where the camera pans."""
    rng = np.random.default_rng([scene.background_seed, 7])
    height, width = scene.spec.height, scene.spec.width
    if any(scene.pan):
        height, width = height + max(height // 8, 1), width + max(width // 8, 1)
    first, second = (np.asarray(c, np.float32) for c in scene.background_rgb)
    if scene.background == "flat":
        return np.broadcast_to(first, (height, width, 3)).astype(np.float32)
    if scene.background == "photo":
        picture = np.zeros((height, width, 3), np.float32)
        for octave, weight in ((2, 0.5), (5, 0.3), (12, 0.18), (40, 0.12)):
            picture += weight * _smooth(rng, octave, height, width, 3)
        grey = picture.mean(axis=2, keepdims=True)
        # Photographs are less saturated than coloured noise.
        picture = 0.5 + 1.6 * (0.45 * (picture - grey) + grey - 0.55)
        tint = 0.5 * (first + second)
        return np.clip(0.65 * picture + 0.35 * tint, 0, 1).astype(np.float32)
    share: NDArray[Any]
    if scene.background == "gradient":
        turn = rng.uniform(0, 2 * math.pi)
        ramp = np.linspace(-1, 1, width)[None] * math.cos(turn) + np.linspace(-1, 1, height)[:, None] * math.sin(turn)
        share = 0.5 + 0.35 * ramp
    elif scene.background == "stripes":
        turn, count = rng.uniform(0, 2 * math.pi), rng.uniform(5, 30)
        ramp = np.linspace(0, 1, width)[None] * math.cos(turn) + np.linspace(0, 1, height)[:, None] * math.sin(turn)
        share = (np.sin(count * ramp) > 0).astype(np.float32)
    else:
        share = 0.6 * _smooth(rng, int(rng.integers(3, 9)), height, width, 1)[..., 0]
        share = share + 0.4 * _smooth(rng, int(rng.integers(12, 40)), height, width, 1)[..., 0]
    share = np.clip(share, 0, 1)[..., None].astype(np.float32)
    return (first + share * (second - first)).astype(np.float32)


def _smooth(rng: np.random.Generator, cells: int, height: int, width: int, channels: int) -> NDArray[np.float32]:
    """Smooth noise in 0..1: a random grid enlarged."""
    planes = [
        np.asarray(
            Image.fromarray(rng.random((cells, cells), np.float32)).resize((width, height), Image.Resampling.BICUBIC)
        )
        for _ in range(channels)
    ]
    return np.stack(planes, axis=-1)
