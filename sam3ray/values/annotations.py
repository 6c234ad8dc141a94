"""Annotations of a clip, with every object on every frame, as values and as the columns of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from sam3ray.display import html
from sam3ray.display.colors import color_of
from sam3ray.display.readable import counted
from sam3ray.failures import ClipError, Reason
from sam3ray.masks import decode_rle

_SHOWN_OBJECTS = 20  # objects of a frame that are listed in a notebook
_SHOWN_HEIGHT = 240


@dataclass(frozen=True, slots=True)
class ObjectAnnotation:
    """One object on one frame.

    Attributes:
        object_id: >= 1, one object through the clip, unique across prompts.
        prompt: the phrase that found it, or the label of a visual prompt.
        score: detection score of the object, 0..1 (1 for an object that a visual prompt defined).
        track_score: the tracker's score of this object on this frame, 0..1.
        bbox: (xmin, ymin, xmax, ymax) in pixels of the displayed source frame, max exclusive,
            tight around the mask.
        area: pixels of the mask, > 0.
        rle: COCO compressed RLE of the mask at the size of the displayed source frame.
        visibility: in truth, the object's visible share, 0..1; None if unknown, and in a model's rows.
    """

    object_id: int
    prompt: str
    score: float
    track_score: float
    bbox: tuple[float, float, float, float]
    area: int
    rle: str
    visibility: float | None = None


@dataclass(frozen=True, slots=True)
class FrameAnnotations:
    """All objects of one frame, by ascending object id.

    Attributes:
        frame_index: 0-based, display order, in the source video (not in the sampled sequence).
        pts: presentation timestamp in the stream's time base.
        time_s: the same, in seconds from the video's start.
        height, width: size of the displayed frame (rotation applied), in pixels.
    """

    frame_index: int
    pts: int
    time_s: float
    height: int
    width: int
    objects: tuple[ObjectAnnotation, ...] = field(default=())

    def check_source(self, shape: tuple[int, ...], uri: str) -> None:
        """Raises ClipError if a frame of the source, of this shape, does not have the annotated size."""
        if shape[:2] != (self.height, self.width):
            message = (
                f"frame {self.frame_index} has {shape[1]}x{shape[0]} pixels, but {self.width}x{self.height} were "
                "annotated: the source has changed"
            )
            raise ClipError(Reason.UNREADABLE_VIDEO, message, uri)

    @classmethod
    def of_rows(cls, rows: Sequence[Mapping[str, Any]]) -> FrameAnnotations:
        """Makes the annotations of a frame from its rows (see `SCHEMA`), at least one."""
        first = rows[0]
        height, width = first["segmentation"]["size"]
        objects = tuple(
            ObjectAnnotation(
                object_id=row["object_id"],
                prompt=row["prompt"],
                score=row["score"],
                track_score=row["track_score"],
                bbox=(row["bbox"]["xmin"], row["bbox"]["ymin"], row["bbox"]["xmax"], row["bbox"]["ymax"]),
                area=row["area"],
                rle=row["segmentation"]["counts"],
                visibility=row.get("visibility"),
            )
            for row in rows
        )
        return cls(first["frame_index"], first["pts"], first["time_s"], height, width, objects)

    def _repr_html_(self) -> str:
        """For notebooks: the masks in their colours, and the objects. `sam3ray.draw` draws them on the frame itself."""
        shown = self.objects[:_SHOWN_OBJECTS]
        canvas = np.full((self.height, self.width, 3), 40, np.uint8)
        for item in self.objects:
            canvas[decode_rle(item.rle, self.height, self.width)] = color_of(item.object_id)
        objects = counted(len(self.objects), "object")
        caption = f"frame {self.frame_index}, {self.time_s:.3f} s, {self.width}x{self.height}, {objects}"
        rows = [(o.object_id, o.prompt, f"{o.score:.2f}", f"{o.track_score:.2f}", o.area) for o in shown]
        more = len(self.objects) - len(shown)
        return (
            html.picture(canvas, caption, _SHOWN_HEIGHT)
            + html.table(("id", "prompt", "score", "track score", "pixels"), rows)
            + (f"<div>and {more} more</div>" if more else "")
        )


def decode_mask(row: Mapping[str, Any]) -> np.ndarray:
    """The mask of one row as a bool array of shape (height, width), at the size of the displayed source frame.

    Args:
        row: anything indexable by column name: a dict of `to_pylist()`, a pandas Series, a Polars named row; or the
            value of its `segmentation` column.
    """
    segmentation = row.get("segmentation", row)
    height, width = (int(v) for v in segmentation["size"])
    counts = segmentation["counts"]
    return decode_rle(counts.decode("ascii") if isinstance(counts, bytes) else counts, height, width)


_TEXT = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        pa.field("clip_id", _TEXT),
        pa.field("frame_index", pa.int32()),
        pa.field("pts", pa.int64()),
        pa.field("time_s", pa.float64()),
        pa.field("object_id", pa.int32()),
        pa.field("prompt", _TEXT),
        pa.field("score", pa.float32()),
        pa.field("track_score", pa.float32()),
        pa.field("bbox", pa.struct([(name, pa.float32()) for name in ("xmin", "ymin", "xmax", "ymax")])),
        pa.field("area", pa.int32()),
        pa.field("segmentation", pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])),
    ]
)
"""Version 1: one row per frame and object, sorted by (frame_index, object_id)."""

TRUTH_SCHEMA = SCHEMA.append(pa.field("visibility", pa.float32()))
"""For true tracks: the last column is the visible share of the object, null if unknown."""
