"""`jobs/prelabel.py` with a model that needs no checkpoint."""

from __future__ import annotations

import runpy
from functools import partial
from pathlib import Path

import sam3ray.job.driver as driver
from tests.job.fakes import DrawnSegmenter

if __name__ == "__main__":
    driver.run_job = partial(driver.run_job, make_segmenter=DrawnSegmenter)
    runpy.run_path(str(Path(__file__).parents[2] / "jobs" / "prelabel.py"), run_name="__main__")
