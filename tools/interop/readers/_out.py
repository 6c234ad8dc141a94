"""Writes what a reader has read. Runs in the tools' environments, and needs only numpy."""

# mypy: ignore-errors
import json
import sys

import numpy as np


def write(version, rows):
    """`rows`: mappings with frame, object_id, label, score, box, mask (an array or None)."""
    out, masks = sys.argv[-1], {}
    for n, row in enumerate(rows):
        if row.get("mask") is not None:
            masks[f"m{n}"] = np.asarray(row["mask"], bool)
            row["mask"] = f"m{n}"
    if masks:
        np.savez(out.removesuffix(".json"), **masks)
    with open(out, "w") as file:
        json.dump({"version": version, "rows": rows}, file)
