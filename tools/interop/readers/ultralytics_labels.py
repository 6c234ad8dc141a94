"""Ultralytics reads label files and draws their polygons: IMAGES LABELS CLASSES OUT."""

import glob
import os
import sys

import numpy as np
import ultralytics
from _out import write
from ultralytics.data.utils import polygons2masks, verify_image_label

images, labels, classes = sys.argv[1], sys.argv[2], sys.argv[3].split(",")
rows = []
for image in sorted(glob.glob(os.path.join(images, "*.jpg"))):
    name = os.path.splitext(os.path.basename(image))[0]
    path = os.path.join(labels, name + ".txt")
    _, found, size, segments, _, _, _, _, corrupt, message = verify_image_label(
        (image, path, "", False, len(classes), 0, 0, False)
    )
    assert not corrupt, message
    height, width = size
    for label, segment in zip(found[:, 0], segments, strict=True):
        polygon = segment * np.array([width, height], np.float32)
        mask = polygons2masks((height, width), [polygon.reshape(-1)], 1, 1)[0]
        rows.append({"frame": int(name), "label": classes[int(label)], "mask": np.asarray(mask, bool)})
write(ultralytics.__version__, rows)
