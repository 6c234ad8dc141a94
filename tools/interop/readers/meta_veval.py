"""Runs Meta's SA-Co/VEval evaluators: TRUTH PREDICTIONS all|few OUT. A row's label is a metric's name, its score the
value.

Importing the `sam3` package needs all of SAM 3's dependencies, but its evaluators need almost none. So their parent
packages are imported without running `__init__`.
"""

import contextlib
import importlib.util
import io
import os
import sys
import types
from importlib.metadata import version

from _out import write

root = importlib.util.find_spec("sam3").submodule_search_locations[0]
for name in ("sam3", "sam3.model", "sam3.train", "sam3.train.utils"):
    module = types.ModuleType(name)
    module.__path__ = [os.path.join(root, *name.split(".")[1:])]
    sys.modules[name] = module


def main():
    from sam3.eval import saco_veval_evaluators as veval

    truth, predictions, which = sys.argv[1:4]
    if which == "all":
        evaluators = [
            veval.YTVISPredFileEvaluator(truth),
            veval.VideoPhraseApEvaluator(truth),
            veval.VideoTetaEvaluator(truth, use_mask=True, is_exhaustive=True),
            veval.VideoPhraseHotaEvaluator(truth),
            veval.VideoCGF1Evaluator(truth),
        ]
    else:
        evaluators = [
            veval.VideoPhraseHotaEvaluator(truth, iou_types=["segm"]),
            veval.VideoCGF1Evaluator(truth, iou_types=["segm"]),
        ]
    rows = []
    for evaluator in evaluators:
        with contextlib.redirect_stdout(io.StringIO()):
            whole, pairs = evaluator.evaluate(predictions)
        rows += [{"frame": -1, "label": name, "score": float(value)} for name, value in whole.items()]
        for (video, category), figures in pairs.items():
            if "mask_HOTA" in figures:
                value = float(figures["mask_HOTA"])
                rows.append({"frame": int(video), "object_id": int(category), "label": "HOTA", "score": value})
    write(version("sam3"), rows)


if __name__ == "__main__":
    main()
