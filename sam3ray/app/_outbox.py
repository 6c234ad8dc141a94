"""The events to send to one page. A page that reads slowly costs no more memory than `_ROOM` full events."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any

_ROOM = 64  # events from which on frames are left out: the page asks for them again
_MOST = 1000  # events from which on the page is cut off; it connects again by itself


class Outbox:
    """A queue in which news replaces what it supersedes. For the event loop's thread alone."""

    def __init__(self) -> None:
        self._events: OrderedDict[tuple[Any, ...], dict[str, Any]] = OrderedDict()
        self._count = 0
        self._changed = asyncio.Event()
        self.is_cut_off = False

    def __len__(self) -> int:
        return len(self._events)

    def put(self, event: dict[str, Any]) -> None:
        if self.is_cut_off:
            return
        topic = _topic(event)
        if len(self._events) >= _ROOM and event["event"] == "found":
            event = {**event, "frames": [], "missed": True}
        elif topic in self._events and event["event"] == "found":
            topic = None  # there is room for both
        if topic is None:
            self._count += 1
            topic = (self._count,)
        self._events.pop(topic, None)
        self._events[topic] = event
        if len(self._events) > _MOST:
            self._events.clear()
            self.is_cut_off = True
        self._changed.set()

    async def get(self) -> dict[str, Any] | None:
        """The next event; None: the page is cut off."""
        while not self._events and not self.is_cut_off:
            self._changed.clear()
            await self._changed.wait()
        return self._events.popitem(last=False)[1] if self._events else None


def _topic(event: dict[str, Any]) -> tuple[Any, ...] | None:
    """Events of one topic supersede each other; None: each counts."""
    fields = {"found": ("id",), "place": ("id",), "model": (), "revised": ("run", "clip")}.get(event["event"])
    return None if fields is None else (event["event"], *(event.get(each) for each in fields))
