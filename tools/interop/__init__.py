"""What other tools make of our files: each tool in an environment of its own, its real reader, its real answer.

    python -m tools.interop              # all
    python -m tools.interop labelme      # some
    python -m tools.interop --list

A check is a module beside this one, named in `CHECKS`. It has `REQUIREMENTS`, what to install for it (empty: nothing),
and `check(place)`, which returns a `Result` for each thing it looked at. Environments are cached; what was found is
written into docs/exports.md.
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
)
"""In the order of the table. Each is a module here."""
