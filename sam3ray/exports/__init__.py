"""Labels for other tools: a run's annotations in the formats that they read.

A writer takes one clip's labels and a folder, and returns what the format could not hold. Everything else (which clips,
numbers, parallel work, resuming) is the same for all formats and lives in `_export`.
"""

from sam3ray.exports._cvat_push import push_to_cvat
from sam3ray.exports._export import Exported, export
from sam3ray.exports._formats import FORMATS
from sam3ray.exports._import import READERS, Imported, import_labels
from sam3ray.exports._losses import SENTENCES
from sam3ray.exports._names import read_names

__all__ = [
    "FORMATS",
    "READERS",
    "SENTENCES",
    "Exported",
    "Imported",
    "export",
    "import_labels",
    "push_to_cvat",
    "read_names",
]
