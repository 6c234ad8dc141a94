"""A page that reads slowly: memory is bounded, and what is left out can be asked for again."""

from __future__ import annotations

import asyncio
import socket

from sam3ray.app._outbox import Outbox
from sam3ray.app._start import _listener


def found(number: int, order: str = "a") -> dict:
    return {"event": "found", "id": order, "frames": [number], "done": number}


def drained(box: Outbox) -> list[dict]:
    async def drain() -> list[dict]:
        return [await box.get() for _ in range(len(box))]

    return asyncio.run(drain())


def test_a_page_that_keeps_up_gets_every_event():
    box = Outbox()
    events = [{"event": "place", "id": "a", "place": 0}, *map(found, range(40)), {"event": "ended", "id": "a"}]
    for event in events:
        box.put(event)
    assert drained(box) == events


def test_a_slow_page_gets_the_newest_progress_and_is_told_that_frames_are_missing():
    box = Outbox()
    for number in range(100_000):
        box.put(found(number))
        box.put(found(number, "b"))
    box.put({"event": "ended", "id": "a"})
    assert len(box) < 80
    *_, a, b, end = drained(box)
    assert (a["done"], a["frames"], a["missed"]) == (99_999, [], True)
    assert (b["id"], b["done"], b["missed"]) == ("b", 99_999, True)
    assert end["event"] == "ended"  # after all of it


def test_states_supersede_each_other_and_errors_do_not():
    box = Outbox()
    for place in (3, 2, 1):
        box.put({"event": "place", "id": "a", "place": place})
        box.put({"event": "refused", "message": f"{place}"})
    assert [each.get("place", each.get("message")) for each in drained(box)] == ["3", "2", 1, "1"]


def test_a_page_that_reads_nothing_is_cut_off():
    box = Outbox()
    for number in range(5000):
        box.put({"event": "refused", "message": f"{number}"})
    assert box.is_cut_off
    assert len(box) == 0
    assert asyncio.run(box.get()) is None


def test_small_messages_are_sent_at_once():
    """Without TCP_NODELAY, an answer in two parts waits for the browser's delayed acknowledgement: 40 ms."""

    async def option() -> int:
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            mine = writer.get_extra_info("socket")
            accepted.set_result(mine.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listener = _listener("127.0.0.1", 0)
        server = await asyncio.start_server(connected, sock=listener)
        async with server:
            _, writer = await asyncio.open_connection(*listener.getsockname())
            found = await accepted
            writer.close()
        return found

    assert asyncio.run(option()) == 1
