"""What other tools make of our files, and where sam3ray installs and starts: real readers, real builders.

    python -m tools.interop              # all
    python -m tools.interop labelme      # some
    python -m tools.interop --list

A check is a module beside this one, named in `CHECKS`. It has `REQUIREMENTS`, what to install for it (empty: nothing),
and `check(place)`, which returns a `Result` (a line in docs/exports.md) or an `Outcome` (a line in
docs/installation.md) for each thing it looked at. Environments are cached.
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
"""In the order of the table. Each is a module here."""
