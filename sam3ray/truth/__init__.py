"""Ground truth of public sets as true tracks that `sam3ray eval` reads.

A reader per format gives the clips of a set one by one; what is common to all (names, files, problems) is in `_import`.
"""

from sam3ray.truth._import import TRUTH_FORMATS, ImportedTruth, import_truth

__all__ = ["TRUTH_FORMATS", "ImportedTruth", "import_truth"]
