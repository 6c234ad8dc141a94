"""Runs Meta's SA-Co/VEval evaluators on a truth file and predictions: TRUTH PREDICTIONS OUT."""

import importlib.util
import os
import sys
import tempfile
import types
from importlib.metadata import version

from _out import write

# Only its evaluators are needed; importing the packages would bring the whole model and its dependencies.
root = os.path.dirname(importlib.util.find_spec("sam3").origin)
for name, path in (("sam3", root), ("sam3.model", os.path.join(root, "model"))):
    package = types.ModuleType(name)
    package.__path__ = [path]
    sys.modules[name] = package

from sam3.eval.saco_veval_evaluators import (
    VideoCGF1Evaluator,
    VideoPhraseApEvaluator,
    VideoPhraseHotaEvaluator,
    YTVISPredFileEvaluator,
)

truth, predictions = (os.path.abspath(path) for path in sys.argv[1:3])
sys.argv[-1] = os.path.abspath(sys.argv[-1])
os.chdir(tempfile.mkdtemp())  # they write files beside their input
rows = []
for kind in (YTVISPredFileEvaluator, VideoPhraseApEvaluator, VideoPhraseHotaEvaluator, VideoCGF1Evaluator):
    try:
        found, _ = kind(truth).evaluate(predictions)
    except TypeError as error:  # cgF1 only; under NumPy 2.4 it fails on int() of an array
        print(f"{kind.__name__}: {error}", file=sys.stderr)
        continue
    rows += [{"frame": 0, "label": key, "score": float(value)} for key, value in found.items()]
write(version("sam3"), rows)
