"""The vocabulary of the drawn clips: eight colours, four shapes, and the phrases that name them."""

from __future__ import annotations

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SHAPES = ("circle", "square", "triangle", "star")

# Hue in degrees, and the ranges of saturation and value a colour's name still fits.
# Pink is the pale red between purple and red; all the others are saturated.
HSV = {
    "red": (0.0, (0.80, 1.0), (0.70, 1.0)),
    "orange": (28.0, (0.85, 1.0), (0.90, 1.0)),
    "yellow": (56.0, (0.75, 1.0), (0.85, 1.0)),
    "green": (122.0, (0.65, 1.0), (0.50, 0.90)),
    "cyan": (183.0, (0.65, 1.0), (0.80, 1.0)),
    "blue": (228.0, (0.75, 1.0), (0.65, 1.0)),
    "purple": (276.0, (0.60, 1.0), (0.50, 0.85)),
    "pink": (334.0, (0.30, 0.52), (0.92, 1.0)),
}

#: Words that name nothing in a drawn clip: a model must find nothing for them.
FOREIGN = (
    "person", "forklift", "dog", "cat", "car", "truck", "bicycle", "bird", "horse", "chair", "table", "bottle",
    "traffic light", "boat", "tree", "house", "phone", "book", "shoe", "cup", "ball of wool", "hexagon", "line",
    "cloud", "grass", "road", "hand", "face", "sheep", "cow", "bus", "train", "plane", "window", "door", "lamp",
)  # fmt: skip


def phrases(colour: str | None, shape: str | None) -> tuple[str, ...]:
    """Every phrase for objects of a colour, of a shape, or of both. The first is the usual one.

    `phrases("red", "star")` gives "red star", "a red star", "red stars", ...; with no shape "red shape", ...
    """
    noun = shape if shape is not None else "shape"
    name = f"{colour} {noun}" if colour else noun
    found = [name, f"{name}s", f"a {name}", f"the {name}"]
    if shape is None:
        found += [f"{colour} object" if colour else "object", f"{colour} thing" if colour else "thing"]
    return tuple(found)


def matches(colour: str | None, shape: str | None, label: tuple[str, str]) -> bool:
    """Whether a phrase of this colour and shape includes an object of `label` = (colour, shape)."""
    return (colour is None or colour == label[0]) and (shape is None or shape == label[1])


def parse(phrase: str) -> tuple[str | None, str | None] | None:
    """The (colour, shape) of a phrase of this vocabulary; None for any other phrase."""
    words = phrase.lower().split()
    if words and words[0] in ("a", "an", "the"):
        words = words[1:]
    if not words or len(words) > 2:
        return None
    noun = words[-1][:-1] if words[-1].endswith("s") else words[-1]
    shape = noun if noun in SHAPES else None
    if shape is None and noun not in ("shape", "object", "thing"):
        return None
    if len(words) == 1:
        return (None, shape)
    return (words[0], shape) if words[0] in COLOURS else None
