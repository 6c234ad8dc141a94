"""Clips shared among processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_processes(function: Callable[[T], R], items: Sequence[T], workers: int, at_once: int = 1) -> Iterator[R]:
    """The results in the order of the items; in this process where one worker is enough.

    Args:
        at_once: items that a worker takes at a time.
    """
    workers = min(workers, len(items))
    if workers <= 1:
        yield from map(function, items)
        return
    # Spawned: a fork would copy the threads' locks of storage clients.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(function, items, chunksize=at_once)
