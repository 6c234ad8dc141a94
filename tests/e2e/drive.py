"""`python -m tests.e2e.drive config.json folder "{...}"`: one run of the driver with a faulty model."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from sam3ray.config import JobConfig
from sam3ray.failures import JobStopped
from sam3ray.job.driver import run_job
from sam3ray.job.logs import set_up_logging
from sam3ray.job.progress import LineProgress
from tests.e2e.faults import Fault, FaultyModel
from tests.lean_ray import lean


def main(config_path: str, folder: str, model: str) -> int:
    set_up_logging("info")
    lean()
    config = JobConfig.model_validate_json(Path(config_path).read_text())
    arguments = ast.literal_eval(model)
    faults = {number: Fault(**fault) for number, fault in arguments.pop("faults", {}).items()}
    try:
        summary = run_job(
            config,
            make_segmenter=FaultyModel(folder, faults, **arguments),
            progress=LineProgress(sys.stderr, every_s=2.0),
            log_level="info",
        )
    except JobStopped as error:
        print(error, file=sys.stderr)
        return 3
    print(summary, flush=True)
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
