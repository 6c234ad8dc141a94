"""Ground truth of public datasets as true tracks, which `sam3ray eval` reads.

Each format has a reader that yields a dataset's clips one by one. `_import` does what all have in common: names, files,
problems.
"""

from sam3ray.truth._import import TRUTH_FORMATS, ImportedTruth, import_truth

__all__ = ["TRUTH_FORMATS", "ImportedTruth", "import_truth"]
