"""TrackEval reads `davis`. Its readers of `mot`, `mots` and `ytvis` are part of the test suite."""

from __future__ import annotations

from sam3ray.exports import export
from tools.interop._place import Place
from tools.interop._result import Result
from tools.interop._run import CLIP

# TrackEval is in the project's environment; its J&F also needs scikit-image.
REQUIREMENTS = ("--with-project", "scikit-image==0.26.0")


def check(place: Place) -> list[Result]:
    out = place.folder / "out"
    export(str(place.run), str(out), "davis")
    version, rows = place.read("trackeval_davis", out, CLIP)
    figures = {row.label: row.score for row in rows}
    ok = all(value is not None and abs(value - 1) < 1e-6 for value in figures.values())
    lost = "labels, scores, overlaps, ids renumbered" if ok else f"{figures}"
    return [Result("TrackEval", version, "davis", ok, "J and F 1", "renumbered", "-", "-", lost)]
