"""Probes many videos in parallel, in processes that may crash."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError, JobStopped, Reason
from sam3ray.guard import fence
from sam3ray.guard.processes import worker_pool
from sam3ray.video import VideoInfo, probe_uri

Probed = VideoInfo | ClipError
Probe = Callable[[str, VideoConfig, Mapping[str, Any]], Probed]

CHUNK = 64
THREADS = 8  # per process, because probing a remote video is mostly waiting for the network
_ROOM_BYTES = 3 * 2**30  # address space that a process of eight threads needs: stacks, pools, libraries loaded late
HANG_S = 300.0  # a chunk that takes longer is considered hung


def probe_one(uri: str, limits: VideoConfig, storage_options: Mapping[str, Any]) -> Probed:
    """The facts of one video, or why there are none."""
    try:
        return probe_uri(uri, limits, storage_options)
    except ClipError as error:
        return error
    except Exception as error:  # noqa: BLE001 - a plan names every clip, whatever error it raises
        return ClipError(Reason.INTERNAL, f"{type(error).__name__}: {error}", uri)


def probe_all(
    uris: Sequence[str],
    limits: VideoConfig,
    storage_options: Mapping[str, Any],
    *,
    probe: Probe = probe_one,
    processes: int | None = None,
    hang_s: float = HANG_S,
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, Probed]:
    """Facts about each video, by address.

    Videos are untrusted: one may crash the decoder, hang it, or make it request all memory. So the probing processes
    have a memory limit. When a pool breaks, it is replaced, and the videos it was probing are probed again one at a
    time, to blame the right one.
    """
    found: dict[str, Probed] = {}
    chunks = [list(uris[i : i + CHUNK]) for i in range(0, len(uris), CHUNK)]
    workers = max(1, min(processes or os.cpu_count() or 1, len(chunks)))
    suspects: list[str] = []
    for chunk, answers in _in_pool(chunks, limits, storage_options, probe, workers, hang_s):
        if isinstance(answers, Reason):
            suspects += chunk
        else:
            found.update(zip(chunk, answers, strict=True))
            suspects += [uri for uri, answer in zip(chunk, answers, strict=True) if _is_short_of_memory(answer)]
        if on_progress is not None:
            on_progress(len(found))
    for (uri,), answers in _in_pool([[uri] for uri in suspects], limits, storage_options, probe, 1, hang_s):
        if answers is Reason.OVER_LIMITS:
            found[uri] = ClipError(answers, f"the decoder did not finish opening it within {hang_s:g} s", uri)
        elif isinstance(answers, Reason):
            found[uri] = ClipError(answers, "the decoder crashed on it", uri)
        else:
            found[uri] = answers[0]
        if on_progress is not None:
            on_progress(len(found))
    return found


def _in_pool(
    chunks: Sequence[list[str]],
    limits: VideoConfig,
    storage_options: Mapping[str, Any],
    probe: Probe,
    workers: int,
    hang_s: float,
) -> Iterator[tuple[list[str], list[Probed] | Reason]]:
    """Each chunk with its answers: `unreadable_video` if its process died, `over_limits` if it hung.

    With one worker the blame is certain; with several, the chunks of the other workers are suspects too.
    """
    left = list(reversed(chunks))
    idle_pools = 0
    while left:
        if idle_pools == 3:
            raise JobStopped("videos cannot be probed: the probing processes exit as soon as they start")
        idle_pools += 1
        pool = worker_pool(workers, _limit_memory, limits.max_open_bytes + _ROOM_BYTES)
        running: dict[Future[list[Probed]], tuple[list[str], float]] = {}
        broken = False
        late: list[list[str]] = []
        try:
            wait([pool.submit(_probe_chunk, [], limits, {}, probe) for _ in range(workers)])  # imports take a while
            while running or (left and not broken):
                while left and not broken and len(running) < workers:
                    chunk = left.pop()
                    try:
                        future = pool.submit(_probe_chunk, chunk, limits, dict(storage_options), probe)
                    except BrokenProcessPool:
                        left.append(chunk)
                        broken = True
                        break
                    running[future] = (chunk, time.monotonic())
                    idle_pools = 0
                done, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in done:
                    chunk, _ = running.pop(future)
                    try:
                        yield chunk, future.result()
                    except BrokenProcessPool:
                        broken = True
                        yield chunk, Reason.OVER_LIMITS if chunk in late else Reason.UNREADABLE_VIDEO
                late = [chunk for chunk, since in running.values() if time.monotonic() - since > hang_s]
                if late:
                    for process in list((pool._processes or {}).values()):
                        process.kill()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _limit_memory(more_bytes: int) -> None:
    """Runs after this module has imported the video libraries, which reserve much address space for their threads."""
    fence.limit_this_process(more_bytes)


def _is_short_of_memory(answer: Probed) -> bool:
    """Another video of the chunk may have taken the memory, so this one is probed again alone."""
    return isinstance(answer, ClipError) and answer.reason is Reason.OVER_LIMITS and "memory" in answer.message


def _probe_chunk(
    uris: list[str], limits: VideoConfig, storage_options: Mapping[str, Any], probe: Probe
) -> list[Probed]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda uri: probe(uri, limits, storage_options), uris))
