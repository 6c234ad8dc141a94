"""FiftyOne loads a dataset from disk, and exports it again: FOLDER CLIP WIDTH HEIGHT EXPORT OUT."""

import sys

import fiftyone as fo
import numpy as np
from _out import write

folder, clip, width, height, again = sys.argv[1:6]
width, height = int(width), int(height)
dataset = fo.Dataset.from_dir(dataset_dir=folder, dataset_type=fo.types.FiftyOneDataset, progress=False)
rows = []
for sample in dataset:
    if sample.clip_id != clip:
        continue
    for number, frame in sample.frames.items():
        for each in frame.detections.detections:
            mask = np.zeros((height, width), bool)
            left, top = round(each.bounding_box[0] * width), round(each.bounding_box[1] * height)
            mask[top : top + each.mask.shape[0], left : left + each.mask.shape[1]] = each.mask
            rows.append(
                {
                    "frame": number - 1,
                    "object_id": each.index,
                    "label": each.label,
                    "score": each.confidence,
                    "mask": mask,
                }
            )
dataset.export(export_dir=again, dataset_type=fo.types.FiftyOneDataset, export_media=False, progress=False)
write(fo.__version__, rows)
