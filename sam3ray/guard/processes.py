"""Shares work among processes that end with this one, however it ends.

Unlike other spawned processes, they do not import the caller's script. A script without `if __name__ == "__main__"`
would start its work again in each of them, and a script read from stdin cannot be imported.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import connection, parent_process, spawn
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def worker_pool(workers: int, initializer: Callable[..., None] | None = None, *args: Any) -> ProcessPoolExecutor:
    """A pool of spawned processes. Forked ones would copy locks held by threads of storage clients.

    Args:
        initializer: called with `args` in each process before its first task.
    """
    return ProcessPoolExecutor(workers, mp_context=_WithoutScript(), initializer=_begin, initargs=(initializer, *args))


def in_processes(function: Callable[[T], R], items: Sequence[T], workers: int, at_once: int = 1) -> Iterator[R]:
    """The results in the order of the items. With one worker, runs in this process.

    Args:
        at_once: number of items that a worker takes at a time.
    """
    workers = min(workers, len(items))
    if workers <= 1:
        yield from map(function, items)
        return
    with worker_pool(workers) as pool:
        yield from pool.map(function, items, chunksize=at_once)


class _Starting(threading.local):
    """Whether this thread is starting one of our processes."""

    ours = False


_STARTING = _Starting()
_prepared = spawn.get_preparation_data


def _preparation_data(name: str) -> dict[str, Any]:
    """The data for a spawned process. Ours do not get the caller's script: their functions are not defined in it.

    multiprocessing has no option for this (3.11-3.14). Other processes start as usual.
    """
    data: dict[str, Any] = _prepared(name)
    if _STARTING.ours:
        data.pop("init_main_from_name", None)
        data.pop("init_main_from_path", None)
    return data


spawn.get_preparation_data = _preparation_data


class _Process(SpawnProcess):
    def start(self) -> None:
        _STARTING.ours = True
        try:
            super().start()
        finally:
            _STARTING.ours = False


class _WithoutScript(SpawnContext):
    Process = _Process


def _begin(initializer: Callable[..., None] | None, *args: Any) -> None:
    threading.Thread(target=_end_with_the_parent, name="sam3ray-parent-watch", daemon=True).start()
    if initializer is not None:
        initializer(*args)


def _end_with_the_parent() -> None:
    # A worker waits for tasks on a pipe that never closes, because other workers also have its writing end open.
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
