"""The content of a drawn clip: its objects, how they look, and where they are at each time.

World coordinates: the frame is 1 high and `aspect` wide, y down, so that a scene is the same at any resolution.
The seed determines everything when the scene is made; drawing needs no further random numbers.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass

import numpy as np

from .words import COLOURS, HSV, SHAPES

#: Raised whenever the same seed would make a different clip.
GENERATOR_VERSION = 1

LOOKS = ("mixed", "plain")


@dataclass(frozen=True)
class ClipSpec:
    """One drawn clip. The same spec gives the same pixels.

    `look`: "mixed" draws every kind of background, colour and edge; "plain" flat backgrounds, pure colours and hard
    edges. `aspect` is the width of the world over its height; None takes it from the frame (square pixels).
    """

    seed: int
    width: int = 320
    height: int = 240
    frames: int = 48
    fps: float = 12.0
    objects: tuple[int, int] = (2, 6)
    look: str = "mixed"
    aspect: float | None = None

    def __post_init__(self) -> None:
        for name in ("width", "height", "frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.fps > 0:
            raise ValueError(f"fps must be above 0, got {self.fps}")
        if self.look not in LOOKS:
            raise ValueError(f"look must be one of {', '.join(LOOKS)}, got {self.look!r}")
        low, high = self.objects
        if not 0 <= low <= high:
            raise ValueError(f"objects must be (fewest, most) with 0 <= fewest <= most, got {self.objects}")


@dataclass(frozen=True)
class Path:
    """Position over time: a drift that bounces inside a box, or a sway about a point (which may lie outside)."""

    start: tuple[float, float]
    velocity: tuple[float, float]
    box: tuple[float, float, float, float]
    sway: tuple[float, float]
    rate: tuple[float, float]
    phase: tuple[float, float]

    def at(self, t: float) -> tuple[float, float]:
        out = []
        for i in range(2):
            low, high = self.box[i], self.box[i + 2]
            span = max(high - low, 1e-6)
            u = (self.start[i] + self.velocity[i] * t - low) % (2 * span)
            u = u if u <= span else 2 * span - u
            out.append(low + u + self.sway[i] * math.sin(self.rate[i] * t + self.phase[i]))
        return out[0], out[1]


@dataclass(frozen=True)
class Thing:
    """One object. `colour` None marks scenery, which hides objects and has `object_id` 0."""

    object_id: int
    colour: str | None
    shape: str
    rgb: tuple[float, float, float]
    radius: float
    path: Path
    angle: float
    spin: float
    pulse: float
    style: str
    shade: tuple[float, float]
    hole_seed: int

    @property
    def label(self) -> tuple[str, str] | None:
        return (self.colour, self.shape) if self.colour else None


@dataclass(frozen=True)
class Scene:
    """A clip's content: things from the back to the front, and how the frame is made."""

    spec: ClipSpec
    aspect: float
    things: tuple[Thing, ...]
    background: str
    background_seed: int
    background_rgb: tuple[tuple[float, float, float], tuple[float, float, float]]
    pan: tuple[float, float]
    softness: float
    shutter: float
    noise: float
    light: float

    @property
    def objects(self) -> tuple[Thing, ...]:
        return tuple(sorted((t for t in self.things if t.colour), key=lambda t: t.object_id))


def make_scene(spec: ClipSpec) -> Scene:
    """Makes the scene of a clip. The seed decides everything."""
    rng = np.random.default_rng([GENERATOR_VERSION, spec.seed])
    plain = spec.look == "plain"
    aspect = spec.aspect or spec.width / spec.height
    kinds = ("flat",) if plain else ("flat", "gradient", "noise", "stripes", "photo")
    weights = (1.0,) if plain else (0.32, 0.12, 0.18, 0.10, 0.28)
    background = str(rng.choice(kinds, p=weights))
    first, second = _background_colours(rng, background, plain)
    usable = [c for c in COLOURS if all(_distance(_named(c), b) > 0.38 for b in (first, second))]
    usable = usable or list(COLOURS)

    count = int(rng.integers(spec.objects[0], spec.objects[1] + 1))
    labels = [(str(rng.choice(usable)), str(rng.choice(SHAPES))) for _ in range(count)]
    for i in range(1, count):  # sometimes several of one class, one colour or one shape
        twin = labels[int(rng.integers(i))]
        roll = rng.random()
        if roll < 0.22:
            labels[i] = twin
        elif roll < 0.36:
            labels[i] = (twin[0], labels[i][1])
        elif roll < 0.50:
            labels[i] = (labels[i][0], twin[1])
    pure = plain or rng.random() < 0.35
    crowding = max(1.0, count / 4) ** 0.5
    things = [_thing(rng, i + 1, label, aspect, crowding, pure) for i, label in enumerate(labels)]
    if not plain:
        things += [_scenery(rng, aspect) for _ in range(int(rng.choice((0, 1, 2), p=(0.62, 0.28, 0.10))))]
    order = rng.permutation(len(things))
    return Scene(
        spec=spec,
        aspect=aspect,
        things=tuple(things[i] for i in order),
        background=background,
        background_seed=int(rng.integers(2**31)),
        background_rgb=(first, second),
        pan=(0.0, 0.0) if plain or rng.random() < 0.6 else (rng.uniform(-0.05, 0.05), rng.uniform(-0.03, 0.03)),
        softness=0.2 if plain else float(rng.choice((0.2, 1.0, rng.uniform(1.0, 2.2)))),
        shutter=0.0 if plain or rng.random() < 0.55 else float(rng.uniform(0.3, 1.0)),
        noise=0.0 if plain or rng.random() < 0.4 else float(rng.uniform(0.005, 0.04)),
        light=1.0 if plain or rng.random() < 0.5 else float(rng.uniform(0.8, 1.1)),
    )


