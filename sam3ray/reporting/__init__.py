"""`report.html`: one self-contained page with a run's settings, results, failures, and the clips to check first.

`_gather` reads the facts from storage, `_stills` makes pictures from the source videos, `_charts` and `page.jinja` lay
out the page, and `_page` writes it as one file.
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
