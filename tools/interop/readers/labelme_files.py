"""LabelMe reads its files: FOLDER OUT."""

import glob
import os
import sys

import labelme
import numpy as np
from _out import write
from labelme._label_file import read_label_file
from labelme.utils import img_data_to_arr

rows = []
for path in sorted(glob.glob(os.path.join(sys.argv[1], "*.json"))):
    data = read_label_file(path)
    size = img_data_to_arr(data.image_data).shape[:2]
    for each in data.shapes:
        mask = np.zeros(size, bool)
        (left, top), (right, bottom) = [[int(v) for v in point] for point in each["points"]]
        mask[top : bottom + 1, left : right + 1] = each["mask"]
        rows.append(
            {
                "frame": data.other_data["sam3ray"]["frame_index"],
                "object_id": each["group_id"],
                "label": each["label"],
                "score": each["other_data"]["score"],
                "mask": mask,
            }
        )
write(labelme.__version__, rows)