def _thing(
    rng: np.random.Generator, object_id: int, label: tuple[str, str], aspect: float, crowding: float, pure: bool
) -> Thing:
    radius = math.exp(rng.uniform(math.log(0.065), math.log(0.24))) / crowding
    colour, shape = label
    hue, saturation, value = HSV[colour]
    if pure:
        rgb = colorsys.hsv_to_rgb(hue / 360, 1.0 if saturation[1] == 1.0 else 0.42, value[1])
    else:
        rgb = colorsys.hsv_to_rgb(
            ((hue + rng.uniform(-7, 7)) % 360) / 360, rng.uniform(*saturation), rng.uniform(*value)
        )
    style = "flat" if pure else str(rng.choice(("flat", "shaded", "mottled", "rimmed"), p=(0.3, 0.3, 0.25, 0.15)))
    return Thing(
        object_id=object_id,
        colour=colour,
        shape=shape,
        rgb=rgb,
        radius=radius,
        path=_path(rng, aspect, radius),
        angle=float(rng.uniform(0, 2 * math.pi)),
        spin=0.0 if rng.random() < 0.4 else float(rng.uniform(-1.5, 1.5)),
        pulse=0.0 if rng.random() < 0.6 else float(rng.uniform(0.05, 0.2)),
        style=style,
        shade=(float(rng.uniform(-1, 1)), float(rng.uniform(-1, 1))),
        hole_seed=int(rng.integers(2**31)),
    )


def _scenery(rng: np.random.Generator, aspect: float) -> Thing:
    """A grey pillar or slab, which hides objects and which no prompt names."""
    grey = float(rng.uniform(0.08, 0.9))
    radius = float(rng.uniform(0.06, 0.16))
    return Thing(
        object_id=0,
        colour=None,
        shape="slab",
        rgb=(grey, grey, grey),
        radius=radius,
        path=_path(rng, aspect, radius),
        angle=float(rng.normal(0, 0.2)),
        spin=0.0,
        pulse=0.0,
        style=str(rng.choice(("flat", "shaded", "mottled"))),
        shade=(float(rng.uniform(-1, 1)), float(rng.uniform(-1, 1))),
        hole_seed=int(rng.integers(2**31)),
    )


def _path(rng: np.random.Generator, aspect: float, radius: float) -> Path:
    heading = rng.uniform(0, 2 * math.pi)
    speed = 0.0 if rng.random() < 0.12 else math.exp(rng.uniform(math.log(0.06), math.log(0.5)))
    # A negative margin lets the drift leave the frame and come back.
    margin = -1.4 * radius if rng.random() < 0.25 else 0.6 * radius
    box = (margin, margin, aspect - margin, 1.0 - margin)
    start = (rng.uniform(radius, max(aspect - radius, radius)), rng.uniform(radius, max(1 - radius, radius)))
    sways = rng.random() < 0.45
    sway = (rng.uniform(0.05, 0.35) * aspect, rng.uniform(0.03, 0.25)) if sways else (0.0, 0.0)
    if sways:
        box = (sway[0] * 0.7, sway[1] * 0.7, max(aspect - sway[0] * 0.7, sway[0]), max(1 - sway[1] * 0.7, sway[1]))
        speed *= 0.3
    return Path(
        start=(float(start[0]), float(start[1])),
        velocity=(speed * math.cos(heading), speed * math.sin(heading)),
        box=tuple(float(v) for v in box),  # type: ignore[arg-type]
        sway=(float(sway[0]), float(sway[1])),
        rate=(float(rng.uniform(0.5, 2.2)), float(rng.uniform(0.5, 2.2))),
        phase=(float(rng.uniform(0, 6.28)), float(rng.uniform(0, 6.28))),
    )


Colour = tuple[float, float, float]


def _background_colours(rng: np.random.Generator, kind: str, plain: bool) -> tuple[Colour, Colour]:
    def one() -> Colour:
        if rng.random() < 0.55:  # a grey, black and white included
            grey = float(rng.choice((0.0, 1.0, 0.5, rng.uniform(0, 1))))
            return (grey, grey, grey)
        rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.1, 0.9 if plain else 0.6), rng.uniform(0.1, 1.0))
        return (float(rgb[0]), float(rgb[1]), float(rgb[2]))

    first = one()
    return (first, first) if kind == "flat" else (first, one())


def _named(colour: str) -> Colour:
    hue, saturation, value = HSV[colour]
    return colorsys.hsv_to_rgb(hue / 360, sum(saturation) / 2, sum(value) / 2)


def _distance(a: Colour, b: Colour) -> float:
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))
