"""A remote video that is read by ranges, with a bounded cache in memory.

Sequential reading fetches more at a time, and fetches ahead; reading after a jump fetches little. So an index at the
end costs only its own size, and a clip that is read from the middle costs only what follows.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from sam3ray.failures import ClipError, Reason
from sam3ray.video._frame_index import FrameIndex
from sam3ray.video._opened import ByRanges

BLOCK_BYTES = 64 * 2**10
MOST_BLOCKS = 128  # blocks per request: 8 MiB
MEMORY_BYTES = 64 * 2**20  # cached for each open video
_AHEAD_FROM = 4  # blocks read in a row from which reading counts as sequential
_RUNS = 8  # positions that are read sequentially: pictures, sound, an index
_TRIES = 4
_PAUSE_S = 0.5
_MARGIN_BYTES = 2**18  # sound and pictures of one time are not adjacent
_PASS_BYTES = 64 * 2**20  # that a pass may fetch beyond twice the file's size: a container may refer back in circles
_LONG_S = 4.0  # after a longer request, smaller ones follow, so that frames keep coming

Fetch = Callable[[int, int], bytes]


class NoRanges(ClipError):
    """The server only sends whole files."""


class RangedVideo(ByRanges):
    """The bytes of one version of a remote file. Threads may share it; close it after use.

    Args:
        fetch: returns the bytes from one offset to another. It is called again after a ClipError with reason `storage`.
        arrived: called with the number of bytes fetched so far.

    Attributes:
        learned: called with the index of its frames once reading has shown it.
    """

    def __init__(self, fetch: Fetch, name: str, size: int, arrived: Callable[[int], None] = lambda _: None) -> None:
        self.name = name
        self.size = size
        self.fetched_bytes = 0
        self.learned: Callable[[FrameIndex | None], None] = lambda _: None
        self._allowed = 0
        self._until: int | None = None  # reading will end before this block
        self._fetch = fetch
        self._arrived = arrived
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._runs: OrderedDict[int, int] = OrderedDict()  # block after a fetched run -> blocks read in a row
        self._most = MOST_BLOCKS
        self._coming: tuple[int, int, Future[None]] | None = None  # first block, the one after the last
        self._lock = threading.Lock()  # guards all of the above
        self._fetching = threading.Lock()  # so that two readers of one position fetch it only once
        self._beside = ThreadPoolExecutor(1, "sam3ray-ranges")
        self._is_closed = threading.Event()
        self.allow_pass()  # for the first look, perhaps in a helper process

    def allow_pass(self) -> None:
        """See there."""
        self._allowed += 2 * self.size + _PASS_BYTES

    def expect_leaps(self) -> None:
        """See there."""
        with self._lock:
            self._runs.clear()

    def expect_end(self, byte: int | None) -> None:
        """See there."""
        with self._lock:
            self._until = None if byte is None else (byte + _MARGIN_BYTES) // BLOCK_BYTES + 1

    def learn(self, index: FrameIndex | None) -> None:
        """See there."""
        self.index = index
        self.lacks_index = index is None
        self.learned(index)

    def read_at(self, at: int, most: int) -> bytes:
        """See there."""
        if at >= self.size or most <= 0:
            return b""
        number, begin = divmod(at, BLOCK_BYTES)
        block = self._block(number)
        return block[begin : begin + most]

    def close(self) -> None:
        """Drops the cache. A running request ends by itself; nothing waits for it."""
        self._is_closed.set()
        self._beside.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._blocks.clear()

    def _block(self, number: int) -> bytes:
        block = self._known(number)
        if block is None:
            with self._fetching:
                block = self._known(number) or self._come(number)
                if block is None:
                    begin, end = self._span(number)
                    found = self._get(begin, end)
                    self._keep(begin, found)
                    block = found[0]
        self._look_ahead(number)
        return block

    def _known(self, number: int) -> bytes | None:
        with self._lock:
            block = self._blocks.get(number)
            if block is not None:
                self._blocks.move_to_end(number)
            return block

    def _come(self, number: int) -> bytes | None:
        """The block, if it is being fetched ahead."""
        with self._lock:
            coming = self._coming
        if coming is None or not coming[0] <= number < coming[1]:
            return None
        coming[2].exception()  # after an error, the block is fetched again here
        return self._known(number)

    def _span(self, number: int) -> tuple[int, int]:
        """The blocks to fetch when this one is needed: as many as were read in a row up to here, and at least one."""
        with self._lock:
            run = self._runs.pop(number, 0)
            count = min(max(1, run), self._most, self._last_block + 1 - number)
            if self._until is not None and number < self._until:
                count = min(count, self._until - number)
            end = next((n for n in range(number + 1, number + count) if n in self._blocks), number + count)
            self._runs[end] = run + end - number
            while len(self._runs) > _RUNS:
                self._runs.popitem(last=False)
            return number, end

    @property
    def _last_block(self) -> int:
        return (self.size - 1) // BLOCK_BYTES

    def _look_ahead(self, number: int) -> None:
        """Fetches what follows the run that ends with this block, while the reader works on the run."""
        with self._lock:
            if self._coming is not None and not self._coming[2].done():
                return
            # Not too early: blocks that were fetched but not read would be evicted first.
            near = [n for n, run in self._runs.items() if 0 < n - number <= max(1, min(run, self._most) // 2)]
            end = next(iter(near), None)
            if end is None or self._runs[end] < _AHEAD_FROM or end > self._last_block or end in self._blocks:
                return
            if self._until is not None and end >= self._until:
                return
        begin, end = self._span(end)
        with self._lock:
            if not self._is_closed.is_set():
                self._coming = begin, end, self._beside.submit(self._get_ahead, begin, end)

    def _get_ahead(self, begin: int, end: int) -> None:
        self._keep(begin, self._get(begin, end))

    def _get(self, begin: int, end: int) -> list[bytes]:
        first, last = begin * BLOCK_BYTES, min(end * BLOCK_BYTES, self.size)
        if self.fetched_bytes + last - first > self._allowed:
            message = f"reading it fetched more than {self._allowed} bytes, although it has only {self.size}"
            raise ClipError(Reason.OVER_LIMITS, message, self.name)
        began = time.monotonic()
        data = self._tried(first, last)
        with self._lock:
            self._most = (
                max(1, (end - begin) // 2) if time.monotonic() - began > _LONG_S else min(2 * self._most, MOST_BLOCKS)
            )
            self.fetched_bytes += len(data)
        self._arrived(self.fetched_bytes)
        return [data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES)]

    def _tried(self, first: int, last: int) -> bytes:
        for number in range(1, _TRIES + 1):
            try:
                data = self._fetch(first, last)
                if len(data) == last - first:
                    return data
                raise ClipError(
                    Reason.STORAGE, f"{len(data)} of the {last - first} bytes from byte {first} on arrived", self.name
                )
            except ClipError as error:
                if error.reason is not Reason.STORAGE or isinstance(error, NoRanges) or number == _TRIES:
                    raise
            if self._is_closed.wait(_PAUSE_S * 2 ** (number - 1)):
                raise ClipError(Reason.STORAGE, "it was closed while it was being read", self.name)
        raise AssertionError("the last try returns or raises")

    def _keep(self, begin: int, blocks: list[bytes]) -> None:
        with self._lock:
            for number, block in enumerate(blocks, begin):
                self._blocks[number] = block
                self._blocks.move_to_end(number)
            while len(self._blocks) > MEMORY_BYTES // BLOCK_BYTES:
                self._blocks.popitem(last=False)
