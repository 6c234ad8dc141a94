"""A real Label Studio server shows what we export; its corrections are imported and steer `refine`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sam3ray.exports import export, import_labels
from sam3ray.exports.labelstudio import brush_rle
from tools.interop._compare import compared
from tools.interop._environment import cache
from tools.interop._place import Place, Row
from tools.interop._result import Result
from tools.interop._run import CLIP, HEIGHT, WIDTH
from tools.interop._steered import CLIP as STEERED
from tools.interop._steered import steered

REQUIREMENTS = ("label-studio==1.23.2",)
NAME = "Label Studio"
TOKEN = "0123456789abcdef0123456789abcdef01234567"  # for a server that listens on this machine only, for minutes


def check(place: Place) -> list[Result]:
    with _server(place) as server:
        version = server.get("/api/version")["label-studio-os-package"]["version"]
        return [_video(place, server, version), _brush(place, server, version), _steered(place, server, version)]


def _video(place: Place, server: Server, version: str) -> Result:
    out = place.folder / "video"
    export(str(place.run), str(out), "labelstudio", variant="video")
    regions = server.predictions(out, CLIP)[0]
    rows = [
        Row(entry["frame"] - 1, _number(region), region["value"]["labels"][0], region["score"], None, _box(entry))
        for region in regions
        for entry in region["value"]["sequence"]
    ]
    return compared(NAME, version, "labelstudio (video)", rows, keyframes=True, time="kept", lost="masks")


def _brush(place: Place, server: Server, version: str) -> Result:
    """Labels that a person accepts unchanged, the server exports and we import stay the same, pixel by pixel."""
    out = place.folder / "brush"
    export(str(place.run), str(out), "labelstudio", variant="brush")
    project = server.project(out)
    for task in server.tasks(project):
        server.post(f"/api/tasks/{task['id']}/annotations", {"result": task["predictions"][0]["result"]})
    server.exported(project, out)
    back = import_labels(str(place.run), out, "labelstudio")
    ok = back.revision is None
    lost = "track_score" if ok else f"changed on the way: {back.clips}"
    return Result(NAME, version, "labelstudio (brush)", ok, "exact", "kept", "kept", "frame index", lost)


def _steered(place: Place, server: Server, version: str) -> Result:
    def correct(out: Path, frame: int, label: str, mask: np.ndarray) -> None:
        project = server.project(out, label)
        (task,) = [each for each in server.tasks(project) if each["data"]["frame_index"] == frame]
        region = {
            "from_name": "brush",
            "to_name": "image",
            "type": "brushlabels",
            "original_width": mask.shape[1],
            "original_height": mask.shape[0],
            "value": {"format": "rle", "rle": brush_rle(mask), "brushlabels": [label]},
        }
        server.post(f"/api/tasks/{task['id']}/annotations", {"result": [*task["predictions"][0]["result"], region]})
        server.exported(project, out)

    iou, frames = steered(place.folder / STEERED, "labelstudio", "brush", correct)
    masks = f"IoU {iou:.2f} on {frames} frames nobody drew"
    return Result(NAME, version, "one mask, refined", iou > 0.6, masks, "kept")


def _number(region: dict[str, Any]) -> int:
    return int(region["meta"]["text"][0].removeprefix("object "))


def _box(entry: dict[str, Any]) -> tuple[float, float, float, float]:
    x, y = entry["x"] * WIDTH / 100, entry["y"] * HEIGHT / 100
    return x, y, x + entry["width"] * WIDTH / 100, y + entry["height"] * HEIGHT / 100


class Server:
    """The server's API."""

    def __init__(self, port: int) -> None:
        self._at = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> Any:
        return self._ask(urllib.request.Request(self._at + path, headers={"Authorization": f"Token {TOKEN}"}))

    def post(self, path: str, value: Any) -> Any:
        headers = {"Authorization": f"Token {TOKEN}", "Content-Type": "application/json"}
        return self._ask(urllib.request.Request(self._at + path, json.dumps(value).encode(), headers))

    def _ask(self, request: urllib.request.Request) -> Any:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def project(self, out: Path, label: str | None = None) -> int:
        """Makes a project with our labelling interface and our tasks."""
        config = (out / "config.xml").read_text()
        if label is not None:
            config = config.replace("</BrushLabels>", f'<Label value="{label}"/></BrushLabels>')
        project = int(self.post("/api/projects", {"title": out.parent.name[-40:], "label_config": config})["id"])
        for path in sorted((out / "tasks").glob("*.json")):
            if tasks := json.loads(path.read_text()):
                self.post(f"/api/projects/{project}/import", tasks)
        return project

    def tasks(self, project: int) -> list[dict[str, Any]]:
        found = self.get(f"/api/tasks?project={project}&fields=all&page_size=1000")["tasks"]
        return [self.get(f"/api/tasks/{task['id']}") for task in found]

    def predictions(self, out: Path, clip_id: str) -> list[list[dict[str, Any]]]:
        tasks = self.tasks(self.project(out))
        return [task["predictions"][0]["result"] for task in tasks if task["data"]["clip_id"] == clip_id]

    def exported(self, project: int, out: Path) -> None:
        """Saves the project's JSON export where our import looks for it."""
        (out / "corrected").mkdir()
        value = self.get(f"/api/projects/{project}/export?exportType=JSON")
        (out / "corrected" / "project.json").write_text(json.dumps(value))


@contextmanager
def _server(place: Place) -> Iterator[Server]:
    """Runs a server, reachable from this machine only. Its first start makes a database; this takes minutes, so it is
    kept.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = cache() / "labelstudio-data"
    data.mkdir(parents=True, exist_ok=True)
    own = {
        "DJANGO_DB": "sqlite",
        "LABEL_STUDIO_USERNAME": "interop@sam3ray.example",
        "LABEL_STUDIO_PASSWORD": TOKEN,
        "LABEL_STUDIO_USER_TOKEN": TOKEN,
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LATEST_VERSION_CHECK": "false",
        "COLLECT_ANALYTICS": "false",
    }
    command = [place.python.parent / "label-studio", "start", "--port", port, "--internal-host", "127.0.0.1"]
    command += ["--no-browser", "--data-dir", data]
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with (place.folder / "server.log").open("wb") as log:
        process = subprocess.Popen(list(map(str, command)), env=clean | own, stdout=log, stderr=log, cwd=data)
        try:
            server = Server(port)
            deadline = time.monotonic() + 1200
            while True:
                try:
                    server.get("/api/version")
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise
                    time.sleep(1)
            yield server
        finally:
            process.terminate()
            process.wait(30)
