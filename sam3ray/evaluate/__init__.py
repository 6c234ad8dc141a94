"""How good predicted tracks are: recall, precision, IoU, identity switches, J&F, HOTA and IDF1, phrase by phrase."""

from ._comparison import Tolerance
from ._report import Report, Scores, merge
from ._run import evaluate, evaluate_run

__all__ = ["Report", "Scores", "Tolerance", "evaluate", "evaluate_run", "merge"]
