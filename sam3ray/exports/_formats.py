"""The formats, and the modules that write them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sam3ray.exports import coco, cvat, davis, fiftyone, labelme, labelstudio, mot, mots, parquet, sav, yolo, ytvis
from sam3ray.exports._folder import Folder
from sam3ray.exports._labels import ClipLabels, Written
from sam3ray.exports._losses import Losses
from sam3ray.failures import UserError

Clips = Sequence[Written]
"""In the manifest's order."""


@dataclass(frozen=True)
class Format:
    """A format of labels.

    Attributes:
        write_clip: writes all files of one clip; returns what they could not hold.
        write_dataset: writes the files about all clips, after those of the clips.
        image: path at which the tool expects a frame's image, from the clip, the frame's index and its place among the
            exported frames; None if it reads the video itself or needs no images.
        is_run: whether the export is itself a run folder.
        ids: object id -> its number in the files, if the format renumbers objects.
    """

    write_clip: Callable[[ClipLabels, Folder], Losses]
    write_dataset: Callable[[Clips, Mapping[str, int], Folder], None] | None = None
    image: Callable[[ClipLabels, int, int], str] | None = None
    is_run: bool = False
    ids: Callable[[ClipLabels], Mapping[int, int]] | None = None


def _beside(folder: str = "") -> Callable[[ClipLabels, int, int], str]:
    return lambda labels, frame, _: folder + labels.image_name(frame)


FORMATS: dict[str, dict[str, Format]] = {
    "coco": {"": Format(coco.write_clip, image=_beside("images/"))},
    "ytvis": {"": Format(ytvis.write_clip, image=_beside("JPEGImages/"))},
    "saco": {"": Format(ytvis.write_saco_clip, image=_beside("JPEGImages/"))},
    "mots": {
        "challenge": Format(
            mots.write_challenge_clip,
            lambda clips, _, out: mots.write_challenge_dataset(clips, out),
            lambda labels, _, place: f"{labels.clip_id}/img1/{place + 1:06d}.jpg",
            ids=mots.text_ids,
        ),
        "kitti": Format(
            mots.write_kitti_clip,
            lambda clips, _, out: mots.write_kitti_dataset(clips, out),
            lambda labels, _, place: f"image_02/{labels.number - 1:04d}/{place:06d}.jpg",
            ids=mots.text_ids,
        ),
        "png": Format(
            mots.write_png_clip,
            image=lambda labels, frame, _: f"{labels.clip_id}/images/{frame:06d}.jpg",
            ids=mots.png_ids,
        ),
    },
    "mot": {
        "": Format(
            mot.write_clip,
            lambda clips, _, out: mot.write_dataset(clips, out),
            lambda labels, _, place: f"{labels.clip_id}/img1/{place + 1:06d}.jpg",
        )
    },
    "davis": {
        "": Format(
            davis.write_clip,
            lambda clips, _, out: davis.write_dataset(clips, out),
            lambda labels, _, place: f"JPEGImages/480p/{labels.clip_id}/{place:05d}.jpg",
            ids=davis.ids,
        )
    },
    "cvat": {
        "boxes": Format(cvat.write_boxes_clip),
        "masks": Format(
            cvat.write_masks_clip, image=lambda labels, frame, _: f"images/{labels.clip_id}/frame_{frame:06d}.jpg"
        ),
    },
    "labelstudio": {
        "video": Format(
            labelstudio.write_video_clip,
            lambda _, categories, out: out.text("config.xml", labelstudio.video_config(categories)),
        ),
        "brush": Format(
            labelstudio.write_brush_clip,
            lambda _, categories, out: out.text("config.xml", labelstudio.brush_config(categories)),
            _beside("images/"),
        ),
    },
    "labelme": {"": Format(labelme.write_labelme_clip, image=_beside())},
    "xanylabeling": {"": Format(labelme.write_xanylabeling_clip, image=_beside())},
    "fiftyone": {"": Format(fiftyone.write_clip, lambda clips, _, out: fiftyone.write_dataset(clips, out))},
    "yolo": {"": Format(yolo.write_clip, yolo.write_dataset, _beside("images/"))},
    "sav": {"": Format(sav.write_clip)},
    "parquet": {"": Format(parquet.write_clip, is_run=True)},
}
"""Format -> variant -> writer. The first variant is the default."""


def format_of(name: str, variant: str | None) -> tuple[str, Format]:
    """The name of the variant, and the format.

    Raises:
        UserError: there is no such format or variant.
    """
    if name not in FORMATS:
        raise UserError(f"--format {name}: allowed: {', '.join(FORMATS)}")
    variants = FORMATS[name]
    chosen = next(iter(variants)) if variant is None else variant
    if chosen not in variants:
        allowed = ", ".join(variants) if "" not in variants else "none: this format has no variants"
        raise UserError(f"--variant {variant} of {name}: allowed: {allowed}")
    return chosen, variants[chosen]
