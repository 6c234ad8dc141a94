"""`python -m tests.e2e.promised_gpu manifest output`: a Ray that promises a GPU which torch cannot use, then none."""

from __future__ import annotations

import dataclasses
import json
import sys

from sam3ray.config import JobConfig
from sam3ray.job.cluster import start_local
from sam3ray.job.driver import run_job
from sam3ray.store import RunStore
from tests.lean_ray import lean


def main(manifest: str, output: str) -> None:
    lean()
    start_local(num_cpus=2, num_gpus=1, include_dashboard=False)
    for gpus in (1, 0):
        config = JobConfig(
            manifest=manifest,
            output=output,
            prompts=("red circle",),
            model={"checkpoint": "embedded"},
            cluster={"gpus_per_actor": gpus, "actors": {"min": 1, "max": 1}},
            retry={"actor_starts": 1},
        )
        summary = run_job(config)
        info = RunStore(output).run_info()
        print(json.dumps({"summary": dataclasses.asdict(summary), "run": info}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
