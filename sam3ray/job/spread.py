"""Runs independent calls on many files in parallel on the CPUs of a cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from sam3ray.config import ClusterConfig
from sam3ray.job.cluster import connected

T = TypeVar("T")
R = TypeVar("R")

CHUNK = 8  # files per task, because starting a task takes milliseconds
AHEAD = 4  # tasks for each CPU that wait with their arguments


@contextlib.contextmanager
def spread_over_cluster(config: ClusterConfig) -> Iterator[Callable[[Callable[[T], R], Sequence[T]], Iterator[R]]]:
    """Connects to the cluster; yields a function that applies a call to many values, in order.

    Ray reruns a task whose process or node dies, which is safe because the calls change nothing.
    """
    with connected(config):
        yield _spread


def _spread(call: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    import ray

    shared = ray.put(call)
    task: Any = ray.remote(_apply)
    chunks = [items[i : i + CHUNK] for i in range(0, len(items), CHUNK)]
    most = max(1, int(AHEAD * ray.cluster_resources().get("CPU", 1.0)))
    waiting: list[Any] = [task.remote(shared, chunk) for chunk in chunks[:most]]
    for following in [*chunks[most:], *([None] * len(waiting))]:
        yield from ray.get(waiting.pop(0))
        if following is not None:
            waiting.append(task.remote(shared, following))


def _apply(call: Callable[[T], R], items: Sequence[T]) -> list[R]:
    return [call(item) for item in items]
