"""Measures an export: clips per second, CPU time, and the peak memory of all its processes together.

    python -m benchmarks.export [--clips 1000] [--frames 120] [--objects 4] [--formats coco labelme ...]

The clips consist of drawn rows only: there is no video, and no images are extracted.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from sam3ray.exports import export
from sam3ray.masks import encode_masks
from sam3ray.store import RunStore
from sam3ray.store.annotation_file import AnnotationWriter
from sam3ray.values.annotations import FrameAnnotations, ObjectAnnotation
from sam3ray.values.clip import Clip

HEIGHT, WIDTH, FPS = 720, 1280, 30.0
FORMATS = ("coco", "ytvis", "labelme", "davis", "cvat", "labelstudio", "fiftyone", "yolo", "parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--objects", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--formats", nargs="+", default=list(FORMATS))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = _make(Path(folder), given.clips, given.frames, given.objects)
        for name in given.formats:
            with _Memory() as memory:
                began, cpu = time.perf_counter(), _cpu_s()
                done = export(run, str(Path(folder) / name), name, workers=given.workers)
                seconds, cpu = time.perf_counter() - began, _cpu_s() - cpu
            assert not done.failed
            line = {"format": name, "clips": done.clips, "rows": done.rows, "workers": given.workers}
            figures = {"clips/s": round(done.clips / seconds, 1), "CPU ms a clip": round(1000 * cpu / done.clips)}
            print(json.dumps(line | figures | {"peak MiB": round(memory.peak / 2**20)}), flush=True)


def _make(folder: Path, clips: int, frames: int, objects: int) -> str:
    """Makes a finished run, with the same rows under many names."""
    store = RunStore(str(folder / "run"))
    made = [Clip(f"clip-{n:05d}", f"/videos/{n}.mp4", ("thing", "other thing")) for n in range(clips)]
    store.create_or_open({"benchmark": 1}, {}, made)
    rows = [_frame(n, objects) for n in range(frames)]
    for clip in made:
        path = folder / "clip.parquet"
        facts = {"uri": clip.uri, "source_fps": FPS, "time_base": "1/15360", "height": HEIGHT, "width": WIDTH}
        with AnnotationWriter(path, clip.clip_id, {"fingerprint": {"benchmark": 1}, "clip": facts}) as writer:
            for frame in rows:
                writer.write(frame)
            writer.finish(seconds=1.0)
        store.commit(clip.clip_id, path)
        path.unlink()
    return store.output


def _frame(index: int, objects: int) -> FrameAnnotations:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    items = []
    for n in range(1, objects + 1):
        distance = np.hypot((y - 150 * n) * (1 + 0.1 * n), x - 200 - 3 * index - 40 * n)
        mask = (distance < 70 + 8 * np.sin(np.arctan2(y - 150 * n, x - 200) * 5 + index / 9)) & (distance > 15)
        found = encode_masks(mask[None])[0]
        box = tuple(float(v) for v in found.bbox)
        items.append(ObjectAnnotation(n, ("thing", "other thing")[n % 2], 0.9, 0.8, box, found.area, found.rle))
    return FrameAnnotations(index, index * 512, index / FPS, HEIGHT, WIDTH, tuple(items))


def _cpu_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    uses = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)


class _Memory:
    """Measures the peak resident memory of this process and its children, 20 times a second."""

    def __enter__(self) -> _Memory:
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._stop.wait(0.05):
            total = 0
            for process in (own, *own.children(recursive=True)):
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.peak = max(self.peak, total)


if __name__ == "__main__":
    main()
