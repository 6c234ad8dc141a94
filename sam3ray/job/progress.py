"""Progress for people: a live bar on a terminal, plain lines from time to time elsewhere. Always on stderr."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

from sam3ray.display.readable import counted
from sam3ray.failures import Failure
from sam3ray.guard.printable import printable
from sam3ray.job.observe import Observer, Snapshot
from sam3ray.job.result import ClipResult

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

LINE_EVERY_S = 30.0


def make_progress(stream: TextIO | None = None) -> Observer:
    """The progress display that suits the stream."""
    stream = stream if stream is not None else sys.stderr
    return LiveProgress(stream) if stream.isatty() else LineProgress(stream)


def line_of(snapshot: Snapshot) -> str:
    """Everything on one line: `12/60 clips, 2 failed (crashed 2), 3 running, ..., ETA 00:03:10; 4/60 videos, ETA -`."""
    stages = []
    if snapshot.clips:
        parts = [f"{snapshot.done}/{snapshot.clips} clips"]
        if failures := failures_of(snapshot):
            parts.append(failures)
        parts.append(running_of(snapshot))
        parts.append(f"{counted(snapshot.frames, 'frame')} ({snapshot.frames_per_s:.1f}/s)")
        parts.append(counted(snapshot.objects, "object"))
        parts.append(f"ETA {clock(snapshot.eta_s)}")
        stages.append(", ".join(parts))
    if snapshot.videos:
        stages.append(videos_of(snapshot))
    return "; ".join(stages)


def running_of(snapshot: Snapshot) -> str:
    text = f"{snapshot.running} running on {counted(snapshot.actors, 'actor')}"
    more = [f"{snapshot.starting} starting"] if snapshot.starting else []
    more += [f"{snapshot.unplaced} waiting for room"] if snapshot.unplaced else []
    more += [f"{counted(snapshot.aside, 'node or GPU', 'nodes or GPUs')} set aside"] if snapshot.aside else []
    return f"{text} (+{', '.join(more)})" if more else text


def videos_of(snapshot: Snapshot) -> str:
    failed = f", {snapshot.render_failed} failed" if snapshot.render_failed else ""
    return f"{snapshot.rendered}/{snapshot.videos} videos{failed}, ETA {clock(snapshot.render_eta_s)}"


def failures_of(snapshot: Snapshot) -> str:
    total = sum(snapshot.failed.values())
    if not total:
        return ""
    reasons = ", ".join(f"{reason.value} {count}" for reason, count in sorted(snapshot.failed.items()) if count)
    return f"{total} failed ({reasons})"


def clock(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    whole = round(seconds)
    days, rest = divmod(whole, 86_400)
    text = f"{rest // 3600:02d}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    return f"{days}d {text}" if days else text


class LineProgress:
    """For logs: a line at the first change, then every 30 s, and at the end."""

    def __init__(self, stream: TextIO, every_s: float = LINE_EVERY_S) -> None:
        self._stream = stream
        self._every_s = every_s
        self._next_at = 0.0
        self._last: Snapshot | None = None
        self._notice = ""

    def update(self, snapshot: Snapshot) -> None:
        self._last = snapshot
        if snapshot.notice and snapshot.notice != self._notice:
            self._notice = snapshot.notice
            self._write(snapshot.notice)
        now = time.monotonic()
        if now >= self._next_at and line_of(snapshot):
            self._next_at = now + self._every_s
            self._write(line_of(snapshot))

    def clip_done(self, result: ClipResult) -> None:
        pass

    def clip_failed(self, failure: Failure) -> None:
        if failure.final:
            self._write(f"{failure.clip_id} failed: {failure.reason.value}: {failure.message}")

    def close(self) -> None:
        if self._last is not None and line_of(self._last):
            self._write(line_of(self._last))
            self._last = None

    def _write(self, line: str) -> None:
        print(f"sam3ray: {printable(' '.join(line.split())[:500])}", file=self._stream, flush=True)


class LiveProgress:
    """For a terminal: a bar and two lines that are redrawn, with failures printed above them."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=stream)
        self._live = Live(console=self._console, refresh_per_second=4, transient=False)
        self._notice = ""
        self._closed = False

    def update(self, snapshot: Snapshot) -> None:
        if not self._live.is_started and not self._closed:
            self._live.start()
        if snapshot.notice and snapshot.notice != self._notice:
            self._notice = snapshot.notice
            self._console.print(_text(snapshot.notice, "yellow"))
        self._live.update(_drawing(snapshot))

    def clip_done(self, result: ClipResult) -> None:
        pass

    def clip_failed(self, failure: Failure) -> None:
        if failure.final:
            text = _text(f"{failure.clip_id}: {failure.reason.value}: {failure.message}", "red")
            self._console.print(text, overflow="ellipsis", no_wrap=True)

    def close(self) -> None:
        self._closed = True
        self._live.stop()


def _text(text: str, style: str) -> Text:
    from rich.text import Text

    return Text(printable(text), style=style)


def _drawing(snapshot: Snapshot) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    bars = Table.grid(padding=(0, 1))

    def bar(ended: int, total: int, what: str, eta_s: float | None) -> None:
        elapsed = f"{clock(snapshot.seconds)} elapsed, ETA {clock(eta_s)}"
        bars.add_row(Text(f"{ended}/{total} {what}"), ProgressBar(total, ended, width=40), Text(elapsed))

    failed = sum(snapshot.failed.values())
    facts = Text()
    if snapshot.clips:
        bar(snapshot.done + failed, snapshot.clips, "clips", snapshot.eta_s)
        facts.append(
            f"{snapshot.frames_per_s:.1f} frames/s, {counted(snapshot.frames, 'frame')}, "
            f"{counted(snapshot.objects, 'object')}; "
            f"{running_of(snapshot)}"
        )
    if snapshot.videos:
        bar(snapshot.rendered + snapshot.render_failed, snapshot.videos, "videos", snapshot.render_eta_s)
    if failed:
        facts.append(f"; {failures_of(snapshot)}", style="red")
    if snapshot.render_failed:
        facts.append(f"; {counted(snapshot.render_failed, 'video')} failed", style="red")
    return Group(bars, facts)
