"""Opens a file with LabelMe, adds a mask, and saves it as LabelMe saves: FILE LABEL MASK.npy OUT."""

import sys

import labelme
import numpy as np
from _out import write
from labelme._label_file import read_label_file, write_label_file
from labelme.utils import img_arr_to_b64, img_data_to_arr

path, label, mask = sys.argv[1], sys.argv[2], np.load(sys.argv[3])
data = read_label_file(path)


def saved(shape):
    """A shape as LabelMe's window passes it to the writer."""
    own = {key: shape[key] for key in ("label", "points", "group_id", "description", "shape_type", "flags")}
    pixels = shape["mask"]
    return {**shape["other_data"], **own, "mask": None if pixels is None else img_arr_to_b64(pixels.astype(np.uint8))}


ys, xs = np.where(mask)
top, bottom, left, right = int(ys.min()), int(ys.max()), int(xs.min()), int(xs.max())
added = {
    "label": label,
    "points": [[left, top], [right, bottom]],
    "group_id": None,
    "description": "",
    "shape_type": "mask",
    "flags": {},
    "mask": mask[top : bottom + 1, left : right + 1],
    "other_data": {},
}
height, width = img_data_to_arr(data.image_data).shape[:2]
write_label_file(
    path,
    shapes=[saved(shape) for shape in [*data.shapes, added]],
    image_path=data.image_path,
    image_height=height,
    image_width=width,
    other_data=data.other_data,
    flags=data.flags,
)
write(labelme.__version__, [])
