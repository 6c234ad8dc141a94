"""A stand-in for a CVAT server: as much of its API as pushing needs. Notes what it is told."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

NOW = "2026-11-26T00:00:00Z"
USER = {"url": "http://x/api/users/1", "id": 1, "username": "ann", "first_name": "", "last_name": ""}


class Cvat:
    """What the server holds.

    Attributes:
        tasks: id -> task, with `labels`, `images` (names, in order) and `shapes`.
        refuses: every request is answered with 403.
    """

    def __init__(self) -> None:
        self.url = ""
        self.tasks: dict[int, dict[str, Any]] = {}
        self.refuses = False
        self.cut_off_before_shapes = False
        self.tokens: set[str] = set()

    def task(self, number: int) -> dict[str, Any]:
        held = self.tasks[number]
        return {
            "url": f"{self.url}/api/tasks/{number}",
            "id": number,
            "name": held["name"],
            "project_id": held["project_id"],
            "mode": "annotation",
            "owner": USER,
            "assignee": None,
            "bug_tracker": "",
            "created_date": NOW,
            "updated_date": NOW,
            "overlap": 0,
            "segment_size": len(held["images"]),
            "status": "annotation",
            "data_chunk_size": 36,
            "data_compressed_chunk_type": "imageset",
            "data_original_chunk_type": "imageset",
            "size": len(held["images"]),
            "image_quality": 95,
            "data": number,
            "dimension": "2d",
            "subset": "",
            "organization": None,
            "target_storage": None,
            "source_storage": None,
            "jobs": {"count": 1, "completed": 0, "validation": 0, "url": f"{self.url}/api/jobs"},
            "labels": {"url": f"{self.url}/api/labels?task_id={number}"},
            "assignee_updated_date": None,
            "validation_mode": None,
            "consensus_enabled": False,
        }


@contextmanager
def cvat_server() -> Iterator[Cvat]:
    state = Cvat()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def answer(self, value: Any = None, status: int = 200) -> None:
            data = b"" if value is None else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            path, query = parts.path.rstrip("/"), parse_qs(parts.query)
            state.tokens.add(self.headers.get("Authorization", ""))
            if state.refuses:
                return self.answer({"detail": "you shall not pass"}, 403)
            if path == "/api/server/about":
                about = {"name": "CVAT", "description": "", "version": "2.80.0", "logo_url": "", "subtitle": ""}
                return self.answer(about)
            if path == "/api/users/self":
                more = {"email": "", "groups": [], "is_staff": False, "is_superuser": False, "is_active": True}
                return self.answer(
                    {**USER, **more, "last_login": NOW, "date_joined": NOW, "has_analytics_access": False}
                )
            if path == "/api/tasks" and self.command == "GET":
                found = [n for n, task in state.tasks.items() if task["name"] in query.get("name", [task["name"]])]
                results = [state.task(n) for n in found]
                return self.answer({"count": len(results), "next": None, "previous": None, "results": results})
            if path == "/api/tasks":
                number, asked = len(state.tasks) + 1, json.loads(body)
                state.tasks[number] = {
                    "name": asked["name"],
                    "project_id": asked.get("project_id"),
                    "labels": asked.get("labels") or [{"name": "ring"}, {"name": "two words"}],
                    "images": [],
                    "shapes": [],
                }
                return self.answer(state.task(number), 201)
            if path == "/api/labels":
                labels = state.tasks[int(query["task_id"][0])]["labels"]
                results = [label(n, each) for n, each in enumerate(labels, 1)]
                return self.answer({"count": len(results), "next": None, "previous": None, "results": results})
            if path.startswith("/api/requests/"):
                done = {
                    "status": "finished",
                    "id": "r",
                    "operation": {"type": "create", "target": "task"},
                    "message": "",
                }
                return self.answer(
                    {**done, "created_date": NOW, "progress": 1.0, "owner": {"id": 1, "username": "ann"}}
                )
            if found := re.fullmatch(r"/api/tasks/([0-9]+)(/data|/annotations)?", path):
                return self.of_task(int(found[1]), found[2], body)
            return self.answer({"detail": f"{self.command} {path}"}, 404)

        def of_task(self, number: int, what: str | None, body: bytes) -> None:
            task = state.tasks[number]
            if what is None:
                return self.answer(state.task(number))
            if what == "/annotations":
                if self.command == "PUT":
                    if state.cut_off_before_shapes:
                        return self.answer({"detail": "not now"}, 409)
                    task["shapes"] = json.loads(body)["shapes"]
                shapes = [
                    {"id": n, "occluded": False, "z_order": 0, "rotation": 0.0, "outside": False, "elements": []}
                    | shape
                    for n, shape in enumerate(task["shapes"], 1)
                ]
                return self.answer({"version": 1, "tags": [], "shapes": shapes, "tracks": []})
            if "Upload-Multiple" in self.headers:
                head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
                for part in BytesParser().parsebytes(head + body).walk():
                    if name := part.get_filename():
                        assert part.get_payload(decode=True)[:2] == b"\xff\xd8"  # type: ignore[index]
                        task["images"].append(name.rpartition("/")[2])
                return self.answer({}, 200)
            if "Upload-Finish" in self.headers:
                task["images"].sort()
                return self.answer({"rq_id": "r"}, 202)
            return self.answer({}, 202)

        do_GET = do_POST = do_PUT = do_PATCH = handle_any

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


def label(number: int, given: dict[str, Any]) -> dict[str, Any]:
    attributes = [
        {"mutable": False, "input_type": "number", "default_value": "0", "values": ["0"]}
        | each
        | {"id": 100 * number + n}
        for n, each in enumerate(given.get("attributes") or [], 1)
    ]
    return {
        "id": number,
        "name": given["name"],
        "color": "#000000",
        "attributes": attributes,
        "type": "any",
        "sublabels": [],
        "project_id": None,
        "task_id": 1,
        "parent_id": None,
        "has_parent": False,
    }
