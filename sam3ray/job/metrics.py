"""The job as Prometheus metrics, through Ray's own exporter (`ray_sam3ray_...` on each node's metrics port).

The Grafana dashboard in `configs/deploy/grafana-dashboard.json` shows them.
"""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import quote

from sam3ray.failures import Failure
from sam3ray.job.observe import Observer, Snapshot
from sam3ray.job.result import ClipResult

_LOG = logging.getLogger(__name__)

STAGE_BOUNDS_S = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0]

_MAX_LABEL = 200

# name -> (kind, description, labels). A test compares the dashboard with these.
METRICS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "sam3ray_clips_total": ("counter", "clips committed", ("run",)),
    "sam3ray_frames_total": ("counter", "frames of committed clips", ("run",)),
    "sam3ray_objects_total": ("counter", "objects of committed clips", ("run",)),
    "sam3ray_rows_total": ("counter", "annotation rows of committed clips", ("run",)),
    "sam3ray_dropped_objects_total": ("counter", "objects dropped because of tracking.max_num_objects", ("run",)),
    "sam3ray_failures_total": (
        "counter",
        "failed attempts; final=1: the clip was given up",
        ("run", "reason", "final"),
    ),
    "sam3ray_stage_seconds": ("histogram", "seconds that a clip spent in a stage", ("run", "stage")),
    "sam3ray_clip_seconds": ("histogram", "seconds of wall time per clip", ("run",)),
    "sam3ray_memory_rung_total": ("counter", "clips completed at a reduced memory setting", ("run", "rung")),
    "sam3ray_gpu_memory_bytes": ("gauge", "peak GPU memory of the last clip", ("run",)),
    "sam3ray_clips_waiting": ("gauge", "clips in the queue", ("run",)),
    "sam3ray_clips_running": ("gauge", "clips on actors", ("run",)),
    "sam3ray_actors": ("gauge", "actors by state", ("run", "state")),
    "sam3ray_places_set_aside": ("gauge", "nodes and GPUs set aside because clips failed on them", ("run",)),
    "sam3ray_videos_rendered": ("gauge", "annotated videos rendered", ("run",)),
    "sam3ray_frames_per_second": ("gauge", "frames per second since the run began", ("run",)),
}


def label(text: str) -> str:
    """Text as the value of a label. Ray 2.60 accepts only ASCII: other characters are escaped as in an address."""
    return quote(text.encode("utf-8", "surrogateescape"), safe=" !#$&'()*+,-./:;<=>?@[]^_{|}~")[:_MAX_LABEL] or "-"


def ray_metrics(output: str) -> list[Observer]:
    """The observer for a job with this output; none if Ray's metrics are not available."""
    try:
        return [RayMetrics(output.rstrip("/").rsplit("/", 1)[-1])]
    except Exception as error:  # noqa: BLE001 - a job without metrics is better than none
        _LOG.warning("the job continues without metrics: %s: %s", type(error).__name__, error)
        return []


class RayMetrics:
    """An observer that reports to Ray's metrics. Must be made where Ray is connected."""

    def __init__(self, run: str) -> None:
        from ray.util import metrics

        kinds: dict[str, Any] = {"counter": metrics.Counter, "gauge": metrics.Gauge}
        self._metrics: dict[str, Any] = {}
        for name, (kind, description, labels) in METRICS.items():
            if kind == "histogram":
                metric = metrics.Histogram(name, description, boundaries=STAGE_BOUNDS_S, tag_keys=labels)
            else:
                metric = kinds[kind](name, description, tag_keys=labels)
            metric.set_default_tags({"run": label(run)})
            self._metrics[name] = metric

    def clip_done(self, result: ClipResult) -> None:
        self._add("sam3ray_clips_total", 1)
        self._add("sam3ray_frames_total", result.frames)
        self._add("sam3ray_objects_total", result.objects)
        self._add("sam3ray_rows_total", result.rows)
        self._add("sam3ray_dropped_objects_total", result.dropped_objects)
        if result.rung:
            self._add("sam3ray_memory_rung_total", 1, rung=str(result.rung))
        for stage, seconds in result.timings.items():
            self._metrics["sam3ray_stage_seconds"].observe(max(seconds, 1e-6), tags={"stage": label(stage)})
        self._metrics["sam3ray_clip_seconds"].observe(max(result.seconds, 1e-6))
        if result.gpu_memory_bytes:
            self._metrics["sam3ray_gpu_memory_bytes"].set(result.gpu_memory_bytes)

    def clip_failed(self, failure: Failure) -> None:
        self._add("sam3ray_failures_total", 1, reason=failure.reason.value, final=str(int(failure.final)))

    def update(self, snapshot: Snapshot) -> None:
        gauges = self._metrics
        gauges["sam3ray_clips_waiting"].set(snapshot.waiting)
        gauges["sam3ray_clips_running"].set(snapshot.running)
        gauges["sam3ray_actors"].set(snapshot.actors, tags={"state": "ready"})
        gauges["sam3ray_actors"].set(snapshot.starting, tags={"state": "starting"})
        gauges["sam3ray_actors"].set(snapshot.unplaced, tags={"state": "waiting"})
        gauges["sam3ray_places_set_aside"].set(snapshot.aside)
        gauges["sam3ray_videos_rendered"].set(snapshot.rendered)
        gauges["sam3ray_frames_per_second"].set(snapshot.frames_per_s)

    def close(self) -> None:
        pass

    def _add(self, name: str, value: float, **tags: str) -> None:
        if value > 0:  # Ray's counters take nothing else
            self._metrics[name].inc(value, tags=tags)
