"""Compares an actor's whole job, from video files to committed Parquet, with the forward passes alone.

    python -m benchmarks.job [--checkpoint embedded] [--clips 4] [--frames 96] [--repeats 2]

`job` is everything an actor does with its clips: fetch, decode, segment, finish masks, encode run lengths, write
Parquet, commit, and meanwhile open the next clip. `forward` is the engine's loop over the same frames, decoded
beforehand: preprocessing, modules and decisions, without output. The two alternate, each in its own process with one
torch thread, after a clip to warm up.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.ahead import worked
from sam3ray.config import ClusterConfig, JobConfig, ModelConfig, TrackingConfig
from sam3ray.engine.checkpoint import load_checkpoint
from sam3ray.engine.detector import Detector
from sam3ray.engine.lookahead import LookAhead
from sam3ray.engine.propagation import Propagation
from sam3ray.engine.rules import Rules
from sam3ray.engine.tracker import Tracker
from sam3ray.engine.vision import TrackerNeck
from sam3ray.job.worker import ClipWorker
from sam3ray.manifest import Clip, read_manifest
from sam3ray.shapes import ClipSpec, clip_phrases, write_clip
from sam3ray.store import RunStore
from sam3ray.video import VideoReader

FIRST_SEED = 700_000
Timed = tuple[float, float, int]  # wall and CPU seconds, frames


def draw(folder: Path, clips: int, frames: int) -> Path:
    rows = []
    for i in range(clips + 1):  # the first one warms up
        spec = ClipSpec(FIRST_SEED + i, 640, 360, frames, objects=(3, 5))
        video = folder / f"clip-{i}.mp4"
        write_clip(spec, video)
        rows.append({"clip_id": video.stem, "uri": str(video), "prompts": clip_phrases(spec)[:2]})
    manifest = folder / "clips.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def job(config: JobConfig, clips: list[Clip]) -> Timed:
    store = RunStore(config.output)
    store.create_or_open({"benchmark": "job"}, {}, clips)
    worker = ClipWorker(config, store, {})
    worker.process(clips[0])
    start, used = time.perf_counter(), time.process_time()
    frames = 0
    for place, clip in enumerate(clips[1:], 1):
        if clip is not clips[-1]:
            worker.prefetch(clips[place + 1])
        frames += worker.process(clip).frames
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - used
    worker.close()
    return seconds, cpu_seconds, frames


def forward(config: JobConfig, clips: list[Clip]) -> Timed:
    checkpoint, tracking = load_checkpoint(config.model), config.tracking
    rules = Rules.of(checkpoint.model.config, tracking)
    neck, detector = TrackerNeck(checkpoint.model, folded=rules.published), Detector(checkpoint, tracking.prompt_batch)
    seconds = cpu_seconds = 0.0
    total = 0
    for clip in clips:
        with VideoReader(clip.uri) as reader:
            frames = list(reader)
        start, used = time.perf_counter(), time.process_time()
        ahead = LookAhead(checkpoint, neck, detector, tracking.frame_batch)
        tracker = Tracker(checkpoint.model, tracking.rules, tracking.object_batch)
        propagation = Propagation(tracker, rules)
        for work in worked(ahead, frames, clip.prompts, tracking.frame_batch):
            with torch.inference_mode(), checkpoint.precision():
                propagation.step(work, meanwhile=ahead.fill)
        if clip is not clips[0]:
            seconds += time.perf_counter() - start
            cpu_seconds += time.process_time() - used
            total += len(frames)
    return seconds, cpu_seconds, total


def measure(way: str, manifest: str, checkpoint: str, device: str) -> Timed:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        config = JobConfig(
            manifest=manifest,
            output=str(Path(folder) / "out"),
            model=ModelConfig(checkpoint=checkpoint, device=device, dtype="float32" if device == "cpu" else "bfloat16"),
            tracking=TrackingConfig(),
            cluster=ClusterConfig(gpus_per_actor=0 if device == "cpu" else 1),
        )
        return {"job": job, "forward": forward}[way](config, list(read_manifest(manifest, config)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="embedded")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--frames", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--one", nargs=2, metavar=("WAY", "MANIFEST"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one, options.checkpoint, options.device)))
        return
    results: dict[str, list[Timed]] = {"forward": [], "job": []}
    with tempfile.TemporaryDirectory() as folder:
        manifest = draw(Path(folder), options.clips, options.frames)
        for _ in range(options.repeats):
            for way, found in results.items():
                command = [sys.executable, "-m", "benchmarks.job", "--one", way, str(manifest)]
                command += ["--checkpoint", options.checkpoint, "--device", options.device]
                environment = os.environ | {"OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
                done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
                if done.returncode != 0:
                    raise SystemExit(f"{way} failed:\n{done.stderr[-3000:]}")
                found.append(json.loads(done.stdout.splitlines()[-1]))
    print("| way | ms per frame | CPU ms per frame |\n| --- | --- | --- |")
    middle = {}
    for way, found in results.items():
        middle[way] = [1e3 * statistics.median(each[k] / each[2] for each in found) for k in (0, 1)]
        print(f"| {way} | {middle[way][0]:.1f} | {middle[way][1]:.1f} |")
    wall, cpu = (middle["job"][k] / middle["forward"][k] for k in (0, 1))
    print(f"\nThe job takes {wall:.2f}x the time of the forward passes, {cpu:.2f}x their CPU time.")


if __name__ == "__main__":
    main()
