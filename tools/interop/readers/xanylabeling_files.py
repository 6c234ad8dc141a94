"""X-AnyLabeling reads its files and draws their polygons: FOLDER OUT."""

import glob
import json
import os
import sys
import tempfile

os.environ["QT_QPA_PLATFORM"] = "offscreen"

import cv2
import numpy as np
from _out import write
from anylabeling.app_info import __version__
from anylabeling.views.labeling.label_converter import LabelConverter
from anylabeling.views.labeling.label_file import LabelFile

converter = LabelConverter()


def drawn(path, shapes, label):
    """The mask of some of a file's polygons, as the tool exports it."""
    with open(path) as file:
        value = json.load(file)
    value["shapes"] = shapes
    with tempfile.TemporaryDirectory() as folder:
        source, target = os.path.join(folder, "one.json"), os.path.join(folder, "one.png")
        with open(source, "w") as file:
            json.dump(value, file)
        converter.custom_to_mask(source, target, {"type": "grayscale", "colors": {label: 255}})
        return cv2.imread(target, cv2.IMREAD_GRAYSCALE) > 0


rows = []
for path in sorted(glob.glob(os.path.join(sys.argv[1], "*.json"))):
    held = LabelFile(path)
    objects = {}
    for shape in held.shapes:
        points = [[point.x(), point.y()] for point in shape.points]
        polygon = {"label": shape.label, "shape_type": shape.shape_type, "points": points}
        objects.setdefault((shape.group_id, shape.label, shape.score), []).append(polygon)
    for (number, label, score), shapes in objects.items():
        frame = held.other_data["sam3ray"]["frame_index"]
        mask = drawn(path, shapes, label)
        rows.append({"frame": frame, "object_id": number, "label": label, "score": score, "mask": np.asarray(mask)})
write(__version__, rows)
