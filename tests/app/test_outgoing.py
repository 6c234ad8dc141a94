"""Files that pages download: what cannot be made is a sentence, and no folder stays on the disk."""

from __future__ import annotations

import asyncio
import errno
import json
import time
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from sam3ray.app import AppOptions, _downloads, _outgoing
from sam3ray.app._library import Library
from sam3ray.app._order import Order
from sam3ray.app._results import Result
from sam3ray.app._server import Service, make_app
from sam3ray.config import VideoConfig
from sam3ray.failures import UserError
from sam3ray.masks import encode_masks
from sam3ray.shapes import ClipSpec, draw_clip, write_clip
from sam3ray.values.annotations import FrameAnnotations, ObjectAnnotation
from sam3ray.values.clip import Clip

SPEC = ClipSpec(seed=6, frames=2, width=160, height=90, objects=(2, 3))


class Served:
    """The application, asked without a network."""

    def __init__(self, service: Service) -> None:
        self.service, self.app = service, make_app(service)

    def ask(self, method: str, path: str, goes_after: int | None = None, **headers: str) -> tuple[int, bytes]:
        """`goes_after`: the client is gone after so many messages, as the server says it by an error."""
        return asyncio.run(self._ask(method, path, goes_after, headers))

    async def _ask(self, method: str, path: str, goes_after: int | None, headers: dict[str, str]) -> tuple[int, bytes]:
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            if goes_after is not None and len(sent) >= goes_after:
                raise OSError("the client is gone")
            sent.append(message)

        path, _, query = unquote(path).partition("?")
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": method,
            "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "", "scheme": "http",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        }  # fmt: skip
        try:
            await self.app(scope, receive, send)
        except OSError:
            assert goes_after is not None
        return sent[0]["status"], b"".join(each.get("body", b"") for each in sent)

    def made(self, kind: str, result: str = "found") -> tuple[int, dict[str, Any]]:
        status, body = self.ask("POST", f"/api/results/{result}/download/{kind}")
        return status, json.loads(body)

    def folders(self) -> list[Path]:
        folder = self.service.library.folder / "downloads"
        return list(folder.iterdir()) if folder.exists() else []

    def wait_until_empty(self) -> None:
        end = time.monotonic() + 60
        while self.folders():
            assert time.monotonic() < end
            time.sleep(0.02)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    write_clip(SPEC, tmp_path / "clip.mp4")
    clip = Clip("clip", str(tmp_path / "clip.mp4"))
    library = Library(tmp_path / "page", AppOptions())
    service = Service(library, AppOptions())
    library.add([clip])
    for name in ("found", "damaged", "none"):
        order = Order(name, clip.uri, clip, VideoConfig(), ("circle",), last=1)
        service.tries.results.put(result := Result(order, "c1", {}, how="done"))
        for frame in draw_clip(SPEC) if name != "none" else ():
            mask = encode_masks(frame.image[None, :, :, 0] > 128)[0]
            rle = mask.rle if name == "found" else mask.rle[:-1]
            row = ObjectAnnotation(1, "circle", 0.9, 0.9, tuple(map(float, mask.bbox)), mask.area, rle)
            result.add(
                [FrameAnnotations(frame.index, frame.index, float(frame.index), SPEC.height, SPEC.width, (row,))]
            )
    yield Served(service)
    service.close()


@pytest.mark.parametrize(
    ("result", "kind", "said"),
    [
        ("gone", "parquet", "this result is no longer kept: run again"),
        ("none", "video", "nothing has been found yet: there is nothing to download"),
        ("found", "no-format", "format 'no-format': allowed: coco, "),
        ("found", "mots%20ping", "format 'mots ping': allowed: coco, "),
        ("damaged", "mots", "mots cannot hold this clip: "),
    ],
)
def test_what_cannot_be_made_is_a_sentence(served, result, kind, said):
    status, answer = served.made(kind, result)
    assert status in (400, 404)
    assert answer["message"].startswith(said)
    assert not served.folders()


def test_a_full_disk_is_a_sentence(served, monkeypatch):
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_downloads, "save_parquet", full)
    status, answer = served.made("parquet")
    assert (status, answer["message"][:44]) == (400, "the file cannot be made: the disk is full: O")
    assert not served.folders()


def test_a_file_is_there_until_it_is_sent(served):
    status, answer = served.made("mots")
    assert (status, len(served.folders())) == (200, 1)
    assert any("scores" in each for each in answer["notes"])
    status, data = served.ask("GET", answer["path"])
    assert (status, served.folders()) == (200, [])
    assert "clip" in " ".join(zipfile.ZipFile(BytesIO(data)).namelist())
    assert served.ask("GET", answer["path"])[0] == 404


def test_a_file_that_is_not_sent_whole_stays_for_a_while_and_goes_then(served, monkeypatch):
    monkeypatch.setattr(_outgoing, "_KEPT_S", 5.0)
    paths = [served.made("parquet")[1]["path"] for _ in range(2)]  # the second is never asked for
    for method, path, how, status in (
        ("GET", paths[0], {"range": "bytes=a-b,"}, 400),
        ("GET", paths[0], {"range": "bytes=99999999-"}, 416),
        ("GET", paths[0], {"range": "bytes=0-9"}, 206),
        ("GET", paths[0], {"range": "bytes=0-9", "goes_after": 1}, 206),
        ("HEAD", paths[0], {}, 405),
        ("GET", f"{paths[0]}x", {}, 404),
        ("GET", paths[0], {"goes_after": 1}, 200),
    ):
        assert served.ask(method, path, **how)[0] == status
    assert len(served.folders()) == 2
    served.wait_until_empty()
    assert [served.ask("GET", path)[0] for path in paths] == [404, 404]


def test_a_part_leaves_the_rest(served):
    path = served.made("parquet")[1]["path"]
    whole = [served.ask("GET", path, range=f"bytes={part}")[1] for part in ("0-99", "100-")]
    assert served.ask("GET", path) == (200, b"".join(whole))


def test_a_disk_that_fails_is_only_what_it_says(tmp_path):
    outgoing = _outgoing.Outgoing(tmp_path / "downloads")
    with pytest.raises(UserError, match="the disk is full"), outgoing.room():
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(ZeroDivisionError), outgoing.room():
        raise ZeroDivisionError
    assert not list((tmp_path / "downloads").iterdir())
