"""Measures the store's own work on an output with many finished clips: time and memory.

    python -m benchmarks.store_scale [--clips 100000] [--folder DIR]
    python -m benchmarks.store_scale --s3 --clips 20000

Each step runs in its own process, as `run`, `status` and `plan` do; memory is that process's peak. `--s3` puts the run
on a local S3 server (moto), and counts each step's requests.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.s3_requests import REQUESTS, count_requests, s3_server
from sam3ray.annotations import AnnotationWriter, FrameAnnotations, ObjectAnnotation
from sam3ray.failures import Failure, Reason
from sam3ray.manifest import Clip
from sam3ray.masks import encode_masks
from sam3ray.store import RunStore, compact_run, read_status, verify_run

FINGERPRINT = {"model": {"checkpoint": "embedded"}}


def clips(n: int) -> list[Clip]:
    return [
        Clip(f"site-{i % 97:02}-camera-{i:07}", f"s3://videos/{i}.mp4", ("person",), carried={"site": i % 97})
        for i in range(n)
    ]


def fill(folder: str, n: int, real: int) -> None:
    """Makes a run of n clips: 99 of 100 finished, the others failed.

    The first `real` files are written as a worker does. The others are copies, since writing them all would take longer
    than everything measured.
    """
    store = RunStore(f"{folder}/run")
    wanted = clips(n)
    store.create_or_open(FINGERPRINT, {}, wanted)
    target = Path(folder, "run", "annotations")
    target.mkdir(exist_ok=True)
    mask = np.zeros((1, 36, 64), dtype=bool)
    mask[0, 10:20, 20:40] = True
    (encoded,) = encode_masks(mask)
    shown = ObjectAnnotation(1, "person", 0.9, 0.8, encoded.bbox, encoded.area, encoded.rle)
    for i, clip in enumerate(wanted):
        if i % 100 == 0:
            store.record_failure(Failure(clip.clip_id, Reason.UNREADABLE_VIDEO, "not a video", final=True))
            continue
        if i >= real:
            shutil.copyfile(target / f"{wanted[i % 99 + 1].clip_id}.parquet", target / f"{clip.clip_id}.parquet")
            continue
        metadata = {"fingerprint": FINGERPRINT, "clip": {"uri": clip.uri}, "model": {"checkpoint": "embedded"}}
        writer = AnnotationWriter(target / f"{clip.clip_id}.parquet", clip.clip_id, metadata)
        for frame in range(3):
            writer.write(FrameAnnotations(frame, frame, frame / 25, 36, 64, (shown,)))
        writer.finish(seconds=2.0, timings={"decode": 0.5, "model": 1.4})


def fill_s3(uri: str, options: dict[str, str], n: int) -> int:
    """The same on S3, where all annotation files are copies of one. Returns the clips."""
    store = RunStore(uri, options)
    store.create_or_open(FINGERPRINT, {}, clips(n))
    with tempfile.TemporaryDirectory() as folder:
        fill(folder, 100, 100)
        data = Path(folder, "run", "annotations", f"{clips(2)[1].clip_id}.parquet").read_bytes()

    def put(i: int) -> None:
        clip_id = clips_of[i].clip_id
        if i % 100 == 0:
            store.record_failure(Failure(clip_id, Reason.UNREADABLE_VIDEO, "not a video", final=True))
        else:
            store.storage.fs.pipe_file(f"{store.storage.root}/annotations/{clip_id}.parquet", data)

    clips_of = clips(n)
    for _ in store.storage.each(put, range(n), 16):
        pass
    return n


def on_s3(n: int) -> None:
    """Measures status, resume and plan of a run with n finished clips on S3."""
    from sam3ray.config import JobConfig, RetryConfig
    from sam3ray.job.tables import Ledger
    from sam3ray.planning import plan_job

    with tempfile.TemporaryDirectory() as folder, s3_server(Path(folder)) as options:
        uri = "s3://bucket-1/labels/run"
        manifest = Path(folder, "clips.csv")
        manifest.write_text("clip_id,uri\n" + "".join(f"{c.clip_id},{c.uri}\n" for c in clips(n)))
        config = JobConfig.model_validate(
            {
                "manifest": str(manifest),
                "output": uri,
                "prompts": ("person",),
                "model": {"checkpoint": "embedded"},
                "cluster": {"gpus_per_actor": 0},
                "storage": {"s3": options},
            }
        )

        def resume() -> int:
            store = RunStore(uri, options)
            store.create_or_open(FINGERPRINT, {}, clips(n))
            ledger = Ledger(store, clips(n), RetryConfig())
            left = len(ledger.todo())
            ledger.close()
            return left

        measured(f"write {n} clips", lambda: fill_s3(uri, options, n))
        measured("status, no clips.parquet (every footer is read)", lambda: read_status(uri, options).done)
        measured("resume: read all, write clips.parquet", resume)
        measured("status, with clips.parquet", lambda: read_status(uri, options).done)
        measured("resume, with clips.parquet", resume)
        measured("plan", lambda: plan_job(config).done)
        # It reports that all files are of one clip; only the time matters.
        measured("verify --sample 100", lambda: bool(verify_run(uri, options, sample=100)))


def measured(name: str, call: Callable[[], object]) -> None:
    """Runs a step in a child process, and prints its wall time and peak memory."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        count_requests()
        base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        result = call()
        seconds, cpu = time.perf_counter() - began, time.process_time()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        asked = f"   {REQUESTS.total()} requests {dict(REQUESTS)}" if REQUESTS else ""
        print(
            f"{name:52} {seconds:8.2f} s {cpu:8.2f} s CPU {max(peak, base) / 1024:8.0f} MiB   {result}{asked}",
            flush=True,
        )
        os._exit(0)
    os.waitpid(child, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--folder", help="keep the run here and use it again")
    parser.add_argument("--s3", action="store_true", help="on an S3 server on this machine")
    parser.add_argument("--all", action="store_true", help="also verify and compact; all files are real")
    options = parser.parse_args()
    if options.s3:
        on_s3(options.clips)
        return
    folder = options.folder or tempfile.mkdtemp(prefix="sam3ray-scale-")
    output = f"{folder}/run"
    try:
        if not os.path.exists(f"{output}/run.json"):
            os.makedirs(folder, exist_ok=True)
            measured(
                f"write {options.clips} clips",
                lambda: fill(folder, options.clips, options.clips if options.all else 100),
            )
        store = RunStore(output)
        if os.path.exists(f"{output}/clips.parquet"):
            os.unlink(f"{output}/clips.parquet")
        measured("done_ids", lambda: len(store.done_ids()))
        measured("manifest", lambda: len(store.manifest()))
        measured("failures", lambda: len(store.failures()))
        measured("create_or_open of the same run", lambda: store.create_or_open(FINGERPRINT, {}, clips(options.clips)))
        measured("status, no clips.parquet (every footer is read)", lambda: read_status(output).done)
        measured("summaries and write_clips_table", lambda: store.write_clips_table(store.summaries()))
        measured("status, with clips.parquet", lambda: read_status(output).done)
        if options.all:
            measured("verify", lambda: len(verify_run(output)))
            measured("compact", lambda: compact_run(output))
            measured("verify, compacted", lambda: len(verify_run(output)))
            measured("compact --remove-originals", lambda: compact_run(output, remove_originals=True))
            measured("status, compacted", lambda: read_status(output).done)
    finally:
        if not options.folder:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
