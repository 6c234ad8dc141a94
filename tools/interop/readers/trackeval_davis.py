"""TrackEval reads a DAVIS folder, as truth and as results, and computes J&F: FOLDER CLIP OUT."""

import os
import shutil
import sys
import tempfile
from importlib.metadata import version

import numpy as np
from _out import write

for name, kind in (("float", float), ("int", int), ("bool", bool)):  # names that NumPy has removed
    if name not in np.__dict__:
        setattr(np, name, kind)

import trackeval

folder, clip = sys.argv[1:3]
work = tempfile.mkdtemp()
source = os.path.join(folder, "Annotations", "480p", clip)
shutil.copytree(source, os.path.join(work, "gt", clip))
shutil.copytree(source, os.path.join(work, "results", "tracker", "data", clip))
sets = os.path.join(work, "val.txt")
with open(sets, "w") as file:
    file.write(clip + "\n")
dataset = trackeval.datasets.DAVIS(
    {
        "GT_FOLDER": os.path.join(work, "gt"),
        "TRACKERS_FOLDER": os.path.join(work, "results"),
        "TRACKERS_TO_EVAL": ["tracker"],
        "SPLIT_TO_EVAL": "val",
        "SEQMAP_FILE": sets,
        "PRINT_CONFIG": False,
    }
)
evaluator = trackeval.Evaluator(
    {
        "PRINT_RESULTS": False,
        "PRINT_CONFIG": False,
        "OUTPUT_SUMMARY": False,
        "OUTPUT_DETAILED": False,
        "PLOT_CURVES": False,
        "TIME_PROGRESS": False,
        "BREAK_ON_ERROR": True,
        "OUTPUT_EMPTY_CLASSES": False,
    }
)
found, _ = evaluator.evaluate([dataset], [trackeval.metrics.JAndF({"PRINT_CONFIG": False})])
values = found["DAVIS"]["tracker"][clip]["general"]["JAndF"]
rows = [{"frame": 0, "label": key, "score": float(np.mean(values[key]))} for key in ("J-Mean", "F-Mean")]
write(version("trackeval"), rows)
