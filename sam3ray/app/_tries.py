"""Tries: passes orders from pages to the desk, and results back to the pages of the same person."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from sam3ray.app._desk import Desk, ModelState
from sam3ray.app._library import Library
from sam3ray.app._messages import Ended, Restarted, Update
from sam3ray.app._model_host import make_host
from sam3ray.app._options import AppOptions
from sam3ray.app._order import parse_order
from sam3ray.app._outbox import Outbox
from sam3ray.app._results import Result, Results, frame_json
from sam3ray.failures import UserError

_AWAY_S = 60.0  # without a page, after which a person's runs give way


class Page:
    """One open page.

    Attributes:
        owner: the person; unchanged when the page is reloaded.
        events: what is to be sent to it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.owner = ""
        self.events = Outbox()
        self._loop = loop

    def tell(self, event: dict[str, Any]) -> None:
        """From any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.events.put, event)


class Tries:
    """All tries of one server."""

    def __init__(self, library: Library, options: AppOptions) -> None:
        self._library, self._options = library, options
        self.results = Results(library.folder / "results")
        self.desk = Desk(make_host(options), self._model_changed, options.hang_s)
        self._pages: set[Page] = set()
        self._owners: dict[str, str] = {}  # order -> owner
        self._tickets: dict[str, Any] = {}  # order -> what its page calls it
        self._videos: dict[str, ExitStack] = {}  # order -> what keeps its video until it ends
        self._away: set[str] = set()  # owners of orders who have closed their pages

    def enter(self, page: Page) -> None:
        self._pages.add(page)
        self._away.discard(page.owner)
        page.tell(self._model_event())

    def leave(self, page: Page) -> None:
        self._pages.discard(page)
        if page.owner:
            self._wait_for(page.owner)

    def _wait_for(self, owner: str) -> None:
        """A person without a page is away, unless one comes in time."""
        if not self._is_here(owner):
            timer = threading.Timer(_AWAY_S, self._left, [owner])
            timer.daemon = True
            timer.start()

    def _is_here(self, owner: str) -> bool:
        return any(each.owner == owner for each in list(self._pages))

    def _left(self, owner: str) -> None:
        if not self._is_here(owner):
            self._away.add(owner)
            self._make_room()

    def _make_room(self) -> None:
        """Ends runs of people who are away once somebody present waits. Their results are kept."""
        owners = dict(self._owners)
        self._away &= set(owners.values())
        if any(each not in self._away for each in owners.values()):
            for order_id, owner in owners.items():
                if owner in self._away:
                    self.desk.cancel(order_id)

    def submit(self, owner: str, asked: Mapping[str, Any]) -> str:
        """Queues what a page asks for; returns the order's id.

        Raises:
            UserError: something in it does not fit.
            NotHere: there is no such clip.
            ClipError: the clip cannot be read.
        """
        key, ticket = str(asked.get("key")), asked.get("ticket")
        if ticket is not None and (
            known := next((r for r in self.results_of(owner, key) if r.asked.get("ticket") == ticket), None)
        ):
            return known.order.id  # asked once more, since the connection had broken
        with ExitStack() as stack:
            opened = stack.enter_context(self._library.open(key))
            order = parse_order(
                asked,
                secrets.token_hex(8),
                path=str(opened.path),
                clip=self._library.entry(key).clip,
                frames=len(opened.frames.indices),
                limits=self._library.limits,
                tracking=self._options.tracking,
            )
            self._videos[order.id] = stack.pop_all()
        earlier = self.results_of(owner, key)
        before = earlier[-1] if earlier and not order.is_preview else None
        if before is not None:
            start = before.order.start if order.corrects(before.order, was_ended=before.how != "done") else order.start
            order = replace(order, goes_on=before.order.id, start=start)
        self._owners[order.id], self._tickets[order.id] = owner, ticket
        result = Result(order, key, dict(asked), owner)
        began = time.monotonic()

        def listen(event: Update | Restarted | Ended | int) -> None:
            nonlocal began
            if order.is_glance:
                if isinstance(event, Ended):
                    self._forget(order.id)
                return
            about: dict[str, Any] = {"id": order.id, "key": key, "ticket": ticket}
            if isinstance(event, Update):
                found = event.found
                for each in found.kept:
                    assert before is not None
                    result.take_over(before, each)
                    result.skipped = found.done
                result.add(found.frames)
                result.progress(found.done, found.total, time.monotonic() - began)
                about |= {
                    "event": "preview" if order.is_preview else "found",
                    "frames": [frame_json(frame) for frame in found.frames],
                    "part": round(found.done / max(1, found.total), 4),
                    "kept": bool(found.kept),
                }
            elif isinstance(event, Restarted):
                result.frames.clear()
                result.kept.clear()
                result.skipped = 0
                about |= {"event": "restarted", "message": "out of memory: started over with smaller batches"}
            elif isinstance(event, Ended):
                result.end(event.how, event.message)
                about |= {"event": "ended", "how": event.how, "message": event.message}
                about["preview"] = order.is_preview
                self._forget(order.id)
            else:
                result.how = "queued" if event else "running"
                result.says = f"Waiting: place {event} in the queue." if event else "Working."
                began = time.monotonic()
                about |= {"event": "place"}
            self._tell(owner, about | {"says": result.says})

        if not order.is_preview:
            self.results.put(result)
        try:
            self.desk.submit(order, listen)
        except UserError:
            self._forget(order.id)
            self.results.drop(order.id)
            raise
        self._wait_for(owner)  # the page may have been closed while its video was downloaded
        self._make_room()
        return order.id

    def glance(self, owner: str, key: Any, position: Any) -> None:
        """Somebody rests on a frame, and may ask for a preview of it.

        Raises:
            UserError, NotHere, ClipError: as `submit`.
        """
        if self._options.cluster is None:  # a video is lent to a cluster when something is asked for
            self.submit(owner, {"key": key, "start": position, "preview": True, "glance": True})

    def _forget(self, order_id: str) -> None:
        self._owners.pop(order_id, None)
        self._tickets.pop(order_id, None)
        if (video := self._videos.pop(order_id, None)) is not None:
            video.close()

    def close(self) -> None:
        """Ends the model's process and all orders."""
        self.desk.close()
        for order_id in list(self._videos):
            self._forget(order_id)

    def cancel(self, owner: str, order_id: Any, ticket: Any) -> None:
        """Ends a person's run. A page that has not heard its id yet has only its ticket."""
        for known, whose in list(self._owners.items()):
            if whose == owner and (known == order_id or (order_id is None and self._tickets.get(known) == ticket)):
                self.desk.cancel(known)

    def results_of(self, owner: str, key: str) -> list[Result]:
        """What this person has run on a clip, oldest first."""
        return [each for each in self.results.of_clip(key) if each.owner == owner]

    def tell_all(self, event: dict[str, Any]) -> None:
        for page in list(self._pages):
            page.tell(event)

    def _tell(self, owner: str, event: dict[str, Any]) -> None:
        for page in list(self._pages):
            if page.owner == owner:
                page.tell(event)

    def _model_changed(self, state: ModelState, message: str) -> None:
        self.tell_all(self._model_event())

    def _model_event(self) -> dict[str, Any]:
        desk = self.desk
        return {"event": "model", "state": desk.state, "message": desk.message, "info": _shown(desk.info)}


def _shown(info: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: info[name] for name in ("checkpoint", "dtype", "device", "parameters") if name in info}
    return kept | {"thresholds": dict(info.get("thresholds", {}))}


def check_owner(value: Any) -> str:
    """Raises UserError for what our own page never sends."""
    if not isinstance(value, str) or not value.isalnum() or not 8 <= len(value) <= 64:
        raise UserError(f"owner is {value!r:.80}; allowed: 8 to 64 letters and digits")
    return value
