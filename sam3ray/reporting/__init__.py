"""`report.html`: one self-contained page with a run's settings, results, failures, and the clips to check first.

Facts are gathered from storage (`_gather`), laid out (`_charts`, `page.jinja`) and written as one file; stills of the
clips to look at come from their videos (`_stills`).
"""

from sam3ray.reporting._facts import ClipCard, ReportFacts, Still
from sam3ray.reporting._gather import gather
from sam3ray.reporting._page import MOST_BYTES, render_page, write_page
from sam3ray.reporting._stills import StillsOrder, stills_of

__all__ = [
    "MOST_BYTES",
    "ClipCard",
    "ReportFacts",
    "Still",
    "StillsOrder",
    "gather",
    "render_page",
    "stills_of",
    "write_page",
]
