"""The routes. Each checks its input, calls a module, and returns JSON, a picture or a file."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, WebSocket
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocketDisconnect

from sam3ray import __version__
from sam3ray.app import _downloads as downloads
from sam3ray.app._corrections import in_words
from sam3ray.app._library import Library, NotHere
from sam3ray.app._live import DeskView, Show, decode_picture, seen_json
from sam3ray.app._open_clips import OpenClip
from sam3ray.app._options import AppOptions
from sam3ray.app._order import THRESHOLDS, parse_order
from sam3ray.app._outgoing import Outgoing
from sam3ray.app._results import Result, frame_json
from sam3ray.app._review import Review
from sam3ray.app._static import TYPES, index, static_files, version
from sam3ray.app._tries import Page, Tries, check_owner
from sam3ray.app._uploads import Uploads
from sam3ray.config import TrackingConfig
from sam3ray.exports import FORMATS
from sam3ray.failures import ClipError, JobStopped, NotNow, UserError
from sam3ray.guard.jsontext import parse_json
from sam3ray.guard.redact import redact
from sam3ray.revisions import EditConflict

_MAX_BODY = 32 * 2**20
_PAGE_S = 3.0  # the model waits so long, so that a page can be shown first: loading takes all of a small machine


class Service:
    """What the routes share."""

    def __init__(self, library: Library, options: AppOptions, reviews: Sequence[Review] = ()) -> None:
        self.library, self.options = library, options
        self.tries = Tries(library, options)
        self.reviews = list(reviews)
        self.shown = threading.Event()  # a page has a picture
        self.show: Show | None = None
        if options.camera is not None:
            self.show = Show(self.tries.desk, options, options.camera)
        folder = library.folder / "uploads"
        folder.mkdir(parents=True, exist_ok=True)
        self.outgoing = Outgoing(library.folder / "downloads")
        self.uploads = Uploads(library, folder, options.max_upload_bytes, options.max_uploads_bytes)

    def start_model(self) -> None:
        self.shown.wait(_PAGE_S)
        self.tries.desk.start()

    def close(self) -> None:
        self.shown.set()
        if self.show is not None:
            self.show.close()
        self.tries.close()
        self.library.close()


def make_app(service: Service) -> FastAPI:
    """The application; `Guard` goes around it."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if service.show is not None:
            service.tries.desk.start()
            service.show.start()
        else:
            threading.Thread(target=service.start_model, name="model's start", daemon=True).start()
        yield

    app = FastAPI(title="sam3ray", openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(GZipMiddleware, minimum_size=1024, compresslevel=4)
    _add_errors(app)
    _add_static(app, service)
    _add_clips(app, service)
    _add_results(app, service)
    _add_reviews(app, service)
    _add_socket(app, service)
    _add_live(app, service)
    return app


def _add_errors(app: FastAPI) -> None:
    def sentence(status: int) -> Callable[[Request, Exception], Response]:
        return lambda _, error: JSONResponse({"message": redact(str(error))}, status)

    app.add_exception_handler(UserError, sentence(400))
    app.add_exception_handler(EditConflict, sentence(409))
    app.add_exception_handler(ClipError, sentence(422))
    app.add_exception_handler(JobStopped, sentence(503))
    app.add_exception_handler(NotHere, sentence(404))

    @app.exception_handler(RequestValidationError)
    async def wrong_address(_: Request, error: RequestValidationError) -> Response:
        """All that an address can have wrong is a number, such as that of a frame."""
        wrong = (f"{each['loc'][-1]} is {each['input']!r:.40}; allowed: a number" for each in error.errors())
        return JSONResponse({"message": redact("\n".join(wrong))}, 400)


def _add_static(app: FastAPI, service: Service) -> None:
    """The page's own files: only those of the package, by their names; read and compressed once.

    An address names the version, so browsers keep a file as long as they like.
    """
    files = static_files()
    sent = {"/": ("index.html", index(files, "review" if service.reviews else "try"))}
    sent |= {f"/static/{version(files)}/{name}": (name, data) for name, data in files.items() if name != "index.html"}
    packed = {path: gzip.compress(data, mtime=0) for path, (_, data) in sent.items()}

    async def static(request: Request) -> Response:
        path = request.url.path
        if path not in sent:
            return JSONResponse({"message": "there is no such file"}, 404)
        name, data = sent[path]
        headers = {"cache-control": "no-cache" if path == "/" else "private, max-age=31536000, immutable"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers |= {"content-encoding": "gzip", "vary": "accept-encoding"}
            data = packed[path]
        return Response(data, 200, headers, TYPES[Path(name).suffix])

    app.add_route("/", static)
    app.add_route("/static/{version}/{name}", static)


def _add_clips(app: FastAPI, service: Service) -> None:
    library, options = service.library, service.options

    @app.get("/api/state")
    def state() -> Any:
        entries = library.entries()
        opened = library.opened(entries[0].key) if entries else None
        about = {
            "version": __version__,
            "clips": [each.as_json() for each in entries],
            "first": None if opened is None else {**entries[0].as_json(), **opened.as_json()},
            "formats": [
                " ".join((name, variant)).strip() for name, variants in FORMATS.items() for variant in variants
            ],
            "thresholds": {name: getattr(options.tracking, name) for name in THRESHOLDS},
            "model_thresholds": service.tries.desk.info.get("thresholds", {}),
            "camera_thresholds": {} if service.show is None else service.show.view.changed_thresholds,
            "checkpoint": redact(options.model.checkpoint),
            "camera": redact(options.camera) if options.camera is not None else None,
            "phrases": list(options.phrases if service.show is None else service.show.view.phrases),
            "runs": [{"number": each.number, "name": each.name, "place": each.place} for each in service.reviews],
        }
        return _plain(about)

    @app.post("/api/upload")
    async def upload(request: Request, name: str = "video") -> Any:
        entry = await service.uploads.receive(name, request.stream())
        return entry.as_json()

    @app.post("/api/clips")
    async def add(request: Request) -> Any:
        address = (await _body(request)).get("address")
        if not isinstance(address, str) or not 0 < len(address) < 4000:
            raise UserError("address must be a text, such as https://example.org/video.mp4")
        added = await run_in_threadpool(library.add_source, address.strip(), remote_only=True)
        return [each.as_json() for each in added]

    @app.get("/api/clips/{key}")
    def clip(key: str, owner: str = "") -> Any:
        results = [each.as_json() for each in service.tries.results_of(owner, key)]
        with library.open(key) as opened:
            return _plain({**library.entry(key).as_json(), **opened.as_json(), "results": results})

    @app.get("/api/clips/{key}/thumb")
    def thumb(key: str) -> Response:
        data = library.thumb(key)
        service.shown.set()  # the page asks for these pictures once the first frame is drawn
        return Response(data, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    @app.get("/api/clips/{key}/stills/{position}")
    def still(key: str, position: int) -> Response:
        data = library.still(key, position)
        return Response(data, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})


def _add_results(app: FastAPI, service: Service) -> None:
    tries, library, options = service.tries, service.library, service.options

    @app.get("/api/results/{order_id}")
    def rows(order_id: str) -> Any:
        result = tries.results.get(order_id)
        return _plain({**result.as_json(), "frames": [frame_json(each) for each in result.in_order()]})

    @app.post("/api/results/{order_id}/download/{kind}")
    def download(order_id: str, kind: str, min_score: float = 0.0) -> Any:
        """Makes the file; it is at `path` then. `notes`: what it does not hold."""
        result = tries.results.get(order_id)
        if not result.frames:
            raise UserError("nothing has been found yet: there is nothing to download")
        with library.open(result.key) as opened, service.outgoing.room() as folder:
            path, name, notes = saved(result, opened, kind, folder, min_score)
            return {"path": f"/api/downloads/{service.outgoing.put(folder, path, name)}", "notes": notes}

    @app.get("/api/downloads/{key}")
    def send(key: str, request: Request) -> Response:
        return service.outgoing.send(key, in_parts="range" in request.headers)

    def saved(
        result: Result, opened: OpenClip, kind: str, folder: Path, min_score: float
    ) -> tuple[Path, str, list[str]]:
        """The file, its name for the browser, what it does not hold."""
        stem = result.order.clip.clip_id
        if kind == "parquet":
            path = folder / "rows.parquet"
            downloads.save_parquet(result, opened, tries.desk.info, path, min_score)
            return path, f"{stem}.parquet", []
        if kind == "video":
            path = folder / "video.mp4"
            downloads.save_video(result, opened, path, min_score)
            return path, f"{stem}.mp4", []
        path, lost = downloads.save_export(result, opened, tries.desk.info, kind, folder, min_score)
        return path, f"{stem}-{kind.replace(' ', '-')}.zip", lost

    @app.post("/api/job")
    async def job(request: Request) -> Any:
        body = await _body(request)
        return await run_in_threadpool(_job, body)

    def _job(body: dict[str, Any]) -> Any:
        key, keys = str(body.get("key")), body.get("keys")
        if not isinstance(keys, list):
            raise UserError(f"keys is {keys!r:.40}; allowed: a list of clips")
        entries = [library.entry(str(each)) for each in keys]
        with library.open(key) as opened:
            count = len(opened.frames.indices)
        order = parse_order(
            body, "job", path="", clip=library.entry(key).clip, frames=count, limits=library.limits,
            tracking=options.tracking,
        )  # fmt: skip
        files, left_out = downloads.save_job(entries, key, order, options.model, TrackingConfig())
        return {"files": files, "notes": downloads.job_notes(entries, order, count, left_out, library.folder)}


def _add_reviews(app: FastAPI, service: Service) -> None:
    tries = service.tries

    def review(number: int) -> Review:
        if not 0 <= number < len(service.reviews):
            raise NotHere(f"there is no run {number} here")
        return service.reviews[number]

    @app.get("/api/runs/{number}")
    def run(number: int) -> Any:
        found = review(number)
        return _plain({"name": found.name, "place": found.place, "grows": found.is_live, "clips": found.clips()})

    @app.get("/api/runs/{number}/doubts")
    def doubts(number: int) -> Any:
        return _plain(review(number).doubts())

    @app.get("/api/runs/{number}/clips/{clip_id}")
    def rows_of_clip(number: int, clip_id: str) -> Any:
        return _plain(review(number).rows(clip_id))

    @app.get("/api/runs/{number}/clips/{clip_id}/picture")
    def picture(number: int, clip_id: str) -> Any:
        return _plain(review(number).picture(clip_id))

    @app.post("/api/runs/{number}/clips/{clip_id}/{do}")
    async def change(number: int, clip_id: str, do: str, request: Request) -> Any:
        body = await _body(request)
        found = review(number)
        author = body.get("author")
        if do == "edit":
            asked: Any = body.get("operations")
            try:
                revision = await run_in_threadpool(found.edit, clip_id, asked, body.get("parent"), author)
            except EditConflict as error:  # the page keeps the correction as a draft
                return JSONResponse({"message": redact(str(error)), "words": in_words(asked)}, 409)
        elif do in ("undo", "redo"):
            revision = await run_in_threadpool(found.undo if do == "undo" else found.redo, clip_id, author)
        else:
            raise NotHere("allowed: edit, undo, redo")
        standing = await run_in_threadpool(found.standing, clip_id)
        tries.tell_all({"event": "revised", "run": number, "clip": clip_id, "revision": revision, **standing})
        return {"revision": revision}


def _add_socket(app: FastAPI, service: Service) -> None:
    tries = service.tries

    @app.websocket("/ws")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        page = Page(asyncio.get_running_loop())
        sender = asyncio.create_task(_send(websocket, page))
        try:
            while True:
                message = parse_json(await websocket.receive_text())
                await _take(page, message if isinstance(message, dict) else {})
        except (WebSocketDisconnect, ValueError, RuntimeError):
            pass  # gone, or nothing of ours
        finally:
            tries.leave(page)
            sender.cancel()

    async def _take(page: Page, message: dict[str, Any]) -> None:
        do = message.get("do")
        try:
            if do == "hello":
                page.owner = check_owner(message.get("owner"))
                tries.enter(page)
            elif do == "run":
                await run_in_threadpool(tries.submit, page.owner, message)
            elif do == "glance":
                await run_in_threadpool(tries.glance, page.owner, message.get("key"), message.get("start"))
            elif do == "cancel":
                tries.cancel(page.owner, message.get("id"), message.get("ticket"))
        except (UserError, ClipError, NotHere) as error:
            page.tell({"event": "refused", "ticket": message.get("ticket"), "message": redact(str(error))})


def _add_live(app: FastAPI, service: Service) -> None:
    @app.websocket("/live")
    async def live(websocket: WebSocket) -> None:
        await websocket.accept()
        own = DeskView(service.tries.desk, service.options.tracking)  # of a webcam; a camera's is the show's
        watches, asks = False, 0
        try:
            while True:
                message = await websocket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                if message.get("bytes"):
                    await _look(websocket, own, message["bytes"], asks)
                    continue
                asked = parse_json(message.get("text") or "{}")
                if not isinstance(asked, dict):
                    return
                watches = watches or asked.get("do") == "next"
                if asked.get("do") == "next":
                    await _show_next(websocket, service.show, asked.get("ticket"), asks)
                else:
                    asks += asked.get("do") in ("phrases", "thresholds")
                    await _ask(websocket, service.show.view if watches and service.show is not None else own, asked)
        except (WebSocketDisconnect, ValueError, RuntimeError, asyncio.CancelledError):
            pass  # gone, or nothing of ours, or the server ends
        finally:
            own.close()

    async def _look(websocket: WebSocket, view: DeskView, data: bytes, asks: int) -> None:
        """A webcam's picture, after its ticket in four bytes. `asks`: how often the page has changed what is asked."""
        ticket = int.from_bytes(data[:4], "big")
        try:
            image = await run_in_threadpool(decode_picture, data[4:])
            view.keep(ticket, image)
            seen = await run_in_threadpool(view.look, image, time.monotonic())
            await websocket.send_json({**seen_json(seen, ticket), **view.asked(), "asks": asks})
        except NotNow as error:
            await asyncio.sleep(0.3)
            await websocket.send_json({"event": "wait", "ticket": ticket, "message": redact(str(error))})
        except UserError as error:
            await websocket.send_json({"event": "wait", "ticket": ticket, "message": redact(str(error))})

    async def _show_next(websocket: WebSocket, show: Show | None, after: Any, asks: int) -> None:
        if show is None:
            await websocket.send_json({"event": "wait", "message": "the server watches no camera"})
            return
        shown, about = await run_in_threadpool(show.picture, after if isinstance(after, int) else 0), None
        if shown is not None:
            await websocket.send_bytes(shown[0].to_bytes(4, "big") + shown[1])  # drawn while the model looks at it
            about = await _found(show, shown[0])
            about = about and {**about, **show.view.asked(), "asks": asks}
        await websocket.send_json(
            about or {"event": "wait", "ticket": shown and shown[0], "message": redact(show.problem)}
        )

    async def _found(show: Show, ticket: int) -> dict[str, Any] | None:
        """No thread waits for long: there are 40 for all pages."""
        while True:
            with contextlib.suppress(TimeoutError):
                return await run_in_threadpool(show.found, ticket)

    async def _ask(websocket: WebSocket, view: DeskView, asked: dict[str, Any]) -> None:
        try:
            view.ask(asked)
        except UserError as error:
            await websocket.send_json({"event": "refused", "message": redact(str(error))})


async def _send(websocket: WebSocket, page: Page) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        while (event := await page.events.get()) is not None:
            await websocket.send_text(json.dumps(event, separators=(",", ":")))
        await websocket.close(1013)  # the page reads too slowly: it connects again, and asks for what it has missed


def _plain(value: Any) -> Response:
    """JSON of plain values. FastAPI would look at each first: seconds, for the rows of a long clip."""
    return Response(json.dumps(value, separators=(",", ":")), media_type="application/json")


async def _body(request: Request) -> dict[str, Any]:
    """A JSON mapping from the request. Raises UserError."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > _MAX_BODY:
            raise UserError(f"the request has more than {_MAX_BODY} bytes")
    try:
        value = parse_json(bytes(data))
    except ValueError as error:
        raise UserError(f"the request is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError("the request must be a mapping")
    return value
