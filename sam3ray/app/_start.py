"""Starting the page: sources, the socket, the address with its token, the browser."""

from __future__ import annotations

import contextlib
import errno
import json
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn

from sam3ray.app._guard import Guard
from sam3ray.app._library import Library
from sam3ray.app._options import AppOptions
from sam3ray.app._review import Review
from sam3ray.app._server import Service, make_app
from sam3ray.failures import ClipError, JobStopped, UserError
from sam3ray.files import is_local, local_path, resolve
from sam3ray.files.workdir import WorkDir
from sam3ray.job.cluster import connected
from sam3ray.job.remote import with_gpu_if_any
from sam3ray.shapes import demo_clips
from sam3ray.store import RunStore, layout

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def serve(options: AppOptions, say: Callable[[str], None], warn: Callable[[str], None]) -> None:
    """Serves the page until it is interrupted.

    Args:
        say: gets the address with its token; `warn` gets warnings.

    Raises:
        UserError: a source cannot be read, or the port is taken.
    """
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(WorkDir()).path
        library = Library(folder, options)
        stack.callback(library.close)
        options = _with_cluster(options, stack, warn)
        reviews: list[Review] = []
        for source in options.sources or (() if options.camera else (str(_drawn(folder / "drawn")),)):
            place = resolve(source)
            if _is_run(place, options.storage):
                reviews.append(Review(len(reviews), place, options.storage, library, options.author))
            else:
                library.add_source(source)
        _open_first(library)
        listener = stack.enter_context(_listener(options.host, options.port))
        port = listener.getsockname()[1]
        token = secrets.token_urlsafe(24)
        hosts = _hosts(options.host, port)
        service = Service(library, options, reviews)
        stack.callback(service.close)
        server = uvicorn.Server(
            uvicorn.Config(
                Guard(make_app(service), token, hosts, port),
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=2,
                ws="websockets-sansio",
                ws_max_size=32 * 2**20,
                ws_per_message_deflate=False,  # pictures do not get smaller, and it takes time
                server_header=False,
                proxy_headers=False,
            )
        )
        shown = "127.0.0.1" if options.host in _LOOPBACK else options.host
        address = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/?token={token}"
        if options.camera is not None:
            address += "#live"
        if options.host not in _LOOPBACK:
            warn(
                f"--host {options.host}: anyone who reaches this machine and knows the address with its token can see "
                "the videos and use the model, and the connection is not encrypted. Use it within a network that you "
                "trust, or behind a proxy with HTTPS. The webcam works over HTTPS or on this machine alone"
            )
        server.config.load()  # what serves the first request is imported: the address can be used as soon as it is said
        say(address)
        if options.browser:
            timer = threading.Timer(1.0, webbrowser.open, [address])
            timer.daemon = True
            timer.start()
        server.run([listener])
        if not server.started:
            raise JobStopped("the page's server could not be started")


def _open_first(library: Library) -> None:
    """The clip that a page shows first is ready before the model takes the processor."""
    first = next(iter(library.entries()), None)
    if first is not None and is_local(first.clip.uri):
        with contextlib.suppress(ClipError, JobStopped), library.open(first.key):
            pass  # the page says what is wrong with it


def _with_cluster(options: AppOptions, stack: contextlib.ExitStack, warn: Callable[[str], None]) -> AppOptions:
    """Connects to the cluster, until the server ends. Raises JobStopped if there is none."""
    if options.cluster is None:
        return options
    stack.enter_context(connected(options.cluster))
    cluster = with_gpu_if_any(options.cluster)
    if cluster.gpus_per_actor == 0 < options.cluster.gpus_per_actor:
        warn(
            f"the cluster at {options.cluster.address} has no GPU now: the model runs on its CPUs. "
            "--set cluster.gpus_per_actor=1 waits for a GPU"
        )
    return replace(options, cluster=cluster)


def _is_run(place: str, storage: Mapping[str, Any]) -> bool:
    """Whether the source is a run, and not a video, a folder of videos or a manifest."""
    if is_local(place):
        return (Path(local_path(place)) / layout.RUN).is_file()
    try:
        return RunStore(place, storage).exists()
    except (ClipError, JobStopped):
        return False  # a single file of a web server, say: reading it as a manifest gives the error


def _drawn(folder: Path) -> Path:
    """Clips of the demo, to try with, and their manifest."""
    rows = demo_clips(folder, 4)
    manifest = folder / "clips.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return manifest


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # else asyncio leaves Nagle on
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1" if host == "localhost" else host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        allowed = "an address of this machine" if _is_foreign(error) else "a free port, or 0 for any"
        raise UserError(f"--host {host} --port {port}: {error.strerror or error}; allowed: {allowed}") from None
    return listener


def _is_foreign(error: OSError) -> bool:
    return isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL


def _hosts(host: str, port: int) -> frozenset[str] | None:
    if host not in _LOOPBACK:
        return None
    return frozenset(f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]"))
