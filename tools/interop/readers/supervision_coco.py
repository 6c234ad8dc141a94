"""supervision loads a COCO file: FOLDER FILE OUT."""

import os
import re
import sys

import supervision as sv
from _out import write

folder, path = sys.argv[1:3]
dataset = sv.DetectionDataset.from_coco(folder, path, force_masks=True)
rows = []
for name, _, found in dataset:
    frame = int(re.findall(r"\d+", os.path.basename(name))[-1])
    for n in range(len(found)):
        number = None if found.tracker_id is None else int(found.tracker_id[n])
        score = None if found.confidence is None else float(found.confidence[n])
        label = dataset.classes[found.class_id[n]]
        rows.append({"frame": frame, "object_id": number, "label": label, "score": score, "mask": found.mask[n]})
write(sv.__version__, rows)
