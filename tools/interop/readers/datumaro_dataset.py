"""Datumaro imports a dataset: FORMAT PATH OUT."""

import re
import sys
from importlib.metadata import version

import datumaro
import numpy as np
from _out import write

name, path = sys.argv[1:3]
dataset = datumaro.Dataset.import_from(path, name)
labels = dataset.categories()[datumaro.AnnotationType.label]
rows = []
for item in dataset:
    frame = int(item.attributes.get("frame", re.findall(r"\d+", str(item.id))[-1]))
    kinds = {each.type for each in item.annotations}
    for each in item.annotations:
        if each.type == datumaro.AnnotationType.bbox and datumaro.AnnotationType.mask in kinds:
            continue  # COCO's box of the mask
        found = {
            "frame": frame,
            "object_id": each.attributes.get("object_id", each.attributes.get("track_id")),
            "label": labels[each.label].name,
            "score": each.attributes.get("score"),
        }
        if each.type == datumaro.AnnotationType.mask:
            found["mask"] = np.asarray(each.image, bool)
        elif each.type == datumaro.AnnotationType.bbox:
            x, y, width, height = each.get_bbox()
            found["box"] = [float(v) for v in (x, y, x + width, y + height)]
            if each.attributes.get("outside") in (True, "1", "True"):
                continue
        else:
            continue
        found["object_id"] = None if found["object_id"] is None else int(found["object_id"])
        rows.append(found)
write(version("datumaro"), rows)
