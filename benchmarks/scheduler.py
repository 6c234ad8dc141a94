"""Measures how far the driver scales: the scheduler alone on a simulated cluster, or the whole driver with idle actors.

python -m benchmarks.scheduler                   # 1,000,000 clips on 1,000 actors with failures, no Ray
python -m benchmarks.scheduler --clips 100000
python -m benchmarks.scheduler --ray 3000        # real Ray actors that do nothing: clips per second
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from sam3ray.failures import Reason
from sam3ray.job.actions import Limits
from tests.job.simulation import Faults, Nature, World


def rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def simulate(clips: int, actors: int, seed: int) -> None:
    rng = random.Random(seed)
    before = rss_mb()
    lengths = [rng.lognormvariate(3.0, 1.0) for _ in range(clips)]  # seconds: median 20, mean 33
    natures = {}
    kinds = [
        Nature(crashes=-1, crashes_ahead=True),
        Nature(crashes=1),
        Nature(hangs=1),
        Nature(oom_below=3),
        Nature(error=Reason.UNREADABLE_VIDEO),
        Nature(error=Reason.NOT_FOUND),
        Nature(storage=2),
        Nature(kills_node=1),
    ]
    for clip in rng.sample(range(clips), clips // 50):
        natures[clip] = rng.choice(kinds)
    world_mb = rss_mb() - before
    began, cpu_began = time.perf_counter(), time.process_time()
    world = World(
        lengths,
        Limits(actors_max=actors, no_progress_s=600.0),
        natures,
        Faults(actor_dies=0.001, node_dies=0.002, start_fails=0.01, outages=((3000.0, 3060.0),)),
        seed=seed,
        keep=False,
    )
    built_mb = rss_mb() - before - world_mb
    built_s = time.perf_counter() - began
    out = world.run()
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    reasons: Counter[str] = Counter()
    for (_, reason), count in out.records.items():
        reasons[reason.value] += count
    finals = Counter(reason.value for reason in out.final.values())
    assert out.stopped is None, out.stopped
    assert len(out.done) + len(out.final) == clips
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{clips} clips on {actors} actors: {len(out.done)} done, {len(out.final)} given up {dict(finals)}")
    print(f"failed attempts: {sum(reasons.values())} {dict(reasons)}; actors started: {out.actors_started}")
    rate = out.events / cpu_s
    print(
        f"simulated {out.now / 3600:.1f} h in {seconds:.1f} s, {cpu_s:.1f} s of CPU ({rate:.0f} events per CPU second)"
    )
    print(
        f"scheduler: {built_s:.2f} s, {built_mb:.0f} MB to build; the process with its world: {peak_mb:.0f} MB at most"
    )


class Nothing:
    """A model that does nothing. Made in an actor, it also turns the worker's attempts into nothing."""

    def __init__(self, *_: Any) -> None:
        from concurrent.futures import Future

        from sam3ray.job import worker
        from sam3ray.job.result import ClipResult

        def attempt(self: Any, clip: Any, rung: int = 0, attempt: int = 1) -> ClipResult:
            return ClipResult(clip.clip_id, 1, 0, 0, 0.0, {"segment": 0.0})

        def prefetch(self: Any, clip: Any, first_frames: bool = True) -> Future[Any]:
            done: Future[Any] = Future()
            done.set_result(None)
            return done

        worker.ClipWorker.attempt = attempt  # type: ignore[method-assign]
        worker.ClipWorker.prefetch = prefetch  # type: ignore[method-assign]


def drive(clips: int, actors: int) -> None:
    from sam3ray.config import JobConfig
    from sam3ray.job.driver import run_job

    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder, "manifest.csv")
        rows = "".join(f"clip-{i:07d},/nowhere/{i}.mp4\n" for i in range(clips))
        manifest.write_text("clip_id,uri\n" + rows)
        config = JobConfig(
            manifest=str(manifest),
            output=str(Path(folder, "run")),
            prompts=("nothing",),
            cluster={"gpus_per_actor": 0, "cpus_per_actor": 1 / actors, "actors": {"min": actors, "max": actors}},
        )
        clock = _Clock()
        summary = run_job(config, make_segmenter=Nothing, progress=clock)
    assert summary.done == clips, summary
    print(f"{clips} clips on {actors} real actors that do nothing: {clips / clock.seconds:.0f} clips/s")


class _Clock:
    """Seconds from the first clip to the last."""

    def __init__(self) -> None:
        self.first = self.last = 0.0

    @property
    def seconds(self) -> float:
        return self.last - self.first

    def clip_done(self, _: Any) -> None:
        self.last = time.perf_counter()
        self.first = self.first or self.last

    def clip_failed(self, _: Any) -> None:
        pass

    def update(self, _: Any) -> None:
        pass

    def close(self) -> None:
        pass


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--actors", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ray", type=int, metavar="CLIPS", help="instead, run this many clips through the real driver")
    parser.add_argument("--ray-actors", type=int, default=4)
    arguments = parser.parse_args()
    if arguments.ray:
        drive(arguments.ray, arguments.ray_actors)
    else:
        simulate(arguments.clips, arguments.actors, arguments.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
