"""Checks with real tools what they read from our files, and where sam3ray installs and starts.

    python -m tools.interop              # all
    python -m tools.interop labelme      # some
    python -m tools.interop --list

Each check is a module in this folder, named in `CHECKS`. Its `REQUIREMENTS` say what to install. Its `check(place)`
returns one `Result` (a line in docs/exports.md) or `Outcome` (a line in docs/installation.md) for each thing checked.
Environments are cached.
"""

CHECKS = (
    "pycocotools",
    "labelme",
    "datumaro",
    "supervision",
    "xanylabeling",
    "ultralytics",
    "saco",
    "veval",
    "trackeval",
    "labelstudio",
    "fiftyone",
    "platforms",
    "wheel",
    "image",
    "deploy",
)
"""In the order of the table. Each is a module in this folder."""
