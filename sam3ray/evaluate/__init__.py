"""Measures predicted tracks: recall, precision, IoU, identity switches, J&F, HOTA, IDF1, cgF1 and pHOTA."""

from ._agreement import Agreement, AgreementReport, compare_runs, object_agreement
from ._comparison import Tolerance
from ._report import Report, Scores, merge
from ._run import evaluate, evaluate_run

__all__ = [
    "Agreement",
    "AgreementReport",
    "Report",
    "Scores",
    "Tolerance",
    "compare_runs",
    "evaluate",
    "evaluate_run",
    "merge",
    "object_agreement",
]
