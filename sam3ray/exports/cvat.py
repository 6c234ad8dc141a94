"""CVAT: box tracks ("CVAT for video 1.1"), or masks frame by frame ("CVAT for images 1.1").

CVAT has no tracks of masks. Box tracks keep identity; only the keyframes that linear interpolation needs are
written. Masks are exact, and `group_id` is the object's id. CVAT renumbers imported tracks, so the id is also in the
attribute `object_id`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from xml.sax.saxutils import XMLGenerator
from xml.sax.xmlreader import AttributesImpl

import numpy as np

from sam3ray.exports._folder import Folder
from sam3ray.exports._keyframes import keyframes, stretches
from sam3ray.exports._labels import ClipLabels
from sam3ray.exports._losses import Losses
from sam3ray.exports._pixels import crop_of
from sam3ray.values.annotations import ObjectAnnotation

Attributes = Mapping[str, object]


class _Xml:
    """Writes elements, one per call; everything is escaped."""

    def __init__(self) -> None:
        self._text = io.StringIO()
        self._writer = XMLGenerator(self._text, "utf-8", short_empty_elements=True)
        self._writer.startDocument()

    def open(self, name: str, attributes: Attributes | None = None) -> None:
        values = {key: str(value) for key, value in (attributes or {}).items()}
        self._writer.startElement(name, AttributesImpl(values))

    def close(self, name: str) -> None:
        self._writer.endElement(name)
        self._writer.characters("\n")

    def leaf(self, name: str, text: object = "", attributes: Attributes | None = None) -> None:
        self.open(name, attributes)
        self._writer.characters(str(text))
        self.close(name)

    def text(self) -> str:
        return self._text.getvalue()


def write_boxes_clip(labels: ClipLabels, out: Folder) -> Losses:
    """`<clip_id>.xml`: one track per object."""
    xml = _header(labels, mode="interpolation")
    losses = Losses(times=len(labels.frames))
    for number, (object_id, track) in enumerate(labels.tracks.items()):
        first = next(iter(track.values()))
        xml.open("track", {"id": number, "label": first.prompt, "source": "auto", "group_id": object_id})
        losses["keyframes"] += len(track) - _boxes(xml, labels, object_id, track)
        xml.close("track")
        losses["masks"] += len(track)
        losses["scores"] += len(track)
        losses["track_scores"] += len(track)
    xml.close("annotations")
    out.text(f"{labels.clip_id}.xml", xml.text())
    return losses


def _boxes(xml: _Xml, labels: ClipLabels, object_id: int, track: Mapping[int, ObjectAnnotation]) -> int:
    """Writes a track's keyframes; returns their number. A gap and the end are marked by a box with `outside`."""
    places = [labels.place[frame] for frame in track]
    frames = list(track)
    written = 0
    for first, last in stretches(places):
        part = frames[places.index(first) : places.index(last) + 1]
        boxes = np.array([track[frame].bbox for frame in part], dtype=np.float64)
        for n in keyframes(part, boxes):
            _box(xml, part[n], track[part[n]], object_id, outside=False)
            written += 1
        if last + 1 < len(labels.frames):
            _box(xml, labels.frames[last + 1], track[part[-1]], object_id, outside=True)
    return written


def _box(xml: _Xml, frame: int, item: ObjectAnnotation, object_id: int, *, outside: bool) -> None:
    xmin, ymin, xmax, ymax = item.bbox
    place = {"frame": frame, "keyframe": 1, "outside": int(outside), "occluded": 0}
    corners = {"xtl": f"{xmin:.2f}", "ytl": f"{ymin:.2f}", "xbr": f"{xmax:.2f}", "ybr": f"{ymax:.2f}"}
    xml.open("box", {**place, **corners, "z_order": 0})
    xml.leaf("attribute", object_id, {"name": "object_id"})
    xml.close("box")


def write_masks_clip(labels: ClipLabels, out: Folder) -> Losses:
    """`<clip_id>.xml`: one image per frame, named `frame_<index>`."""
    xml = _header(labels, mode="annotation")
    losses = Losses(times=len(labels.frames), tracks=len(labels.tracks))
    for frame in labels.frames:
        size = {"width": labels.width, "height": labels.height}
        xml.open("image", {"id": labels.place[frame], "name": f"{labels.clip_id}/frame_{frame:06d}.jpg", **size})
        for item in labels.objects.get(frame, ()):
            losses["scores"] += 1
            losses["track_scores"] += 1
            crop = crop_of(item, labels.height, labels.width)
            height, width = crop.pixels.shape
            box = {"left": crop.left, "top": crop.top, "width": width, "height": height}
            runs = ", ".join(map(str, row_major_runs(crop.pixels)))
            shape = {"label": item.prompt, "source": "auto", "occluded": 0, "rle": runs, **box}
            xml.open("mask", {**shape, "z_order": 0, "group_id": item.object_id})
            xml.leaf("attribute", item.object_id, {"name": "object_id"})
            xml.close("mask")
        xml.close("image")
    xml.close("annotations")
    out.text(f"{labels.clip_id}.xml", xml.text())
    return losses


def row_major_runs(pixels: np.ndarray) -> list[int]:
    """Run lengths of a mask, row by row, background first (0 if it begins with foreground)."""
    flat = pixels.reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths: list[int] = np.diff(np.concatenate(([0], changes, [len(flat)]))).tolist()
    return [0, *lengths] if flat[0] else lengths


def _header(labels: ClipLabels, mode: str) -> _Xml:
    xml = _Xml()
    xml.open("annotations")
    xml.leaf("version", "1.1")
    xml.open("meta")
    xml.open("task")
    xml.leaf("name", labels.clip_id)
    xml.leaf("size", (labels.frames[-1] + 1) if labels.frames else 0)
    xml.leaf("mode", mode)
    xml.open("labels")
    for name in labels.categories:
        xml.open("label")
        xml.leaf("name", name)
        xml.open("attributes")
        xml.open("attribute")
        xml.leaf("name", "object_id")
        xml.leaf("mutable", "False")
        xml.leaf("input_type", "number")
        xml.leaf("default_value", "0")
        xml.leaf("values", "0\n2147483647\n1")
        xml.close("attribute")
        xml.close("attributes")
        xml.close("label")
    xml.close("labels")
    xml.open("original_size")
    xml.leaf("width", labels.width)
    xml.leaf("height", labels.height)
    xml.close("original_size")
    xml.close("task")
    xml.close("meta")
    return xml
