"""One colour per object id, the same in every picture, video and page."""

from __future__ import annotations

import colorsys

_GOLDEN = 0.618033988749895  # hues a golden ratio apart stay far from their neighbours, however many there are


def color_of(object_id: int) -> tuple[int, int, int]:
    """RGB of an object: the same in every frame, video and run."""
    hue = object_id * _GOLDEN % 1.0
    saturation, value = ((0.85, 1.0), (0.6, 0.95), (0.95, 0.8))[object_id % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)
