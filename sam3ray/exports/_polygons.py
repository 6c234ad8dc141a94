"""Converts masks to polygons for the rasteriser that will read them.

A polygon has no holes: each hole is joined to its outer ring by a cut of zero width, which does not affect a rasteriser
that counts crossings. COCO's rasteriser fills the inside of lines along pixel edges exactly. OpenCV's `fillPoly`, which
Ultralytics uses, also draws the line itself, and therefore needs the centres of the border pixels.
"""

from __future__ import annotations

import cv2
import numpy as np

from sam3ray.exports._pixels import Crop

Ring = list[tuple[int, int]]

_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # right, down, left, up, as (x, y)


def edge_polygons(crop: Crop) -> list[Ring]:
    """One polygon along pixel edges for each 4-connected part, largest part first: (x, y) in pixels of the frame."""
    mask = np.pad(crop.pixels, 1)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    rings = _edge_rings(mask, labels)
    found = []
    for label in sorted(rings, key=lambda n: -int(stats[n, cv2.CC_STAT_AREA])):
        outer, *holes = rings[label]
        polygon = _bridged(outer, holes)
        found.append([(x - 1 + crop.left, y - 1 + crop.top) for x, y in polygon])
    return found


def centre_polygons(crop: Crop) -> list[Ring]:
    """One polygon through the centres of border pixels for each 8-connected part: (x, y), pixel centres on integers.

    Parts of one or two pixels become polygons of one or two points, which a reader may drop.
    """
    contours, hierarchy = cv2.findContours(crop.pixels.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return []
    found = []
    for n, (_, _, child, parent) in enumerate(hierarchy[0]):
        if parent >= 0:
            continue
        holes = []
        while child >= 0:
            holes.append(_points(contours[child]))
            child = hierarchy[0][child][0]
        polygon = _bridged(_points(contours[n]), holes)
        found.append([(x + crop.left, y + crop.top) for x, y in polygon])
    return found


def _points(contour: np.ndarray) -> Ring:
    return [(int(x), int(y)) for x, y in contour[:, 0]]


def _bridged(outer: Ring, holes: list[Ring]) -> Ring:
    polygon = list(outer)
    for hole in holes:
        polygon += [outer[0], *hole, hole[0]]
    if holes:
        polygon.append(outer[0])
    return polygon


def _edge_rings(mask: np.ndarray, labels: np.ndarray) -> dict[int, list[Ring]]:
    """Label -> its outer ring, then its holes, as corners only. The mask has a border of background.

    Edges run with the foreground on their right. Where two pixels touch only at a corner, the walk turns right and
    so stays with its own pixel: parts are 4-connected.
    """
    above, left = np.roll(mask, 1, 0), np.roll(mask, 1, 1)
    diagonal = np.roll(above, 1, 1)
    # Whether an edge begins at the upper left corner of pixel (y, x), by direction.
    begins = np.stack([mask & ~above, left & ~mask, diagonal & ~left, above & ~diagonal])
    unseen = begins.copy()
    rings: dict[int, list[Ring]] = {}
    # Row by row: the first edge found of each part is at its top, so its outer ring comes before its holes.
    for y, x in zip(*(place.tolist() for place in np.nonzero(begins[0])), strict=True):
        if not unseen[0, y, x]:
            continue
        ring: Ring = []
        px, py, direction, before = x, y, 0, -1
        while unseen[direction, py, px]:
            unseen[direction, py, px] = False
            if direction != before:
                ring.append((px, py))
            before = direction
            px, py = px + _STEPS[direction][0], py + _STEPS[direction][1]
            for turn in (1, 0, 3):
                after = (direction + turn) % 4
                if begins[after, py, px]:
                    direction = after
                    break
        rings.setdefault(int(labels[y, x]), []).append(ring)
    return rings
